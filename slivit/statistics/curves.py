"""ROC and precision-recall curves with bootstrap bands, all draws on one grid."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from slivit.statistics.arrays import Array
from slivit.statistics.binary import Binary, BinaryDraws, BinarySample
from slivit.statistics.bootstrap import Plan, bootstrap
from slivit.statistics.classification import RANKING
from slivit.statistics.estimate import StatisticsError
from slivit.statistics.summary import prepare

GRID = 101


@dataclass(frozen=True)
class Curve:
    """A curve with its pointwise bootstrap band, ready for JSON.

    Args:
        kind: "roc" (x is the false-positive rate, y the sensitivity) or "precision_recall" (x is the recall).
        points: each (x, y, threshold) of the curve itself, from the highest threshold to the lowest; thinned to
            `MOST_POINTS` where there are more. The threshold above all predictions is None.
        x: the grid of the band.
        y: the curve on the grid; None where it is not defined.
        low: lower end of the band, point by point.
        high: upper end of the band.
        level: share of the band.
        n: number of cases.
        draws: number of bootstrap draws.
        undefined: in how many of them the curve was not defined.
        why: why there is no curve or no band.
    """

    kind: str
    points: tuple[tuple[float, float, float | None], ...]
    x: tuple[float, ...]
    y: tuple[float, ...] | None
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    level: float
    n: int
    draws: int
    undefined: int
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return {name: _listed(value) for name, value in asdict(self).items()}


MOST_POINTS = 1000
"""More points than this no screen shows."""


def roc_curve(y: Any, p: Any, *, grid: int = GRID, plan: Plan | None = None) -> Curve:
    """Return the ROC curve: sensitivity by false-positive rate.

    Args:
        y: (n,) 0, 1 or NaN (missing).
        p: (n,) probability of 1.
        grid: number of false-positive rates from 0 to 1 at which the band is given; between the points of a curve it
            is a straight line, and at a step its upper end.
        plan: how to draw for the band.

    Source: Fawcett, Pattern Recognit Lett 27 (2006) 861, section 8.1 (vertical averaging).
    """
    return _curve("roc", y, p, grid, plan)


def precision_recall_curve(y: Any, p: Any, *, grid: int = GRID, plan: Plan | None = None) -> Curve:
    """Return the precision-recall curve: precision by recall.

    Between two points, the precision is that of the point with the higher recall, as in the average precision; a
    straight line would promise too much.

    Args:
        y: (n,) 0, 1 or NaN (missing).
        p: (n,) probability of 1.
        grid: number of recalls from 0 to 1 at which the band is given.
        plan: how to draw for the band.

    Source: Davis and Goadrich, ICML 2006, sections 3 and 4.
    """
    return _curve("precision_recall", y, p, grid, plan)


class _CurveSample:
    """The heights of a curve over a grid, as a `Sample` whose statistics are named by the number of the grid point."""

    def __init__(self, kind: str, y: Array, p: Array, x: Array) -> None:
        self.kind, self.x, self.data = kind, x, Binary(y, p)
        self.base = BinarySample(y, p, RANKING)
        self.n = self.base.n
        self.levels = np.unique(p)[::-1]
        self.positives = np.searchsorted(-p[self.data.positive], -self.levels, side="right")
        self.negatives = np.searchsorted(-p[self.data.negative], -self.levels, side="right")

    def rates(self, draws: BinaryDraws) -> tuple[Array, Array]:
        """Return (B, levels) true and false positives at each threshold, from high to low."""
        return draws.positives_above.take(self.positives, axis=1), draws.negatives_above.take(self.negatives, axis=1)

    def values(self, weights: Array) -> dict[str, Array]:
        """Return the height at each point of the grid, (B,), from counts (B, n)."""
        heights = np.full((len(weights), len(self.x)), np.nan)
        if not self.base.blocked:
            draws = BinaryDraws(self.data, weights)
            height = self._roc if self.kind == "roc" else self._precision
            for b, true, false in zip(range(len(weights)), *self.rates(draws), strict=True):
                if draws.ranked[b]:
                    heights[b] = height(true, false)
        return {str(i): column for i, column in enumerate(heights.T)}

    def size(self, name: str) -> int:
        """Return the number of cases."""
        return self.n

    def why(self, name: str) -> str:
        """Return why there is no curve, or an empty string."""
        return self.base.why("roc_auc")

    def points(self) -> tuple[tuple[float, float, float | None], ...]:
        """Return each (x, y, threshold) of the curve, thinned to `MOST_POINTS`."""
        true, false = (v[0] for v in self.rates(BinaryDraws(self.data, np.ones((1, self.n)))))
        if self.kind == "roc":
            x, y = np.append(0, false / false[-1]), np.append(0, true / true[-1])
            thresholds = [None, *self.levels.tolist()]
        else:
            x, y, thresholds = true / true[-1], true / (true + false), self.levels.tolist()
        shown = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).astype(np.intp))
        return tuple((float(x[i]), float(y[i]), thresholds[i]) for i in shown)

    def _roc(self, true: Array, false: Array) -> Array:
        # Where several points share a false-positive rate, np.interp takes the last, which is the upper end.
        return np.interp(self.x, np.append(0, false / false[-1]), np.append(0, true / true[-1]))

    def _precision(self, true: Array, false: Array) -> Array:
        # A recall of 0 is that of the first positive; the tolerance lets 0.3 of 10 positives be 3.
        wanted = np.maximum(self.x * true[-1] - 1e-9, 0.5)
        reached = np.searchsorted(true, wanted)
        return true[reached] / (true[reached] + false[reached])


def _curve(kind: str, y: Any, p: Any, grid: int, plan: Plan | None) -> Curve:
    if grid < 2:
        raise StatisticsError(f"grid must be 2 or more; got {grid}.")
    y, p, plan = prepare("binary", y, p, plan)
    x = np.linspace(0, 1, grid)
    sample = _CurveSample(kind, y, p, x)
    heights = list(bootstrap(sample, plan).values())
    first = heights[0]
    value, low, high = (_whole([getattr(h, side) for h in heights]) for side in ("value", "low", "high"))
    return Curve(
        kind,
        sample.points() if value else (),
        tuple(x.tolist()),
        value,
        low,
        high,
        plan.level,
        len(y),
        first.draws,
        first.undefined,
        first.why if low is None else None,
    )


def _whole(numbers: list[float | None]) -> tuple[float, ...] | None:
    known = tuple(number for number in numbers if number is not None)
    return known if len(known) == len(numbers) else None


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, tuple | list) else value
