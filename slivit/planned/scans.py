"""The scans of a planned run: their table checked as every table is, each read once, shared out to folds."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from slivit.data.check_same import connected
from slivit.data.checking.check import COLOUR_LOST, CheckResult, examined
from slivit.data.inspection import Rules, inspected
from slivit.data.splits import given_folds, k_folds
from slivit.data.table import read_table
from slivit.device import cores
from slivit.errors import ManifestError, RecipeError, gather, one_of
from slivit.folder import METRICS, SPLIT
from slivit.planned.look import Facts, facts_of
from slivit.planned.plan import COVARIATES, OWN_FOLDS, Plan, plan_folds
from slivit.planned.table import ScanTable
from slivit.targets.covariates import GEOMETRY, encoded, extents, fit_covariates, width_of
from slivit.targets.task import Task
from slivit.train.table_models import answers_of

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]
STOP = {"the same scan in two splits", "one scan, two answers"}
"""Findings that would make every figure wrong."""
DEALT_WITH = {
    "spacing differs",
    "slices that will be squashed",
    "much air around",
    COLOUR_LOST.title,
}
"""Findings that a plan answers, or that are reported otherwise."""
_MOST_UNREAD = 0.5  # of the scans, above which those that can be read stand for nothing
_FEWEST = 40  # scans, below which they are read before other processes have started


@dataclass(frozen=True, eq=False)
class Scans:
    """What a run works on.

    Args:
        frame: the scans that train and choose, with their `fold`.
        test: the scans of a test split, which may be none.
        task: fitted on `frame`.
        y: (n,) class numbers, (n, t) 0, 1 or NaN, or (n, t) standardised values.
        parts: (n,) patient-wise parts, each of which baselines predict from the others.
        rest: scans that train alone, as no network was trained on the others of their folds.
    """

    frame: pd.DataFrame
    test: pd.DataFrame
    task: Task
    y: Array
    parts: Array
    rest: pd.DataFrame = field(default_factory=pd.DataFrame)

    def only(self, rows: Array) -> Scans:
        """Some of the scans; the others train alone."""
        kept = self.frame[rows].reset_index(drop=True)
        rest = self.frame[~rows].reset_index(drop=True)
        return Scans(kept, self.test, self.task, self.y[rows], self.parts[rows], rest)

    def table(self, features: Mapping[str, Array], names: Sequence[str], train: Array | None = None) -> Array:
        """(n, k) what a model of a table reads of every scan.

        Args:
            features: (n, k) by name, but for covariates.
            names: of those that it reads.
            train: (n,) the scans by which covariates are standardised; all where None.
        """
        parts = [self.covariates(train) if name == COVARIATES else features[name] for name in names]
        return np.concatenate(parts, 1)

    def widths(self, features: Mapping[str, Array], names: Sequence[str]) -> dict[str, int]:
        """Of what `table` puts together, the number of columns by name."""
        return {n: width_of(self.task.inputs) if n == COVARIATES else features[n].shape[1] for n in names}

    def covariates(self, train: Array | None = None) -> Array:
        """(n, k) float32 covariates as some of the scans standardise them, all of them where `train` is None."""
        rows = records(self.frame)
        inputs = self.task.inputs
        if train is not None:
            inputs = fit_covariates(self.task.covariates, records(self.frame[train]))
        return np.stack([encoded(inputs, row) for row in rows])


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as tables of plain keys."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


@dataclass(frozen=True, eq=False)
class Looked:
    """Scans that were read once.

    Args:
        frame: those that can be read.
        facts: of each.
        check: all that was found.
        left_out: what can be read and is of no use.
    """

    frame: pd.DataFrame
    facts: list[Facts]
    check: CheckResult
    left_out: tuple[str, ...] = ()

    @property
    def tests(self) -> Array:
        """(n,) which are of a test split."""
        return np.asarray(self.frame["split"] == "test")

    @property
    def findings(self) -> list[str]:
        """What the user should know of the scans."""
        return [*self.left_out, *(f.text for f in self.check.findings if f.title not in DEALT_WITH | STOP)]


def looked_at(table: ScanTable) -> Looked:
    """Hold a table to the checks, and read every scan once.

    Raises:
        ManifestError: what would make figures wrong, or no scan that can be read.
    """
    raw = table.frame
    if "split" in raw:  # a plan chooses on all scans that do not test
        raw = raw.assign(split=raw["split"].where(raw["split"] == "test", "train"))
    rules = Rules(patient_from_path="patient" not in raw, need_splits=(), check_files=False)
    inspection = inspected(raw, table.task, Path(), rules)
    gather(inspection.problems, table.source, ManifestError)
    check = examined(inspection, table.source, table.task, workers=_workers(len(raw)), progress=_progress(len(raw)))
    if wrong := [f.text for f in check.findings if f.title in STOP]:
        gather(wrong, table.source, ManifestError)
    facts = facts_of(check.table)
    frame = _one_patient_each(inspection.frame, check.table)
    if GEOMETRY in table.task.covariates:
        frame = frame.assign(**pd.DataFrame([extents(f.shape, f.spacing) for f in facts], index=frame.index))
    kept = np.array(_readable(facts, table.source))
    testable, left_out = _testable(frame[kept], table.task, table.source)
    kept[kept] = testable
    left = [f for f, keep in zip(facts, kept, strict=True) if keep]
    return Looked(frame[kept].reset_index(drop=True), left, check, left_out)


def _testable(frame: pd.DataFrame, task: Task, source: str) -> tuple[Array, tuple[str, ...]]:
    """(n,) which scans are not the only patient's of a class, and what is left out: learned of it, nothing tests it.

    Raises:
        ManifestError: fewer than two classes are left, or one patient.
    """
    patients, learns = frame["patient"], frame["split"] != "test"
    alone: list[Any] = []
    if task.one_class:
        target = frame[task.targets[0]]
        counts = patients[learns].groupby(target[learns]).nunique()
        alone = [value for value in target.unique() if counts.get(value, 0) < 2]
        several = len(counts) - sum(value in counts.index for value in alone)
    else:
        target, several = frame[task.targets[0]], int(patients[learns].nunique() > 1) * 2
    if several < 2:
        raise ManifestError(
            f"{source}: {one_of(task.targets)}: what is learned of one patient is tested on others, and so two classes "
            f"need two patients each that can be read; {several} {'has' if several == 1 else 'have'} them"
        )
    gone = target.isin(alone) if alone else pd.Series(False, index=frame.index)
    named = ", ".join(map(str, alone))
    note = f"left out: {int(gone.sum())} scans of classes with one patient, of whom nothing could be tested: {named}"
    return np.asarray(~gone), (note,) if alone else ()


def _workers(count: int) -> int:
    return min(4, cores()) if count > _FEWEST else 0


def _progress(count: int) -> Any:
    from tqdm import tqdm

    bar = tqdm(total=count, desc="look at scans", disable=None)
    return lambda done, _: (bar.update(), bar.close() if done == count else None)


def _readable(facts: Sequence[Facts], source: str) -> list[bool]:
    """Which scans can be read; tells of the others."""
    errors = [f.error for f in facts if f.error]
    if len(errors) > _MOST_UNREAD * len(facts):
        read = len(facts) - len(errors)
        raise ManifestError(
            f"{source}: {read or 'none'} of {len(facts)} scans can be read; the first that cannot: {errors[0]} Mend "
            "the files, or take their rows out."
        )
    for error in errors[:3]:
        log.warning("left out: %s", error)
    if len(errors) > 3:
        log.warning("left out: %d more scans that cannot be read", len(errors) - 3)
    return [not f.error for f in facts]


def _one_patient_each(frame: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The rows with those patients as one who share a scan, so that no fold is tested on what another one learned."""
    twice = table[(table["group"] >= 0) & table["same_as"].ne("")]
    merged = connected(zip(table.loc[twice.index, "group"].tolist(), frame.loc[twice.index, "patient"], strict=True))
    changed = {old: new for old, new in merged.items() if old != new}
    if changed:
        old, new = next(iter(changed.items()))
        log.warning(
            "%d patients have a scan with the same pixels as another patient's (%s and %s) and are taken for one with "
            "them: otherwise a fold would be tested on scans that it learned from", len(changed), old, new
        )  # fmt: skip
    return frame.assign(patient=frame["patient"].map(lambda name: changed.get(name, name)))


