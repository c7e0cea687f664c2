"""Metrics of predicted quantities.

Each takes `RegressionDraws` and returns one value for each draw, NaN where the metric is not defined in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from slivit.statistics.arrays import Array, numbers, same_length
from slivit.statistics.bootstrap import Plan, bootstrap
from slivit.statistics.estimate import Estimate
from slivit.statistics.sample import Metric, MetricSample, ratio, running

AGREEMENT = 1.959963984540054
"""Standard deviations on each side of the mean that hold 95% of normal differences."""

NO_SPREAD = 1e-12
"""A standard deviation below this share of the largest value is rounding, not spread."""


class Regression:
    """True and predicted quantities, prepared once.

    Args:
        y: (n,) true values.
        p: (n,) predicted values.
    """

    def __init__(self, y: Array, p: Array) -> None:
        self.y = y
        self.p = p
        self.error = p - y

    @cached_property
    def y_ranking(self) -> _Ranking:
        """The order of the true values."""
        return _Ranking(self.y)

    @cached_property
    def p_ranking(self) -> _Ranking:
        """The order of the predicted values."""
        return _Ranking(self.p)


class _Ranking:
    """Ranks of one variable in many draws, with one sort."""

    def __init__(self, values: Array) -> None:
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        self.below = np.searchsorted(ordered, values, side="left")
        self.up_to = np.searchsorted(ordered, values, side="right")

    def ranks(self, weights: Array) -> Array:
        """Return (B, n) mean ranks of tied values, from counts (B, n), less a half."""
        drawn = running(weights.take(self.order, axis=1))
        ranks = drawn.take(self.below, axis=1)
        ranks += drawn.take(self.up_to, axis=1)
        ranks *= 0.5
        return ranks


class RegressionDraws:
    """Quantities and how often each case is counted, (B, n), with the sums that metrics share."""

    def __init__(self, data: Regression, weights: Array) -> None:
        self.data = data
        self.weights = weights

    @cached_property
    def total(self) -> Array:
        """(B,) number of cases."""
        return self.weights.sum(axis=1)

    def mean(self, values: Array) -> Array:
        """Return the (B,) means of `values`, (n,)."""
        return ratio(self.weights @ values, self.total)

    def moments(self, a: Array, b: Array) -> tuple[Array, Array, Array]:
        """Return the (B,) variances of `a` and `b` and their covariance, each (n,) or (B, n), divided by the total.

        Spread that is only rounding is returned as 0.
        """
        da, db = self._deviation(a), self._deviation(b)
        wa = self.weights * da
        cov = np.einsum("bi,bi->b", wa, db) / self.total
        var_a = np.einsum("bi,bi->b", wa, da) / self.total
        var_b = np.einsum("bi,bi,bi->b", self.weights, db, db) / self.total
        return _spread(var_a, a), _spread(var_b, b), cov

    @cached_property
    def plain(self) -> tuple[Array, Array, Array]:
        """Variance of the true values, of the predicted values, and their covariance."""
        return self.moments(self.data.y, self.data.p)

    def _deviation(self, values: Array) -> Array:
        sums = self.weights @ values if values.ndim == 1 else np.einsum("bi,bi->b", self.weights, values)
        return values - ratio(sums, self.total)[:, None]


def _spread(variance: Array, values: Array) -> Array:
    floor = (NO_SPREAD * np.abs(values).max(initial=0.0)) ** 2
    return np.where(variance > floor, variance, 0.0)


def _correlation(var_a: Array, var_b: Array, cov: Array) -> Array:
    return np.clip(ratio(cov, np.sqrt(var_a) * np.sqrt(var_b)), -1, 1)


def r2(draws: RegressionDraws) -> Array:
    """Coefficient of determination: the share of the variance that the predictions explain; negative if worse than
    the mean.

    Source: Draper and Smith, Applied Regression Analysis (1998), section 1.3; scikit-learn's `r2_score`.
    """
    return 1 - ratio(draws.mean(draws.data.error**2), draws.plain[0])


def mae(draws: RegressionDraws) -> Array:
    """Mean absolute error, in the unit of the target.

    Source: Willmott and Matsuura, Clim Res 30 (2005) 79.
    """
    return draws.mean(np.abs(draws.data.error))


def rmse(draws: RegressionDraws) -> Array:
    """Root of the mean squared error, in the unit of the target.

    Source: Willmott and Matsuura, Clim Res 30 (2005) 79.
    """
    return np.sqrt(draws.mean(draws.data.error**2))


def pearson(draws: RegressionDraws) -> Array:
    """Pearson correlation of true and predicted values.

    Source: Pearson, Proc R Soc Lond 58 (1895) 240.
    """
    return _correlation(*draws.plain)


def spearman(draws: RegressionDraws) -> Array:
    """Spearman correlation: Pearson's, of the ranks; tied values have their mean rank.

    Source: Spearman, Am J Psychol 15 (1904) 72.
    """
    y, p = draws.data.y_ranking.ranks(draws.weights), draws.data.p_ranking.ranks(draws.weights)
    return _correlation(*draws.moments(y, p))


def concordance(draws: RegressionDraws) -> Array:
    """Lin's concordance correlation: agreement with the line y = p, in place as well as in order.

    Source: Lin, Biometrics 45 (1989) 255, equation 2 (with variances divided by n).
    """
    var_y, var_p, cov = draws.plain
    gap = draws.mean(draws.data.error)
    value = ratio(2 * cov, var_y + var_p + gap**2)
    value[(var_y == 0) | (var_p == 0)] = np.nan
    return value


def bias(draws: RegressionDraws) -> Array:
    """Bland-Altman bias: mean of predicted less true value, in the unit of the target.

    Source: Bland and Altman, Lancet 327 (1986) 307.
    """
    return draws.mean(draws.data.error)


def limit_low(draws: RegressionDraws) -> Array:
    """Lower 95% limit of agreement: bias less 1.96 standard deviations of the differences.

    Source: Bland and Altman, Lancet 327 (1986) 307.
    """
    return bias(draws) - AGREEMENT * _difference_sd(draws)


def limit_high(draws: RegressionDraws) -> Array:
    """Upper 95% limit of agreement: bias plus 1.96 standard deviations of the differences.

    Source: Bland and Altman, Lancet 327 (1986) 307.
    """
    return bias(draws) + AGREEMENT * _difference_sd(draws)


def _difference_sd(draws: RegressionDraws) -> Array:
    variance = draws.moments(draws.data.error, draws.data.error)[0]
    return np.sqrt(ratio(variance * draws.total, draws.total - 1))


_SPREAD_Y = "needs true values that differ"
_SPREAD_BOTH = "needs true and predicted values that differ"

REGRESSION = MappingProxyType(
    {
        "r2": Metric(r2, _SPREAD_Y),
        "mae": Metric(mae, "needs a case", higher=False),
        "rmse": Metric(rmse, "needs a case", higher=False),
        "pearson": Metric(pearson, _SPREAD_BOTH),
        "spearman": Metric(spearman, _SPREAD_BOTH),
        "concordance": Metric(concordance, _SPREAD_BOTH),
        "bias": Metric(bias, "needs a case", higher=None),
        "limit_low": Metric(limit_low, "needs two cases", higher=None),
        "limit_high": Metric(limit_high, "needs two cases", higher=None),
    }
)
"""All metrics of predicted quantities, by name."""


class RegressionSample(MetricSample):
    """Predicted quantities as a `Sample` for the bootstrap, with missing values left out.

    Args:
        y: (n,) true values, NaN where missing.
        p: (n,) predicted values.
        metrics: the metrics to compute, by name.

    Source: the metrics name theirs.
    """

    def __init__(self, y: Any, p: Any, metrics: Mapping[str, Metric] = REGRESSION) -> None:
        y, p = numbers(y, "y"), numbers(p, "p")
        same_length(len(y), p, "p")
        super().__init__(np.isfinite(y), np.isfinite(p), metrics)
        self.data = Regression(y[self.rows], p[self.rows])

    def draws(self, weights: Array) -> RegressionDraws:
        """Return the cases with their counts."""
        return RegressionDraws(self.data, weights)

    def holds(self) -> str:
        """Return the numbers of cases and of different values."""
        true, predicted = len(np.unique(self.data.y)), len(np.unique(self.data.p))
        return f"{len(self.rows)} cases with {true} different true and {predicted} different predicted values"


@dataclass(frozen=True)
class Agreement:
    """A Bland-Altman analysis.

    Args:
        mean: (n,) mean of the true and the predicted value of each case: the horizontal axis of the plot.
        difference: (n,) predicted less true value: the vertical axis.
        bias: mean difference.
        limit_low: bias less 1.96 standard deviations of the differences.
        limit_high: bias plus 1.96 standard deviations.
    """

    mean: tuple[float, ...]
    difference: tuple[float, ...]
    bias: Estimate
    limit_low: Estimate
    limit_high: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return asdict(self) | {"mean": list(self.mean), "difference": list(self.difference)}


def bland_altman(y: Any, p: Any, *, plan: Plan | None = None) -> Agreement:
    """Return the points, the bias and the 95% limits of agreement of a Bland-Altman plot.

    Args:
        y: (n,) true values, NaN where missing.
        p: (n,) predicted values; cases without a finite one have no point.
        plan: how to draw for the intervals of the bias and the limits.

    Source: Bland and Altman, Lancet 327 (1986) 307.
    """
    y, p = numbers(y, "y"), numbers(p, "p")
    same_length(len(y), p, "p")
    known = np.isfinite(y)
    y, p = y[known], p[known]
    metrics = {name: REGRESSION[name] for name in ("bias", "limit_low", "limit_high")}
    estimates = bootstrap(RegressionSample(y, p, metrics), (plan or Plan()).of(known))
    shown = np.isfinite(p)
    mean, difference = (y[shown] + p[shown]) / 2, p[shown] - y[shown]
    return Agreement(tuple(mean.tolist()), tuple(difference.tolist()), **estimates)
