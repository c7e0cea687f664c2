"""Label efficiency: one recipe trained on nested subsets of its training patients, with several seeds."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slivit.data.table import as_shown, read_table
from slivit.errors import RecipeError, SlivitError, gather
from slivit.evaluate.comparing import Matched, per_run
from slivit.evaluate.methods import Method, read_run
from slivit.experiments.run_request import made_by, request
from slivit.experiments.run_state import State, make_run, run_state
from slivit.files import whole_file, write_json
from slivit.folder import SPLIT
from slivit.machines import machines_at
from slivit.recipe import resolved_toml
from slivit.train.recipe import FinetuneRecipe

log = logging.getLogger(__name__)
SCHEMA = {"schema": "slivit.curve", "version": 1}
FRACTIONS, SEEDS = (0.1, 0.25, 0.5, 1.0), (0, 1, 2)
RUNS, CURVE = "runs", "curve"


@dataclass(frozen=True, eq=False)
class Step:
    """One run of the curve.

    Args:
        fraction: of the training patients.
        seed: of the training.
        recipe: the recipe of this run.
    """

    fraction: float
    seed: int
    recipe: FinetuneRecipe

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return Path(self.recipe.out)


def run(
    recipe: FinetuneRecipe,
    out: str | Path,
    fractions: Sequence[float] = FRACTIONS,
    seeds: Sequence[int] = SEEDS,
    *,
    cluster: str = "",
    overwrite: bool = False,
) -> Path:
    """Train on nested subsets and seeds, and draw how performance grows with the number of labels.

    Called again, it goes on: finished runs stay, a run that died is resumed, and missing ones are made. The subsets are
    nested, and the same for all seeds: they follow from `data.split_seed`.

    Args:
        recipe: from `load_recipe("finetune", ...)`; its `out`, `seed` and `data.train_fraction` are replaced.
        out: the folder: `runs/`, `curve.json`, `curve.csv`, `curve.svg`, `curve.pdf`, `curve.html`.
        fractions: of the training patients, above 0 and up to 1.
        seeds: of the training.
        cluster: a Ray cluster that makes the runs; without one they are made in this process, one after the other.
        overwrite: train anew where the folder holds runs of another recipe.

    Returns:
        The folder.

    Raises:
        SlivitError: runs that failed on the cluster.
        RecipeError: fractions or seeds that cannot be used, or a folder with runs of another recipe.
    """
    out = Path(out)
    steps = plan(recipe, out, fractions, seeds)
    states = {step: run_state(step.recipe, overwrite=overwrite) for step in steps}
    log.info("%d runs, %d of them finished", len(steps), sum(s == "done" for s in states.values()))
    _make(steps, states, cluster)
    _write(out, measure_curve(recipe, steps))
    return out


def _make(steps: Sequence[Step], states: Mapping[Step, State], cluster: str) -> None:
    """Make the runs that are missing.

    Raises:
        SlivitError: runs that failed on a cluster, once the others are made; here the first error is raised as it is.
    """
    waiting = [(number, step) for number, step in enumerate(steps, 1) if states[step] != "done"]
    failed: list[str] = []

    def make(job: tuple[int, Step]) -> None:
        number, step = job
        log.info("run %d of %d: %.4g of the labels, seed %d", number, len(steps), step.fraction, step.seed)
        if not cluster:
            make_run(step.recipe, states[step])
            return
        line = request("finetune", resolved_toml(step.recipe), states[step])
        if error := made_by(machines, line)["error"]:
            failed.append(f"{step.folder}: {error}")

    with machines_at(cluster, 0, Path()) as machines:
        machines.work(lambda: waiting.pop(0) if waiting else None, make)
    gather(failed, "the runs of the curve", SlivitError)


def _write(out: Path, found: dict[str, Any]) -> None:
    from slivit.report.curve_page import write_curve

    write_json(out / f"{CURVE}.json", found)
    write_csv(out / f"{CURVE}.csv", found)
    for line in lines(found):
        log.info("%s", line)
    log.info("page: %s", write_curve(out, found))


def plan(recipe: FinetuneRecipe, out: Path, fractions: Sequence[float], seeds: Sequence[int]) -> list[Step]:
    """The runs to make, the smallest subsets first.

    Raises:
        RecipeError: no fraction or seed, one twice, or a fraction outside 0 to 1.
    """
    for name, values in (("fractions", fractions), ("seeds", seeds)):
        if not values or len(set(values)) != len(values):
            raise RecipeError(f"{name} must be one or more different numbers; got {list(values)}")
    if wrong := [f for f in fractions if not 0 < f <= 1]:
        raise RecipeError(f"a fraction lies above 0 and is 1 at most; got {wrong[0]:g}")
    return [_step(recipe, out, f, seed) for f in sorted(fractions) for seed in seeds]


def _step(recipe: FinetuneRecipe, out: Path, fraction: float, seed: int) -> Step:
    folder = out / RUNS / f"fraction_{fraction:.4g}_seed_{seed}"
    data = recipe.data.model_copy(update={"train_fraction": fraction})
    return Step(fraction, seed, recipe.model_copy(update={"out": str(folder), "seed": seed, "data": data}))


def measure_curve(recipe: FinetuneRecipe, steps: Sequence[Step]) -> dict[str, Any]:
    """The points of the curve as plain values for `curve.json`.

    Each has the mean over seeds with its interval over the test scans, and every run by itself.
    """
    testing = recipe.testing
    options = testing.model_dump(include={"level", "draws", "by_patient", "stratified"})
    fractions = list(dict.fromkeys(step.fraction for step in steps))
    members = {f: [step for step in steps if step.fraction == f] for f in fractions}
    methods = [_method(f, members[f]) for f in fractions]
    matched = Matched.of(methods, **options)
    task = matched.first.task
    metrics = list(task.measures.main)
    points = [_point(matched, i, members[f]) for i, f in enumerate(fractions)]
    return {
        **SCHEMA,
        "task": task.model_dump(mode="json"),
        "settings": {**options, "metrics": metrics, "seeds": [step.seed for step in members[fractions[0]]]},
        "scans": len(matched.first.table),
        "patients": int(matched.first.table["patient"].nunique()),
        "points": points,
    }


def _method(fraction: float, steps: Sequence[Step]) -> Method:
    runs = tuple(read_run(str(step.folder)) for step in steps)
    return Method(f"{fraction:.4g}", runs, "single" if len(runs) == 1 else "seeds")


def _point(matched: Matched, i: int, steps: Sequence[Step]) -> dict[str, Any]:
    from slivit.statistics import over_runs

    runs = per_run(matched, i)
    scans, patients = training_size(steps[0].folder)
    return {
        "fraction": steps[0].fraction,
        "train_scans": scans,
        "train_patients": patients,
        "metrics": {name: e.to_dict() for name, e in matched.metrics(matched.methods[i].name).items()},
        "spread": {name: s.to_dict() for name, s in over_runs(runs).items()},
        "runs": [
            {"seed": step.seed, "folder": f"{RUNS}/{step.folder.name}", "metrics": found}
            for step, found in zip(steps, runs, strict=True)
        ],
    }


def training_size(folder: Path) -> tuple[int, int]:
    """How many scans, and of how many patients, a run was trained on."""
    rows = read_table(folder / SPLIT)[["patient", "split"]]
    train = rows[rows["split"] == "train"]
    return len(train), int(train["patient"].nunique())


def write_csv(path: Path, found: dict[str, Any]) -> None:
    """Write every run's metrics as a long table: fraction, scans, patients, seed, metric, value."""
    import pandas as pd

    rows = [
        {
            "fraction": point["fraction"],
            "train_scans": point["train_scans"],
            "train_patients": point["train_patients"],
            "seed": run["seed"],
            "metric": metric,
            "value": value,
        }
        for point in found["points"]
        for run in point["runs"]
        for metric, value in run["metrics"].items()
    ]
    with whole_file(path) as partial:
        as_shown(pd.DataFrame(rows)).to_csv(partial, index=False)


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The main metric at every fraction, one line each."""
    metric = found["settings"]["metrics"][0]
    for point in found["points"]:
        estimate = point["metrics"][metric]
        value = "not defined" if estimate["value"] is None else f"{estimate['value']:.3f}"
        yield f"{point['train_scans']} training scans ({point['fraction']:.4g}): {metric} {value}"
