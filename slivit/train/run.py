"""What pre-training and fine-tuning share: data, model, fit, checkpoint, predictions."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.checkpoint import save_checkpoint, store_operating_point
from slivit.data.caching import cache_of
from slivit.data.manifest import Manifest
from slivit.data.preprocessing import SHORT_SCAN, Preprocessing
from slivit.data.sources import load_manifest
from slivit.data.training_range import depths_told, training_range
from slivit.errors import RecipeError
from slivit.evaluate.deciding import chooses, decide
from slivit.evaluate.described import describe_rows
from slivit.evaluate.details import check_subgroups
from slivit.evaluate.measure import check_testing, measure, write_results
from slivit.folder import HISTORY, PROGRESS, SPLIT, forgotten_if_untrained, logged, open_run
from slivit.lineage import started_from
from slivit.models.registry import spec_of
from slivit.parallel import only_one_process
from slivit.targets.decision import Decision
from slivit.targets.task import Task
from slivit.train.callbacks import progress_of
from slivit.train.rates import search_rates
from slivit.train.recipe import MixedRecipe, TrainingRecipe
from slivit.train.tracking import check_logging, tracked
from slivit.train.windowing import check_windows, plan_of

if TYPE_CHECKING:
    import pandas as pd
    from fastai.callback.core import Callback
    from torch import nn

    from slivit.data.window_plan import ScanWindows
    from slivit.train.learner import VolumeLearner
    from slivit.train.rates import TrainOne

log = logging.getLogger(__name__)


def train(
    recipe: TrainingRecipe,
    stage: str,
    build: Callable[[TrainingRecipe, Manifest], nn.Module],
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train by a recipe, from the manifest to the measured predictions.

    Args:
        recipe: what to do.
        stage: "pretrain" or "finetune", for the record.
        build: makes the model for a fitted manifest.
        resume: go on with a run that died.
        overwrite: replace a run in the same folder.

    Returns:
        The run's folder.
    """
    from slivit.train.callbacks import seed_everything

    check_testing(recipe.testing, recipe.task)
    check_windows(recipe)
    check_logging(recipe.logging)
    only_one_process("training on labels")
    folder = open_run(recipe, resume=resume, overwrite=overwrite)
    with (
        forgotten_if_untrained(folder, resume=resume),
        logged(folder),
        tracked(recipe.logging, recipe.model_dump(mode="json"), folder) as tracking,
        _short_scans_told_once(),
    ):
        manifest = fitted_manifest(recipe)
        check_subgroups(manifest.frame, recipe.testing)
        manifest.to_csv(folder / SPLIT)
        seed_everything(recipe.seed)
        model = build(recipe, manifest)
        settings = recipe.preprocessing.model_copy(update={"size": spec_of(model).size})
        plan = plan_of(recipe, manifest, settings, folder)
        looked_at = _scans_range(recipe, manifest, settings)
        if isinstance(recipe.fit.lr, tuple):
            one = _trainer(recipe, manifest, settings, plan, build, tracking)
            best = search_rates(recipe, model, folder, one, resume=resume)
        else:
            learn = make_learner(recipe, manifest, model, settings, folder, plan)
            best = fit(learn, recipe, folder, resume=resume, cbs=tracking)
        training = {"stage": stage, **_record(recipe, manifest), **looked_at, **best}
        save_checkpoint(folder / "checkpoint", model, manifest.task, settings, training)
        predict_and_measure(recipe, manifest, model, settings, folder)
        (folder / PROGRESS).unlink(missing_ok=True)
        log.info("done: %s", folder)
    return folder


def fitted_manifest(recipe: TrainingRecipe) -> Manifest:
    """The recipe's manifest under its task, completed by the training rows."""
    manifest = load_manifest(recipe.data, recipe.task)
    manifest = manifest.with_task(recipe.task.fitted(manifest.rows("train")))
    log.info("%r", manifest)
    return manifest


def _trainer(
    recipe: TrainingRecipe,
    manifest: Manifest,
    settings: Preprocessing,
    plan: Sequence[ScanWindows] | None,
    build: Callable[[TrainingRecipe, Manifest], nn.Module],
    tracking: Sequence[Callback],
) -> TrainOne:
    """What trains a new model by a recipe with one learning rate; what is followed goes on from rate to rate."""
    from slivit.train.callbacks import later_epochs, seed_everything

    rates: list[Any] = list(recipe.fit.lr) if isinstance(recipe.fit.lr, tuple) else []

    def train_one(alone: TrainingRecipe, own: Path, resume: bool) -> tuple[nn.Module, dict[str, Any]]:
        seed_everything(alone.seed)
        learn = make_learner(alone, manifest, build(alone, manifest), settings, own, plan)
        followed = later_epochs(tracking, rates.index(alone.fit.lr) * alone.fit.epochs)
        return learn.model, fit(learn, alone, own, resume=resume, cbs=followed)

    return train_one


