"""The networks of a plan, trained fold by fold: each an ordinary run that can be resumed and looked at by itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from slivit.data.splits import fold_tested
from slivit.data.table import as_shown, read_shown
from slivit.experiments.run_state import run_state
from slivit.experiments.study_pool import work
from slivit.experiments.study_worker import request
from slivit.files import whole_file
from slivit.folder import PREDICTIONS
from slivit.planned.networks import Candidate
from slivit.planned.plan import Plan
from slivit.recipe import check_recipe, recipe_class, resolved_toml
from slivit.targets.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A network on one fold."""

    candidate: Candidate
    fold: int
    folder: Path


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
        "seed": plan.seed + job.fold,
        "data": {"manifest": str(fold_csv(plan, job.fold)), "workers": 0, "cache": str(Path(plan.out) / "cache")},
        "task": plan.task.model_dump(),
        "model": {"name": chosen.model, "weights": chosen.weights, **chosen.args},
        "preprocessing": plan.preprocessing.model_dump(),
        "augmentation": plan.augmentation.model_dump(),
        "fit": {
            "epochs": chosen.epochs,
            "lr": chosen.lr,
            "batch_size": chosen.batch_size,
            "patience": 0,
            "average_weights": 0.99,
        },
        "testing": {"draws": 1, "baselines": False},
    }
    return check_recipe(recipe_class("finetune"), values, f"{chosen.name}, fold {job.fold}")


def train_jobs(plan: Plan, jobs: Sequence[Job], tell: Callable[[str], None]) -> dict[Path, str]:
    """Train networks, several at a time, or go on with them; what is done already is left as it is.

    Returns:
        The errors of those that failed, by folder.
    """
    left = [job for job in jobs if run_state(recipe_of_job(plan, job), overwrite=True) != "done"]
    done, start, failed = len(jobs) - len(left), time.monotonic(), dict[Path, str]()
    waiting = list(left)

    def take() -> Job | None:
        return waiting.pop(0) if waiting else None

    def make(job: Job, by: Callable[[dict[str, str]], dict[str, str]]) -> None:
        nonlocal done
        recipe = recipe_of_job(plan, job)
        answer = by(request("finetune", resolved_toml(recipe), run_state(recipe, overwrite=True)))
        done += 1
        if answer["error"]:
            failed[job.folder] = answer["error"]
        spent = time.monotonic() - start
        rest = spent / max(done - (len(jobs) - len(left)), 1) * (len(jobs) - done)
        said = f"failed: {answer['error']}" if answer["error"] else "done"
        tell(f"{job.candidate.name}, fold {job.fold + 1} of {plan.folds}: {said}; about {rest / 60:.0f} min left here")

    work(take, make, min(plan.workers, max(len(left), 1)), Path(plan.out))
    return failed


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
