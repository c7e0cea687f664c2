"""A study: one fine-tuning recipe for many models, initialisations, shares of labels and seeds, then compared."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from slivit.errors import RecipeError, SlivitError, gather
from slivit.experiments.recipe_study import Phantoms, StudyRecipe
from slivit.experiments.study_grid import ORIGIN, Grid, Job, chosen
from slivit.experiments.study_schedule import Schedule, State, outcome, spoken_time, states_of
from slivit.experiments.study_tasks import studies_of, under_headings, write_tasks
from slivit.files import write_json, write_text
from slivit.folder.lock import make_folder
from slivit.machines import devices, machines_at
from slivit.recipe import resolved_toml

log = logging.getLogger(__name__)
STUDY, TABLE, WORKERS = "study.toml", "study.json", "workers"


@dataclass(frozen=True)
class Outcome:
    """What came of a study.

    Args:
        folder: of the study.
        states: of every run, by its folder: "done", "died" (it can go on), "failed" or "new".
        page: the page, where the runs were compared.
    """

    folder: Path
    states: Mapping[Path, State]
    page: Path | None

    @property
    def failed(self) -> list[Path]:
        """The folders of the runs that failed; `outcome.json` there says why."""
        return [folder for folder, state in self.states.items() if state == "failed"]

    @property
    def missing(self) -> list[Path]:
        """The folders of the runs that are still to be made."""
        return [folder for folder, state in self.states.items() if state in ("new", "died")]


def run(
    recipe: StudyRecipe,
    *,
    processes: int | None = None,
    cluster: str = "",
    only: Sequence[str] = (),
    so_far: bool = False,
    overwrite: bool = False,
) -> Outcome:
    """Make the runs of a study, and compare them when none is missing.

    Called again, it goes on: finished runs stay, a run that died is resumed, and failed and missing ones are made. No
    test row decides anything: the runs are compared at the end alone.

    Args:
        recipe: from `load_recipe("study", ...)`.
        processes: runs at a time; one for each GPU where None, or one on a CPU. 0 makes them in this process.
        cluster: a Ray cluster that makes the runs, in place of this machine (see `slivit.machines.machines_at`).
        only: make these runs alone, such as "model=slivit,r3d_18" or "fraction=0.1" (see `study_grid.chosen`).
        so_far: compare the finished runs although others are missing.
        overwrite: train anew where the folder holds runs of other recipes.

    Returns:
        The folder with `study.json`, `study.csv`, `runs.csv`, `study.html` and every run, and the state of each run; of
        a study of several tasks these in a folder for each, and the table `tasks.csv` in place of the page.

    Raises:
        RecipeError: a recipe that does not fit, or a folder with runs of other recipes.
    """
    if recipe.tasks:
        options: dict[str, Any] = {"processes": processes, "cluster": cluster, "only": only}
        options |= {"so_far": so_far, "overwrite": overwrite}
        return _run_tasks(recipe, {name: partial(run, part, **options) for name, part in studies_of(recipe).items()})
    grid = Grid(recipe)
    states = states_of([*grid.before.values(), *grid.jobs, *grid.beside], overwrite=overwrite)
    jobs = wanted(grid, states, only)
    open_study(recipe)
    for scans in recipe.phantoms:
        make_scans(scans)
    check_networks(jobs)
    make_runs(jobs, states, Path(recipe.out), processes, cluster)
    page = finish(grid, states, so_far=so_far)
    return Outcome(Path(recipe.out), {j.folder: states[j.folder] for j in (*jobs, *grid.jobs, *grid.beside)}, page)


def make_runs(
    jobs: Sequence[Job], states: dict[Path, State], folder: Path, processes: int | None, cluster: str
) -> None:
    """Make the runs that are missing; `states` tells what came of each."""
    schedule = Schedule(jobs, states)
    log.info("%d runs, %d of them finished", len(jobs), len(jobs) - schedule.total)
    count = processes if processes is not None else len(devices()) or 1
    with machines_at(cluster, min(count, schedule.total), folder / WORKERS) as schedule.machines:
        schedule.machines.work(schedule.take, schedule.make)


def _run_tasks(recipe: StudyRecipe, runs: Mapping[str, Callable[[], Outcome]]) -> Outcome:
    """Make the study of each task, and one table of those that could be compared."""
    open_study(recipe)
    outcomes = {name: make() for name, make in runs.items()}
    tables = {name: part.folder / "study.csv" for name, part in outcomes.items() if part.page}
    page = write_tasks(Path(recipe.out), tables) if tables else None
    return Outcome(Path(recipe.out), {k: v for part in outcomes.values() for k, v in part.states.items()}, page)


def wanted(grid: Grid, states: Mapping[Path, State], only: Sequence[str] = ()) -> list[Job]:
    """The runs asked for, and before them those that unfinished ones start from."""
    picked = chosen(grid.jobs, only)
    unfinished = [job for job in picked if states[job.folder] != "done"]
    rates = {job.rate_of for job in unfinished} - {job.folder for job in picked}
    picked = [*(job for job in grid.jobs if job.folder in rates), *picked]
    needed = {job.needs for job in picked if states[job.folder] != "done"}
    before = list(grid.before.values())
    for job in reversed(before):
        needed |= {job.needs} if job.folder in needed and states[job.folder] != "done" else set()
    folders = {_of(job) for job in picked}
    return [*(job for job in before if job.folder in needed), *picked, *(j for j in grid.beside if _of(j) in folders)]


def _of(job: Job) -> tuple[Any, ...]:
    return job.model, job.start, job.fraction, job.seed


def open_study(recipe: StudyRecipe) -> None:
    """Make the folder of a study, and keep its resolved recipe there."""
    write_text(make_folder(Path(recipe.out)) / STUDY, resolved_toml(recipe))


def make_scans(scans: Phantoms) -> None:
    """Make the phantoms of a study where there are none yet."""
    from slivit.phantoms import make_phantoms

    folder = Path(scans.out)
    if not folder.is_dir() or not any(folder.iterdir()):
        log.info("making %d phantoms in %s", scans.n, folder)
        make_phantoms(scans.kind, folder, n=scans.n, seed=scans.seed)


def check_networks(jobs: Sequence[Job]) -> None:
    """Build every network without memory or weights, so that a wrong name or argument is reported before anything runs.

    Raises:
        RecipeError: every problem at once.
    """
    import torch
    from torch import _decomp  # noqa: F401 (its import equips torch for whatever a network does without memory)

    from slivit.models.registry import create_model

    problems: dict[str, None] = {}
    for name, arguments in networks(jobs):
        try:
            with torch.device("meta"):
                create_model(name, 1, **arguments)
        except SlivitError as error:
            problems[str(error)] = None
    gather(list(problems), "the models of the study", RecipeError)


def networks(jobs: Sequence[Job]) -> list[tuple[str, dict[str, Any]]]:
    """The different networks of some runs: a registered name and its arguments, without what they start from."""
    sections = [model for job in jobs if (model := getattr(job.recipe, "model", None))]
    plain = [(m.name, {key: value for key, value in m.args.items() if key not in ORIGIN}) for m in sections]
    return list({str(network): network for network in plain}.values())


def finish(grid: Grid, states: Mapping[Path, State], *, so_far: bool = False) -> Path | None:
    """Compare the runs and draw the page; None where runs are missing, or none is finished."""
    tell_failed(states)
    missing = sum(states[job.folder] in ("new", "died") for job in (*grid.jobs, *grid.beside))
    if missing and not so_far:
        log.info("%d runs are still to be made; they are compared when none is missing, or with --so-far", missing)
        return None
    if all(states[job.folder] != "done" for job in grid.jobs):
        log.warning("no run is finished, so there is nothing to compare")
        return None
    return compare_runs(grid, states)


def compare_runs(grid: Grid, states: Mapping[Path, State]) -> Path:
    """Write the tables and the page of the finished runs."""
    from slivit.experiments.study_table import measure_study, write_tables
    from slivit.report.study_page import write_study

    out = Path(grid.recipe.out)
    study = measure_study(grid, states)
    write_json(out / TABLE, study)
    write_tables(out, study)
    for line in lines(study):
        log.info("%s", line)
    page = write_study(out, study, resolved_toml(grid.recipe))
    log.info("page: %s", page)
    return page


def tell_failed(states: Mapping[Path, State]) -> None:
    """Name the runs that failed, with their reasons."""
    for folder, state in states.items():
        if state == "failed":
            log.warning("failed: %s: %s", folder, outcome(folder).get("reason", "no reason is known"))


def lines(study: Mapping[str, Any]) -> Iterator[str]:
    """The main metric of every model, initialisation and share, one line each."""
    metric = study["settings"]["metrics"][0]
    for cell in study["cells"]:
        estimate, sd = cell["metrics"][metric], cell["spread"][metric]["sd"]
        value = "not defined" if estimate["value"] is None else f"{estimate['value']:.3f}"
        beside = f", SD {sd:.3f} over {len(cell['runs'])} seeds" if sd is not None else ""
        yield f"{cell['model']}, {cell['start']}, {cell['train_scans']} training scans: {metric} {value}{beside}"


def listing(recipe: StudyRecipe, only: Sequence[str] = ()) -> Iterator[str]:
    """The runs of a study with their states, and what is left out, one line each."""
    if recipe.tasks:
        yield from under_headings({name: listing(part, only) for name, part in studies_of(recipe).items()})
        return
    grid = Grid(recipe)
    states = states_of([*grid.before.values(), *grid.jobs, *grid.beside])
    jobs = wanted(grid, states, only)
    for job in jobs:
        seconds = outcome(job.folder).get("seconds") if states[job.folder] == "done" else None
        yield f"{WORDS[states[job.folder]]:9} {job.name}" + (f" ({spoken_time(seconds)})" if seconds else "")
    left_out: dict[tuple[str, str, str], None] = {(e["model"], e["start"], e["why"]): None for e in grid.excluded}
    for model, start, why in left_out:
        yield f"{'left out':9} {model}, start {start}: {why}"
    counts = {word: sum(states[j.folder] == state for j in jobs) for state, word in WORDS.items()}
    yield f"{len(jobs)} runs: " + ", ".join(f"{n} {word}" for word, n in counts.items() if n)


WORDS = {"done": "done", "died": "half-done", "failed": "failed", "new": "to do"}