def make_learner(
    recipe: TrainingRecipe,
    manifest: Manifest,
    model: nn.Module,
    settings: Preprocessing,
    folder: Path,
    plan: Sequence[ScanWindows] | None = None,
) -> VolumeLearner:
    """The fastai Learner of a recipe; `plan` says how its scans are cut into windows, if they are."""
    from slivit.data.blocks import volume_dataloaders
    from slivit.predict.engine import choose_device
    from slivit.train.learner import volume_learner

    dls = volume_dataloaders(
        manifest,
        spec_of(model),
        settings,
        augmentation=recipe.augmentation,
        batch_size=recipe.fit.batch_size,
        workers=recipe.data.processes,
        cache=cache_of(recipe.data),
        device=choose_device(recipe.fit.device),
        oversample=recipe.fit.oversample,
        plan=plan,
    )
    return volume_learner(
        dls,
        model,
        manifest.task,
        weight_decay=recipe.fit.weight_decay,
        label_smoothing=recipe.fit.label_smoothing,
        freeze_backbone=recipe.fit.freeze_backbone,
        precision=recipe.fit.precision,
        path=folder,
    )


def fit(
    learn: VolumeLearner,
    recipe: TrainingRecipe | MixedRecipe,
    folder: Path,
    *,
    resume: bool = False,
    cbs: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Find the rate where asked, then fit with early stopping; the best weights stay in the learner.

    Args:
        learn: the learner.
        recipe: what to do.
        folder: of the run.
        resume: go on with a fit that died.
        cbs: further callbacks.

    Returns:
        What `config.json` keeps of it: the peak rate, the best epoch, the monitored value there.
    """
    from slivit.train import callbacks
    from slivit.train.learner import find_lr, group_rates

    settings = recipe.fit
    progress = progress_of(folder, resume=resume)
    peak = progress["lr_max"] if progress else settings.lr
    if isinstance(peak, tuple):
        raise RecipeError("fit.lr is a list, and only the training of one set by its labels tries several rates")
    if peak == "find":
        peak = find_lr(learn)
    best = callbacks.KeepBest(settings.monitor)
    cbs = [
        *cbs,
        callbacks.SeedEpochs(recipe.seed),
        callbacks.StopOnNaN(),
        callbacks.LogEpochs(),
        best,
        callbacks.SaveProgress(folder, peak),
        callbacks.WriteHistory(folder / HISTORY),
    ]
    cbs += [callbacks.StopEarly(settings.monitor, settings.patience)] if settings.patience else []
    cbs += [callbacks.AverageWeights(settings.average_weights)] if settings.average_weights else []
    bars = nullcontext() if sys.stdout.isatty() else learn.no_bar()
    with bars, learn.no_logging():
        rates = group_rates(peak, settings.backbone_lr)
        start = progress["epoch"] if progress else 0
        if settings.schedule == "constant":
            learn.fit(settings.epochs, rates, cbs=cbs, start_epoch=start)
        else:
            learn.fit_one_cycle(settings.epochs, rates, pct_start=settings.warmup, cbs=cbs, start_epoch=start)
    log.info("best epoch %d: %s %.4f", best.best_epoch + 1, settings.monitor, best.best)
    return {"lr": peak, "best_epoch": best.best_epoch + 1, settings.monitor: float(best.best)}


def predict_and_measure(
    recipe: TrainingRecipe, manifest: Manifest, model: nn.Module, settings: Preprocessing, folder: Path
) -> None:
    """Predict validation and test rows once each, and write `predictions.csv` and `metrics.json`."""
    from slivit.predict.engine import predict_table

    rows = [row for split in ("val", "test") if split in manifest.splits for row in manifest.rows(split)]
    table = predict_table(
        model,
        rows,
        manifest.task,
        settings,
        device=recipe.fit.device,
        batch_size=recipe.testing.batch_size,
        workers=recipe.data.processes,
        cache=cache_of(recipe.data),
    )
    decision = _decided(recipe, table, manifest.task, folder)
    parts = {split: describe_rows(part, manifest.task) for split, part in manifest.frame.groupby("split", sort=False)}
    data = {"source": manifest.source, "external": False, "run": parts}
    metrics = measure(table, manifest.task, recipe.testing, decision=decision, data=data)
    write_results(folder, table, manifest.task, metrics)


def _decided(recipe: TrainingRecipe, table: pd.DataFrame, task: Task, folder: Path) -> Decision | None:
    """Fix the operating point that the recipe asks for in the checkpoint; a run does not die of one that cannot be."""
    if not task.makes_calls or not chooses(recipe.testing):
        return None
    try:
        decision = decide(table[table["split"] == "val"], task, recipe.testing)
    except RecipeError as error:
        log.warning("no operating point is fixed: %s", error)
        return None
    store_operating_point(folder, decision)
    return decision


def _scans_range(recipe: TrainingRecipe, manifest: Manifest, settings: Preprocessing) -> dict[str, Any]:
    """What the training scans are like, so that predictions can tell of scans that are not like them."""
    paths = [str(row["path"]) for row in manifest.rows("train")]
    found = training_range(paths, settings, workers=recipe.data.processes)
    if found is None:
        return {}
    if told := depths_told(found, settings):
        log.log(logging.WARNING if found.fewer else logging.INFO, told)
    return {"scans_range": found.model_dump(mode="json")}


@contextmanager
def _short_scans_told_once() -> Iterator[None]:
    """Keep quiet about single scans with few slices: one line tells of all, instead of one a scan and epoch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", SHORT_SCAN, UserWarning)
        yield


def _record(recipe: TrainingRecipe, manifest: Manifest) -> dict[str, Any]:
    """How a checkpoint came about, as plain values."""
    counts = {split: len(manifest.rows(split)) for split in manifest.splits}
    record = {"recipe": recipe.model_dump(mode="json"), "scans": counts, "source": manifest.source}
    return record | started_from(recipe.model)
