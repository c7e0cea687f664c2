"""The outcome of a comparison, and the correction of many p-values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from slivit.statistics.arrays import one_from
from slivit.statistics.estimate import StatisticsError


@dataclass(frozen=True)
class Comparison:
    """Two models (or two groups of runs) and their difference. Never NaN: where there is no number, `why` says so.

    Args:
        method: the name of the test.
        metric: what was compared, as "roc_auc".
        names: the names of the two.
        first: the value of the first.
        second: the value of the second.
        difference: first less second.
        low: lower end of the interval of the difference.
        high: upper end of the interval of the difference.
        level: share of the interval.
        statistic: the statistic of the test.
        p_value: two-sided.
        adjusted: the p-value corrected for all comparisons.
        adjustment: how it was corrected.
        n: number of cases, or of runs.
        draws: number of bootstrap draws.
        undefined: in how many of them the difference was not defined.
        why: why there is no difference, interval or p-value, or what a reader must know of them.
    """

    method: str
    metric: str
    names: tuple[str, str] = ("first", "second")
    first: float | None = None
    second: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    statistic: float | None = None
    p_value: float | None = None
    adjusted: float | None = None
    adjustment: str | None = None
    n: int = 0
    draws: int = 0
    undefined: int = 0
    why: str | None = None

    def __post_init__(self) -> None:
        for name, number in vars(self).items():
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"Comparison.{name} is {number}; what has no number is None, with its reason.")
        if self.p_value is None and not self.why:
            raise ValueError("A Comparison without a p-value must say why.")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return asdict(self) | {"names": list(self.names)}


def adjust_p_values(p_values: Sequence[float | None], method: str = "holm") -> list[float | None]:
    """Correct p-values for how many there are, so that the chance of any false finding stays at its level.

    Args:
        p_values: None where a test is not defined; such tests are not counted.
        method: "holm" (never weaker than Bonferroni, so the better choice), "bonferroni" or "none".

    Source: Holm, Scand J Stat 6 (1979) 65; Dunn, J Am Stat Assoc 56 (1961) 52 (Bonferroni).
    """
    one_from(method, ("holm", "bonferroni", "none"), "method")
    known = np.array([p for p in p_values if p is not None], dtype=np.float64)
    if not ((known >= 0) & (known <= 1)).all():
        raise StatisticsError("p-values must lie between 0 and 1.")
    if method == "none":
        return list(p_values)
    adjusted = known * len(known)
    if method == "holm":
        order = np.argsort(known, kind="stable")
        adjusted[order] = np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1))
    left = iter(np.minimum(adjusted, 1.0).tolist())
    return [None if p is None else next(left) for p in p_values]


def adjust_comparisons(comparisons: Sequence[Comparison], method: str = "holm") -> list[Comparison]:
    """Return the comparisons with their p-values corrected for all of them together.

    Args:
        comparisons: all tests whose findings will be read together.
        method: see `adjust_p_values`.

    Source: Holm, Scand J Stat 6 (1979) 65; Dunn, J Am Stat Assoc 56 (1961) 52 (Bonferroni).
    """
    adjusted = adjust_p_values([c.p_value for c in comparisons], method)
    return [
        replace(c, adjusted=p, adjustment=None if p is None else method)
        for c, p in zip(comparisons, adjusted, strict=True)
    ]
