"""A process that makes the runs of a study: `python -m slivit.experiments.study_worker`.

For each run a line of JSON comes in: the stage, the recipe as TOML, and what there is of the run. A line of JSON goes
out: what went wrong, if anything. Whatever else is printed goes to standard error. The process ends with its sender.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import tomllib
import traceback
import warnings
from pathlib import Path
from typing import IO, Any, cast

from slivit.errors import SlivitError, message
from slivit.experiments.run_state import State, make_run
from slivit.recipe import Stage, check_recipe, recipe_kind


def request(stage: Stage, recipe_toml: str, state: State) -> dict[str, str]:
    """The line for a run, before it is JSON."""
    return {"stage": stage, "recipe": recipe_toml, "state": state}


def answer(line: dict[str, str]) -> dict[str, str]:
    """Make the run of a request, and say what went wrong: nothing, where `error` is empty."""
    stage = cast("Stage", line["stage"])
    values = tomllib.loads(line["recipe"])
    try:
        recipe: Any = check_recipe(recipe_kind(stage, values), values, values["out"])
        make_run(recipe, cast("State", line["state"]))
    except SlivitError as error:
        return {"error": message(error), "traceback": ""}
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {reason[0]}".removesuffix(": "), "traceback": traceback.format_exc()}
    return {"error": "", "traceback": ""}


def read_requests(lines: IO[str], found: queue.Queue[dict[str, str]]) -> None:
    """Put requests into a queue; where there will be no more, end the process, whatever it does."""
    for line in lines:
        found.put(json.loads(line))
    os._exit(0)


def main() -> None:
    """Answer requests from standard input until it is closed."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Not sys.stdin: a reading process is forked while the thread waits in it, and would wait for its lock for ever.
    lines = os.fdopen(os.dup(0), encoding="utf-8")
    sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115
    requests: queue.Queue[dict[str, str]] = queue.Queue()
    threading.Thread(target=read_requests, args=(lines, requests), daemon=True).start()
    while True:
        print(json.dumps(answer(requests.get())), file=answers, flush=True)


if __name__ == "__main__":
    main()
