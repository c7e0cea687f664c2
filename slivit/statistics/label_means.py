"""Several labels a case: what a threshold and a referral do on average over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from slivit.statistics.arrays import Array, numbers
from slivit.statistics.bootstrap import Plan, bootstrap
from slivit.statistics.columns import SUBSET, ColumnSample, subset_accuracy
from slivit.statistics.estimate import Estimate
from slivit.statistics.joined import JoinedSample
from slivit.statistics.referral import PERCENTS, ReferralPoint, ReferralSample
from slivit.statistics.sample import Share, ShareSample
from slivit.statistics.summary import prepare

MISSED, RAISED, RIGHT = "missed", "raised", "right"


@dataclass(frozen=True)
class LabelRates:
    """What one threshold for all labels does; means are over the labels in which a rate is defined.

    Args:
        threshold: a label is called where its probability is this or higher.
        false_negative_rate: mean share of a label's positive cases that are missed.
        false_positive_rate: mean share of its negative cases that are called positive.
        accuracy: mean share of its cases that are called right.
        subset_accuracy: share of the cases whose labels are all called right.
    """

    threshold: float
    false_negative_rate: Estimate
    false_positive_rate: Estimate
    accuracy: Estimate
    subset_accuracy: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return asdict(self)


def label_rates(
    y: Any, p: Any, names: Sequence[str], thresholds: Sequence[float] | None = None, *, plan: Plan | None = None
) -> list[LabelRates]:
    """Return the mean error rates and accuracies over labels at several thresholds.

    Args:
        y: (n, k) 0, 1 or NaN (missing).
        p: (n, k) probability of 1.
        names: of the k labels.
        thresholds: 0.05 to 0.95 by 0.05 by default.
        plan: how to draw for the intervals.

    Source: Zhang and Zhou, IEEE TKDE 26 (2014) 1819, section 2.2 (label-based and example-based metrics);
    Krones 2026, arXiv:2605.08819 (metrics by threshold).
    """
    y, p, plan = prepare("multilabel", y, p, plan)
    cuts = numbers(np.arange(1, 20) / 20 if thresholds is None else thresholds, "thresholds")
    labels = {name: ShareSample(_shares(y[:, i], p[:, i], cuts)) for i, name in enumerate(names)}
    means = ColumnSample(labels, [f"{rate} {i}" for i in range(len(cuts)) for rate in (MISSED, RAISED, RIGHT)])
    subsets = {f"{i}": subset_accuracy(y, p, [cut] * len(names)).shares[SUBSET] for i, cut in enumerate(cuts)}
    sample = JoinedSample({"means": means, "subsets": ShareSample(subsets)}, len(y))
    estimates = bootstrap(sample, plan)
    return [
        LabelRates(
            threshold=float(cut),
            false_negative_rate=estimates[sample.key("means", f"{MISSED} {i}")],
            false_positive_rate=estimates[sample.key("means", f"{RAISED} {i}")],
            accuracy=estimates[sample.key("means", f"{RIGHT} {i}")],
            subset_accuracy=estimates[sample.key("subsets", f"{i}")],
        )
        for i, cut in enumerate(cuts)
    ]


def _shares(y: Array, p: Array, cuts: Array) -> dict[str, Share]:
    """The rates of one label at every threshold."""
    known = ~np.isnan(y)
    problem = "some predictions are not finite numbers" if np.isnan(p[known]).any() else ""
    shares = {}
    for i, cut in enumerate(cuts):
        called = p >= cut
        shares[f"{MISSED} {i}"] = Share(~called, y == 1, "needs a positive case", problem)
        shares[f"{RAISED} {i}"] = Share(called, y == 0, "needs a negative case", problem)
        shares[f"{RIGHT} {i}"] = Share(called == (y == 1), known, "needs a case", problem)
    return shares


def label_referral(
    y: Any,
    p: Any,
    names: Sequence[str],
    percents: Sequence[float] = PERCENTS,
    *,
    uncertainty: Any = None,
    plan: Plan | None = None,
) -> list[ReferralPoint]:
    """Return the mean over labels of what `referral_curve` tells of each; `referred` counts the answers of all labels.

    Args:
        y: (n, k) 0, 1 or NaN (missing).
        p: (n, k) probability of 1.
        names: of the k labels.
        percents: the shares to refer, in percent, of each label's own cases.
        uncertainty: (n, k) higher is less sure; by default how near the probability is to 0.5.
        plan: how to draw for the intervals.

    Source: see `referral_curve`.
    """
    kept = np.isfinite(np.asarray(y, float)).any(axis=1)
    y, p, plan = prepare("multilabel", y, p, plan)
    unsure = -np.abs(p - 0.5) if uncertainty is None else numbers(uncertainty, "uncertainty", (2,))[kept]
    parts = {name: ReferralSample(y[:, i], p[:, i], unsure[:, i], percents) for i, name in enumerate(names)}
    metrics = [f"{name} {i}" for name in ("roc_auc", "average_precision") for i in range(len(percents))]
    estimates = bootstrap(ColumnSample(parts, metrics), plan)
    sizes = [len(part.y) for part in parts.values()]
    return [
        ReferralPoint(
            float(percent),
            sum(int(np.floor(percent / 100 * size + 0.5 + 1e-9)) for size in sizes),
            estimates[f"roc_auc {i}"],
            estimates[f"average_precision {i}"],
        )
        for i, percent in enumerate(percents)
    ]
