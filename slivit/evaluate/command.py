"""Evaluation: a checkpoint and labelled scans in; predictions, metrics and a page out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.checkpoint import Checkpoint, load_checkpoint, read_config, store_operating_point
from slivit.data.manifest import Manifest
from slivit.data.preprocessing import Preprocessing
from slivit.data.recipe import Data, cache_of
from slivit.data.reviews import REVIEWS
from slivit.data.sources import load_manifest
from slivit.errors import ManifestError, RecipeError, nearest
from slivit.evaluate.baselines import add_baseline
from slivit.evaluate.deciding import decide, validation_rows
from slivit.evaluate.described import describe_data, describe_table
from slivit.evaluate.details import check_subgroups
from slivit.evaluate.measure import check_testing, chooses, measure, write_results
from slivit.evaluate.recipe import EvaluateRecipe, Testing
from slivit.evaluate.tables import read_predictions
from slivit.files import read_mapping, write_text
from slivit.folder import (
    CASES,
    CHECKPOINT,
    HISTORY,
    MASKS,
    METRICS,
    PREDICTIONS,
    RECIPE,
    SPLIT,
    logged,
    open_results,
    read_metrics,
    same_run,
)
from slivit.recipe import apply_override, check_recipe, load_recipe, read_values, resolved_toml, shipped_recipes
from slivit.targets.decision import Decision
from slivit.targets.task import Task

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
EVALUATION, REPORT = "evaluation", "report"
OF_ITS_TABLE = {"subgroups", "bands", "reference", "site", "readers", "targets"}
"""Options of a run's testing that name columns or files of its own table."""


def recipe_for(target: str, overrides: Sequence[str], manifest: str | None, out: Path | None) -> EvaluateRecipe:
    """The recipe of an evaluation that is given by a recipe, or by a checkpoint and options.

    Args:
        target: a recipe's file or name, or a run or checkpoint folder.
        overrides: "key=value" for the recipe.
        manifest: the labelled scans; the run's own test rows where None.
        out: where results go; `evaluation` in the target's folder where None.

    Raises:
        RecipeError: every problem of the recipe at once.
    """
    if not Path(target).is_dir():
        _check_there(target)
        options = ([f"data.manifest={manifest}"] if manifest else []) + ([f"out={out}"] if out else [])
        return load_recipe("evaluate", target, [*overrides, *options])
    split = Path(target) / SPLIT
    if manifest is None and not split.is_file():
        raise RecipeError(f"{target}: holds no {SPLIT}; name the labelled scans with --manifest CSV")
    if manifest is None and (kept := _by_folds(Path(target))):
        text = "its model has seen all of its scans, and what its folds predicted is in"
        raise RecipeError(f"{target}: {text} {kept}: evaluate that, or name new scans with --manifest CSV")
    values: dict[str, Any] = {"checkpoint": target, "out": str(out or Path(target) / EVALUATION)}
    values["data"] = {"manifest": manifest or str(split)}
    values["testing"] = _testing_of(Path(target), own=manifest is None)
    for override in overrides:
        apply_override(values, override)
    return check_recipe(EvaluateRecipe, values, f"evaluation of {target}")


def _by_folds(run: Path) -> Path | None:
    """The table of what the folds of a run predicted; None where it has none."""
    values = read_values(run / RECIPE) if (run / RECIPE).is_file() else {}
    tables = (run / name for name in (PREDICTIONS, CASES) if values.get("data", {}).get("folds"))
    return next((table for table in tables if table.is_file()), None)


def _testing_of(folder: Path, *, own: bool) -> dict[str, Any]:
    """How a run measured its own rows, to measure again alike; without its columns where the scans are others.

    What it chose by validation rows, the checkpoint holds; a run that drew few times for speed is measured as usual.
    """
    options = read_mapping(folder / METRICS).get("settings", {})
    options |= {"draws": max(options.get("draws", 0), Testing().draws)}
    left = {"operating_point", "temperature"} | (set() if own else OF_ITS_TABLE)
    return {k: v for k, v in options.items() if k in Testing.model_fields and k not in left}


