"""Optuna behind the sweep: the study and its storage, the sampler, dead trials, and what came of all trials."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.errors import RecipeError, install_command
from slivit.experiments.recipe_sweep import Categorical, Float, Int, SweepRecipe

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

STUDY, WORKERS, JOURNAL = "sweep", "workers", "sweep.journal"
FOLDER, WORKER, GOES_ON, WHY = "folder", "worker", "goes_on", "why"
GRACE = timedelta(minutes=1)
"""A trial that has begun without saying who runs it is given this long."""


def need_optuna() -> Any:
    """Import Optuna, and keep its own messages to warnings.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise RecipeError(f"a sweep needs an extra: {install_command('sweep')}") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(recipe: SweepRecipe, folder: Path, direction: str) -> Study:
    """Open the study in a sweep's storage, or make it.

    Args:
        recipe: of the sweep.
        folder: of the sweep.
        direction: "minimize" or "maximize".

    Raises:
        RecipeError: a storage that cannot be used.
    """
    optuna = need_optuna()
    warmup = {"n_startup_trials": recipe.startup, "n_warmup_steps": recipe.prune_after}
    pruner = optuna.pruners.MedianPruner(**warmup) if recipe.prune else optuna.pruners.NopPruner()
    options = {"study_name": STUDY, "direction": direction, "load_if_exists": True}
    try:
        storage = _storage(recipe.storage, folder)
        return optuna.create_study(storage=storage, sampler=_sampler(recipe), pruner=pruner, **options)
    except Exception as error:  # of Optuna, SQLAlchemy, a database's driver, the file system
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(f'{folder}: storage "{recipe.storage}" cannot be used: {reason}') from error


def _storage(name: str, folder: Path) -> Any:
    if name == "sqlite":
        return f"sqlite:///{folder.absolute() / 'sweep.db'}"
    if name != "journal":
        return name
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

    file = str(folder / JOURNAL)
    kind: Any = JournalFileOpenLock if os.name == "nt" else JournalFileSymlinkLock  # links need rights on Windows
    return JournalStorage(JournalFileBackend(file, lock_obj=_undisturbed(kind, Path(file))(file)))


def _undisturbed(kind: Any, journal: Path) -> Any:
    """A kind of lock during which signals wait: Optuna's own breaks where one raises in the midst of its release.

    Who holds it cuts off the end of a line that a full disk or a dead process left, as the next one would join it.
    """

    class Undisturbed(kind):
        waiting: dict[int, Any]
        came: list[int]

        def acquire(self) -> Any:
            self.came, self.waiting = [], {}
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGINT, signal.SIGTERM):
                    self.waiting[number] = signal.signal(number, lambda came, _: self.came.append(came))
            try:
                held = super().acquire()
                _cut_to_lines(journal)
                return held
            except BaseException:
                self._let_come()
                raise

        def release(self) -> None:
            try:
                super().release()
            finally:
                self._let_come()

        def _let_come(self) -> None:
            for number, before in self.waiting.items():
                signal.signal(number, before)
            for number in self.came[:1]:
                signal.raise_signal(number)

    return Undisturbed


def _cut_to_lines(file: Path) -> None:
    """Cut off what follows a file's last line end."""
    if not file.is_file():
        return
    with file.open("rb+") as opened:
        end = opened.seek(0, os.SEEK_END)
        if end and opened.seek(end - 1) is not None and opened.read(1) != b"\n":
            opened.seek(0)
            opened.truncate(opened.read().rfind(b"\n") + 1)


def _sampler(recipe: SweepRecipe) -> Any:
    """A sampler that is seeded anew for every trial by its place in the sweep.

    So a sweep gives the same trials whether it ran in one go or was stopped, and processes never draw the same ones.
    """
    from optuna.samplers import BaseSampler, RandomSampler, TPESampler

    def make(place: int) -> BaseSampler:
        seed = (recipe.seed * 1_000_003 + place) % 2**32
        if recipe.sampler == "random":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, n_startup_trials=recipe.startup, constant_liar=True)

    class Seeded(BaseSampler):
        inner = make(0)

        def before_trial(self, study: Any, trial: Any) -> None:
            self.inner = make(places(study.get_trials(deepcopy=False))[trial.number])

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return self.inner.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self.inner.sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return self.inner.sample_independent(study, trial, param_name, param_distribution)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            self.inner.after_trial(study, trial, state, values)

    return Seeded()


def suggest(trial: Trial, recipe: SweepRecipe) -> dict[str, Any]:
    """The values of a trial by the recipe's keys."""
    values: dict[str, Any] = {}
    for key, d in recipe.space.items():
        if isinstance(d, Categorical):
            values[key] = d.named[trial.suggest_categorical(key, list(d.named))]
        elif isinstance(d, Int):
            values[key] = trial.suggest_int(key, d.low, d.high, step=d.step)
        elif isinstance(d, Float):
            values[key] = trial.suggest_float(key, d.low, d.high, step=d.step)
        else:
            values[key] = trial.suggest_float(key, d.low, d.high, log=True)
    return values


def point_of(values: Mapping[str, Any], recipe: SweepRecipe) -> dict[str, Any] | None:
    """The point of the search space at which a recipe lies, as Optuna counts it; None where it lies outside.

    Args:
        values: the recipe as a flat table.
        recipe: of the sweep.
    """
    point: dict[str, Any] = {}
    for key, d in recipe.space.items():
        value = values.get(key)
        if isinstance(d, Categorical):
            names = [name for name, choice in d.named.items() if choice == value]
            if not names:
                return None
            point[key] = names[0]
        elif isinstance(value, bool) or not isinstance(value, int | float) or not d.low <= value <= d.high:
            return None
        else:
            point[key] = value
    return point


