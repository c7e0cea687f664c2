"""What there is of a run already: nothing, a part that can go on, or all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from slivit.checkpoint import CONFIG
from slivit.errors import RecipeError
from slivit.folder import METRICS, PREDICTIONS, PROGRESS, RATES, RECIPE
from slivit.recipe import Stage, load_recipe, runner
from slivit.settings import Section

State = Literal["done", "died", "new"]
NEUTRAL = {"out": True, "logging": True, "data": {"workers", "cache", "cache_gb", "download"}, "fit": {"device"}}
"""What a run does not become another one by."""


def run_state(recipe: Any, stage: Stage = "finetune", *, overwrite: bool = False) -> State:
    """What there is of a run: "done", "died" (it can be resumed), or "new".

    Args:
        recipe: of the run; its `out` is the folder.
        stage: "finetune" or "pretrain".
        overwrite: a run of another recipe counts as nothing.

    Raises:
        RecipeError: the folder holds a run of another recipe, and it is not to be overwritten.
    """
    folder = Path(recipe.out)
    if not (folder / RECIPE).is_file():
        return "new"
    if not _same(folder, recipe, stage):
        if overwrite:
            return "new"
        raise RecipeError(f"{folder}: holds a run of another recipe; --overwrite trains anew, or choose another out")
    if (folder / METRICS).is_file() and (folder / PREDICTIONS).is_file():
        return "done"
    if (folder / PROGRESS).is_file() or (folder / RATES).is_dir():
        return "died"
    kept = stage == "pretrain" and (folder / "checkpoint" / CONFIG).is_file()  # without labels there are no metrics
    return "done" if kept else "new"


def _same(folder: Path, recipe: Section, stage: Stage) -> bool:
    """Whether a folder's recipe asks for the same run; one that cannot be read any more does not."""
    try:
        stored = load_recipe(stage, folder / RECIPE)
    except RecipeError:
        return False
    exclude: Any = NEUTRAL
    return type(stored) is type(recipe) and stored.model_dump(exclude=exclude) == recipe.model_dump(exclude=exclude)


def make_run(recipe: Any, state: State, stage: Stage = "finetune") -> Path:
    """Make a run, or finish one that died: with its own recipe, as `--resume` does."""
    run = runner(stage)
    if state == "died" and (stored := _own(recipe, stage)):
        return run(stored, resume=True)
    return run(recipe, overwrite=True)


def _own(recipe: Any, stage: Stage) -> Any:
    """The recipe in the folder of a run; None where it speaks of another folder, so that the run was moved."""
    stored = load_recipe(stage, Path(recipe.out) / RECIPE)
    return stored if Path(stored.out).resolve() == Path(recipe.out).resolve() else None
