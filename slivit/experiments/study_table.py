"""The comparison of a study: every model under every initialisation and share of the labels, over the seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.data.table import as_shown
from slivit.evaluate import comparing
from slivit.evaluate.compare import check_metrics
from slivit.evaluate.comparing import Matched
from slivit.evaluate.methods import Method, check_scans, read_run
from slivit.experiments.curve import training_size
from slivit.experiments.study_grid import RUNS, Grid, Job
from slivit.experiments.study_schedule import Found, outcome
from slivit.files import whole_file

if TYPE_CHECKING:
    from slivit.statistics import Comparison

SCHEMA = {"schema": "slivit.study", "version": 1}
Cell = tuple[str, str, float]
"""A model, an initialisation and a share of the labels."""


@dataclass(frozen=True, eq=False)
class Share:
    """The methods at one share of the labels.

    Args:
        fraction: of the training patients.
        cells: a model and an initialisation each.
        jobs: the finished runs of each.
        matched: their predictions.
    """

    fraction: float
    cells: Sequence[Cell]
    jobs: Sequence[Sequence[Job]]
    matched: Matched


def measure_study(grid: Grid, states: Mapping[Path, Found]) -> dict[str, Any]:
    """Everything that is told of a study, as plain values for `study.json`.

    Args:
        grid: of the study.
        states: what there is of every run.

    Raises:
        ManifestError: runs that were tested on different scans.
        SlivitError: a metric that the task has not.
    """
    done = [job for job in grid.jobs if states[job.folder] == "done"]
    testing = done[0].recipe.testing
    options = testing.model_dump(include={"level", "draws", "by_patient", "stratified"})
    shares = [_share(grid, fraction, done, options) for fraction in dict.fromkeys(job.fraction for job in done)]
    check_scans([method for share in shares for method in share.matched.methods])
    first = shares[0].matched.first
    wanted = list(grid.recipe.metrics or first.task.measures.main)
    check_metrics(wanted, shares[0].matched)
    runs = [[comparing.per_run(share.matched, i) for i in range(len(share.cells))] for share in shares]
    return {
        **SCHEMA,
        "title": grid.recipe.title,
        "task": first.task.model_dump(mode="json"),
        "settings": {**options, "metrics": wanted, **_axes(grid)},
        "scans": len(first.table),
        "patients": int(first.table["patient"].nunique()),
        "cells": [cell for share, values in zip(shares, runs, strict=True) for cell in _cells(grid, share, values)],
        "tests": list(_tests(shares, runs, wanted)),
        "runs": [_told(job, states[job.folder]) for job in (*grid.before.values(), *grid.jobs)],
        "excluded": grid.excluded,
    }


def _axes(grid: Grid) -> dict[str, Any]:
    """The axes of the study: names with their titles, shares and seeds, and the reference."""
    recipe = grid.recipe
    starts = {name: (recipe.starts[name].title if name in recipe.starts else "") or name for name in grid.starts}
    return {
        "models": {name: model.title or name for name, model in recipe.models.items()},
        "starts": starts,
        "fractions": sorted(recipe.fractions, reverse=True),
        "seeds": list(recipe.seeds),
        "reference": recipe.reference.model_dump() if recipe.reference else None,
    }


def _share(grid: Grid, fraction: float | None, done: Sequence[Job], options: dict[str, Any]) -> Share:
    """The finished runs at one share of the labels, with the pairs that are tested."""
    members: dict[Cell, list[Job]] = {}
    for job in (job for job in done if job.fraction == fraction):
        members.setdefault((job.model, job.start, job.fraction or 1.0), []).append(job)
    methods = [_method(cell, jobs) for cell, jobs in members.items()]
    cells = list(members)
    matched = Matched.of(methods, tested=list(_pairs(grid, cells)), **options)
    return Share(fraction or 1.0, cells, list(members.values()), matched)


def _method(cell: Cell, jobs: Sequence[Job]) -> Method:
    runs = tuple(read_run(str(job.folder)) for job in jobs)
    return Method(f"{cell[0]}, {cell[1]}", runs, "single" if len(runs) == 1 else "seeds")


def _pairs(grid: Grid, cells: Sequence[Cell]) -> Iterator[tuple[int, int]]:
    """Each method beside its reference, where that is another one and was made."""
    reference = grid.recipe.reference
    if reference is None:
        return
    for i, (model, start, fraction) in enumerate(cells):
        other = (reference.model or model, reference.start or start, fraction)
        if other in cells and other != cells[i]:
            yield i, cells.index(other)


def _cells(grid: Grid, share: Share, runs: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    from slivit.statistics import over_runs

    for i, ((model, start, fraction), jobs) in enumerate(zip(share.cells, share.jobs, strict=True)):
        scans, patients = training_size(jobs[0].folder)
        yield {
            "model": model,
            "start": start,
            "fraction": fraction,
            "train_scans": scans,
            "train_patients": patients,
            "metrics": {n: e.to_dict() for n, e in share.matched.metrics(share.matched.methods[i].name).items()},
            "spread": {name: s.to_dict() for name, s in over_runs(runs[i]).items()},
            "runs": [
                {"seed": job.seed, "folder": _within(grid, job), "metrics": found}
                for job, found in zip(jobs, runs[i], strict=True)
            ],
        }


def _within(grid: Grid, job: Job) -> str:
    """A folder as seen from that of the study."""
    return job.folder.relative_to(grid.recipe.out).as_posix()


def _tests(shares: Sequence[Share], runs: Sequence[Any], wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every test against the reference; the p-values of one kind of test are corrected over the whole study."""
    found: list[tuple[Share, Comparison]] = []
    for share, values in zip(shares, runs, strict=True):
        tests = (
            *comparing.differences(share.matched, wanted),
            *comparing.delong_tests(share.matched),
            *comparing.run_tests(share.matched, values, wanted),
        )
        found += [(share, test) for test in tests]
    for name in dict.fromkeys(test.method for _, test in found):
        same = [(share, test) for share, test in found if test.method == name]
        corrected = comparing.adjusted([test for _, test in same])
        for (share, _), told in zip(same, corrected, strict=True):
            yield {**told, **_sides(share, told["names"]), "fraction": share.fraction}


