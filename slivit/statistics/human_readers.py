"""Human readers on the model's plots: one point for each, and their average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from slivit.errors import one_of
from slivit.statistics.arrays import Array, same_length, zero_one
from slivit.statistics.bootstrap import Draws, Plan, Sample, percentile, resample
from slivit.statistics.estimate import Estimate, StatisticsError
from slivit.statistics.joined import JoinedSample
from slivit.statistics.sample import Share, ShareSample

RATES = ("sensitivity", "specificity", "ppv")


@dataclass(frozen=True)
class ReaderPoint:
    """Where a reader lies: at (1 - specificity, sensitivity) on the ROC plot, at (sensitivity, ppv) on the other.

    Args:
        name: the reader.
        n: number of cases that were read.
        sensitivity: share of the positive cases that the reader called positive.
        specificity: share of the negative cases that the reader called negative.
        ppv: share of the reader's positive calls that are right.
    """

    name: str
    n: int
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class Readers:
    """The readers' points and the mean of their rates.

    Args:
        points: one for each reader.
        average: the mean of each rate over the readers for whom it is defined.
    """

    points: tuple[ReaderPoint, ...]
    average: ReaderPoint

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return {"points": [point.to_dict() for point in self.points], "average": self.average.to_dict()}


def reader_points(y: Any, calls: Mapping[str, Any], *, plan: Plan | None = None) -> Readers:
    """Place human readers on the ROC and precision-recall plots.

    Args:
        y: (n,) true labels, 0, 1 or NaN (missing).
        calls: (n,) calls of each reader by name, 0, 1 or NaN where the reader did not read the case.
        plan: how to draw cases for the intervals. They speak of other cases for these readers, not of other readers.

    Source: Avram et al., Nat Biomed Eng 2024, Figure 5 (specialists and their average beside the model).
    """
    if not calls:
        raise StatisticsError("There must be the calls of one reader at least; got none.")
    labels = zero_one(y)
    known = ~np.isnan(labels)
    plan = (plan or Plan()).of(known)
    parts: dict[str, Sample] = {}
    read = {}
    for reader, given in calls.items():
        column = zero_one(given, f'calls of reader "{reader}"')
        same_length(len(labels), column, f'calls of reader "{reader}"')
        parts[str(reader)] = _reader(labels[known], column[known])
        read[str(reader)] = int((~np.isnan(column[known])).sum())
    sample = JoinedSample(parts, int(known.sum()))
    draws = resample(sample, plan)
    points = [ReaderPoint(r, n, *(_rate(sample, draws, r, rate) for rate in RATES)) for r, n in read.items()]
    average = [_average(sample, draws, rate) for rate in RATES]
    return Readers(tuple(points), ReaderPoint("average", max(read.values()), *average))


def _reader(y: Array, called: Array) -> ShareSample:
    read = ~np.isnan(called)
    problem = "the reader read fewer than two cases" if read.sum() < 2 else ""
    return ShareSample(
        {
            "sensitivity": Share(called == 1, read & (y == 1), "needs a positive case", problem),
            "specificity": Share(called == 0, read & (y == 0), "needs a negative case", problem),
            "ppv": Share(y == 1, read & (called == 1), "needs a case that is called positive", problem),
        }
    )


def _rate(sample: JoinedSample, draws: Draws, reader: str, rate: str) -> Estimate:
    key = sample.key(reader, rate)
    return draws.estimate(key, sample.size(key), sample.why(key))


def _average(sample: JoinedSample, draws: Draws, rate: str) -> Estimate:
    keys = {reader: sample.key(reader, rate) for reader in sample.names}
    kept = [key for key in keys.values() if not np.isnan(draws.point[key])]
    left_out = [reader for reader, key in keys.items() if key not in kept]
    why = f"mean over {len(kept)} of {len(keys)} readers, not defined for {one_of(left_out)}" if left_out else ""
    if not kept:
        return percentile(float("nan"), np.empty(0), sample.n, draws.plan.level, "not defined for any reader")
    point = float(np.mean([draws.point[key] for key in kept]))
    values = np.mean([draws.values[key] for key in kept], axis=0)
    return percentile(point, values, sample.n, draws.plan.level, why, draws.patients)