def _check_there(target: str) -> None:
    """Say what can be evaluated where a name is none of it.

    Raises:
        RecipeError: neither a file nor a shipped recipe.
    """
    if not Path(target).is_file() and target not in shipped_recipes("evaluate"):
        beside = Path(target).parent
        near = nearest(target, (str(p) for p in beside.iterdir() if p.is_dir())) if beside.is_dir() else ""
        what = "the folder of a run or checkpoint, a table of predictions (CSV), or a recipe"
        raise RecipeError(f"{target}: no such file or folder; evaluate takes {what}.{near}")


def testing_for(overrides: Sequence[str], where: str) -> Testing:
    """The options of the evaluation of a table of predictions.

    Args:
        overrides: "testing.key=value".
        where: the table, for messages.

    Raises:
        RecipeError: every problem at once, also an override that is not about testing.
    """
    cases = Path(where).name == CASES  # of a run, and measured as it measured them where nothing else is said
    values: dict[str, Any] = {"testing": _testing_of(Path(where).parent, own=True)} if cases else {}
    for override in overrides:
        apply_override(values, override)
    if other := [key for key in values if key != "testing"]:
        raise RecipeError(
            f"evaluation of {where}: a table of predictions takes testing.* options alone, not {other[0]}"
        )
    return check_recipe(Testing, values.get("testing", {}), f"evaluation of {where}")


def run(recipe: EvaluateRecipe, *, overwrite: bool = False, resume: bool = False) -> Path:
    """Evaluate a checkpoint; how its model is built and its scans prepared stands in its `config.json`.

    Where the recipe chooses an operating point or a temperature, it is fixed on the validation rows of the
    checkpoint's own run, and stored in the checkpoint.

    Args:
        recipe: from `load_recipe("evaluate", ...)`.
        overwrite: replace an evaluation in the same folder.
        resume: the same, but where `testing` alone has changed, what was predicted is measured again.

    Returns:
        The folder with `predictions.csv`, `metrics.json` and `report/index.html`.
    """
    checkpoint = shuffled(load_checkpoint(recipe.checkpoint), recipe.shuffle_slices)
    check_testing(recipe.testing, checkpoint.task)
    decision = decision_for(recipe.testing, checkpoint)
    everything, manifest = evaluation_rows(recipe, checkpoint)
    check_subgroups(manifest.frame, recipe.testing)
    kept = kept_predictions(recipe, checkpoint) if resume else None
    folder = open_results(Path(recipe.out), overwrite=overwrite or resume)
    if checkpoint.task.dense:
        return _run_masks(recipe, checkpoint, manifest, everything, folder)
    with logged(folder):
        log.info("%r", manifest)
        table, taken = kept or _timed(partial(_predicted, recipe, checkpoint, manifest, decision))
        data = describe_data(manifest, everything, checkpoint.path, checkpoint.task, recipe.testing)
        data["predicted"] = taken
        metrics = measure(table, checkpoint.task, recipe.testing, decision=decision, data=data)
        if recipe.testing.baselines and checkpoint.path:
            add_baseline(metrics, table, checkpoint.task, recipe.testing, checkpoint.path.parent)
        write_results(folder, table, checkpoint.task, metrics)
        write_text(folder / RECIPE, resolved_toml(recipe))
        if decision and chooses(recipe.testing):
            store_operating_point(checkpoint.path, decision)
        if recipe.page:
            _write_page(folder, metrics, table, checkpoint.path)
    return folder


def kept_predictions(recipe: EvaluateRecipe, checkpoint: Checkpoint) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """What an earlier evaluation of the same scans predicted in the recipe's folder, and how long that took.

    None where there is none, or where it was made by another recipe, in another precision, or for fewer targets.
    """
    folder = Path(recipe.out)
    if checkpoint.task.dense or not all((folder / name).is_file() for name in (RECIPE, PREDICTIONS, METRICS)):
        return None
    old, new = load_recipe("evaluate", folder / RECIPE), recipe
    computed = {"precision", "batch_size"}
    alike = old.testing.model_dump(include=computed) == new.testing.model_dump(include=computed)
    labelled = not old.testing.targets or (new.testing.targets and set(new.testing.targets) <= set(old.testing.targets))
    if not (same_run(old, new) and alike and labelled):
        return None
    table, _ = read_predictions(folder / PREDICTIONS, checkpoint.task)
    log.info("%s: what was predicted is measured again", folder)
    return table, read_metrics(folder / METRICS).get("data", {}).get("predicted")


