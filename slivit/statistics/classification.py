"""Metrics of two-class predictions: of the ranking, and of the calls at a threshold.

Each takes `BinaryDraws` and returns one value for each draw, NaN where the metric is not defined in it. `summarise`
turns them into estimates with intervals.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from slivit.statistics.arrays import Array
from slivit.statistics.binary import BinaryDraws
from slivit.statistics.calibration import CALIBRATION
from slivit.statistics.sample import Metric, ratio


def roc_auc(draws: BinaryDraws) -> Array:
    """Area under the ROC curve: how often a positive case ranks above a negative one, ties counted half.

    Source: Hanley and McNeil, Radiology 143 (1982) 29; Bamber, J Math Psychol 12 (1975) 387.
    """
    _, higher, as_high = draws.data.ties
    lost = draws.negatives_above.take(higher, axis=1) + draws.negatives_above.take(as_high, axis=1)
    pairs = draws.positives * draws.negatives
    auc = 1 - ratio(0.5 * np.einsum("bi,bi->b", draws.positive_counts, lost), pairs)
    return np.where(draws.ranked, auc, np.nan)


def average_precision(draws: BinaryDraws) -> Array:
    """Average precision: the precision at each threshold, weighted by the recall that it adds.

    Source: Davis and Goadrich, ICML 2006, section 4; scikit-learn's `average_precision_score` (no interpolation).
    """
    tied, _, as_high = draws.data.ties
    hits = draws.positives_above.take(tied, axis=1)
    called = draws.negatives_above.take(as_high, axis=1)
    called += hits
    precision = np.divide(hits, called, out=hits, where=called > 0)
    value = ratio(np.einsum("bi,bi->b", draws.positive_counts, precision), draws.positives)
    return np.where(draws.ranked, value, np.nan)


def accuracy(draws: BinaryDraws) -> Array:
    """Share of cases that are called correctly.

    Source: Altman and Bland, BMJ 308 (1994) 1552.
    """
    tp, _, _, tn = draws.outcomes
    return ratio(tp + tn, draws.total)


def sensitivity(draws: BinaryDraws) -> Array:
    """Share of the positive cases that are called positive (recall).

    Source: Altman and Bland, BMJ 308 (1994) 1552.
    """
    tp, _, fn, _ = draws.outcomes
    return ratio(tp, tp + fn)


def specificity(draws: BinaryDraws) -> Array:
    """Share of the negative cases that are called negative.

    Source: Altman and Bland, BMJ 308 (1994) 1552.
    """
    _, fp, _, tn = draws.outcomes
    return ratio(tn, tn + fp)


def balanced_accuracy(draws: BinaryDraws) -> Array:
    """Mean of sensitivity and specificity.

    Source: Brodersen et al., ICPR 2010, section 2.
    """
    return (sensitivity(draws) + specificity(draws)) / 2


def ppv(draws: BinaryDraws) -> Array:
    """Positive predictive value (precision): share of the positive calls that are right.

    Source: Altman and Bland, BMJ 309 (1994) 102.
    """
    tp, fp, _, _ = draws.outcomes
    return ratio(tp, tp + fp)


def npv(draws: BinaryDraws) -> Array:
    """Negative predictive value: share of the negative calls that are right.

    Source: Altman and Bland, BMJ 309 (1994) 102.
    """
    _, _, fn, tn = draws.outcomes
    return ratio(tn, tn + fn)


def f1(draws: BinaryDraws) -> Array:
    """F1: harmonic mean of precision and recall; not defined without a positive case or call.

    Source: van Rijsbergen, Information Retrieval (1979), chapter 7.
    """
    tp, fp, fn, _ = draws.outcomes
    return ratio(2 * tp, 2 * tp + fp + fn)


def mcc(draws: BinaryDraws) -> Array:
    """Matthews correlation of labels and calls; not defined where either are all the same.

    Source: Matthews, Biochim Biophys Acta 405 (1975) 442.
    """
    tp, fp, fn, tn = draws.outcomes
    return ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn)) * np.sqrt((tn + fp) * (tn + fn)))


def false_negative_rate(draws: BinaryDraws) -> Array:
    """Share of the positive cases that are missed: the underdiagnosis rate.

    Source: Seyyed-Kalantari et al., Nat Med 27 (2021) 2176, Methods (underdiagnosis).
    """
    return 1 - sensitivity(draws)


RANKING = MappingProxyType(
    {
        "roc_auc": Metric(roc_auc, "needs both classes and predictions that differ"),
        "average_precision": Metric(average_precision, "needs both classes and predictions that differ"),
    }
)
"""Metrics of the ranking, by name."""

CALLS = MappingProxyType(
    {
        "accuracy": Metric(accuracy, "needs a case"),
        "balanced_accuracy": Metric(balanced_accuracy, "needs both classes"),
        "sensitivity": Metric(sensitivity, "needs a positive case"),
        "specificity": Metric(specificity, "needs a negative case"),
        "ppv": Metric(ppv, "needs a case that is called positive"),
        "npv": Metric(npv, "needs a case that is called negative"),
        "f1": Metric(f1, "needs a case that is positive or called positive"),
        "mcc": Metric(mcc, "needs both classes, among the labels and among the calls"),
        "false_negative_rate": Metric(false_negative_rate, "needs a positive case", higher=False),
    }
)
"""Metrics of calls, by name."""

BINARY = MappingProxyType({**RANKING, **CALLS, **CALIBRATION})
"""All metrics of two-class predictions, by name."""
