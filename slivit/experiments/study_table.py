"""The comparison of a study: every model under every initialisation and share of the labels, over the seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.data.table import read_table, write_table
from slivit.evaluate import comparing
from slivit.evaluate.compare import check_metrics
from slivit.evaluate.comparing import Matched
from slivit.evaluate.methods import Method, check_scans, read_run
from slivit.experiments.study_grid import AS_GIVEN, RUNS, Grid, Job
from slivit.experiments.study_schedule import State, outcome
from slivit.folder import SPLIT

if TYPE_CHECKING:
    from slivit.statistics import Comparison

SCHEMA = {"schema": "slivit.study", "version": 1}
CELL = ("model", "start", "fraction")
Cell = tuple[str, str, float]
"""A model, an initialisation and a share of the labels."""


@dataclass(frozen=True, eq=False)
class Compared:
    """The methods of a study: every model under every initialisation and share of the labels.

    Args:
        cells: a model, an initialisation and a share each.
        jobs: the finished runs of each.
        matched: their predictions for the same scans.
    """

    cells: Sequence[Cell]
    jobs: Sequence[Sequence[Job]]
    matched: Matched

    @classmethod
    def of(cls, grid: Grid, jobs: Sequence[Job], options: Mapping[str, Any], *, tested: bool = True) -> Compared:
        """Read the predictions of finished runs, or of their tests, and match them."""
        members: dict[Cell, list[Job]] = {}
        for job in jobs:
            members.setdefault((job.model, job.start, job.fraction or 1.0), []).append(job)
        cells = sorted(members, key=lambda cell: -cell[2])
        pairs = list(_pairs(grid, cells)) if tested else []
        methods = [_method(cell, members[cell]) for cell in cells]
        check_scans(methods)
        return cls(cells, [members[cell] for cell in cells], Matched.of(methods, tested=pairs, **options))

    @cached_property
    def runs(self) -> list[list[dict[str, float | None]]]:
        """Every metric of every run, by the cell."""
        return [comparing.per_run(self.matched, i) for i in range(len(self.cells))]

    def metrics(self, i: int) -> dict[str, Any]:
        """Every metric of a cell, the mean over its runs, with its interval over test scans."""
        return {n: e.to_dict() for n, e in self.matched.metrics(self.matched.methods[i].name).items()}

    def spread(self, i: int) -> dict[str, Any]:
        """Every metric of a cell over its runs: mean, standard deviation, and an interval from draws of the runs."""
        from slivit.statistics import mean_over_runs, over_runs

        plan = self.matched.first.plan
        spreads = {name: spread.to_dict() for name, spread in over_runs(self.runs[i]).items()}
        for spread in spreads.values():
            spread["low"], spread["high"] = mean_over_runs(spread["values"], level=plan.level, draws=plan.draws)
        return spreads


def measure_study(grid: Grid, states: Mapping[Path, State]) -> dict[str, Any]:
    """Everything that is said of a study, as plain values for `study.json`.

    Args:
        grid: of the study.
        states: what there is of every run.

    Raises:
        ManifestError: runs that were tested on different scans.
        SlivitError: a metric that the task has not.
    """
    from slivit.experiments.study_groups import measure_groups
    from slivit.experiments.study_shuffles import measure_shuffles
    from slivit.experiments.study_sites import measure_sites

    done = [job for job in grid.jobs if states[job.folder] == "done"]
    testing = done[0].recipe.testing
    options = testing.model_dump(include={"level", "draws", "by_patient", "stratified"})
    compared = Compared.of(grid, done, options)
    first = compared.matched.first
    wanted = list(grid.recipe.metrics or first.task.measures.main)
    check_metrics(wanted, compared.matched)
    return {
        **SCHEMA,
        "title": grid.recipe.title,
        "task": first.task.model_dump(mode="json"),
        "settings": {**options, "metrics": wanted, **_axes(grid)},
        "scans": len(first.table),
        "patients": int(first.table["patient"].nunique()),
        "cells": [_cell(grid, compared, i) for i in range(len(compared.cells))],
        "tests": list(_tests(compared, wanted)),
        "groups": list(measure_groups(grid, compared, wanted)),
        "shuffles": measure_shuffles(grid, states, compared, wanted),
        "sites": measure_sites(grid, states, compared, wanted, options),
        "runs": [_run(job, states[job.folder]) for job in (*grid.before.values(), *grid.jobs, *grid.beside)],
        "excluded": grid.excluded,
    }


def _axes(grid: Grid) -> dict[str, Any]:
    """The axes of the study: names with their titles, shares and seeds, and the references."""
    recipe = grid.recipe
    titles = {AS_GIVEN: "as the recipe says", **{name: start.title or name for name, start in recipe.starts.items()}}
    starts = {name: titles[name] for name in grid.starts}
    return {
        "models": {name: model.title or name for name, model in recipe.models.items()},
        "starts": starts,
        "fractions": sorted(recipe.fractions, reverse=True),
        "seeds": list(recipe.seeds),
        "references": [reference.model_dump() for reference in recipe.references],
        "groups": {name: group.title or name for name, group in recipe.groups.items()},
        "sites": {name: test.title or name for name, test in recipe.tests.items()},
    }


def _method(cell: Cell, jobs: Sequence[Job]) -> Method:
    seeded = [replace(read_run(str(job.folder)), recipe={"seed": job.seed}) for job in jobs]
    name = f"{cell[0]}, {cell[1]}, {cell[2]:.4g} of the labels"
    return Method(name, tuple(seeded), "single" if len(seeded) == 1 else "seeds")


def _pairs(grid: Grid, cells: Sequence[Cell]) -> Iterator[tuple[int, int]]:
    """Each method beside each of its references, where that is another one and was made; each pair once."""
    seen: set[tuple[int, int]] = set()
    for reference in grid.recipe.references:
        for i, (model, start, fraction) in enumerate(cells):
            other = (reference.model or model, reference.start or start, reference.fraction or fraction)
            pair = (i, cells.index(other)) if other in cells else (i, i)
            if pair[0] != pair[1] and pair not in seen:
                seen.add(pair)
                yield pair


def _cell(grid: Grid, compared: Compared, i: int) -> dict[str, Any]:
    (model, start, fraction), jobs = compared.cells[i], compared.jobs[i]
    scans, patients = training_size(jobs[0].folder)
    return {
        "model": model,
        "start": start,
        "fraction": fraction,
        "train_scans": scans,
        "train_patients": patients,
        "metrics": compared.metrics(i),
        "spread": compared.spread(i),
        "runs": [
            {"seed": job.seed, "folder": _within(grid, job), "metrics": metrics}
            for job, metrics in zip(jobs, compared.runs[i], strict=True)
        ],
    }


def training_size(folder: Path) -> tuple[int, int]:
    """How many scans, and of how many patients, a run was trained on."""
    rows = read_table(folder / SPLIT)[["patient", "split"]]
    train = rows[rows["split"] == "train"]
    return len(train), int(train["patient"].nunique())


def _within(grid: Grid, job: Job) -> str:
    """A folder as seen from that of the study."""
    return job.folder.relative_to(grid.recipe.out).as_posix()


def _tests(compared: Compared, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every test against the references; the p-values of one kind of test are corrected over the whole study."""
    tests: list[Comparison] = [
        *comparing.differences(compared.matched, wanted),
        *comparing.delong_tests(compared.matched),
        *comparing.run_tests(compared.matched, compared.runs, wanted),
    ]
    place = {method.name: cell for method, cell in zip(compared.matched.methods, compared.cells, strict=True)}
    for name in dict.fromkeys(test.method for test in tests):
        for entry in comparing.adjusted([test for test in tests if test.method == name]):
            first, second = (dict(zip(CELL, place[side], strict=True)) for side in entry["names"])
            yield {**entry, **first, "reference": second}