def _sides(share: Share, names: Sequence[str]) -> dict[str, Any]:
    """The two methods of a test by their model and initialisation."""
    place = {method.name: cell for method, cell in zip(share.matched.methods, share.cells, strict=True)}
    first, second = (place[name] for name in names)
    return {"model": first[0], "start": first[1], "reference": {"model": second[0], "start": second[1]}}


def _told(job: Job, state: Found) -> dict[str, Any]:
    """A run as it stands."""
    known = outcome(job.folder)
    seconds = known.get("seconds") if state == "done" else None
    axes = {"model": job.model, "start": job.start, "fraction": job.fraction, "seed": job.seed}
    reason = known.get("reason", "") if state == "failed" else ""
    return {"stage": job.stage, **axes, "folder": str(job.folder), "state": state, "seconds": seconds, "reason": reason}


def write_tables(out: Path, found: Mapping[str, Any]) -> None:
    """Write `study.csv`, a row for each model, initialisation and share, and `runs.csv`, a row for each run."""
    import pandas as pd

    for name, rows in (("study.csv", map(_row(found), found["cells"])), ("runs.csv", _run_rows(found))):
        with whole_file(out / name) as partial:
            as_shown(pd.DataFrame(list(rows))).to_csv(partial, index=False)


def _row(found: Mapping[str, Any]) -> Any:
    metrics = found["settings"]["metrics"]
    tests = {
        (t["model"], t["start"], t["fraction"], t["metric"]): t
        for t in found["tests"]
        if t["method"] == "paired bootstrap"
    }

    def row(cell: Mapping[str, Any]) -> dict[str, Any]:
        own = {key: cell[key] for key in ("model", "start", "fraction", "train_scans", "train_patients")}
        own["runs"] = len(cell["runs"])
        for metric in metrics:
            test = tests.get((cell["model"], cell["start"], cell["fraction"], metric), {})
            own |= _columns(metric, cell, test)
        return own

    return row


def _columns(metric: str, cell: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, Any]:
    """A metric in the table: mean over seeds, its interval, the spread of the seeds, the test against the reference."""
    estimate, spread = cell["metrics"][metric], cell["spread"][metric]
    columns = {"": estimate["value"], "_low": estimate["low"], "_high": estimate["high"], "_sd": spread["sd"]}
    kept = {"_difference": "difference", "_difference_low": "low", "_difference_high": "high"}
    columns |= {end: test.get(key) for end, key in (kept | {"_p": "p_value", "_p_holm": "holm"}).items()}
    return {metric + end: value for end, value in columns.items()}


def _run_rows(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    values = {
        (cell["model"], cell["start"], cell["fraction"], run["seed"]): run["metrics"]
        for cell in found["cells"]
        for run in cell["runs"]
    }
    for run in found["runs"]:
        own = values.get((run["model"], run["start"], run["fraction"], run["seed"]), {})
        yield {**run, **{metric: own.get(metric) for metric in found["settings"]["metrics"]}}


__all__ = ["RUNS", "measure_study", "write_tables"]