def worker_lock(folder: Path) -> Any:
    """A lock that this process holds while it works, and that the system lets go when it dies."""
    from uuid import uuid4

    from filelock import FileLock

    (folder / WORKERS).mkdir(exist_ok=True)
    return FileLock(folder / WORKERS / f"{uuid4().hex}.lock")


def results_lock(folder: Path) -> Any:
    """A lock of one process at a time, from reading the trials to writing what came of them: the last one has all."""
    from filelock import FileLock

    return FileLock(folder / WORKERS / "results")


def revive(study: Study, folder: Path) -> list[int]:
    """Queue the trials of processes that died again, to go on where they stopped.

    Returns:
        The numbers of the dead trials.
    """
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    dead = [t for t in study.get_trials(states=(TrialState.RUNNING,)) if _is_dead(t, folder)]
    for trial in dead:
        with suppress(UpdateFinishedTrialError, ValueError):  # another process was faster
            study.tell(trial.number, state=TrialState.FAIL)
            queue_again(study, trial)
    return [trial.number for trial in dead]


def places(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """The place in the sweep of every trial by Optuna's number.

    A trial that goes on for one that was killed has the place of that one: places are what numbers would be, had
    nothing been killed.
    """
    numbers: dict[int, int] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        origin = trial.user_attrs.get(GOES_ON)
        numbers[trial.number] = len(set(numbers.values())) if origin is None else numbers[origin]
    return numbers


def queue_again(study: Study, trial: Trial | FrozenTrial) -> None:
    """Queue a trial that was stopped; it goes on in its own folder."""
    trials = study.get_trials(deepcopy=False)
    place, stored = places(trials)[trial.number], next(t for t in trials if t.number == trial.number)
    attrs = {GOES_ON: trial.number, FOLDER: trial.user_attrs.get(FOLDER, folder_name(place))}
    study.enqueue_trial({**stored.system_attrs.get("fixed_params", {}), **stored.params}, user_attrs=attrs)


def _is_dead(trial: FrozenTrial, folder: Path) -> bool:
    worker = trial.user_attrs.get(WORKER)
    if worker is None:
        alone = sum(_is_held(lock) for lock in (folder / WORKERS).glob("*.lock")) <= 1  # by this process itself
        return alone or trial.datetime_start is None or datetime.now() - trial.datetime_start > GRACE
    return not _is_held(folder / WORKERS / worker)


def _is_held(lock: Path) -> bool:
    from filelock import FileLock, Timeout

    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def folder_name(place: int) -> str:
    """The folder of a trial."""
    return f"{place:04d}"


def begun(study: Study) -> int:
    """How many trials have begun, without those that died and were queued again."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    again = {t.user_attrs.get(GOES_ON) for t in trials}
    return sum(t.state != TrialState.WAITING and t.number not in again for t in trials)


def results_of(study: Study, recipe: SweepRecipe, monitor: str, *, importances: bool = True) -> dict[str, Any]:
    """All trials as plain values for `sweep.json`, with the best one and the importance of every setting.

    The best is the finished trial with the best value, the earliest of equals.

    Args:
        study: of the sweep.
        recipe: of the sweep.
        monitor: the metric.
        importances: whether to compute them.
    """
    trials = study.get_trials(deepcopy=False)
    again = {t.user_attrs.get(GOES_ON) for t in trials}
    place = places(trials)
    rows = [_row(t, place[t.number], recipe) for t in trials if t.number not in again and t.state.name != "WAITING"]
    rows.sort(key=lambda t: t["number"])
    falls = study.direction.name == "MINIMIZE"
    finished = [t for t in rows if t["state"] == "finished"]
    best = min(finished, key=lambda t: (t["value"] if falls else -t["value"], t["number"]), default=None)
    shares, why = _importances(study, finished) if importances else (None, "")
    return {
        "schema": "slivit.sweep",
        "version": 1,
        "monitor": monitor,
        "falls": falls,
        "space": recipe.model_dump(mode="json", exclude_none=True)["space"],
        "trials": rows,
        "best": best["number"] if best else None,
        "importances": shares,
        "importances_why": why,
    }


def _row(trial: FrozenTrial, place: int, recipe: SweepRecipe) -> dict[str, Any]:
    names = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
    course = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
    kept = [v for v in course if v == v]
    value = trial.value if trial.state.name == "COMPLETE" else None
    return {
        "number": place,
        "state": names[trial.state.name],
        "value": value,
        "last": kept[-1] if kept else None,
        "epochs": max(trial.intermediate_values, default=0),
        "seconds": trial.duration.total_seconds() if trial.duration else None,
        "values": {k: _plain(recipe, k, v) for k, v in trial.params.items()},
        "folder": trial.user_attrs.get(FOLDER, ""),
        "why": trial.user_attrs.get(WHY, ""),
    }


def _plain(recipe: SweepRecipe, key: str, value: Any) -> Any:
    dimension = recipe.space[key]
    return dimension.named[value] if isinstance(dimension, Categorical) else value


def _importances(study: Study, finished: list[dict[str, Any]]) -> tuple[dict[str, float] | None, str]:
    """The share of the variance that each setting explains (functional ANOVA), or why that is not known."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if len(finished) < 4:
        return None, f"four finished trials are needed, and there are {len(finished)}"
    if len({t["value"] for t in finished}) == 1:
        return None, "all finished trials did equally well"
    if len(finished[0]["values"]) == 1:
        return {next(iter(finished[0]["values"])): 1.0}, ""
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {key: float(value) for key, value in shares.items()}, ""


def value_text(value: Any) -> str:
    """A setting as text for tables: short numbers, lists as in a recipe."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value)
    return f"{value:.4g}"
