"""The folder of a run: made once, never overwritten by accident, and able to go on."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slivit import files
from slivit.checkpoint import package_versions
from slivit.errors import RecipeError, SlivitError, WriteError
from slivit.files import write_json, write_text
from slivit.recipe import resolved_toml

log = logging.getLogger(__name__)

RECIPE, LOG, PROGRESS, SPLIT = "recipe.toml", "log.txt", "progress.pt", "split.csv"
HISTORY, PREDICTIONS, METRICS, TRACKING = "history.csv", "predictions.csv", "metrics.json", "tracking.json"
WINDOWS, RATES, VERSIONS = "windows.csv", "rates", "versions.json"


def open_run(recipe: Any, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Make the folder of a run and write the resolved recipe and the versions into it.

    Args:
        recipe: its `out` is the folder.
        resume: go on in a folder that holds the same recipe.
        overwrite: start anew in a folder that holds another run.

    Raises:
        RecipeError: the folder is in use, or holds another recipe than the one to go on with.
    """
    folder = Path(recipe.out)
    text = resolved_toml(recipe)
    if resume:
        _check_same(folder, text)
        return folder
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        way_out = "go on with --resume, replace it with --overwrite, or choose another folder with out=FOLDER"
        raise RecipeError(f"{folder}: is not empty; {way_out}")
    _check_inputs_survive(recipe, folder)
    make_folder(folder)
    _clear(folder)
    write_text(folder / RECIPE, text)
    write_json(folder / VERSIONS, package_versions() | {"python": sys.version.split()[0]})
    return folder


def open_results(folder: Path, *, overwrite: bool = False) -> Path:
    """Make a folder for what is found out about runs.

    Raises:
        RecipeError: it holds something, which is not to be replaced, or it cannot be made.
    """
    check_results(folder, overwrite=overwrite)
    return make_folder(folder)


def check_results(folder: Path, *, overwrite: bool = False) -> None:
    """Raise a RecipeError where a folder holds something, which is not to be replaced."""
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise RecipeError(f"{folder}: is not empty; replace it with --overwrite, or choose another folder with --out")


def make_folder(folder: Path) -> Path:
    """Make a folder where there is none yet.

    Raises:
        RecipeError: it is a file, or may not be made there.
    """
    try:
        return files.make_folder(folder)
    except WriteError as error:
        raise RecipeError(str(error)) from error


@contextmanager
def forgotten_if_untrained(folder: Path, *, resume: bool) -> Iterator[None]:
    """Remove a new run that a user's mistake ended before anything was trained; then the command can be given again."""
    try:
        yield
    except SlivitError:
        left = {path.name for path in folder.rglob("*") if path.is_file()}
        if not resume and left <= {RECIPE, LOG, SPLIT, WINDOWS, VERSIONS}:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_inputs_survive(recipe: Any, folder: Path) -> None:
    """Refuse to replace a run by one that starts from its files."""
    for key, value in _inputs(recipe.model_dump()):
        if value and Path(value).exists() and Path(value).resolve().is_relative_to(folder.resolve()):
            raise RecipeError(f"{folder}: {key} lies in it ({value}), and would be replaced; choose another out")


def _inputs(values: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str]]:
    """The files that a recipe starts from, with the keys that name them."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _inputs(value, f"{at}{key}.")
        elif key in ("weights", "manifest") and value:
            yield f"{at}{key}", str(value)


def _check_same(folder: Path, text: str) -> None:
    path = recipe_of(folder)
    if path.read_text("utf-8") != text:
        raise RecipeError(f"{path}: differs from the recipe given; a run goes on with its own recipe alone")


def _clear(folder: Path) -> None:
    """Remove what an earlier run left, so that its files are never taken for this run's."""
    for name in (RECIPE, LOG, PROGRESS, SPLIT, HISTORY, PREDICTIONS, METRICS, TRACKING, WINDOWS, f"{RATES}.json"):
        (folder / name).unlink(missing_ok=True)
    for name in ("checkpoint", RATES):
        shutil.rmtree(folder / name, ignore_errors=True)


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Write the package's log messages to the run's `log.txt` too, while the block runs."""
    handler = logging.FileHandler(folder / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(logging.INFO)
    package = logging.getLogger("slivit")
    before = package.level
    package.setLevel(min(package.getEffectiveLevel(), logging.INFO))
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before)
        handler.close()


def recipe_of(folder: Path) -> Path:
    """The recipe of a run, to go on with it.

    Raises:
        RecipeError: no run there.
    """
    path = Path(folder) / RECIPE
    if not path.is_file():
        raise RecipeError(f"{folder}: no {RECIPE} there, so there is no run to go on with")
    return path
