"""The folder of a run: held by one process at a time, never overwritten by accident, and able to go on."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, Self

from slivit.checkpoint import CONFIG, package_versions
from slivit.device import computed_on
from slivit.errors import RecipeError, SlivitError
from slivit.files import read_json, read_mapping, remove_drafts, remove_folder, write_json, write_text
from slivit.folder.lock import GUARD, OWNER, locked, make_folder
from slivit.parallel import is_main
from slivit.recipe import load_recipe, read_values, resolved_toml

log = logging.getLogger(__name__)

RECIPE, LOG, PROGRESS, SPLIT = "recipe.toml", "log.txt", "progress.pt", "split.csv"
SLICES = "slices"
"""Slices of scans that a run keeps for itself while it trains."""
BASELINE = "baseline.csv"
"""What size and grey levels alone predict of the scans of `predictions.csv`."""
HISTORY, PREDICTIONS, METRICS, TRACKING = "history.csv", "predictions.csv", "metrics.json", "tracking.json"
CASES, MASKS = "cases.csv", "masks"
MEMBERS = "members.csv"
"""What each member of an ensemble predicts of the scans that chose its weight, out of fold."""
WINDOWS, RATES, VERSIONS, CHECKPOINT = "windows.csv", "rates", "versions.json", "checkpoint"
WRITTEN = "written.json"
"""The names of what was written in a folder."""

NEUTRAL: Mapping[str, frozenset[str]] = {
    "": frozenset(("out", "logging", "testing")),
    "data": frozenset(("workers", "cache", "cache_gb", "download")),
    "fit": frozenset(("device",)),
}
"""By section of a recipe what a run does not become another one by: its weights and its predictions stay the same."""

BEFORE_RECORDS = (
    *(RECIPE, LOG, PROGRESS, SPLIT, HISTORY, PREDICTIONS, METRICS, TRACKING, WINDOWS, RATES, f"{RATES}.json"),
    *(VERSIONS, CHECKPOINT, "progress.partial", "probe.csv", "pictures", "evaluation"),
)
"""What a run wrote before runs kept a record of it; beside them the folders of a mixture's sets."""


class RunFolder:
    """The folder of a run, while a process works in it; `opened` makes one.

    All that is written into it is written to what `file` gives, which keeps a record of the names. So a later run in
    the same folder can remove it, and nothing else.

    Args:
        path: the folder.
        recipe: of the run.
        resume: whether an earlier run goes on; `stored` is its recipe.
    """

    def __init__(self, path: Path, recipe: Any, *, resume: bool) -> None:
        self.path, self.recipe, self.resume = path, recipe, resume
        self.stored: Any = None
        self._log = MemoryHandler(100_000, flushLevel=logging.CRITICAL + 1)
        self._log_file: logging.FileHandler | None = None

    @classmethod
    @contextmanager
    def opened(cls, recipe: Any, *, resume: bool = False, overwrite: bool = False) -> Iterator[Self]:
        """Hold the folder of a recipe for this process. An earlier run in it stays as it is until `begin`.

        A new run that a user's mistake ended before anything was trained is forgotten; the command can be given again.

        Args:
            recipe: its `out` is the folder.
            resume: go on in a folder that holds the same recipe.
            overwrite: a run in the folder is to be replaced.

        Raises:
            RecipeError: the folder is in use, or holds what may not be replaced, or another recipe to go on with, or
                a finished run, which there is nothing to add to.
        """
        path = Path(recipe.out)
        if resume:
            recipe_of(path)
        with locked(path):
            remove_drafts(path)
            folder = cls(path, recipe, resume=resume)
            folder._check(overwrite=overwrite)
            with logged_by(folder._log):
                try:
                    yield folder
                except SlivitError:
                    folder._forget()
                    raise
                finally:
                    folder._end_log()

    def _check(self, *, overwrite: bool) -> None:
        if self.resume:
            self.stored = load_recipe(self.recipe.stage, recipe_of(self.path))
            if not same_run(self.stored, self.recipe):
                text = "differs from the recipe given; a run goes on with its own recipe alone"
                raise RecipeError(f"{self.path / RECIPE}: {text}")
            if self.finished and same_testing(self.stored, self.recipe):
                reason = "the run is finished; there is nothing to go on with. --overwrite trains anew"
                raise RecipeError(f"{self.path}: {reason}")
            return
        if not overwrite and (held := _held(self.path)):
            way_out = "go on with --resume, replace it with --overwrite, or choose another folder with out=FOLDER"
            raise RecipeError(f"{self.path}: is not empty ({held[0]}); {way_out}")
        _check_inputs_survive(self.recipe, self.path)

    def begin(self) -> None:
        """Let an earlier run give way, unless it goes on, and write what this one is: recipe, versions, log."""
        if not self.resume:
            clear(self.path)
            fit = self.recipe.fit
            computed = computed_on(fit.device, fit.precision)
            write_json(self.file(VERSIONS), package_versions() | {"python": sys.version.split()[0]} | computed)
        write_text(self.file(RECIPE), resolved_toml(self.recipe))
        if self.recipe.logging.tracker != "off":
            self.file(TRACKING)
        self._log_file = _log_file(self.file(LOG))
        self._log.setTarget(self._log_file)  # what was said so far, and from now on each message at once
        self._log.flushLevel = logging.DEBUG
        self._log.flush()

    def _end_log(self) -> None:
        self._log.flush()
        self._log.setTarget(None)
        if self._log_file:
            self._log_file.close()

    def file(self, name: str) -> Path:
        """The path of a file or folder of the run, which is noted before it is written.

        Args:
            name: relative to the folder.
        """
        if is_main():
            note_written(self.path, name.split("/")[0])
        return self.path / name

    @property
    def finished(self) -> bool:
        """Whether the run has all that it ends in."""
        return is_finished(self.recipe)

    def finish(self) -> None:
        """Remove what only a run that goes on would need."""
        remove_folder(self.path / SLICES)
        (self.path / PROGRESS).unlink(missing_ok=True)
        log.info("done: %s", self.path)

    def read_json(self, name: str) -> Any:
        """The values of a JSON file of the run; None where there is none."""
        return read_json(self.path / name)

    def _forget(self) -> None:
        """Remove a new run in which nothing was trained."""
        trained = any((self.path / name).exists() for name in (PROGRESS, RATES, CHECKPOINT))
        trained = trained or any(self.path.glob(f"*/*/{CHECKPOINT}"))  # one of several trainings that make the run
        if self._log_file and not trained and not self.resume:
            self._end_log()
            clear(self.path)


