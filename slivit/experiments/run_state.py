"""What there is of a run already: nothing, a part that can go on, or all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from slivit.errors import RecipeError
from slivit.folder import PROGRESS, RATES, RECIPE, is_finished, same_run, same_testing
from slivit.recipe import load_recipe, runner

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
