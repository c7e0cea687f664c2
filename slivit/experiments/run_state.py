"""What there is of a run already: nothing, a part that can go on, or all; and a run as a call for any machine."""

from __future__ import annotations

import tomllib
import traceback
from pathlib import Path
from typing import Any, Literal, cast

from slivit.errors import RecipeError, SlivitError, message
from slivit.folder import PROGRESS, RATES, RECIPE, is_finished, same_run, same_testing
from slivit.machines import Died, Machines
from slivit.recipe import Stage, check_recipe, load_recipe, recipe_kind, runner

State = Literal["done", "died", "new"]


def run_state(recipe: Any, *, overwrite: bool = False) -> State:
    """What there is of a run: "done", "died" (it can go on: be trained on, or be measured in another way), or "new".

    Args:
        recipe: of the run; its `out` is the folder.
        overwrite: a run of another recipe counts as nothing.

    Raises:
        RecipeError: the folder holds a run of another recipe, and it is not to be overwritten.
    """
    folder = Path(recipe.out)
    if not (folder / RECIPE).is_file():
        return "new"
    stored = _stored(recipe)
    if stored is None or not same_run(stored, recipe):
        if overwrite:
            return "new"
        raise RecipeError(f"{folder}: holds a run of another recipe; --overwrite trains anew, or choose another out")
    if is_finished(recipe):
        return "done" if same_testing(stored, recipe) else "died"
    return "died" if (folder / PROGRESS).is_file() or (folder / RATES).is_dir() else "new"


def _stored(recipe: Any) -> Any:
    """The recipe in the folder of a run; None of one that cannot be read any more."""
    try:
        return load_recipe(recipe.stage, Path(recipe.out) / RECIPE)
    except RecipeError:
        return None


def make_run(recipe: Any, state: State) -> Path:
    """Make a run, or finish one that died."""
    return runner(recipe)(recipe, resume=True) if state == "died" else runner(recipe)(recipe, overwrite=True)


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
