"""All metrics of a set of predictions, with intervals: what `evaluate` writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from slivit.statistics.arrays import Array, one_from
from slivit.statistics.bootstrap import Plan, Sample, bootstrap
from slivit.statistics.classification import BINARY
from slivit.statistics.columns import SUBSET
from slivit.statistics.estimate import Estimate, StatisticsError
from slivit.statistics.kinds import KINDS, kind_of
from slivit.statistics.multiclass import OVERALL
from slivit.statistics.regression import REGRESSION
from slivit.statistics.sample import Flags
from slivit.statistics.segmentation import HIGHER_IS_BETTER

METRICS: Mapping[str, tuple[str, ...]] = MappingProxyType({name: kind.metrics for name, kind in KINDS.items()})
"""The names of the metrics of each kind of prediction."""


def summarise(
    kind: str,
    y: Any,
    p: Any,
    *,
    groups: Any = None,
    names: Sequence[Any] | None = None,
    level: float = 0.9,
    draws: int = 1000,
    seed: int = 0,
    stratified: bool = False,
    threshold: float | Sequence[float] = 0.5,
    bins: int = 10,
    metrics: Iterable[str] | None = None,
) -> dict[str, Estimate]:
    """Compute the metrics of predictions, each with a percentile bootstrap interval.

    Args:
        kind: "binary", "multiclass", "multilabel", "regression" or "segmentation".
        y: the truth, NaN where missing: (n,) or (n, 1) 0 or 1; (n,) class numbers; (n, k) 0 or 1; (n,) or (n, k)
            quantities; (n, k) 0 for a segmentation.
        p: the predictions: (n,) or (n, 1) probabilities of 1; (n, C) probabilities that sum to 1; (n, k)
            probabilities; (n,) or (n, k) quantities; (n, k) what was measured of cases, with the metric of each column
            among `names`.
        groups: (n,) the patient of each case, to draw all cases of a patient together; None draws cases.
        names: names of the classes, labels or quantities; their numbers by default.
        level: share of the interval: 0.9 in SLIViT, 0.95 elsewhere.
        draws: number of bootstrap draws; 0 for no intervals.
        seed: the same seed gives the same intervals.
        stratified: keep the number of cases of each class in every draw (of patients, by their highest class, where
            `groups` are given); for "binary" and "multiclass".
        threshold: a case is called positive where p >= threshold; for "multilabel" also one for each label. A
            multiclass case is called the most probable class.
        bins: number of bins of the calibration errors.
        metrics: which of `METRICS[kind]` to compute; all by default.

    Returns:
        The estimates by name. "roc_auc" is the metric itself, the macro mean over classes, or the mean over labels;
        "roc_auc/NAME" that of one class, label or quantity; "roc_auc_weighted" the mean weighted by class frequency.
        Where a metric is not defined, its estimate has no value and says why.

    Raises:
        StatisticsError: if the arrays do not fit each other or the kind.

    Source: Avram et al. 2024, Methods, "Statistical analyses": 90% intervals of 1,000 draws.
    """
    y, p, plan = prepare(kind, y, p, Plan(level=level, draws=draws, seed=seed, groups=groups))
    if stratified:
        plan = replace(plan, strata=class_strata(kind, y, plan.groups))
    return bootstrap(make_sample(kind, y, p, names=names, threshold=threshold, bins=bins, metrics=metrics), plan)


def point_metrics(
    kind: str, y: Any, p: Any, *, metrics: Iterable[str] | None = None, threshold: float | Sequence[float] = 0.5
) -> dict[str, float | None]:
    """Compute the metrics of predictions without intervals, as after an epoch; None where not defined.

    Args:
        kind: see `summarise`.
        y: see `summarise`.
        p: see `summarise`.
        metrics: which of `METRICS[kind]` to compute; all by default.
        threshold: see `summarise`.

    Source: the metrics name theirs.
    """
    estimates = summarise(kind, y, p, draws=0, threshold=threshold, metrics=metrics)
    return {name: estimate.value for name, estimate in estimates.items()}


def higher_is_better(metric: str) -> bool | None:
    """Return whether a higher value of a metric is better; None where neither is, as for a bias.

    Args:
        metric: a name from `METRICS`, also with "/NAME" of a class, label or quantity.

    Source: the metrics name theirs.
    """
    base = metric.partition("/")[0].removesuffix("_weighted")
    tables = {**REGRESSION, **OVERALL, **BINARY}
    if base == SUBSET:
        return True
    if base in HIGHER_IS_BETTER:
        return HIGHER_IS_BETTER[base]
    return tables[one_from(base, tables, "a metric")].higher


def check_cases(kind: str, y: Any, p: Any) -> tuple[Array, Array]:
    """Return the truth and the predictions as arrays of the shapes that `kind` takes.

    Raises:
        StatisticsError: if they do not fit each other or the kind.
    """
    return kind_of(kind).check(y, p)


def prepare(kind: str, y: Any, p: Any, plan: Plan | None = None) -> tuple[Array, Array, Plan]:
    """Return checked cases and their plan, without the cases that have no label at all.

    Args:
        kind: see `summarise`.
        y: see `summarise`.
        p: see `summarise`.
        plan: how to draw; the default is `Plan()`.
    """
    y, p = check_cases(kind, y, p)
    kept = with_label(y)
    return y[kept], p[kept], (plan or Plan()).of(kept)


def with_label(y: Array) -> Flags:
    """Return (n,) whether a case has a label, or any of its labels."""
    return np.isfinite(y) if y.ndim == 1 else np.any(np.isfinite(y), axis=1)


def class_strata(kind: str, y: Array, groups: Any) -> Array:
    """Return the class of each case, or the highest class of its patient, for draws that keep their numbers."""
    if not kind_of(kind).one_class:
        raise StatisticsError(f'stratified draws need one class for each case; the kind "{kind}" has none.')
    if groups is None:
        return y
    _, patient = np.unique(groups, return_inverse=True)
    highest = np.zeros(patient.max(initial=-1) + 1)
    np.maximum.at(highest, patient, y)
    return highest[patient]


def make_sample(
    kind: str,
    y: Array,
    p: Array,
    *,
    names: Sequence[Any] | None = None,
    threshold: float | Sequence[float] = 0.5,
    bins: int = 10,
    metrics: Iterable[str] | None = None,
) -> Sample:
    """Return checked cases (see `check_cases`) as a sample for the bootstrap; see `summarise` for the arguments."""
    wanted = chosen_metrics(kind, metrics)
    if bins < 1:
        raise StatisticsError(f"bins must be 1 or more; got {bins}.")
    return kind_of(kind).sample(y, p, wanted, names, threshold, bins)


def chosen_metrics(kind: str, metrics: Iterable[str] | None) -> tuple[str, ...]:
    """Return the names of the metrics to compute, in the order of `METRICS`."""
    allowed = kind_of(kind).metrics
    if metrics is None:
        return allowed
    asked = [metrics] if isinstance(metrics, str) else list(metrics)
    wanted = {one_from(name, allowed, f'a metric of the kind "{kind}"') for name in asked}
    return tuple(name for name in allowed if name in wanted)
