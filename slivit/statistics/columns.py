"""Predictions with several columns (labels, classes or quantities): each column's metrics, and their means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from slivit.statistics.arrays import Array, numbers, probabilities, zero_one
from slivit.statistics.binary import BinarySample
from slivit.statistics.bootstrap import Sample
from slivit.statistics.regression import RegressionSample
from slivit.statistics.sample import Flags, Metric, Share, ShareSample

SUBSET = "subset_accuracy"
"""The name of the share of cases whose labels are all right."""


class ColumnSample:
    """Several samples over the same cases: their metrics as "metric/column", and the mean over columns as "metric".

    The mean is over the columns in which the metric is defined on the whole sample, and says which are left out. A
    draw in which it is not defined in one of these leaves the mean undefined, as a mean over fewer columns would be
    another statistic.

    Args:
        parts: the samples, by name of their column.
        metrics: the names of the metrics that each of them has.

    Source: scikit-learn's user guide, "From binary to multiclass and multilabel" (macro average).
    """

    def __init__(self, parts: Mapping[str, Sample], metrics: Sequence[str]) -> None:
        self.parts = parts
        self.metrics = metrics
        self.n = next(iter(parts.values())).n

    @cached_property
    def defined(self) -> dict[str, list[str]]:
        """For each metric, the columns in which it is defined on the whole sample."""
        with np.errstate(divide="ignore", invalid="ignore"):
            point = self.by_part(np.ones((1, self.n)))
        return {m: [part for part in self.parts if not np.isnan(point[part][m][0])] for m in self.metrics}

    def by_part(self, weights: Array) -> dict[str, Mapping[str, Array]]:
        """Return every metric of every column, from counts (B, n)."""
        return {part: sample.values(weights) for part, sample in self.parts.items()}

    def values(self, weights: Array) -> dict[str, Array]:
        """Return the means over columns, then each column's metrics, (B,) each, from counts (B, n)."""
        return self.joined(self.by_part(weights), len(weights))

    def joined(self, metrics_of: Mapping[str, Mapping[str, Array]], b: int) -> dict[str, Array]:
        """Return the means over columns, then each column's metrics, from those of each column in `b` draws."""
        means = {
            metric: np.mean([metrics_of[part][metric] for part in kept], axis=0) if kept else np.full(b, np.nan)
            for metric, kept in self.defined.items()
        }
        return means | {f"{metric}/{part}": metrics_of[part][metric] for metric in means for part in self.parts}

    def size(self, name: str) -> int:
        """Return the number of cases of a column, or of all for a mean."""
        metric, slash, part = name.partition("/")
        return self.parts[part].size(metric) if slash else self.n

    def why(self, name: str) -> str:
        """Return why a metric is not defined in a column, or which columns its mean leaves out."""
        metric, slash, part = name.partition("/")
        if slash:
            return self.parts[part].why(metric)
        kept = self.defined[metric]
        reasons = [f'"{p}": {s.why(metric)}' for p, s in self.parts.items() if p not in kept]
        if not kept:
            return "not defined in any column: " + "; ".join(reasons)
        return f"mean over {len(kept)} of {len(self.parts)}, not defined in " + "; ".join(reasons) if reasons else ""


class MultilabelSample(ColumnSample):
    """Several labels for each case, each 0, 1 or missing, as a `Sample` for the bootstrap.

    Args:
        y: (n, k) 0, 1 or NaN (missing).
        p: (n, k) probability of 1.
        names: k names of the labels.
        metrics: the metrics to compute for each label, by name.
        thresholds: k thresholds; a label is called where p >= threshold.
        bins: number of bins of the calibration errors.
        subset: whether to add "subset_accuracy".

    Source: Zhang and Zhou, IEEE TKDE 26 (2014) 1819, section 2.2 (label-based and example-based metrics).
    """

    def __init__(
        self,
        y: Any,
        p: Any,
        names: Sequence[str],
        metrics: Mapping[str, Metric],
        *,
        thresholds: Sequence[float],
        bins: int = 10,
        subset: bool = True,
    ) -> None:
        y, p = zero_one(y, "y", (2,)), probabilities(p, "p", (2,))
        super().__init__(
            {
                name: BinarySample(y[:, i], p[:, i], metrics, threshold=thresholds[i], bins=bins)
                for i, name in enumerate(names)
            },
            list(metrics),
        )
        self.subset = subset_accuracy(y, p, thresholds) if subset else None

    def values(self, weights: Array) -> dict[str, Array]:
        """Return the means over labels, the subset accuracy, and each label's metrics."""
        metrics = super().values(weights)
        return metrics | self.subset.values(weights) if self.subset else metrics

    def size(self, name: str) -> int:
        """Return the number of cases of a label; of those with any label for a mean."""
        return self.subset.size(name) if self.subset and name == SUBSET else super().size(name)

    def why(self, name: str) -> str:
        """Return why a metric is not defined, or which labels its mean leaves out."""
        return self.subset.why(name) if self.subset and name == SUBSET else super().why(name)


def subset_accuracy(y: Array, p: Array, thresholds: Sequence[float]) -> ShareSample:
    """Share of the cases whose labels are all called correctly, among cases with no label missing, as a sample.

    Args:
        y: (n, k) 0, 1 or NaN (missing).
        p: (n, k) probability of 1.
        thresholds: k thresholds; a label is called where p >= threshold.

    Source: Zhang and Zhou, IEEE TKDE 26 (2014) 1819, section 2.2.1 (subset accuracy, exact match).
    """
    full = np.isfinite(y.sum(axis=1))
    unknown = int(np.isnan(p[full]).any(axis=1).sum())
    right: Flags = np.all((p >= np.asarray(thresholds, dtype=np.float64)) == (y == 1), axis=1)
    problem = f"{unknown} of {int(full.sum())} predictions are missing or not finite" if unknown else ""
    if full.sum() == 1:
        problem = "there is one case only with all labels"
    return ShareSample({SUBSET: Share(right, full, "needs cases with all labels", problem)})


def regression_columns(y: Any, p: Any, names: Sequence[str], metrics: Mapping[str, Metric]) -> ColumnSample:
    """Return several quantities as one sample.

    Args:
        y: (n, k) true values, NaN where missing.
        p: (n, k) predicted values.
        names: k names of the quantities.
        metrics: the metrics to compute for each, by name.

    Source: scikit-learn's user guide, "Regression metrics" (`multioutput="uniform_average"`).
    """
    y, p = numbers(y, "y", (2,)), numbers(p, "p", (2,))
    parts = {name: RegressionSample(y[:, i], p[:, i], metrics) for i, name in enumerate(names)}
    return ColumnSample(parts, list(metrics))
