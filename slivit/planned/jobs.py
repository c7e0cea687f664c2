"""The networks of a plan, trained fold by fold: each an ordinary run that can be resumed and looked at by itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from slivit.data.splits import fold_tested
from slivit.data.table import as_shown, read_shown
from slivit.errors import DIVERGED
from slivit.experiments.run_state import made_by, request, run_state
from slivit.experiments.study_schedule import spoken_time
from slivit.files import whole_file
from slivit.folder import PREDICTIONS
from slivit.machines import machines_at
from slivit.planned.clock import Clock, key_of
from slivit.planned.networks import Candidate
from slivit.planned.plan import Plan
from slivit.recipe import check_recipe, recipe_class, resolved_toml
from slivit.targets.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A network on one fold, for as many epochs as planned unless it says otherwise.

    One that diverged is tried again `carefully`: at a third of its rate, in float32.
    """

    candidate: Candidate
    fold: int
    folder: Path
    epochs: int = 0
    carefully: bool = False

    @property
    def key(self) -> str:
        """By which the clock knows it."""
        return key_of(self.candidate, self.fold)


def write_folds(frame: pd.DataFrame, plan: Plan) -> None:
    """Write a manifest for each fold: its scans are `test`, a tenth of the others `val`, the rest `train`."""
    for fold in range(plan.folds):
        split = fold_tested(frame, plan.task, fold, seed=plan.seed)
        with whole_file(fold_csv(plan, fold)) as partial:
            as_shown(frame.assign(split=split)).to_csv(partial, index=False)


def fold_csv(plan: Plan, fold: int) -> Path:
    """The manifest of a fold."""
    return Path(plan.out) / "folds" / f"fold_{fold}.csv"


def job_of(plan: Plan, candidate: Candidate, fold: int) -> Job:
    """A network on a fold, and where it goes."""
    return Job(candidate, fold, Path(plan.out) / "candidates" / candidate.name / f"fold_{fold}")


def recipe_of_job(plan: Plan, job: Job) -> Any:
    """The recipe of a network on a fold."""
    chosen = job.candidate
    values = {
        "out": str(job.folder),
        "seed": plan.seed + chosen.seed + job.fold,
        "data": {
            "manifest": str(fold_csv(plan, job.fold)),
            "channels": plan.columns,
            "workers": 0,
            "cache": str(Path(plan.out) / "cache"),
        },
        "task": plan.task.model_dump(),
        "model": {"name": chosen.model, "weights": chosen.weights, **chosen.args},
        "preprocessing": plan.preprocessing.model_dump(exclude={"channels"}),
        "augmentation": plan.augmentation.model_dump(),
        "fit": {
            "epochs": job.epochs or chosen.epochs,
            "lr": chosen.lr / 3 if job.carefully else chosen.lr,
            "precision": "float32" if job.carefully else "auto",
            "batch_size": chosen.batch_size,
            "patience": 0,
            "average_weights": 0.99,
        },
        "testing": {"draws": 1, "baselines": False},
    }
    return check_recipe(recipe_class("finetune"), values, f"{chosen.name}, fold {job.fold}")


def train_jobs(
    plan: Plan,
    order: Sequence[Candidate],
    folds: Iterable[int],
    clock: Clock,
    tell: Callable[[str], None],
    cluster: str = "",
) -> dict[str, str]:
    """Train networks, several at a time, or go on with them; what is done already is left as it is.

    Args:
        plan: of the run.
        order: the networks, the one that matters most first.
        folds: of each.
        clock: of the run, which leaves out or cuts short what the time is too short for.
        tell: is given a sentence for each that ended.
        cluster: a Ray cluster that trains them, in place of this machine.

    Returns:
        The errors of those that failed, by name.
    """
    waiting = [job_of(plan, candidate, fold) for candidate in order for fold in folds]
    lock, failed = threading.Lock(), dict[str, str]()

    def take() -> Job | None:
        with lock:
            while waiting:
                job = waiting.pop(0)
                known = job.candidate.name in clock.left_out or job.candidate.name in failed
                epochs = clock.epochs_for(job.candidate, job.fold, order, len(plan.fold_numbers))
                job = replace(job, epochs=epochs, carefully=job.key in clock.careful)
                if not job.epochs and not known:
                    reason = clock.left_out.get(job.candidate.name, f"no time is left for fold {job.fold + 1}")
                    tell(f"{job.candidate.name} is left out: {reason}")
                if job.epochs and not known and run_state(recipe_of_job(plan, job), overwrite=True) != "done":
                    return job
            return None

    def make(job: Job) -> None:
        recipe, start = recipe_of_job(plan, job), time.monotonic()
        answer = made_by(machines, request("finetune", resolved_toml(recipe), run_state(recipe, overwrite=True)))
        again = DIVERGED in answer["error"] and clock.tries_carefully(job.key)
        if answer["error"] and not again:
            failed[job.candidate.name] = answer["error"]
        elif not again:
            clock.ended(job.candidate, job.fold, time.monotonic() - start)
        error = answer["error"] + " (it is tried again at a third of its rate)" * again
        tell(_line(plan, job, error, (time.monotonic() - start) / 60, clock))
        if again:
            make(replace(job, carefully=True))

    with machines_at(cluster, min(plan.workers, len(waiting)), Path(plan.out) / "workers") as machines:
        machines.work(take, make)
    return failed


def _line(plan: Plan, job: Job, error: str, minutes: float, clock: Clock) -> str:
    """What came of a job, in a line."""
    said = f"failed: {error}" if error else f"{job.epochs} epochs in {minutes:.1f} min"
    if job.epochs < job.candidate.epochs:
        said += f" (in place of {job.candidate.epochs}: the machine is slower than was thought)"
    where = f"{job.candidate.name}, fold {job.fold + 1} of {plan.folds}"
    return f"{where}: {said}; {spoken_time(max(clock.left, 0))} left for networks"


def out_of_fold(plan: Plan, frame: pd.DataFrame, candidate: Candidate, task: Task) -> npt.NDArray[np.float64]:
    """(n, out_dim) predictions of the scans of each fold that was trained; NaN for the others."""
    p = np.full((len(frame), task.out_dim), np.nan)
    places = pd.Series(np.arange(len(frame)), index=frame["path"].astype(str))
    for fold in range(plan.folds):
        file = job_of(plan, candidate, fold).folder / PREDICTIONS
        if not file.is_file():
            continue
        table = read_shown(file)
        table = table[table["split"] == "test"]
        columns = [c for c in task.prediction_columns if c in table]  # a class that a fold never saw has none
        rows = places[table["path"].astype(str)].to_numpy()
        p[rows] = 0.0
        for column in columns:
            p[rows, task.prediction_columns.index(column)] = table[column].to_numpy()
    if not task.makes_calls:
        p = (p - np.array(task.center)) / np.array(task.spread)
    return p
