"""Two classes: the cases, prepared once, and their counts in many bootstrap draws.

`Binary` sorts and looks up what does not change between draws. `BinaryDraws` joins it with a matrix of counts, and
holds the sums that several metrics share. The metrics themselves are the small functions of `classification` and
`calibration`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from slivit.statistics.arrays import Array, Index, probabilities, same_length, zero_one
from slivit.statistics.sample import Flags, Metric, MetricSample, running


class Binary:
    """Cases with a label of 0 or 1, and a probability.

    Args:
        y: (n,) labels, 0 or 1.
        p: (n,) probability of 1.
        threshold: a case is called positive where p >= threshold.
        calls: (n,) the calls themselves, where they do not come from a threshold.
        bins: number of bins of the calibration errors.
    """

    def __init__(
        self, y: Array, p: Array, *, threshold: float = 0.5, calls: Flags | None = None, bins: int = 10
    ) -> None:
        self.y = y
        self.p = p
        self.calls: Flags = p >= threshold if calls is None else calls
        self.bins = bins

    @cached_property
    def positive(self) -> Index:
        """The positive cases, highest probability first."""
        return self._falling(self.y == 1)

    @cached_property
    def negative(self) -> Index:
        """The negative cases, highest probability first."""
        return self._falling(self.y == 0)

    @cached_property
    def constant(self) -> bool:
        """Whether all probabilities are the same, so that no case is ranked above another."""
        return len(self.p) == 0 or bool((self.p == self.p[0]).all())

    @cached_property
    def ties(self) -> tuple[Index, Index, Index]:
        """For each of `positive`: how many positives are as high or higher, negatives higher, negatives as high or
        higher."""
        positive, negative = -self.p[self.positive], -self.p[self.negative]
        return (
            np.searchsorted(positive, positive, side="right"),
            np.searchsorted(negative, positive, side="left"),
            np.searchsorted(negative, positive, side="right"),
        )

    @cached_property
    def outcomes(self) -> Array:
        """(n, 4) one column each for true positives, false positives, false negatives and true negatives."""
        true = self.y == 1
        return np.stack(
            [self.calls & true, self.calls & ~true, ~self.calls & true, ~self.calls & ~true], axis=1
        ).astype(np.float64)

    def _falling(self, chosen: Flags) -> Index:
        cases = np.flatnonzero(chosen)
        return cases[np.argsort(-self.p[cases], kind="stable")]


class BinaryDraws:
    """Binary cases and how often each is counted, (B, n), with the sums that metrics share."""

    def __init__(self, data: Binary, weights: Array) -> None:
        self.data = data
        self.weights = weights

    @cached_property
    def total(self) -> Array:
        """(B,) number of cases."""
        return self.weights.sum(axis=1)

    @cached_property
    def positive_counts(self) -> Array:
        """(B, positives) counts of the positive cases, highest probability first."""
        return self.weights.take(self.data.positive, axis=1)

    @cached_property
    def positives_above(self) -> Array:
        """(B, positives + 1) number of positives among the first 0, 1, 2, ... of `Binary.positive`."""
        return running(self.positive_counts)

    @cached_property
    def negatives_above(self) -> Array:
        """(B, negatives + 1) number of negatives among the first 0, 1, 2, ... of `Binary.negative`."""
        return running(self.weights.take(self.data.negative, axis=1))

    @property
    def positives(self) -> Array:
        """(B,) number of positive cases."""
        return self.positives_above[:, -1]

    @property
    def negatives(self) -> Array:
        """(B,) number of negative cases."""
        return self.negatives_above[:, -1]

    @cached_property
    def positive_range(self) -> tuple[Array, Array]:
        """(B,) highest and lowest probability of the positive cases drawn; without meaning where there is none."""
        return _ends(self.data.p[self.data.positive], self.positives_above)

    @cached_property
    def negative_range(self) -> tuple[Array, Array]:
        """(B,) highest and lowest probability of the negative cases drawn; without meaning where there is none."""
        return _ends(self.data.p[self.data.negative], self.negatives_above)

    @cached_property
    def ranked(self) -> Flags:
        """(B,) whether both classes are drawn, and with more than one probability."""
        if not len(self.data.positive) or not len(self.data.negative):
            return np.zeros(len(self.weights), dtype=bool)
        high = np.maximum(self.positive_range[0], self.negative_range[0])
        low = np.minimum(self.positive_range[1], self.negative_range[1])
        return (self.positives > 0) & (self.negatives > 0) & (high > low)

    @cached_property
    def overlapping(self) -> Flags:
        """(B,) whether the probabilities of the two classes overlap, so that no threshold separates them."""
        if not self.ranked.any():
            return self.ranked
        above = self.positive_range[0] > self.negative_range[1]
        return self.ranked & above & (self.negative_range[0] > self.positive_range[1])

    @cached_property
    def outcomes(self) -> tuple[Array, Array, Array, Array]:
        """True positives, false positives, false negatives, true negatives, (B,) each."""
        tp, fp, fn, tn = (self.weights @ self.data.outcomes).T
        return tp, fp, fn, tn


def _ends(p: Array, above: Array) -> tuple[Array, Array]:
    """Return the first and the last drawn of `p`, (m,), from its running counts, (B, m + 1)."""
    drawn = above[:, 1:]
    return p[(drawn > 0).argmax(axis=1)], p[(drawn == drawn[:, -1:]).argmax(axis=1)]


class BinarySample(MetricSample):
    """Two-class predictions as a `Sample` for the bootstrap, with missing labels left out.

    Args:
        y: (n,) 0, 1 or NaN (missing).
        p: (n,) probability of 1.
        metrics: the metrics to compute, by name.
        threshold: a case is called positive where p >= threshold.
        calls: (n,) whether each case is called positive, where that does not come from a threshold.
        bins: number of bins of the calibration errors.

    Source: the metrics name theirs.
    """

    def __init__(
        self,
        y: Any,
        p: Any,
        metrics: Mapping[str, Metric],
        *,
        threshold: float = 0.5,
        calls: Flags | None = None,
        bins: int = 10,
    ) -> None:
        y, p = zero_one(y), probabilities(p)
        same_length(len(y), p, "p")
        super().__init__(~np.isnan(y), ~np.isnan(p), metrics)
        kept = None if calls is None else calls[self.rows]
        self.data = Binary(y[self.rows], p[self.rows], threshold=threshold, calls=kept, bins=bins)

    def draws(self, weights: Array) -> BinaryDraws:
        """Return the cases with their counts."""
        return BinaryDraws(self.data, weights)

    def holds(self) -> str:
        """Return the numbers of cases, positives and positive calls."""
        positives, calls = int(self.data.y.sum()), int(self.data.calls.sum())
        same = ", all with the same prediction" if self.data.constant else ""
        return f"{len(self.rows)} cases, {positives} positive, {calls} called positive{same}"
