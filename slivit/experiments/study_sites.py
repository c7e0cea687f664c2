"""The further sets on which the runs of a study are tested, each by itself, and how far they fall short of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slivit.experiments.study_schedule import State

if TYPE_CHECKING:
    from slivit.experiments.study_grid import Grid
    from slivit.experiments.study_table import Compared


def measure_sites(
    grid: Grid, states: Mapping[Path, State], own: Compared, metrics: Sequence[str], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The results of every run on every further set. Sets are never put together.

    Args:
        grid: of the study.
        states: what there is of every run and test.
        own: the methods on the study's own test rows.
        metrics: the main ones, of which gaps are listed.
        options: how cases are drawn.
    """
    from slivit.experiments.study_table import Compared

    sites = []
    for name in grid.recipe.tests:
        jobs = [job for job in grid.tests if job.test == name and states[job.folder] == "done"]
        if not jobs:
            continue
        site = Compared.of(grid, jobs, options, tested=False)
        table = site.matched.first.table
        sites.append(
            {
                "name": name,
                "targets": list(site.matched.first.task.targets),
                "scans": len(table),
                "patients": int(table["patient"].nunique()),
                "cells": [
                    {**dict(zip(("model", "start", "fraction"), cell, strict=True))}
                    | {"metrics": site.metrics(i), "spread": site.spread(i)}
                    for i, cell in enumerate(site.cells)
                ],
                "gaps": list(_gaps(own, site, metrics)),
            }
        )
    return sites


def _gaps(own: Compared, site: Compared, metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    """How far each method's metric on its own test rows lies above that on the set, over labels that both have."""
    from slivit.statistics.bootstrap import percentile

    for i, cell in enumerate(site.cells):
        if cell not in own.cells:
            continue
        j = own.cells.index(cell)
        for metric in metrics:
            labels = _common(own, j, site, i, metric)
            if not labels:
                continue
            (here, drawn), (there, other) = _mean(own, j, labels), _mean(site, i, labels)
            # The two samples are independent, so the draws of one are paired with those of the other in another order.
            values = drawn - np.random.default_rng(0).permutation(other)
            estimate = percentile(here - there, values, len(drawn), own.matched.first.plan.level).to_dict()
            shown = {key: estimate[key] for key in ("value", "low", "high")}
            names = sorted(label.partition("/")[2] for label in labels if "/" in label)
            axes = dict(zip(("model", "start", "fraction"), cell, strict=True))
            yield {**axes, "metric": metric, "labels": names, "own": here, "site": there, **shown}


def _common(own: Compared, j: int, site: Compared, i: int, metric: str) -> list[str]:
    """The metric of every label that is defined on both sets; the metric itself where a task has one target."""
    here, there = _points(own, j), _points(site, i)
    both = [name for name in here if np.isfinite(here[name] + there.get(name, np.nan))]
    labels = [name for name in both if name.startswith(f"{metric}/")]
    return labels or [name for name in both if name == metric]


def _points(compared: Compared, i: int) -> dict[str, float]:
    prefix = compared.matched.sample.key(compared.matched.methods[i].name, "")
    return {k.removeprefix(prefix): v for k, v in compared.matched.draws.point.items() if k.startswith(prefix)}


def _mean(compared: Compared, i: int, labels: Sequence[str]) -> tuple[float, Any]:
    """The mean over labels, on the sample and on every draw."""
    name, draws = compared.matched.methods[i].name, compared.matched.draws
    keys = [compared.matched.sample.key(name, label) for label in labels]
    return float(np.mean([draws.point[key] for key in keys])), np.mean([draws.values[key] for key in keys], axis=0)
