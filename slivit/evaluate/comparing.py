"""The statistics of a comparison: every method on the same draws, differences, tests, repeats and folds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from slivit.evaluate.methods import Method
from slivit.targets.cases import Array, Cases, cases_of

if TYPE_CHECKING:
    from slivit.statistics import Comparison, Estimate
    from slivit.statistics.bootstrap import Sample
    from slivit.statistics.joined import JoinedSample


class MeanSample:
    """The mean of every metric over several runs of a method, as a `Sample` for the bootstrap.

    Args:
        runs: one sample a run, all of the same cases.
    """

    def __init__(self, runs: Sequence[Sample]) -> None:
        self.runs = runs
        self.n = runs[0].n

    def values(self, weights: Array) -> dict[str, Array]:
        """Return the mean of each metric over the runs, (B,), from counts (B, n); NaN where a run has none."""
        values_of = [run.values(weights) for run in self.runs]
        return {name: np.mean([values[name] for values in values_of], axis=0) for name in values_of[0]}

    def size(self, name: str) -> int:
        """Return how many cases a metric is computed from."""
        return self.runs[0].size(name)

    def why(self, name: str) -> str:
        """Return why a metric is not defined in some run."""
        return next((why for run in self.runs if (why := run.why(name))), "")


@dataclass(frozen=True, eq=False)
class Matched:
    """Methods with their predictions for the same cases.

    Args:
        methods: at least one.
        cases: for each method, its cases: one set a run, or the folds put together.
        tested: the pairs of methods that are tested, by their positions; all pairs where None.
    """

    methods: Sequence[Method]
    cases: Sequence[Sequence[Cases]]
    tested: Sequence[tuple[int, int]] | None = None

    @classmethod
    def of(cls, methods: Sequence[Method], tested: Sequence[tuple[int, int]] | None = None, **options: Any) -> Matched:
        """Match methods; `options` are those of `slivit.targets.cases.cases_of`."""
        task = methods[0].runs[0].task
        tables = [zip(m.tables(), m.decisions, strict=True) for m in methods]
        cases = [[cases_of(t, task, decision, **options) for t, decision in pairs] for pairs in tables]
        return cls(methods, cases, tested)

    @property
    def first(self) -> Cases:
        """The cases of the first run: the truth and the plan are the same in all."""
        return self.cases[0][0]

    @cached_property
    def sample(self) -> JoinedSample:
        """All methods over the same draws."""
        from slivit.statistics.joined import JoinedSample

        parts: dict[str, Sample] = {}
        for method, runs in zip(self.methods, self.cases, strict=True):
            samples = [_sample(cases) for cases in runs]
            parts[method.name] = samples[0] if len(samples) == 1 else MeanSample(samples)
        return JoinedSample(parts, self.first.table.shape[0])

    @cached_property
    def draws(self) -> Any:
        """Every metric of every method on the sample and on each draw."""
        from slivit.statistics import resample

        return resample(self.sample, self.first.plan)

    def metrics(self, name: str) -> dict[str, Estimate]:
        """Every metric of a method; the mean over its runs where it has several."""
        prefix = self.sample.key(name, "")
        keys = [key for key in self.draws.point if key.startswith(prefix)]
        return {k.removeprefix(prefix): self.draws.estimate(k, self.sample.size(k), self.sample.why(k)) for k in keys}

    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of methods that are tested, by their positions."""
        return list(combinations(range(len(self.methods)), 2)) if self.tested is None else list(self.tested)


def _sample(cases: Cases) -> Sample:
    from slivit.statistics.summary import make_sample

    return make_sample(cases.task.kind, cases.y, cases.p, names=cases.names, threshold=cases.threshold)


def differences(matched: Matched, metrics: Sequence[str]) -> Iterator[Comparison]:
    """The paired bootstrap of each metric, for each pair."""
    from slivit.statistics import bootstrap_test

    names = [method.name for method in matched.methods]
    for metric in metrics:
        for a, b in matched.pairs():
            yield bootstrap_test(matched.draws, matched.sample, metric, names[a], names[b])


def paper_t_tests(matched: Matched, metrics: Sequence[str]) -> Iterator[Comparison]:
    """The SLIViT paper's t-test on the differences over the draws, whose p-values are too small, for each pair."""
    from slivit.statistics import bootstrap_t_test

    names = [method.name for method in matched.methods]
    for metric in metrics:
        for a, b in matched.pairs():
            yield bootstrap_t_test(matched.draws, matched.sample, metric, names[a], names[b])


