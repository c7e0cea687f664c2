"""One run of a study as a call that any machine can make: what is asked, and what went wrong."""

from __future__ import annotations

import tomllib
import traceback
from typing import Any, cast

from slivit.errors import SlivitError, message
from slivit.experiments.run_state import State, make_run, run_state
from slivit.machines import Died, Machines
from slivit.recipe import Stage, check_recipe, recipe_kind


def made_by(machines: Machines, line: dict[str, str]) -> dict[str, str]:
    """Have the run of a request made; one whose machine is lost goes on elsewhere, with the last epoch that it kept.

    Returns:
        What went wrong, as `answer` gives it.
    """
    try:
        return machines.call(answer, line, again=going_on)
    except Died as error:
        return {"error": str(error), "traceback": ""}


def going_on(line: dict[str, str]) -> dict[str, str]:
    """The request again, for what the lost machine left of the run."""
    left = run_state(_recipe(line), overwrite=True)
    return {**line, "state": left if left == "died" else line["state"]}


def _recipe(line: dict[str, str]) -> Any:
    values = tomllib.loads(line["recipe"])
    return check_recipe(recipe_kind(cast("Stage", line["stage"]), values), values, values["out"])


def request(stage: Stage, recipe_toml: str, state: State) -> dict[str, str]:
    """What is asked: a run of a recipe, of which there is something already or not."""
    return {"stage": stage, "recipe": recipe_toml, "state": state}


def answer(line: dict[str, str]) -> dict[str, str]:
    """Make the run of a request, and say what went wrong: nothing, where `error` is empty."""
    try:
        make_run(_recipe(line), cast("State", line["state"]))
    except SlivitError as error:
        return {"error": message(error), "traceback": ""}
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {reason[0]}".removesuffix(": "), "traceback": traceback.format_exc()}
    return {"error": "", "traceback": ""}
