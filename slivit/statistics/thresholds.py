"""The threshold as a decision: chosen by a rule on validation data, and what each threshold costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from slivit.errors import nearest
from slivit.statistics.arrays import Array, class_numbers, numbers, same_length
from slivit.statistics.binary import Binary
from slivit.statistics.bootstrap import Plan, bootstrap
from slivit.statistics.estimate import Estimate, StatisticsError
from slivit.statistics.sample import Share, ShareSample
from slivit.statistics.summary import prepare

ROUNDING = 1e-9
"""By how much a rate may miss its target through rounding: 0.9 of 10 cases is 9."""


@dataclass(frozen=True)
class Rule:
    """How a threshold is chosen.

    Args:
        name: "fixed", "youden", "sensitivity" or "specificity".
        target: the threshold, or the rate to keep; None for "youden".
    """

    name: str
    target: float | None = None

    def __str__(self) -> str:
        return self.name if self.target is None else f"{self.name}={self.target:g}"


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, the rule and the data that it was chosen by.

    Args:
        rule: the rule as text, as "sensitivity=0.9".
        threshold: a case is called positive where its probability is this or higher; None where not defined.
        sensitivity: on the data that it was chosen on.
        specificity: on the data that it was chosen on.
        n: number of these cases.
        positives: number of the positive ones.
        why: why there is no threshold, or no sensitivity or specificity.
    """

    rule: str
    threshold: float | None
    sensitivity: float | None
    specificity: float | None
    n: int
    positives: int
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return asdict(self)


def parse_rule(text: str | float) -> Rule:
    """Read a rule: "0.5" (a number), "youden", "sensitivity=0.9" or "specificity=0.9".

    Raises:
        StatisticsError: if the rule is none of these.

    Source: Youden, Cancer 3 (1950) 32 ("youden"); Pepe, The Statistical Evaluation of Medical Tests (2003),
    section 2.2 (a rate held fixed).
    """
    name, equals, number = (part.strip() for part in str(text).lower().partition("="))
    if name == "youden" and not equals:
        return Rule("youden")
    if not equals:
        name, number = "fixed", name
    try:
        target = float(number)
    except ValueError:
        target = float("nan")
    if name not in ("fixed", "sensitivity", "specificity") or not 0 <= target <= 1:
        raise StatisticsError(
            f'An operating point is a threshold from 0 to 1, "youden", "sensitivity=0.9" or "specificity=0.9"; got '
            f'"{text}".{nearest(name, ("youden", "sensitivity", "specificity"))}'
        )
    return Rule(name, target)


def choose_threshold(y: Any, p: Any, rule: str | float | Rule = "youden") -> OperatingPoint:
    """Choose a threshold on validation data.

    Of the thresholds that keep a sensitivity, the highest is taken (the best specificity), and the other way round;
    of equal Youden indices the highest threshold. Thresholds lie midway between two neighbouring probabilities, so
    that rounding does not turn a call.

    Args:
        y: (n,) 0, 1 or NaN (missing), of validation data: on test data the result would flatter the model.
        p: (n,) probability of 1.
        rule: see `parse_rule`.

    Source: Youden, Cancer 3 (1950) 32; Pepe (2003), section 2.2.
    """
    rule = rule if isinstance(rule, Rule) else parse_rule(rule)
    y, p, _ = prepare("binary", y, p)
    n, positives = len(y), int(y.sum())
    if rule.name == "fixed":
        return _point(rule, rule.target, y, p)
    if positives in (0, n) or np.isnan(p).any() or Binary(y, p).constant:
        needs = f"needs both classes and finite predictions that differ; here: {n} cases, {positives} positive"
        return OperatingPoint(str(rule), None, None, None, n, positives, needs)
    cuts, true, false = _cuts(y, p)
    sensitivity, specificity = true / positives, 1 - false / (n - positives)
    if rule.name == "youden":
        # A tolerance, as equal indices can differ by rounding.
        index = sensitivity + specificity
        best = int(np.argmax(index >= index.max() - ROUNDING))
    elif rule.name == "sensitivity":
        best = int(np.argmax(sensitivity >= (rule.target or 0) - ROUNDING))
    else:
        best = len(cuts) - 1 - int(np.argmax(specificity[::-1] >= (rule.target or 0) - ROUNDING))
    return _point(rule, float(cuts[best]), y, p)