def delong_tests(matched: Matched) -> Iterator[Comparison]:
    """DeLong's test for each pair of methods with one run; none where scans are drawn by patient."""
    from dataclasses import replace

    from slivit.statistics import delong_test

    if not matched.first.task.two_classes or matched.first.plan.groups is not None:
        return
    for a, b in matched.pairs():
        if len(matched.cases[a]) == len(matched.cases[b]) == 1:
            one, two = matched.cases[a][0], matched.cases[b][0]
            test = delong_test(one.y, one.p, two.p, level=one.plan.level)
            yield replace(test, names=(matched.methods[a].name, matched.methods[b].name))


def mcnemar_tests(matched: Matched) -> Iterator[Comparison]:
    """McNemar's test of the calls, for each pair of methods with one run."""
    from dataclasses import replace

    from slivit.statistics import mcnemar_test

    if not matched.first.task.one_class:
        return
    for a, b in matched.pairs():
        if len(matched.cases[a]) == len(matched.cases[b]) == 1:
            one, two = matched.cases[a][0], matched.cases[b][0]
            if np.isfinite(one.p).all() and np.isfinite(two.p).all():
                test = mcnemar_test(one.y, _calls(one), _calls(two))
                yield replace(test, names=(matched.methods[a].name, matched.methods[b].name))


def _calls(cases: Cases) -> Array:
    if cases.task.exclusive:
        return cases.p.argmax(axis=1).astype(float)
    return (cases.p >= cases.thresholds[0]).astype(float)


def per_run(matched: Matched, i: int) -> list[dict[str, float | None]]:
    """Every metric of each run (or fold) of a method, without intervals."""
    from slivit.statistics import summarise

    method = matched.methods[i]
    cases = matched.cases[i]
    if method.kind == "folds":
        cases = [cases_of(run.table, run.task, run.decision) for run in method.runs]
    runs = [
        summarise(c.task.kind, c.y, c.p, names=c.names, draws=0, threshold=c.threshold, level=c.plan.level)
        for c in cases
    ]
    return [{name: estimate.value for name, estimate in run.items()} for run in runs]


def run_tests(
    matched: Matched, runs: Sequence[Sequence[Mapping[str, float | None]]], metrics: Sequence[str]
) -> Iterator[Comparison]:
    """Welch's test between the runs of two methods, and Wilcoxon's where they are paired by seed or fold."""
    from dataclasses import replace

    from slivit.statistics import welch_test, wilcoxon_test

    for metric in metrics:
        for a, b in matched.pairs():
            if min(len(runs[a]), len(runs[b])) < 2:
                continue
            one, two = ([np.nan if r[metric] is None else r[metric] for r in runs[i]] for i in (a, b))
            names = (matched.methods[a].name, matched.methods[b].name)
            yield replace(welch_test(one, two, level=matched.first.plan.level, metric=metric), names=names)
            if _paired(matched.methods[a], matched.methods[b]):
                yield replace(wilcoxon_test(one, two, metric=metric), names=names)


def case_tests(matched: Matched, metrics: Sequence[str]) -> Iterator[Comparison]:
    """Tests on what was measured of each scan, by ranks and by means, for each pair; means over a method's runs."""
    from dataclasses import replace

    from slivit.statistics import paired_t_test, wilcoxon_test

    if not matched.first.task.dense:
        return
    values = [np.nanmean([c.p for c in runs], axis=0) for runs in matched.cases]
    for metric in metrics:
        place = matched.first.names.index(metric)
        for a, b in matched.pairs():
            one, two = values[a][:, place], values[b][:, place]
            names = (matched.methods[a].name, matched.methods[b].name)
            yield replace(wilcoxon_test(one, two, metric=metric), names=names, method="Wilcoxon over scans")
            yield replace(paired_t_test(one, two, level=matched.first.plan.level, metric=metric), names=names)


def _paired(first: Method, second: Method) -> bool:
    """Whether the runs of two methods belong together one by one: the same seeds, or the same folds."""
    if first.kind != second.kind or len(first.runs) != len(second.runs):
        return False
    if first.kind == "seeds":
        seeds = [run.seed for run in first.runs]
        return None not in seeds and seeds == [run.seed for run in second.runs]
    return all(set(a.table["path"]) == set(b.table["path"]) for a, b in zip(first.runs, second.runs, strict=True))


def adjusted(tests: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The comparisons of one test with their p-values corrected for all of them, by Holm and by Bonferroni."""
    from slivit.statistics import adjust_p_values

    corrected = {how: adjust_p_values([t.p_value for t in tests], how) for how in ("holm", "bonferroni")}
    plain = [{k: v for k, v in t.to_dict().items() if k not in ("adjusted", "adjustment")} for t in tests]
    return [{**t, **{how: values[i] for how, values in corrected.items()}} for i, t in enumerate(plain)]
