"""The labelled rows of a table of predictions as arrays, ready for `slivit.statistics`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slivit.targets.decision import Decision
from slivit.targets.task import Task, is_missing

if TYPE_CHECKING:
    import pandas as pd

    from slivit.statistics import Plan

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Column:
    """One class against the rest, one label, or the two classes of a binary task.

    Args:
        name: of the class, label or target.
        y: (n,) 0, 1 or NaN.
        p: (n,) probability.
        threshold: of a call; None for a class, of which the most probable is called.
        uncertainty: (n,) what ranks the cases for a referral; None for the distance of `p` from 0.5.
    """

    name: str
    y: Array
    p: Array
    threshold: float | None
    uncertainty: Array | None = None


@dataclass(frozen=True, eq=False)
class Cases:
    """Answers and predictions of the rows with a label.

    Args:
        task: what is predicted.
        y: (n,) 0/1 for binary, (n,) class numbers for multiclass, else (n, k) with NaN for a missing label.
        p: (n,) probabilities for binary, (n, C) for multiclass, else (n, k).
        table: the rows themselves.
        thresholds: one for each target of a binary or multilabel task.
        plan: how to draw for intervals.
    """

    task: Task
    y: Array
    p: Array
    table: pd.DataFrame
    thresholds: tuple[float, ...]
    plan: Plan

    @property
    def names(self) -> list[str]:
        """The names of classes, labels or quantities."""
        return list(self.task.measured)

    @property
    def threshold(self) -> float | list[float]:
        """What `summarise` takes as its threshold."""
        return list(self.thresholds) or 0.5

    def columns(self) -> Iterator[Column]:
        """The two-class views of a classification: each class against the rest, each label, or the one target."""
        return self.task.views(self)


def arrays_of(table: pd.DataFrame, task: Task) -> tuple[Array, Array]:
    """The known answers and the predictions of a table as arrays for `slivit.statistics`.

    Returns:
        y and p: (n,) and (n,) for binary; (n,) class numbers and (n, C) for multiclass; (n, k) and (n, k) otherwise,
        with NaN for a missing label.
    """
    return task.arrays(table)


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table by the names of their scans, so that nothing that is computed depends on how they were given.

    Args:
        table: with a column `path`, or none; rows of one name, or without names, are ordered by all their values.
    """
    import pandas as pd

    if table.index.has_duplicates:
        table = table.reset_index(drop=True)
    names = table["path"].astype(str) if "path" in table else pd.Series("", index=table.index)
    if names.is_unique:
        return table.loc[names.sort_values().index]
    texts = [names.tolist(), *([str(value) for value in table[c]] for c in table)]
    return table.iloc[sorted(range(len(table)), key=list(zip(*texts, strict=True)).__getitem__)]


def cases_of(
    table: pd.DataFrame,
    task: Task,
    decision: Decision | None = None,
    *,
    level: float = 0.9,
    draws: int = 1000,
    by_patient: bool = False,
    stratified: bool = False,
) -> Cases:
    """The rows of a table that have a label, with the plan by which they are drawn.

    Args:
        table: predictions beside known answers, already under `decision`.
        task: what is predicted.
        decision: where thresholds come from; the default ones if None.
        level: of the intervals.
        draws: of the bootstrap.
        by_patient: draw patients instead of scans.
        stratified: keep the number of scans of each class in every draw.
    """
    from slivit.statistics import Plan
    from slivit.statistics.summary import class_strata, with_label

    table = in_order(table)
    y, p = arrays_of(table, task)
    kept = with_label(y)
    y, p, table = y[kept], p[kept], table[kept]
    plan = Plan(level=level, draws=draws)
    if by_patient:
        plan = replace(plan, groups=table["patient"].astype(str).to_numpy())
    if stratified:
        plan = replace(plan, strata=class_strata(task.kind, y, plan.groups))
    thresholds = tuple((decision or Decision()).threshold(t) for t in task.thresholded)
    return Cases(task, y, p, table, thresholds, plan)


def counts_of(table: pd.DataFrame, task: Task) -> dict[str, dict[str, Any]]:
    """How often each class occurs, or how a quantity is distributed, for every target.

    Args:
        table: with the task's `target_*` columns, or with the targets under their own names, as a manifest has them.
    """
    columns = {t: f"target_{t}" if f"target_{t}" in table else t for t in task.targets}
    return {t: _counts(table[column], task) for t, column in columns.items()}


def _counts(column: pd.Series, task: Task) -> dict[str, Any]:
    missing = column.map(is_missing).astype(bool)
    known = column[~missing]
    return {"n": len(known), "missing": int(missing.sum()), **task.counts(known)}


def describe_rows(rows: pd.DataFrame, task: Task) -> dict[str, Any]:
    """Counts of scans, patients and classes (or the distribution of a quantity)."""
    return {"scans": len(rows), "patients": int(rows["patient"].nunique()), "counts": counts_of(rows, task)}


def describe_splits(frame: pd.DataFrame, task: Task) -> dict[str, Any]:
    """`describe_rows` of every split of a table, in the order in which they come."""
    return {str(split): describe_rows(rows, task) for split, rows in frame.groupby("split", sort=False)}