def read_metrics(file: Path) -> dict[str, Any]:
    """A `metrics.json`; empty where there is none.

    Raises:
        SlivitError: it is damaged, or another file.
    """
    metrics = read_mapping(file)
    if metrics and not isinstance(metrics.get("splits"), Mapping):
        raise SlivitError(f'{file}: is damaged (it has no "splits"); slivit evaluate writes one anew')
    return metrics


def note_written(folder: Path, name: str) -> None:
    """Add a name to the record of what was written in the folder of a run."""
    names = _record(folder)
    if names is None:
        names = [known for known in _written(folder) if (folder / known).exists()]
    if name not in names:
        write_json(folder / WRITTEN, {"names": [*names, name]})


def _record(folder: Path) -> list[str] | None:
    """The names that were written in a folder; None where there is no record that can be read."""
    try:
        names = json.loads((folder / WRITTEN).read_text("utf-8"))["names"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [name for name in names if isinstance(name, str) and Path(name).name == name]


def _written(folder: Path) -> list[str]:
    """The names of what a run wrote: by its record, or where it has none, as runs did before they kept one."""
    names = _record(folder)
    if names is not None:
        return names
    values = _plain(folder / RECIPE)
    return [*BEFORE_RECORDS, *values.get("sets", {})] if values else []


def _plain(recipe: Path) -> dict[str, Any]:
    try:
        return read_values(recipe)
    except (RecipeError, OSError):
        return {}


def _held(folder: Path) -> list[str]:
    """What lies in a folder that a new run may not replace; leftovers of one that never began do not count."""
    left = set() if (folder / RECIPE).is_file() else set(_record(folder) or ())
    return sorted(p.name for p in folder.iterdir() if p.name not in {OWNER, GUARD, WRITTEN, *left})


def clear(folder: Path) -> None:
    """Remove what an earlier run wrote, so that its files are never taken for a later run's; other files stay."""
    names = _written(folder)
    if names and not (folder / WRITTEN).is_file():
        write_json(folder / WRITTEN, {"names": names})  # a process that is killed here leaves no run half removed
    for name in sorted(names, key=lambda name: name != RECIPE):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (folder / WRITTEN).unlink(missing_ok=True)


def identity(recipe: Any) -> dict[str, Any]:
    """The values of a recipe that make a run what it is (see `NEUTRAL`)."""
    return _kept(recipe.model_dump(mode="json"))


def _kept(values: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    neutral = NEUTRAL.get(section, frozenset())
    kept = {key: value for key, value in values.items() if key not in neutral}
    return {key: _kept(value, key) if isinstance(value, Mapping) else value for key, value in kept.items()}


def same_run(stored: Any, recipe: Any) -> bool:
    """Whether two recipes ask for the same weights and predictions."""
    return type(stored) is type(recipe) and identity(stored) == identity(recipe)


def same_testing(stored: Any, recipe: Any) -> bool:
    """Whether two recipes of the same run measure it in the same way."""
    return getattr(stored, "testing", None) == getattr(recipe, "testing", None)


def is_finished(recipe: Any) -> bool:
    """Whether the folder of a recipe holds all that its run ends in, and nothing more that the run alone needed.

    A run that was killed while it tidied up goes on, so that what is large, or holds pixels of scans, does not stay.
    """
    folder = Path(recipe.out)
    return not (folder / PROGRESS).exists() and all((folder / name).is_file() for name in recipe.results)


def open_results(folder: Path, *, overwrite: bool = False) -> Path:
    """Make a folder for what is found out about runs; one inside a run's folder goes when that run is replaced.

    Raises:
        RecipeError: it holds something, which is not to be replaced, or it cannot be made.
    """
    check_results(folder, overwrite=overwrite)
    made = make_folder(folder)
    note_result(folder)
    return made


def note_result(path: Path) -> None:
    """Note what is written beside a run's checkpoint, where it is, so that it goes when that run is replaced."""
    if (path.parent / CHECKPOINT / CONFIG).is_file() and _record(path.parent) is not None:
        note_written(path.parent, path.name)


def check_results(folder: Path, *, overwrite: bool = False) -> None:
    """Raise a RecipeError where a folder holds something, which is not to be replaced."""
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise RecipeError(f"{folder}: is not empty; replace it with --overwrite, or choose another folder with --out")


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


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Write the package's log messages to a folder's `log.txt` too, while the block runs."""
    with logged_by(_log_file(folder / LOG)):
        yield


def _log_file(path: Path) -> logging.FileHandler:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


@contextmanager
def logged_by(handler: logging.Handler) -> Iterator[None]:
    """Give the package's log messages to a handler too, while the block runs."""
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
