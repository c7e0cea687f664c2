"""How the runs of a study stand among their copies whose slices have other orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slivit.evaluate import comparing
from slivit.evaluate.comparing import Matched
from slivit.evaluate.methods import Method, read_run
from slivit.experiments.study_groups import ERRORS
from slivit.experiments.study_schedule import State

if TYPE_CHECKING:
    from slivit.experiments.study_grid import Grid
    from slivit.experiments.study_table import Compared


def measure_shuffles(
    grid: Grid, states: Mapping[Path, State], compared: Compared, metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """The rank of each run among its copies, 1 for the best, and how often a copy is as good by chance alone.

    The p-value counts the run itself as one more order, so that with 100 copies it is 1 / 101 at least.

    Source: Phipson and Smyth, Stat Appl Genet Mol Biol 9 (2010) 39 (p-values of permutations).
    """
    copies: dict[tuple[Any, ...], list[str]] = {}
    for job in (job for job in grid.shuffles if states[job.folder] == "done"):
        copies.setdefault((job.model, job.start, job.fraction, job.seed), []).append(str(job.folder))
    rows = []
    for i, cell in enumerate(compared.cells):
        for job, own in zip(compared.jobs[i], compared.runs[i], strict=True):
            if folders := copies.get((*cell, job.seed)):
                axes = dict(zip(("model", "start", "fraction", "seed"), (*cell, job.seed), strict=True))
                interval = compared.metrics(i)
                others = _points(folders)
                rows += [axes | _ranked(m, own[m], interval[m], [run[m] for run in others]) for m in metrics]
    return rows


def _points(folders: Sequence[str]) -> list[dict[str, float | None]]:
    """Every metric of every copy, without intervals."""
    runs = tuple(read_run(folder) for folder in folders)
    return comparing.per_run(Matched.of([Method("shuffled", runs, "seeds")], draws=0), 0)


def _ranked(metric: str, own: float | None, interval: Mapping[str, Any], others: Sequence[float | None]) -> Any:
    known = np.array([value for value in others if value is not None])
    row = {"metric": metric, "value": own, "low": interval["low"], "high": interval["high"], "copies": len(known)}
    row["values"] = known.tolist()
    if own is None or not len(known):
        return row | {"rank": None, "p_value": None, "mean": None, "sd": None, "least": None, "most": None}
    sign = -1 if metric.partition("/")[0] in ERRORS else 1
    as_good = int((sign * known >= sign * own).sum())
    moments = {"mean": float(known.mean()), "sd": float(known.std(ddof=1)) if len(known) > 1 else None}
    ends = {"least": float(known.min()), "most": float(known.max())}
    return row | {"rank": 1 + as_good, "p_value": (1 + as_good) / (1 + len(known)), **moments, **ends}