def _run(job: Job, state: State) -> dict[str, Any]:
    """A run as it stands."""
    known = outcome(job.folder)
    seconds = known.get("seconds") if state == "done" else None
    axes = {"model": job.model, "start": job.start, "fraction": job.fraction, "seed": job.seed}
    reason = known.get("reason", "") if state == "failed" else ""
    return {
        "stage": job.stage,
        "test": job.test,
        **axes,
        "folder": str(job.folder),
        "state": state,
        "seconds": seconds,
        "reason": reason,
    }


def write_tables(out: Path, study: Mapping[str, Any]) -> None:
    """Write the tables of a study.

    `study.csv` has a row for each model, initialisation and share, `runs.csv` for each run, `sites.csv` for each set on
    which they were tested, metric and label, `groups.csv` for each group and contrast of groups.
    """
    import pandas as pd

    tables: dict[str, Iterable[Any]] = {"study.csv": map(_row(study), study["cells"]), "runs.csv": _run_rows(study)}
    tables |= {"sites.csv": site_rows(study)} if study["sites"] else {}
    ranks = [{key: value for key, value in entry.items() if key != "values"} for entry in study["shuffles"]]
    tables |= {"shuffles.csv": ranks} if ranks else {}
    tables |= {"groups.csv": study["groups"]} if study["groups"] else {}
    for name, rows in tables.items():
        write_table(out / name, pd.DataFrame(list(rows)))


def site_rows(study: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The results on the study's own test rows and on every further set, one a metric and label."""
    own = {"name": "own", "cells": study["cells"], "gaps": []}
    for site in (own, *study["sites"]):
        for cell in site["cells"]:
            for name, estimate in cell["metrics"].items():
                metric, _, label = name.partition("/")
                shown = {key: estimate[key] for key in ("value", "low", "high")}
                sd = cell["spread"].get(name, {}).get("sd")
                axes = {key: cell[key] for key in CELL}
                yield {**axes, "test": site["name"], "metric": metric, "label": label, **shown, "sd": sd}


def _row(study: Mapping[str, Any]) -> Any:
    metrics = study["settings"]["metrics"]
    tests: dict[tuple[Any, ...], Any] = {}
    for t in (t for t in study["tests"] if t["method"] == "paired bootstrap"):
        tests.setdefault((t["model"], t["start"], t["fraction"], t["metric"]), t)

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


def _run_rows(study: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    values = {
        (cell["model"], cell["start"], cell["fraction"], run["seed"]): run["metrics"]
        for cell in study["cells"]
        for run in cell["runs"]
    }
    for run in (run for run in study["runs"] if not run["test"]):
        own = values.get((run["model"], run["start"], run["fraction"], run["seed"]), {})
        yield {**run, **{metric: own.get(metric) for metric in study["settings"]["metrics"]}}


__all__ = ["RUNS", "Compared", "measure_study", "site_rows", "write_tables"]
