"""Repeated runs: several seeds, folds, and tests between the runs of two methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from slivit.statistics.arrays import codes, numbers, same_length
from slivit.statistics.comparison import Comparison
from slivit.statistics.estimate import Estimate, check_level
from slivit.statistics.summary import check_cases, summarise


@dataclass(frozen=True)
class Spread:
    """A metric over repeated runs.

    Args:
        mean: mean over the runs in which it is defined; None where in none.
        sd: standard deviation over them (divided by runs - 1); None with fewer than two.
        n: number of runs in which it is defined.
        values: the metric in each run, None where not defined.
        why: why the mean or the standard deviation is missing, or how many runs are left out.
    """

    mean: float | None
    sd: float | None
    n: int
    values: tuple[float | None, ...]
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return asdict(self) | {"values": list(self.values)}


def spread(values: Sequence[float | Estimate | None]) -> Spread:
    """Return the mean and the standard deviation of a metric over repeated runs.

    Args:
        values: the metric in each run; None or NaN where it is not defined.

    Source: Bouthillier et al., MLSys 2021, section 4 (variance over seeds).
    """
    plain = tuple(_plain(v) for v in values)
    known = [v for v in plain if v is not None]
    notes = [f"not defined in {len(plain) - len(known)} of {len(plain)} runs"] if len(known) < len(plain) else []
    if not known:
        return Spread(None, None, 0, plain, "; ".join(notes) or "there are no runs")
    if len(known) == 1:
        notes.append("one run has no standard deviation")
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return Spread(float(np.mean(known)), sd, len(known), plain, "; ".join(notes) or None)


def _plain(value: float | Estimate | None) -> float | None:
    number = value.value if isinstance(value, Estimate) else value
    return float(number) if number is not None and np.isfinite(number) else None


def mean_over_runs(
    values: Sequence[float | None], *, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> tuple[float | None, float | None]:
    """Return the percentile interval of the mean over runs, of which each draw takes as many with replacement.

    Args:
        values: the metric in each run; None where it is not defined.
        level: share of the interval.
        draws: number of draws.
        seed: of the draws.

    Returns:
        The two ends; None with fewer than two runs. With five runs there are 126 different draws at most.

    Source: Efron and Tibshirani (1993), section 13.3.
    """
    known = np.array([v for v in map(_plain, values) if v is not None])
    if len(known) < 2:
        return None, None
    means = np.random.default_rng(seed).choice(known, (draws, len(known))).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def over_runs(runs: Sequence[Mapping[str, Estimate | float | None]]) -> dict[str, Spread]:
    """Return each metric's mean and standard deviation over runs with several seeds.

    Args:
        runs: what `summarise` or `point_metrics` returned for each run.

    Source: Bouthillier et al., MLSys 2021, section 4.
    """
    names = list(dict.fromkeys(name for run in runs for name in run))
    return {name: spread([run.get(name) for run in runs]) for name in names}


@dataclass(frozen=True)
class Folds:
    """The result of a cross-validation.

    Args:
        pooled: the metrics of the predictions of all folds taken together.
        per_fold: the metrics of each fold, by its name.
        spread: mean and standard deviation over folds.
    """

    pooled: dict[str, Estimate]
    per_fold: dict[str, dict[str, Estimate]]
    spread: dict[str, Spread]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return {
            "pooled": {name: e.to_dict() for name, e in self.pooled.items()},
            "per_fold": {f: {name: e.to_dict() for name, e in metrics.items()} for f, metrics in self.per_fold.items()},
            "spread": {name: s.to_dict() for name, s in self.spread.items()},
        }


def over_folds(kind: str, y: Any, p: Any, folds: Any, *, groups: Any = None, **options: Any) -> Folds:
    """Return the metrics of a cross-validation, pooled and per fold.

    Pooled rank statistics mix the scales of several models: where they lie below those of the folds, the models are
    calibrated differently.

    Args:
        kind: see `summarise`.
        y: see `summarise`.
        p: see `summarise`; each case is predicted by the model that did not see it.
        folds: (n,) the fold of each case.
        groups: (n,) the patient of each case.
        options: further arguments of `summarise`.

    Source: Forman and Scholz, SIGKDD Explor 12 (2010) 49, section 2 (pooled and averaged).
    """
    y, p = check_cases(kind, y, p)
    names, fold = codes(folds, len(y), "folds")
    patients = None if groups is None else np.asarray(groups)
    if patients is not None:
        same_length(len(y), patients, "groups")
    per_fold = {}
    for i, name in enumerate(names):
        rows = fold == i
        part = None if patients is None else patients[rows]
        per_fold[str(name)] = summarise(kind, y[rows], p[rows], groups=part, **options)
    pooled = summarise(kind, y, p, groups=patients, **options)
    return Folds(pooled, per_fold, over_runs(list(per_fold.values())))


def wilcoxon_test(first: Any, second: Any, *, metric: str = "metric") -> Comparison:
    """Test whether paired runs of two methods differ (the same seeds, folds or data sets), by signed ranks.

    Args:
        first: (r,) a metric in each run of one method.
        second: (r,) the metric in the run of the other method that it is paired with.
        metric: the name of the metric.

    Source: Wilcoxon, Biometrics Bull 1 (1945) 80; Demsar, J Mach Learn Res 7 (2006) 1, section 3.1.3.
    """
    from scipy.stats import wilcoxon

    a, b = numbers(first, "first"), numbers(second, "second")
    same_length(len(a), b, "second")
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 2 or not (a != b).any():
        return Comparison("Wilcoxon", metric, n=len(a), why="needs two pairs of runs at least, some of which differ")
    result = wilcoxon(a, b)
    pairs = int((a != b).sum())
    note = f"with {pairs} pairs that differ, no p-value can lie below {2 ** (1 - pairs):.2g}" if pairs < 6 else None
    return Comparison(
        "Wilcoxon",
        metric,
        first=float(a.mean()),
        second=float(b.mean()),
        difference=float((a - b).mean()),
        statistic=float(result.statistic),
        p_value=float(result.pvalue),
        n=len(a),
        why=note,
    )


def paired_t_test(first: Any, second: Any, *, level: float = 0.95, metric: str = "metric") -> Comparison:
    """Test whether the mean difference of two methods over the same cases is 0, by Student's t.

    Args:
        first: (n,) a metric of each case under one method, NaN where it is not defined.
        second: (n,) that under the other.
        level: share of the interval of the mean difference.
        metric: the name of the metric.

    Source: Student, Biometrika 6 (1908) 1.
    """
    from scipy.stats import ttest_rel

    a, b = numbers(first, "first"), numbers(second, "second")
    same_length(len(a), b, "second")
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 2 or np.ptp(a - b) == 0:
        return Comparison("paired t-test", metric, n=len(a), why="needs two cases at least, whose differences differ")
    result = ttest_rel(a, b)
    interval = result.confidence_interval(level)
    return Comparison(
        "paired t-test",
        metric,
        first=float(a.mean()),
        second=float(b.mean()),
        difference=float((a - b).mean()),
        low=float(interval.low),
        high=float(interval.high),
        level=level,
        statistic=float(result.statistic),
        p_value=float(result.pvalue),
        n=len(a),
    )


def welch_test(first: Any, second: Any, *, level: float = 0.95, metric: str = "metric") -> Comparison:
    """Test whether unpaired runs of two methods have different means; their variances may differ.

    Args:
        first: (r,) a metric in each run of one method.
        second: (s,) the metric in each run of the other.
        level: share of the interval of the difference of the means.
        metric: the name of the metric.

    Source: Welch, Biometrika 34 (1947) 28.
    """
    from scipy.stats import ttest_ind

    check_level(level)
    a, b = (v[np.isfinite(v)] for v in (numbers(first, "first"), numbers(second, "second")))
    n = len(a) + len(b)
    if min(len(a), len(b)) < 2 or (np.ptp(a) == 0 and np.ptp(b) == 0):
        return Comparison("Welch", metric, n=n, level=level, why="needs two runs of each, and runs that differ")
    result = ttest_ind(a, b, equal_var=False)
    low, high = result.confidence_interval(level)
    return Comparison(
        "Welch",
        metric,
        first=float(a.mean()),
        second=float(b.mean()),
        difference=float(a.mean() - b.mean()),
        low=float(low),
        high=float(high),
        level=level,
        statistic=float(result.statistic),
        p_value=float(result.pvalue),
        n=n,
    )
