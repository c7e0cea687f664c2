"""DeLong's variance of ROC AUCs: intervals and a test without resampling."""

from __future__ import annotations

from typing import Any

import numpy as np

from slivit.statistics.arrays import Array, one_from
from slivit.statistics.binary import Binary
from slivit.statistics.comparison import Comparison
from slivit.statistics.estimate import Estimate, StatisticsError, check_level
from slivit.statistics.summary import prepare


def delong_covariance(y: Any, predictions: Any) -> tuple[Array, Array]:
    """Return the ROC AUCs of several models on the same cases, and the covariance matrix of these AUCs.

    Args:
        y: (n,) 0 or 1, two cases of each class at least.
        predictions: (k, n) probabilities (or any scores) of k models.

    Returns:
        (k,) AUCs and their (k, k) covariances.

    Source: DeLong et al., Biometrics 44 (1988) 837, equations 3 to 6; Sun and Xu, IEEE Signal Process Lett 21 (2014)
    1389 (by ranks).
    """
    labels, scores = np.asarray(y), np.atleast_2d(np.asarray(predictions, dtype=np.float64))
    positive = labels == 1
    m, k = int(positive.sum()), int((~positive).sum())
    if min(m, k) < 2 or not np.isfinite(scores).all():
        raise StatisticsError("DeLong's variance needs two cases of each class at least, and finite predictions.")
    # Ranks among all less ranks within a class count the cases of the other class below, ties half.
    below_positive = _midranks(scores)[:, positive] - _midranks(scores[:, positive])
    below_negative = _midranks(scores)[:, ~positive] - _midranks(scores[:, ~positive])
    of_positive, of_negative = below_positive / k, 1 - below_negative / m
    covariance = np.cov(of_positive) / m + np.cov(of_negative) / k
    return of_positive.mean(axis=1), np.atleast_2d(covariance)


def delong_interval(y: Any, p: Any, *, level: float = 0.95, scale: str = "logit") -> Estimate:
    """Return the ROC AUC with DeLong's interval.

    Args:
        y: (n,) 0, 1 or NaN (missing).
        p: (n,) probability of 1.
        level: share of the interval.
        scale: "logit" for an interval that is symmetric in the logit of the AUC and stays within 0 and 1; "plain" for
            one that is symmetric in the AUC, and cut at 0 and 1.

    Source: DeLong et al., Biometrics 44 (1988) 837; Pepe (2003), section 5.2.5 (the logit).
    """
    one_from(scale, ("logit", "plain"), "scale")
    check_level(level)
    y, p, _ = prepare("binary", y, p)
    problem = _problem(y, p)
    if problem:
        return Estimate(None, level=level, n=len(y), why=problem)
    aucs, covariance = delong_covariance(y, p)
    auc, sd = float(aucs[0]), float(np.sqrt(covariance[0, 0]))
    if sd == 0:
        why = "no interval: the variance is 0, as the classes are separated"
        return Estimate(auc, level=level, n=len(y), why=why)
    width = _normal_quantile((1 + level) / 2) * sd
    if scale == "plain":
        return Estimate(auc, max(auc - width, 0.0), min(auc + width, 1.0), level, len(y))
    middle, width = np.log(auc / (1 - auc)), width / (auc * (1 - auc))
    low, high = (float(1 / (1 + np.exp(-(middle + side * width)))) for side in (-1, 1))
    return Estimate(auc, low, high, level, len(y))


def delong_test(y: Any, first: Any, second: Any, *, level: float = 0.95) -> Comparison:
    """Test whether two models have different ROC AUCs on the same cases.

    The test takes the cases as independent; with several scans of a patient, use the paired bootstrap by patient.

    Args:
        y: (n,) 0, 1 or NaN (missing).
        first: (n,) probability of 1 from one model.
        second: (n,) the same from the other.
        level: share of the interval of the difference.

    Source: DeLong et al., Biometrics 44 (1988) 837, equation 7; Sun and Xu (2014).
    """
    check_level(level)
    _, first, _ = prepare("binary", y, first)
    y, second, _ = prepare("binary", y, second)
    problem = _problem(y, first) or _problem(y, second)
    if problem:
        return Comparison("DeLong", "roc_auc", n=len(y), level=level, why=problem)
    (a, b), covariance = delong_covariance(y, [first, second])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    rest: dict[str, Any] = {
        "first": float(a),
        "second": float(b),
        "difference": float(a - b),
        "n": len(y),
        "level": level,
    }
    if variance <= 1e-20:
        why = "the difference of the AUCs has no variance: the models rank the cases alike, or both separate them"
        return Comparison("DeLong", "roc_auc", why=why, **rest)
    z = float((a - b) / np.sqrt(variance))
    width = _normal_quantile((1 + level) / 2) * float(np.sqrt(variance))
    low, high = float(a - b) - width, float(a - b) + width
    return Comparison("DeLong", "roc_auc", low=low, high=high, statistic=z, p_value=_two_sided(z), **rest)


def _problem(y: Array, p: Array) -> str:
    n, positives = len(y), int(y.sum())
    if np.isnan(p).any():
        return f"{int(np.isnan(p).sum())} of {n} predictions are missing or not finite"
    if min(positives, n - positives) < 2:
        return f"needs two cases of each class at least; here: {n} cases, {positives} positive"
    return "needs predictions that differ" if Binary(y, p).constant else ""


def _midranks(scores: Array) -> Array:
    from scipy.stats import rankdata

    return rankdata(scores, axis=1)


def _normal_quantile(share: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(share))


def _two_sided(z: float) -> float:
    from scipy.special import ndtr

    return float(2 * ndtr(-abs(z)))