def _timed(predict: Callable[[], pd.DataFrame]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table of predictions, and how long it took to make them."""
    begun = time.perf_counter()
    table = predict()
    return table, {"seconds": time.perf_counter() - begun, "scans": len(table)}


def _run_masks(
    recipe: EvaluateRecipe, checkpoint: Checkpoint, manifest: Manifest, everything: Manifest, folder: Path
) -> Path:
    """Evaluate a checkpoint that segments: `cases.csv`, `metrics.json`, `masks` and the page."""
    from slivit.evaluate.masks import measure_masks, scored_cases, write_cases
    from slivit.predict.engine import Engine
    from slivit.predict.masks import task_of
    from slivit.report.masks_page import write_masks_page

    testing = recipe.testing
    with logged(folder):
        log.info("%r", manifest)
        engine = Engine(checkpoint, recipe.device, batch_size=testing.batch_size, precision=testing.precision)
        cases = scored_cases(engine, manifest.rows(), testing, folder, align=recipe.data.align, progress=True)
        data = describe_data(manifest, everything, checkpoint.path, checkpoint.task, testing)
        metrics = measure_masks(cases, task_of(engine), testing, data)
        write_cases(folder, cases, task_of(engine), metrics)
        write_text(folder / RECIPE, resolved_toml(recipe))
        if recipe.page:
            rows, settings = manifest.rows(), checkpoint.preprocessing
            log.info("page: %s", write_masks_page(folder, rows, cases, metrics, settings, recipe.data.align))
    return folder


def _predicted(
    recipe: EvaluateRecipe, checkpoint: Checkpoint, manifest: Manifest, decision: Decision | None
) -> pd.DataFrame:
    """Predictions of every row, under the decision."""
    from slivit.predict.engine import predict_table

    table = predict_table(
        checkpoint.model,
        [{**dict.fromkeys(checkpoint.task.targets, math.nan), **row} for row in manifest.rows()],
        checkpoint.task,
        checkpoint.preprocessing,
        device=recipe.device,
        batch_size=recipe.testing.batch_size,
        workers=recipe.data.processes,
        precision=recipe.testing.precision,
        cache=cache_of(recipe.data),
    )
    return decision.apply(table, checkpoint.task) if decision else table


def run_table(csv: Path, testing: Testing, out: Path | None = None, *, overwrite: bool = False) -> Path:
    """Evaluate predictions that are there already, whoever made them; what is predicted is read off the columns.

    Args:
        csv: the predictions; rows of the split "val" are what decisions are made on, if any are there.
        testing: the options.
        out: the folder; `evaluation` beside the table if None.
        overwrite: replace an evaluation in the same folder.

    Returns:
        The folder with `predictions.csv`, `metrics.json` and `report/index.html`.
    """
    if csv.name == CASES:
        return _run_cases(csv, testing, out or csv.parent / EVALUATION, overwrite=overwrite)
    checkpoint = csv.parent / "checkpoint"
    config = read_config(checkpoint) if checkpoint.is_dir() else None
    table, task = read_predictions(csv, Task(**config["task"]) if config else None)
    check_testing(testing, task)
    check_subgroups(table, testing)
    val = table[table["split"] == "val"]
    decision = None if not task.makes_calls else decide(val, task, testing, f"the validation rows of {csv.name}")
    folder = open_results(out or csv.parent / EVALUATION, overwrite=overwrite)
    with logged(folder):
        table = decision.apply(table, task) if decision else table
        data = describe_table(table, str(csv), checkpoint, task, testing)
        metrics = measure(table, task, testing, decision=decision, data=data)
        if testing.baselines:
            add_baseline(metrics, table, task, testing, csv.parent)
        write_results(folder, table, task, metrics)
        _write_page(folder, metrics, table, checkpoint if config else None)
    return folder


def _run_cases(csv: Path, testing: Testing, out: Path, *, overwrite: bool) -> Path:
    """Measure the cases of a run that segments, such as one by folds, and write their page; nothing is predicted.

    Raises:
        RecipeError: no run there, or another tolerance than that of the scores.
    """
    from slivit.evaluate.masks import measure_masks, read_cases, write_cases
    from slivit.report.masks_page import write_masks_page

    run, cases = csv.parent, read_cases(csv)
    old = read_metrics(run / METRICS)
    if not old or not (run / SPLIT).is_file() or not (run / CHECKPOINT).is_dir():
        raise RecipeError(f"{csv}: is evaluated as a part of its run, which has {CHECKPOINT}, {METRICS} and {SPLIT}")
    task: Any = Task(**old["task"])
    settings = Preprocessing(**read_config(run / CHECKPOINT)["preprocessing"])
    check_testing(testing, task)
    check_subgroups(cases, testing)
    if testing.tolerance_mm != (had := old["settings"]["tolerance_mm"]):
        raise RecipeError(f"testing.tolerance_mm: the scores of {csv} are at {had:g} mm; leave it out")
    folder = open_results(out, overwrite=overwrite)
    with logged(folder):
        metrics = measure_masks(cases, task, testing, old["data"])
        write_cases(folder, cases, task, metrics)
        rows = load_manifest(Data(manifest=str(run / SPLIT)), task, (), split=False, channels=settings.channels).rows()
        log.info("page: %s", write_masks_page(folder, rows, cases, metrics, settings, "resample", run / MASKS))
    return folder


def shuffled(checkpoint: Checkpoint, seed: int | None) -> Checkpoint:
    """The checkpoint, whose scans have their slices in another order where there is a seed."""
    if seed is None:
        return checkpoint
    values = checkpoint.preprocessing.model_dump() | {"shuffle_slices": seed}
    return replace(checkpoint, preprocessing=Preprocessing.model_validate(values))


def decision_for(testing: Testing, checkpoint: Checkpoint) -> Decision | None:
    """How probabilities become calls: what the options choose, else what the checkpoint holds, else a threshold of 0.5.

    Returns:
        None for a regression task.

    Raises:
        RecipeError: the options ask for a choice, and there are no validation rows that allow it.
    """
    if not checkpoint.task.makes_calls:
        return None
    if checkpoint.operating_point and not chooses(testing):
        return checkpoint.operating_point
    val, source = validation_rows(checkpoint.path, checkpoint.task)
    return decide(val, checkpoint.task, testing, source)


def evaluation_rows(recipe: EvaluateRecipe, checkpoint: Checkpoint) -> tuple[Manifest, Manifest]:
    """The table of scans, and the rows of it to evaluate: the recipe's split, or all where there is no split column.

    Raises:
        ManifestError: a manifest that does not fit the checkpoint's task, or without rows of that split.
    """
    task, channels = checkpoint.task.only(recipe.testing.targets), checkpoint.preprocessing.channels
    manifest = load_manifest(recipe.data, task, need_splits=(), split=False, channels=channels)
    if not manifest.has_split:
        frame = manifest.frame.assign(split="test")
        manifest = Manifest.from_frame(frame, task, source=manifest.source, need_splits=())
        return manifest, manifest
    if recipe.split == "all":
        return manifest, manifest
    if recipe.split not in manifest.splits:
        raise ManifestError(f'{manifest.source}: no row of split "{recipe.split}"; choose with split=NAME or split=all')
    return manifest, manifest.subset(recipe.split)


def _write_page(folder: Path, metrics: dict[str, Any], table: pd.DataFrame, checkpoint: Path | None) -> None:
    from slivit.report.page import write_report

    history = checkpoint.parent / HISTORY if checkpoint else None
    config = read_config(checkpoint) if checkpoint else None
    reviews = checkpoint.parent / REVIEWS if checkpoint else None
    page = write_report(folder / REPORT, metrics, table, config=config, history=history, reviews=reviews)
    log.info("page: %s", page)
