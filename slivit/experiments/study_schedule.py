"""Which run of a study comes next, what came of each, and how long the rest may take."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from slivit.checkpoint import CONFIG
from slivit.errors import RecipeError, gather
from slivit.experiments.run_state import made_by, request, run_state
from slivit.experiments.study_grid import Job
from slivit.files import read_mapping, write_json
from slivit.machines import Machines
from slivit.recipe import resolved_toml

log = logging.getLogger(__name__)
OUTCOME = "outcome.json"
State = Literal["done", "died", "new", "failed"]


def outcome(folder: Path) -> dict[str, Any]:
    """What came of the last attempt at a run: state, seconds, and why it failed; nothing where there is none."""
    return read_mapping(folder / OUTCOME)


def states_of(jobs: Sequence[Job], *, overwrite: bool = False) -> dict[Path, State]:
    """What there is of every run.

    Raises:
        RecipeError: folders with runs of other recipes, which are not to be overwritten.
    """
    states: dict[Path, State] = {}
    problems = []
    for job in jobs:
        try:
            fresh = job.stage == "evaluate" and states.get(job.needs or job.folder, "done") != "done"
            states[job.folder] = "new" if fresh else _state(job, overwrite=overwrite)
        except RecipeError as error:
            problems.append(str(error))
    gather(problems, "the study's folder", RecipeError)
    return states


def _state(job: Job, *, overwrite: bool) -> State:
    state = run_state(job.ready, overwrite=overwrite)
    if state != "new" and job.needs and job.stage != "evaluate" and not _same_start(job):
        if not overwrite:
            raise RecipeError(f"{job.folder}: started from other weights than {job.needs} has now; use --overwrite")
        return "new"
    return "failed" if state == "new" and outcome(job.folder).get("state") == "failed" else state


def _same_start(job: Job) -> bool:
    """Whether the weights that a finished run started from are those that are there now; unknown counts as yes."""
    own, first = (_config(folder) for folder in (job.folder, job.needs))
    used = own.get("training", {}).get("started_from", {}).get("sha256")
    return None in (used, first.get("sha256")) or used == first["sha256"]


def _config(folder: Path | None) -> dict[str, Any]:
    return read_mapping(Path(folder or "") / "checkpoint" / CONFIG)


@dataclass(eq=False)
class Schedule:
    """Hands out the runs that are to be made, and keeps what came of them. Safe to share between threads.

    Args:
        jobs: in the order in which they are made; a run that others start from stands before them.
        states: what there is of every run.
        machines: where the runs are made.
    """

    jobs: Sequence[Job]
    states: dict[Path, State]
    machines: Machines = field(default_factory=Machines)
    running: set[Path] = field(default_factory=set)
    turn: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.waiting = [job for job in self.jobs if self.states[job.folder] != "done"]
        self.tried: set[Path] = set()
        self.total = len(self.waiting)

    def take(self) -> Job | None:
        """The next run that can be made; waits while what it needs is being made; None where there are no more."""
        with self.turn:
            while self.waiting:
                self._give_up()
                for job in self.waiting:
                    if all(self.states[folder] == "done" for folder in job.after):
                        self.waiting.remove(job)
                        self.running.add(job.folder)
                        return job
                if self.waiting:
                    self.turn.wait()
            return None

    def _give_up(self) -> None:
        """Record the runs whose start cannot be had."""
        for job in list(self.waiting):
            failed = [f for f in job.after if f in self.tried and self.states[f] == "failed"]
            if failed:
                self.waiting.remove(job)
                self._record(job, {"state": "failed", "reason": f"what it starts from failed: {failed[0]}"})

    def make(self, job: Job) -> None:
        """Make a run, and keep what came of it."""
        state = self.states[job.folder]
        begun = time.monotonic()
        result: dict[str, Any] = {"state": "failed", "reason": "stopped"}
        try:
            log.info("%s: %s", "going on" if state == "died" else "begun", job.name)
            line = request(job.stage, resolved_toml(job.ready), "died" if state == "died" else "new")
            answered = made_by(self.machines, line)
            result = _judged(answered, round(time.monotonic() - begun, 1))
        finally:
            with self.turn:
                self.running.discard(job.folder)
                self._record(job, result)
                self.turn.notify_all()

    def _record(self, job: Job, result: dict[str, Any]) -> None:
        self.states[job.folder] = result["state"]
        self.tried.add(job.folder)
        if result.get("reason") == "stopped":
            return
        write_json(job.folder / OUTCOME, {**result, "at": datetime.now().astimezone().isoformat(timespec="seconds")})
        failed = result["state"] == "failed"
        log.log(logging.WARNING if failed else logging.INFO, "%s", self._line(job, result))

    def _line(self, job: Job, result: dict[str, Any]) -> str:
        ended = self.total - len(self.waiting) - len(self.running)
        what = f"failed: {job.name}: {result['reason']}" if result["state"] == "failed" else f"done: {job.name}"
        left = self.seconds_left()
        more = f", about {spoken_time(left)} left" if left else ""
        return f"{what} ({ended} of {self.total} runs{more})"

    def seconds_left(self) -> float | None:
        """How long the rest may take, by the time of finished runs; None where nothing is known or left."""
        rest = [job for job in self.jobs if job in self.waiting or job.folder in self.running]
        known = {job: o["seconds"] for job in self.jobs if (o := outcome(job.folder)).get("state") == "done"}
        if not rest or not known:
            return None
        return sum(_expected(job, known) for job in rest) / max(1, min(self.machines.slots, len(rest)))


def _judged(answered: dict[str, str], seconds: float) -> dict[str, Any]:
    if not answered["error"]:
        return {"state": "done", "seconds": seconds}
    return {"state": "failed", "seconds": seconds, "reason": answered["error"], "traceback": answered["traceback"]}


def _expected(job: Job, known: dict[Job, float]) -> float:
    """The seconds of a run: the mean of those that are most like it."""
    own = job.stage, job.test, job.model, job.fraction
    alike = (
        [s for j, s in known.items() if (j.stage, j.test, j.model, j.fraction) == own],
        [s for j, s in known.items() if (j.stage, j.fraction) == (job.stage, job.fraction)],
        list(known.values()),
    )
    return fmean(next(seconds for seconds in alike if seconds))


def spoken_time(seconds: float) -> str:
    """A time in words: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
