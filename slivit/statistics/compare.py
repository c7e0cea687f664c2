"""Comparing models on the same test cases, and runs with other runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from slivit.statistics.arrays import Array, class_numbers, numbers, one_from, same_length
from slivit.statistics.bootstrap import Draws, Plan, Sample, resample
from slivit.statistics.comparison import Comparison, adjust_comparisons
from slivit.statistics.delong import delong_test
from slivit.statistics.estimate import StatisticsError, finite
from slivit.statistics.joined import JoinedSample
from slivit.statistics.kinds import kind_of
from slivit.statistics.summary import chosen_metrics, make_sample, prepare

METHODS = ("bootstrap", "delong", "slivit_t_test")


def compare_models(
    kind: str,
    y: Any,
    predictions: Mapping[str, Any],
    *,
    metrics: Sequence[str] | None = None,
    plan: Plan | None = None,
    names: Sequence[Any] | None = None,
    threshold: float | Sequence[float] = 0.5,
    method: str = "bootstrap",
    adjustment: str = "holm",
) -> list[Comparison]:
    """Compare every pair of models on the same cases, and correct the p-values for all comparisons together.

    Args:
        kind: see `summarise`.
        y: the truth, see `summarise`.
        predictions: the predictions of each model, by its name, see `summarise`.
        metrics: which to compare; ROC AUC and average precision, or R2 and MAE, by default. "roc_auc/NAME" compares
            one class, label or quantity.
        plan: how to draw; by patient where a patient has several scans.
        names: names of the classes, labels or quantities.
        threshold: see `summarise`.
        method: "bootstrap", the paired bootstrap of the difference on the same draws (see `bootstrap_test`); "delong"
            for the ROC AUC of two classes (see `delong_test`); or "slivit_t_test", the SLIViT paper's test, whose
            p-values are too small (see `bootstrap_t_test`).
        adjustment: "holm", "bonferroni" or "none".

    Source: Efron and Tibshirani (1993), sections 8.3 and 15.4; Holm, Scand J Stat 6 (1979) 65.
    """
    one_from(method, METHODS, "method")
    if len(predictions) < 2:
        raise StatisticsError(f"A comparison needs two models at least; got {len(predictions)}.")
    if method == "delong":
        return adjust_comparisons(_delong(kind, y, predictions, metrics, plan or Plan()), adjustment)
    wanted = list(kind_of(kind).compared if metrics is None else metrics)
    sample, plan = _joined(kind, y, predictions, wanted, plan, names=names, threshold=threshold)
    draws = resample(sample, plan)
    _check_metrics(wanted, sample, draws)
    test = bootstrap_test if method == "bootstrap" else bootstrap_t_test
    tests = [test(draws, sample, metric, *pair) for metric in wanted for pair in combinations(sample.names, 2)]
    return adjust_comparisons(tests, adjustment)


def _delong(
    kind: str, y: Any, predictions: Mapping[str, Any], metrics: Sequence[str] | None, plan: Plan
) -> list[Comparison]:
    if kind != "binary" or list(metrics or ["roc_auc"]) != ["roc_auc"]:
        raise StatisticsError(
            'DeLong\'s test compares the "roc_auc" of two classes; use the method "bootstrap" instead.'
        )
    if plan.groups is not None:
        raise StatisticsError(
            'DeLong\'s test cannot keep the scans of a patient together; use the method "bootstrap" instead.'
        )
    pairs = combinations(predictions, 2)
    tests = {(a, b): delong_test(y, predictions[a], predictions[b], level=plan.level) for a, b in pairs}
    return [replace(test, names=(str(a), str(b))) for (a, b), test in tests.items()]


def _joined(
    kind: str, y: Any, predictions: Mapping[str, Any], wanted: Sequence[str], plan: Plan | None, **options: Any
) -> tuple[JoinedSample, Plan]:
    bases = chosen_metrics(kind, [metric.partition("/")[0] for metric in wanted])
    parts: dict[str, Sample] = {}
    kept = Plan()
    for model, p in predictions.items():
        labels, p, kept = prepare(kind, y, p, plan)
        parts[str(model)] = make_sample(kind, labels, p, metrics=bases, **options)
    return JoinedSample(parts, next(iter(parts.values())).n), kept


def _check_metrics(wanted: Sequence[str], sample: JoinedSample, draws: Draws) -> None:
    known = [name.partition(":")[2] for name in draws.point if name.startswith("0:")]
    for metric in wanted:
        one_from(metric, known, "a metric to compare")


def bootstrap_test(draws: Draws, sample: JoinedSample, metric: str, first: str, second: str) -> Comparison:
    """Compare two models by the distribution of their difference over paired draws.

    Args:
        draws: the draws of `sample`.
        sample: the models.
        metric: the metric to compare.
        first: the name of one model.
        second: the name of the other.

    Source: Efron and Tibshirani (1993), section 15.4; the p-value counts the sample itself as one more draw (Davison
    and Hinkley, 1997, section 4.2.1), so that it is never 0.
    """
    fields, differences = _difference(draws, sample, metric, first, second)
    if not len(differences):
        return Comparison("paired bootstrap", metric, **fields)
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p_value = min(1.0, 2 * (tail + 1) / (len(differences) + 1))
    return Comparison("paired bootstrap", metric, p_value=p_value, **fields)


def bootstrap_t_test(draws: Draws, sample: JoinedSample, metric: str, first: str, second: str) -> Comparison:
    """Compare two models by the SLIViT paper's paired t-test on the bootstrap differences.

    It is here to reproduce the paper's figures. Do not rest a finding on it: its p-values are too small. The draws of
    a bootstrap are not independent observations but repeated looks at the same cases. The spread of the differences
    is already the standard error; the t-test divides it by the root of the number of draws once more, so that any
    difference, however small, becomes significant when enough draws are made. Use `bootstrap_test`, or `delong_test`
    for ROC AUCs.

    Args:
        draws: the draws of `sample`.
        sample: the models.
        metric: the metric to compare.
        first: the name of one model.
        second: the name of the other.

    Source: Avram et al. 2024, Methods, "Statistical analyses".
    """
    from scipy.stats import ttest_1samp

    method = "SLIViT t-test on bootstrap differences"
    fields, differences = _difference(draws, sample, metric, first, second)
    if not len(differences):
        return Comparison(method, metric, **fields)
    if np.ptp(differences) == 0:
        return Comparison(method, metric, **fields | {"why": "the difference is the same in all draws"})
    result = ttest_1samp(differences, 0.0)
    note = "the p-value is too small: the draws of a bootstrap are not independent observations"
    p_value, statistic = float(result.pvalue), float(result.statistic)
    return Comparison(method, metric, p_value=p_value, statistic=statistic, **fields | {"why": note})


def _difference(
    draws: Draws, sample: JoinedSample, metric: str, first: str, second: str
) -> tuple[dict[str, Any], Array]:
    """Return what a `Comparison` says of the difference, and the defined differences; none where it has no interval."""
    estimate, differences = sample.difference(draws, metric, first, second)
    values = [finite(draws.point[sample.key(part, metric)]) for part in (first, second)]
    fields: dict[str, Any] = {
        "names": (first, second),
        "first": values[0],
        "second": values[1],
        "difference": estimate.value,
    }
    fields |= {name: getattr(estimate, name) for name in ("low", "high", "level", "n", "draws", "undefined", "why")}
    if estimate.low is None:
        fields["why"] = estimate.why or "no p-value without bootstrap draws"
        return fields, np.empty(0)
    return fields, differences[~np.isnan(differences)]


def mcnemar_test(y: Any, first: Any, second: Any, *, exact: bool = True) -> Comparison:
    """Test whether two models make different numbers of errors on the same cases.

    Args:
        y: (n,) true class numbers, NaN where missing.
        first: (n,) class numbers called by one model.
        second: (n,) class numbers called by the other.
        exact: the binomial test of the cases on which only one is right; False for the chi-squared statistic with
            continuity correction.

    Source: McNemar, Psychometrika 12 (1947) 153; Edwards, Psychometrika 13 (1948) 185 (continuity correction).
    """
    true, a, b = _calls(y, first, second)
    n, method = len(true), "McNemar, exact" if exact else "McNemar, chi-squared"
    if n < 2:
        return Comparison(method, "accuracy", n=n, why=f"needs two cases with a label; here: {n}")
    only_a, only_b = int(((a == true) & (b != true)).sum()), int(((a != true) & (b == true)).sum())
    rest: dict[str, Any] = {"n": n, "first": float((a == true).mean()), "second": float((b == true).mean())}
    rest["difference"] = (only_a - only_b) / n
    if only_a + only_b == 0:
        return Comparison(method, "accuracy", why="the models are right on the same cases", **rest)
    statistic, p_value = _mcnemar(only_a, only_b, exact)
    return Comparison(method, "accuracy", statistic=statistic, p_value=p_value, **rest)


def _mcnemar(only_a: int, only_b: int, exact: bool) -> tuple[float, float]:
    from scipy.stats import binomtest, chi2

    if exact:
        return float(min(only_a, only_b)), float(binomtest(only_a, only_a + only_b, 0.5).pvalue)
    statistic = max(abs(only_a - only_b) - 1, 0) ** 2 / (only_a + only_b)
    return statistic, float(chi2.sf(statistic, 1))


def _calls(y: Any, first: Any, second: Any) -> list[Array]:
    columns = {"y": numbers(y, "y"), "first": numbers(first, "first"), "second": numbers(second, "second")}
    known = ~np.isnan(columns["y"])
    for name, column in columns.items():
        same_length(len(known), column, name)
        if np.isnan(column[known]).any():
            raise StatisticsError(f"{name} must be known for every case with a label; some are missing.")
    classes = int(max(np.nanmax(column, initial=0) for column in columns.values())) + 1
    return [class_numbers(column[known], classes, name) for name, column in columns.items()]