def _point(rule: Rule, threshold: float | None, y: Array, p: Array) -> OperatingPoint:
    n, positives = len(y), int(y.sum())
    if threshold is None or np.isnan(p).any():
        return OperatingPoint(str(rule), threshold, None, None, n, positives, "some predictions are not finite numbers")
    called = p >= threshold
    sensitivity = float(called[y == 1].mean()) if positives else None
    specificity = float(1 - called[y == 0].mean()) if n > positives else None
    why = None if positives and n > positives else "rates of a class without cases are not defined"
    return OperatingPoint(str(rule), threshold, sensitivity, specificity, n, positives, why)


def _cuts(y: Array, p: Array) -> tuple[Array, Array, Array]:
    """Return all thresholds from high to low, and the true and false positives at each."""
    levels = np.unique(p)[::-1]
    above = np.append(1.0, levels[:-1])
    cuts = np.append((above + levels) / 2, levels[-1] / 2)
    # Between neighbouring floats there is nothing; the upper one then has the same calls.
    upper = np.append(np.nextafter(1.0, 2.0), levels)
    lower = np.append(levels, -1.0)
    cuts = np.where(cuts > lower, cuts, upper)
    rank = np.searchsorted(-cuts, -p, side="left")
    counts = [np.bincount(rank[y == label], minlength=len(cuts)).cumsum() for label in (1, 0)]
    return cuts, counts[0].astype(np.float64), counts[1].astype(np.float64)


@dataclass(frozen=True)
class ThresholdRates:
    """What a threshold misses and what it raises in vain.

    Args:
        threshold: a case is called positive where its probability is this or higher.
        false_negative_rate: share of the positive cases that are missed (underdiagnosis).
        false_positive_rate: share of the negative cases that are called positive (overdiagnosis).
    """

    threshold: float
    false_negative_rate: Estimate
    false_positive_rate: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return asdict(self)


def rates_by_threshold(
    y: Any, p: Any, thresholds: Sequence[float] | None = None, *, plan: Plan | None = None
) -> list[ThresholdRates]:
    """Return the false-negative (underdiagnosis) and false-positive rates at several thresholds.

    Args:
        y: (n,) 0, 1 or NaN (missing).
        p: (n,) probability of 1.
        thresholds: 0.05 to 0.95 by 0.05 by default.
        plan: how to draw for the intervals.

    Source: Seyyed-Kalantari et al., Nat Med 27 (2021) 2176, Methods (underdiagnosis and overdiagnosis).
    """
    y, p, plan = prepare("binary", y, p, plan)
    cuts = numbers(np.arange(1, 20) / 20 if thresholds is None else thresholds, "thresholds")
    problem = "some predictions are not finite numbers" if np.isnan(p).any() else ""
    shares = {}
    for i, cut in enumerate(cuts):
        shares[f"missed {i}"] = Share(p < cut, y == 1, "needs a positive case", problem)
        shares[f"raised {i}"] = Share(p >= cut, y == 0, "needs a negative case", problem)
    estimates = bootstrap(ShareSample(shares), plan) if shares else {}
    return [
        ThresholdRates(float(cut), estimates[f"missed {i}"], estimates[f"raised {i}"]) for i, cut in enumerate(cuts)
    ]


def confusion_matrix(y: Any, called: Any, classes: int = 2) -> list[list[int]]:
    """Count the cases of each true class (rows) that were given each class (columns); missing labels are left out.

    Args:
        y: (n,) true class numbers, NaN where missing.
        called: (n,) class numbers that were called.
        classes: number of classes.

    Source: Stehman, Remote Sens Environ 62 (1997) 77.
    """
    true, given = class_numbers(y, classes, "y"), class_numbers(called, classes, "called")
    same_length(len(true), given, "called")
    if np.isnan(given).any():
        raise StatisticsError(f"called must be known for every case; {int(np.isnan(given).sum())} are missing.")
    known = ~np.isnan(true)
    cells = (true[known] * classes + given[known]).astype(np.intp)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).tolist()
