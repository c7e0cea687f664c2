"""Several classes that exclude each other: one against the rest, macro and weighted means, and overall metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from slivit.statistics.arrays import Array, class_numbers, class_probabilities, same_length
from slivit.statistics.binary import Binary, BinaryDraws, BinarySample
from slivit.statistics.calibration import calibration_error, calibration_error_mass
from slivit.statistics.classification import CALLS, RANKING
from slivit.statistics.columns import ColumnSample
from slivit.statistics.sample import Flags, Metric, MetricSample, ratio


class ClassDraws:
    """Multiclass cases and how often each is counted, (B, n).

    Args:
        y: (n,) class of each case.
        p: (n, C) probability of each class.
        weights: (B, n) counts.
        bins: number of bins of the calibration errors.
    """

    def __init__(self, y: Array, p: Array, weights: Array, bins: int = 10) -> None:
        self.y = y.astype(np.intp)
        self.p = p
        self.weights = weights
        self.bins = bins

    @cached_property
    def total(self) -> Array:
        """(B,) number of cases."""
        return self.weights.sum(axis=1)

    @cached_property
    def confusion(self) -> Array:
        """(B, C, C) counts by true class, then called class."""
        classes = self.p.shape[1]
        cells = np.eye(classes * classes)[self.y * classes + self.p.argmax(axis=1)]
        return (self.weights @ cells).reshape(-1, classes, classes)

    @cached_property
    def top(self) -> BinaryDraws:
        """Whether the call is right, and the probability given to it."""
        right = (self.p.argmax(axis=1) == self.y).astype(np.float64)
        return BinaryDraws(Binary(right, self.p.max(axis=1), bins=self.bins), self.weights)


def class_accuracy(draws: ClassDraws) -> Array:
    """Share of the cases called correctly; for classes that exclude each other also the subset accuracy.

    Source: Sokolova and Lapalme, Inf Process Manag 45 (2009) 427, table 3.
    """
    return ratio(np.trace(draws.confusion, axis1=1, axis2=2), draws.total)


def class_mcc(draws: ClassDraws) -> Array:
    """Correlation of true and called classes, for two or more classes; not defined where either are all the same.

    Source: Gorodkin, Comput Biol Chem 28 (2004) 367, equation 8.
    """
    true, called = draws.confusion.sum(axis=2), draws.confusion.sum(axis=1)
    right, total = np.trace(draws.confusion, axis1=1, axis2=2), draws.total
    spread = np.sqrt(total**2 - (true**2).sum(axis=1)) * np.sqrt(total**2 - (called**2).sum(axis=1))
    return ratio(right * total - (true * called).sum(axis=1), spread)


def class_brier(draws: ClassDraws) -> Array:
    """Brier score over all classes: the squared distance of the probabilities from the label, summed over classes.

    Source: Brier, Mon Weather Rev 78 (1950) 1, equation 2 (from 0 to 2).
    """
    distance = ((draws.p - np.eye(draws.p.shape[1])[draws.y]) ** 2).sum(axis=1)
    return ratio(draws.weights @ distance, draws.total)


def top_calibration_error(draws: ClassDraws) -> Array:
    """Calibration error of the probability given to the called class, over bins of equal width.

    Source: Guo et al., ICML 2017, equation 3.
    """
    return calibration_error(draws.top)


def top_calibration_error_mass(draws: ClassDraws) -> Array:
    """Calibration error of the probability given to the called class, over bins of equally many cases.

    Source: Nixon et al., CVPR Workshops 2019, section 3.
    """
    return calibration_error_mass(draws.top)


OVERALL = MappingProxyType(
    {
        "accuracy": Metric(class_accuracy, "needs a case"),
        "mcc": Metric(class_mcc, "needs two classes, among the labels and among the calls"),
        "brier": Metric(class_brier, "needs a case", higher=False),
        "calibration_error": Metric(top_calibration_error, "needs a case", higher=False),
        "calibration_error_mass": Metric(top_calibration_error_mass, "needs a case", higher=False),
    }
)
"""Metrics of all classes together, by name."""

_ONE_REST_CALLS = ("sensitivity", "specificity", "ppv", "npv", "f1", "false_negative_rate")

ONE_REST = MappingProxyType({**RANKING, **{name: CALLS[name] for name in _ONE_REST_CALLS}})
"""Metrics of one class against the rest, by name; their macro mean has the same name."""

WEIGHTED = MappingProxyType({f"{name}_weighted": name for name in ("roc_auc", "average_precision", "f1")})
"""Means weighted by how frequent each class is, and the metric that they are the mean of."""

BALANCED = "balanced_accuracy"
"""The mean of the sensitivities, under the name that it has in the literature."""

MULTICLASS = (*ONE_REST, *WEIGHTED, BALANCED, *OVERALL)
"""The names of all multiclass metrics."""


class _Overall(MetricSample):
    def __init__(self, y: Array, p: Array, bins: int, metrics: Mapping[str, Metric]) -> None:
        super().__init__(~np.isnan(y), np.isfinite(p.sum(axis=1)), metrics)
        self.y, self.p, self.bins = y[self.rows], p[self.rows], bins

    def draws(self, weights: Array) -> ClassDraws:
        return ClassDraws(self.y, self.p, weights, self.bins)

    def holds(self) -> str:
        called = len(np.unique(self.p.argmax(axis=1)))
        return f"{len(self.rows)} cases of {len(np.unique(self.y))} classes, {called} classes called"

    def class_counts(self, weights: Array) -> Array:
        """Return (B, C) how many cases of each class are drawn."""
        if self.blocked:
            return np.full((len(weights), self.p.shape[1]), np.nan)
        return weights.take(self.rows, axis=1) @ np.eye(self.p.shape[1])[self.y.astype(np.intp)]


class MulticlassSample:
    """Classes that exclude each other, as a `Sample` for the bootstrap; the most probable class is called.

    "metric/class" is one class against the rest, "metric" the macro mean over classes, and "metric_weighted" the mean
    weighted by how frequent each class is.

    Args:
        y: (n,) class numbers, NaN where missing.
        p: (n, C) probabilities that sum to 1.
        names: C names of the classes.
        metrics: which of `MULTICLASS` to compute.
        bins: number of bins of the calibration errors.

    Source: Hand and Till, Mach Learn 45 (2001) 171, and scikit-learn's `roc_auc_score(multi_class="ovr")`.
    """

    def __init__(
        self, y: Any, p: Any, names: Sequence[str], metrics: Sequence[str] = MULTICLASS, *, bins: int = 10
    ) -> None:
        p = class_probabilities(p)
        y = class_numbers(y, p.shape[1])
        same_length(len(y), p, "p")
        p = np.where(np.isnan(p).any(axis=1, keepdims=True), np.nan, p)
        self.n = len(y)
        self.metrics = metrics
        self.overall = _Overall(y, p, bins, {name: OVERALL[name] for name in metrics if name in OVERALL})
        needed = {WEIGHTED.get(name, "sensitivity" if name == BALANCED else name) for name in metrics}
        one_rest = {name: metric for name, metric in ONE_REST.items() if name in needed}
        self.parts = ColumnSample(
            {name: _against_rest(y, p, c, one_rest) for c, name in enumerate(names)}, list(one_rest)
        )

    def values(self, weights: Array) -> dict[str, Array]:
        """Return the means over classes and overall metrics, then each class's, (B,) each, from counts (B, n)."""
        by_class = self.parts.by_part(weights)
        means = self.overall.values(weights) | self.parts.joined(by_class, len(weights))
        counts = self.overall.class_counts(weights)
        for name, metric in WEIGHTED.items():
            if name in self.metrics:
                means[name] = _weighted(np.stack([v[metric] for v in by_class.values()], axis=1), counts)
        if BALANCED in self.metrics:
            means[BALANCED] = means["sensitivity"]
        single = [name for name in means if name.partition("/")[0] in self.metrics and "/" in name]
        return {name: means[name] for name in (*self.metrics, *single)}

    def size(self, name: str) -> int:
        """Return the number of cases with a class."""
        return self.overall.size(name)

    def why(self, name: str) -> str:
        """Return why a metric is not defined, or which classes its mean leaves out."""
        if name in OVERALL:
            return self.overall.why(name)
        if name in WEIGHTED:
            return self._why_weighted(name)
        return self.parts.why("sensitivity" if name == BALANCED else name)

    def _why_weighted(self, name: str) -> str:
        with np.errstate(divide="ignore", invalid="ignore"):
            defined = not np.isnan(self.values(np.ones((1, self.n)))[name][0])
        if defined:
            return ""
        return self.overall.blocked or f"needs two classes and predictions that differ; here: {self.overall.holds()}"


def _against_rest(y: Array, p: Array, c: int, metrics: Mapping[str, Metric]) -> BinarySample:
    is_class = np.where(np.isnan(y), np.nan, y == c)
    called: Flags = np.where(np.isnan(p).any(axis=1), -1, p.argmax(axis=1)) == c
    return BinarySample(is_class, p[:, c], metrics, calls=called)


def _weighted(values: Array, counts: Array) -> Array:
    """Mean of (B, C) values by class counts; a class that was not drawn weighs nothing, whatever its value."""
    return ratio((np.where(counts > 0, values, 0) * counts).sum(axis=1), counts.sum(axis=1))