def with_folds(frame: pd.DataFrame, task: Task, plan: Plan) -> pd.DataFrame:
    """The scans with the folds of a plan: the table's own, or new ones of patients."""
    if plan.folds_from == OWN_FOLDS:
        return frame.assign(fold=given_folds(frame, task, plan.folds, plan.seed))
    plain = frame.drop(columns=["fold"], errors="ignore")
    return plain.assign(fold=k_folds(plain, task, k=plan.folds, seed=plan.seed))


def with_classes(task: Task, frame: pd.DataFrame) -> Task:
    """The task with its classes named, so that every fold has the same outputs."""
    if not task.exclusive:
        return task
    return task.model_copy(update={"classes": task.fitted(records(frame)).classes})


def parts_of(frame: pd.DataFrame, task: Task, plan: Plan) -> Array:
    """(n,) the parts in which baselines, which cost seconds, are predicted: the folds, or more where there can be."""
    most = plan_folds(frame.drop(columns="fold"), task)[0]
    if plan.folds_from == OWN_FOLDS or plan.folds >= most:
        return np.asarray(frame["fold"])
    return np.asarray(k_folds(frame, task, k=most, seed=plan.seed))


def scans_of(frame: pd.DataFrame, test: pd.DataFrame, task: Task, parts: Array) -> Scans:
    """The scans of a run, under their fitted task."""
    fitted = task.fitted(records(frame))
    return Scans(frame, test, fitted, answers_of(fitted, records(frame)), parts)


def refuse_seen(weights: Sequence[str], frame: pd.DataFrame) -> None:
    """Refuse to start from a run that learned from labels of these very scans: every figure would be too good.

    Args:
        weights: folders of runs.
        frame: the scans, with absolute paths.

    Raises:
        RecipeError: which run, and how many scans.
    """
    for where in weights:
        split = Path(where) / SPLIT
        if not split.is_file() or not (Path(where) / METRICS).is_file():  # without metrics it read no labels
            continue
        table = read_table(split)
        seen = set(table["path"][table["split"] != "test"]) & set(frame["path"])
        if seen:
            raise RecipeError(
                f"--weights {where}: was trained on the labels of {len(seen)} of these {len(frame)} scans, so what it "
                "says of them in any fold would be too good; start from a run on other scans, or without labels"
            )
