"""Groups of models in a study: their means, the best of each, and what divides them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from slivit.experiments.study_grid import Grid
    from slivit.experiments.study_table import Compared

ERRORS = ("mae", "rmse", "brier")
"""Metrics of which less is better."""
FIXED = "test scans are drawn; models, seeds and which model is the best stay as they are"


def measure_groups(grid: Grid, compared: Compared, metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The results of groups: one entry a statistic, with its interval over the same draws of test scans.

    "mean" is that over the models of a group; "start" the mean over its models of the difference between an
    initialisation and a reference's; "groups" the difference of the means of two groups; "best" the difference between
    the best of one group and the best of another, over all initialisations, each the best on the whole sample.
    """
    for metric in metrics:
        for fraction in dict.fromkeys(cell[2] for cell in compared.cells):
            here = Here(compared, metric, fraction)
            for name, group in grid.recipe.groups.items():
                yield from here.means(name, group.models, grid.starts)
                yield from here.starts(name, group.models, _reference_starts(grid))
            for (a, first), (b, second) in combinations(grid.recipe.groups.items(), 2):
                yield from here.between((a, first.models), (b, second.models), grid.starts)


def _reference_starts(grid: Grid) -> list[tuple[str, str]]:
    references = dict.fromkeys(r.start for r in grid.recipe.references if r.start)
    return [(start, other) for other in references for start in grid.starts if start != other]


class Here:
    """One metric at one share of the labels.

    Args:
        compared: the methods of the study.
        metric: the metric.
        fraction: the share.
    """

    def __init__(self, compared: Compared, metric: str, fraction: float) -> None:
        sample = compared.matched.sample
        names = [method.name for method in compared.matched.methods]
        self.draws, self.metric, self.fraction = compared.matched.draws, metric, fraction
        self.keys = {
            cell[:2]: sample.key(name, metric)
            for cell, name in zip(compared.cells, names, strict=True)
            if cell[2] == fraction
        }
        self.n = compared.matched.first.table.shape[0]
        self.falls = metric.partition("/")[0] in ERRORS

    def entry(self, kind: str, names: dict[str, Any], weights: dict[str, float]) -> dict[str, Any]:
        """A weighted sum of methods, on the sample and on every draw."""
        from slivit.statistics.bootstrap import percentile

        point = sum(weight * self.draws.point[key] for key, weight in weights.items())
        values = np.sum([weight * self.draws.values[key] for key, weight in weights.items()], axis=0)
        estimate = percentile(float(point), values, self.n, self.draws.plan.level, "", self.draws.patients).to_dict()
        shown = {key: estimate[key] for key in ("value", "low", "high", "why")}
        axes = {"group": "", "start": "", "other_group": "", "other_start": "", "best": "", "other_best": ""}
        return {"statistic": kind, "metric": self.metric, "fraction": self.fraction, **axes, **names, **shown} | {
            "drawn": FIXED
        }

    def members(self, models: Sequence[str], *starts: str) -> list[str]:
        """The models of a group that were made with all of some initialisations."""
        return [model for model in models if all((model, start) in self.keys for start in starts)]

    def mean(self, models: Sequence[str], start: str, sign: float = 1.0) -> dict[str, float]:
        """The weights of a mean over models."""
        return {self.keys[model, start]: sign / len(models) for model in models}

    def means(self, name: str, models: Sequence[str], starts: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The mean of a group under each initialisation."""
        for start in starts:
            if members := self.members(models, start):
                names = {"group": name, "start": start, "models": len(members)}
                yield self.entry("mean", names, self.mean(members, start))

    def starts(self, name: str, models: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        """The mean over a group's models of the difference between two initialisations, in the models with both."""
        for start, other in pairs:
            if members := self.members(models, start, other):
                names = {"group": name, "start": start, "other_start": other, "models": len(members)}
                yield self.entry("start", names, self.mean(members, start) | self.mean(members, other, -1))

    def between(
        self, one: tuple[str, Sequence[str]], two: tuple[str, Sequence[str]], starts: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """What divides two groups without a model in common: their means, and the best of each."""
        if set(one[1]) & set(two[1]):
            return
        for start in starts:
            first, second = self.members(one[1], start), self.members(two[1], start)
            if first and second:
                names = {"group": one[0], "other_group": two[0], "start": start, "models": len(first) + len(second)}
                yield self.entry("groups", names, self.mean(first, start) | self.mean(second, start, -1))
        first_best, second_best = self.best(one[1]), self.best(two[1])
        if first_best and second_best:
            names = {"group": one[0], "other_group": two[0], "start": first_best[1], "other_start": second_best[1]}
            names |= {"best": first_best[0], "other_best": second_best[0], "models": 2}
            yield self.entry("best", names, {self.keys[first_best]: 1.0, self.keys[second_best]: -1.0})

    def best(self, models: Sequence[str]) -> tuple[str, str] | None:
        """The model and initialisation with the best value on the whole sample; None where none has one."""
        values = {pair: self.draws.point[key] for pair, key in self.keys.items() if pair[0] in models}
        known = {pair: value for pair, value in values.items() if np.isfinite(value)}
        choose = min if self.falls else max
        return choose(known, key=lambda pair: known[pair]) if known else None
