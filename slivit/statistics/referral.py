"""What is gained when the cases that a model is least sure of go to an expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from slivit.statistics.arrays import Array, numbers, same_length
from slivit.statistics.binary import Binary, BinaryDraws
from slivit.statistics.bootstrap import Plan, bootstrap
from slivit.statistics.classification import RANKING
from slivit.statistics.estimate import Estimate, StatisticsError
from slivit.statistics.sample import Metric, MetricSample
from slivit.statistics.summary import check_cases, prepare, with_label

PERCENTS = (0, 5, 10, 15, 20, 25)


@dataclass(frozen=True)
class ReferralPoint:
    """The ranking after a share of the cases was answered by an expert.

    Args:
        percent: the share of cases that was referred, in percent.
        referred: the number of these cases.
        roc_auc: ROC AUC of the expert's and the model's answers together.
        average_precision: average precision of the same.
    """

    percent: float
    referred: int
    roc_auc: Estimate
    average_precision: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return asdict(self)


def referral_curve(
    y: Any,
    p: Any,
    percents: Sequence[float] = PERCENTS,
    *,
    uncertainty: Any = None,
    plan: Plan | None = None,
) -> list[ReferralPoint]:
    """Compute the "Oracle AUC": the x% most uncertain cases are answered by an expert, who gives the true label.

    The probability of a referred case becomes 0 or 1, that of the others stays. Of equally uncertain cases, the
    earlier ones in `y` are referred first.

    Args:
        y: (n,) 0, 1 or NaN (missing).
        p: (n,) probability of 1.
        percents: the shares to refer, in percent.
        uncertainty: (n,) how unsure the model is of each case, higher is less sure, as the spread of an ensemble; by
            default how near the probability is to 0.5.
        plan: how to draw for the intervals; in each draw its own most uncertain cases are referred.

    Source: Krones 2026, arXiv:2605.08819 (Oracle AUC); Kivlichan et al., WOAH 2021, section 4 (oracle-model
    collaborative AUC).
    """
    for percent in percents:
        if not 0 <= percent <= 100:
            raise StatisticsError(f"percents must lie between 0 and 100; got {percent}.")
    known = with_label(check_cases("binary", y, p)[0])
    y, p, plan = prepare("binary", y, p, plan)
    sample = ReferralSample(y, p, _uncertainty(p, uncertainty, known), percents)
    estimates = bootstrap(sample, plan)
    return [
        ReferralPoint(
            float(percent), int(_quota(percent, len(y))), estimates[f"roc_auc {i}"], estimates[f"average_precision {i}"]
        )
        for i, percent in enumerate(percents)
    ]


def _uncertainty(p: Array, uncertainty: Any, known: Any) -> Array:
    if uncertainty is None:
        return -np.abs(p - 0.5)
    given = numbers(uncertainty, "uncertainty")
    same_length(len(known), given, "uncertainty")
    return given[known]


def _quota(percent: float, total: Any) -> Any:
    # Half a case is rounded up; the addition keeps 15% of 20 from falling below 3 by rounding.
    return np.floor(percent / 100 * total + 0.5 + 1e-9)


def _at(metric: Metric, percent: float) -> Metric:
    return replace(metric, values=lambda draws: metric.values(draws[percent]))


class ReferralSample(MetricSample):
    """Cases whose most uncertain share is answered by an expert, as a `Sample` for the bootstrap.

    Args:
        y: (n,) 0, 1 or NaN (missing).
        p: (n,) probability of 1.
        uncertainty: (n,) higher is less sure.
        percents: the shares to refer.

    Source: see `referral_curve`.
    """

    def __init__(self, y: Array, p: Array, uncertainty: Array, percents: Sequence[float]) -> None:
        metrics = {f"{name} {i}": _at(m, x) for name, m in RANKING.items() for i, x in enumerate(percents)}
        known = ~np.isnan(y)
        super().__init__(known, np.isfinite(p + uncertainty), metrics)
        y, p, uncertainty = y[known], p[known], uncertainty[known]
        self.y, self.percents = y, percents
        # Two more cases stand for all that the expert calls negative and positive.
        self.data = Binary(np.append(y, [0.0, 1.0]), np.append(p, [0.0, 1.0]))
        self.order = np.argsort(-uncertainty, kind="stable")

    def draws(self, weights: Array) -> dict[float, BinaryDraws]:
        """Return, for each share, the cases that the model keeps and the expert's two heaps."""
        ordered = weights.take(self.order, axis=1)
        before = np.cumsum(ordered, axis=1) - ordered
        total = weights.sum(axis=1)
        return {x: BinaryDraws(self.data, self._referred(ordered, before, _quota(x, total))) for x in self.percents}

    def holds(self) -> str:
        """Return the numbers of cases and positives."""
        return f"{len(self.y)} cases, {int(self.y.sum())} positive"

    def _referred(self, ordered: Array, before: Array, quota: Array) -> Array:
        taken = np.clip(quota[:, None] - before, 0, ordered)
        kept = np.empty((len(ordered), len(self.y) + 2))
        kept[:, self.order] = ordered - taken
        positive = taken @ self.y[self.order]
        kept[:, -2], kept[:, -1] = taken.sum(axis=1) - positive, positive
        return kept
