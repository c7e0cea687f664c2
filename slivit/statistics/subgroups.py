"""Every metric by site, sex, age band or scanner, and where the gaps are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from slivit.statistics.arrays import Array, Index, missing_values, numbers, one_from, same_length
from slivit.statistics.bootstrap import Draws, Plan, resample
from slivit.statistics.estimate import Estimate, StatisticsError
from slivit.statistics.joined import JoinedSample
from slivit.statistics.sample import Flags
from slivit.statistics.summary import check_cases, make_sample, prepare, with_label

MISSING = "(missing)"
"""The name of the subgroup whose cases have no value in the column."""

MANY_VALUES = 10
"""A column of more different numbers than this is cut into quarters, unless bands are given."""


@dataclass(frozen=True)
class Subgroup:
    """The cases with one value in a column.

    Args:
        n: number of cases with a label.
        patients: number of their patients, where these are known.
        metrics: the metrics of these cases, by name.
        differences: by how much each metric lies above that of the reference subgroup, where one is given.
    """

    n: int
    patients: int | None
    metrics: dict[str, Estimate]
    differences: dict[str, Estimate] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class Gap:
    """The two subgroups of a column between which a metric differs most.

    Args:
        column: the column.
        metric: the metric.
        highest: the subgroup in which it is highest.
        lowest: the subgroup in which it is lowest.
        difference: highest less lowest. As the two were picked for their difference, its interval lies too high.
    """

    column: str
    metric: str
    highest: str
    lowest: str
    difference: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class Subgroups:
    """Metrics by the values of columns.

    Args:
        columns: for each column, its subgroups by value.
        gaps: the largest gap of each metric in each column, where two subgroups have it.
        largest: for each metric, the largest of these gaps.
    """

    columns: dict[str, dict[str, Subgroup]]
    gaps: tuple[Gap, ...]
    largest: dict[str, Gap]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return {
            "columns": {c: {v: g.to_dict() for v, g in groups.items()} for c, groups in self.columns.items()},
            "gaps": [gap.to_dict() for gap in self.gaps],
            "largest": {metric: gap.to_dict() for metric, gap in self.largest.items()},
        }


def by_subgroup(
    kind: str,
    y: Any,
    p: Any,
    table: Mapping[str, Sequence[Any]],
    *,
    bands: Mapping[str, Sequence[float]] | None = None,
    reference: Mapping[str, str] | None = None,
    plan: Plan | None = None,
    names: Sequence[Any] | None = None,
    threshold: float | Sequence[float] = 0.5,
    metrics: Iterable[str] | None = None,
) -> Subgroups:
    """Compute the metrics of every subgroup, and the gaps between them, on the same draws.

    Several sites side by side are the subgroups of the column that names the site; with the site of the training data
    as `reference`, the differences show what is lost out of its distribution.

    Args:
        kind: see `summarise`.
        y: see `summarise`.
        p: see `summarise`.
        table: (n,) values for each column, as a dict or a DataFrame; cases without a value form their own subgroup.
        bands: edges that cut a column of numbers into bands, as {"age": [40, 60, 80]}; an edge belongs to the band
            above it. A column of more than 10 different numbers without bands is cut into quarters.
        reference: for a column, the value of the subgroup that the others are compared with.
        plan: how to draw; all cases are drawn together, so that a patient in two subgroups is drawn in both.
        names: see `summarise`.
        threshold: see `summarise`.
        metrics: see `summarise`.

    Source: Seyyed-Kalantari et al., Nat Med 27 (2021) 2176 (gaps between subgroups); Collins et al., BMJ 385 (2024)
    e078378 (TRIPOD+AI, items on fairness and subgroups).
    """
    known = with_label(check_cases(kind, y, p)[0])
    columns = {str(c): _grouping(str(c), table[c], known, (bands or {}).get(c)) for c in table}
    reference = reference or {}
    _check_reference(reference, columns)
    y, p, plan = prepare(kind, y, p, plan)
    rows = {(c, value): r for c, groups in columns.items() for value, r in groups.items()}
    if not rows:
        return Subgroups({c: {} for c in columns}, (), {})
    subset = partial(make_sample, kind, names=names, threshold=threshold, metrics=metrics)
    sample = JoinedSample({part: subset(y[r], p[r]) for part, r in rows.items()}, len(y), rows)
    draws = resample(sample, plan)
    subgroups = {c: _subgroups(sample, draws, c, list(groups), reference.get(c)) for c, groups in columns.items()}
    gaps = tuple(gap for c, groups in subgroups.items() for gap in _gaps(sample, draws, c, groups))
    return Subgroups(subgroups, gaps, _largest(gaps))


def _subgroups(
    sample: JoinedSample, draws: Draws, column: str, values: list[str], reference: str | None
) -> dict[str, Subgroup]:
    metrics = _metric_names(sample, draws)
    subgroups = {}
    for value in values:
        part = (column, value)
        estimates = {metric: _estimate(sample, draws, part, metric) for metric in metrics}
        differences = None
        if reference is not None and value != reference:
            differences = {m: sample.difference(draws, m, part, (column, reference))[0] for m in metrics}
        rows = (sample.rows or {})[part]
        patients = (
            None if draws.plan.groups is None else len(np.unique(np.asarray(draws.plan.groups)[rows].astype(str)))
        )
        subgroups[value] = Subgroup(len(rows), patients, estimates, differences)
    return subgroups


def _metric_names(sample: JoinedSample, draws: Draws) -> list[str]:
    first = sample.key(next(iter(sample.parts)), "")
    return [name.removeprefix(first) for name in draws.point if name.startswith(first)]


def _estimate(sample: JoinedSample, draws: Draws, part: tuple[str, str], metric: str) -> Estimate:
    key = sample.key(part, metric)
    return draws.estimate(key, sample.size(key), sample.why(key))


def _gaps(sample: JoinedSample, draws: Draws, column: str, groups: Mapping[str, Subgroup]) -> list[Gap]:
    gaps = []
    for metric in _metric_names(sample, draws):
        values = {value: e.value for value, g in groups.items() if (e := g.metrics[metric]).value is not None}
        if len(values) < 2:
            continue
        highest, lowest = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
        difference, _ = sample.difference(draws, metric, (column, highest), (column, lowest))
        gaps.append(Gap(column, metric, highest, lowest, difference))
    return gaps


def _largest(gaps: Iterable[Gap]) -> dict[str, Gap]:
    largest: dict[str, Gap] = {}
    for gap in gaps:
        known = largest.get(gap.metric)
        if known is None or (gap.difference.value or 0) > (known.difference.value or 0):
            largest[gap.metric] = gap
    return largest


def _check_reference(reference: Mapping[str, str], columns: Mapping[str, Mapping[str, Index]]) -> None:
    for column, value in reference.items():
        one_from(column, columns, "a column of `reference`")
        one_from(value, columns[column], f'the reference of column "{column}"')


def _grouping(column: str, values: Any, known: Flags, bands: Sequence[float] | None) -> dict[str, Index]:
    """Return, for each value or band of a column, which of the cases with a label have it."""
    array = np.asarray(values)
    same_length(len(known), array, f'column "{column}"')
    array = array[known]
    absent = missing_values(array)
    if bands is None and array.dtype.kind in "fiu" and len(np.unique(array[~absent])) > MANY_VALUES:
        bands = np.unique(np.quantile(array[~absent].astype(np.float64), [0.25, 0.5, 0.75])).tolist()
    if bands is None:
        texts = np.array([_text(v) for v in array], dtype=object)
        groups = {v: np.flatnonzero((texts == v) & ~absent) for v in sorted(set(texts[~absent]))}
    else:
        groups = _banded(numbers(array, f'column "{column}"'), [float(edge) for edge in bands], column)
    return groups | ({MISSING: np.flatnonzero(absent)} if absent.any() else {})


def _banded(values: Array, edges: list[float], column: str) -> dict[str, Index]:
    if not edges or sorted(set(edges)) != edges:
        raise StatisticsError(f'the bands of column "{column}" must be rising numbers; got {edges}.')
    names = [f"below {edges[0]:g}"]
    names += [f"{low:g} to below {high:g}" for low, high in pairwise(edges)]
    names += [f"{edges[-1]:g} and above"]
    place = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="right"))
    members = {name: np.flatnonzero(place == i) for i, name in enumerate(names)}
    return {name: rows for name, rows in members.items() if len(rows)}


def _text(value: Any) -> str:
    # 1.0 is how a table with gaps holds the number 1.
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)
