"""Training on labels: scans and perhaps a backbone in; a tested model out. One set of scans or several."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.checkpoint import save_backbone, save_checkpoint, store_operating_point
from slivit.checkpoint.lineage import started_from
from slivit.data.preprocessing import SHORT_SCAN, Preprocessing
from slivit.data.stacking import settings_for
from slivit.data.table import write_table
from slivit.errors import RecipeError
from slivit.evaluate.baselines import add_baseline
from slivit.evaluate.deciding import decide
from slivit.evaluate.details import check_subgroups
from slivit.evaluate.measure import chooses, log_headlines, measure, write_results
from slivit.evaluate.tables import read_predictions
from slivit.files import write_json
from slivit.folder import BASELINE, CHECKPOINT, HISTORY, METRICS, PREDICTIONS, PROGRESS, SLICES, RunFolder
from slivit.models.registry import spec_of
from slivit.parallel import bare, from_main, is_main, local_device, own_part, process_group, wait_for_all
from slivit.targets.cases import describe_splits
from slivit.targets.covariates import width_of
from slivit.targets.decision import Decision
from slivit.targets.segmentation import Segmentation
from slivit.targets.task import Task
from slivit.train.processes import check_processes, joined, opened
from slivit.train.rates import best_trial
from slivit.train.recipe import Labelled, TrainingRecipe
from slivit.train.scans import LabelledScans, Part, labelled_scans, write_windows
from slivit.train.tracking import tracked

if TYPE_CHECKING:
    import pandas as pd
    from fastai.callback.core import Callback
    from torch import nn

    from slivit.data.window_plan import ScanWindows
    from slivit.train.learner import VolumeLearner

log = logging.getLogger(__name__)


def run(recipe: Labelled, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Train by a recipe, from the labelled scans to the measured predictions.

    Fine-tuning, pre-training on labelled images, and pre-training on several sets at once differ in their recipes
    alone.

    Args:
        recipe: from `load_recipe("finetune", ...)` or `load_recipe("pretrain", ...)`.
        resume: go on with a run that died. One that is finished is measured again where the recipe's `testing` has
            changed; nothing is trained or predicted then.
        overwrite: replace a run in the same folder.

    Returns:
        The run's folder: recipe, split, history, checkpoint, predictions and metrics (of several sets in a folder
        each), versions, log.
    """
    from slivit.device import choose_device

    recipe.check()
    check_processes(recipe)
    if isinstance(recipe, TrainingRecipe) and (recipe.data.folds or recipe.fit.seeds > 1):
        from slivit.train.copies import run_copies

        return run_copies(recipe, resume=resume, overwrite=overwrite)
    with (
        process_group(local_device(choose_device(recipe.fit.device))),
        opened(recipe, resume=resume, overwrite=overwrite) as (folder, tell_notes),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", SHORT_SCAN, UserWarning)  # one line tells of all, not one a scan and epoch
        if resume and folder.finished:
            return measure_again(recipe, folder) if is_main() else folder.path
        scans = from_main(labelled_scans(recipe) if is_main() else None)
        settings = fitted_preprocessing(recipe)
        scans.check_masks(settings)
        plan = from_main(scans.windows(settings) if is_main() else None)
        with _begun(recipe, folder, scans, plan) as following:
            looked_at = from_main(scans.range(settings) if is_main() else None)  # when an earlier run is cleared away
            tell_notes()
            scans = scans.kept(folder.file(SLICES), settings, plan) if recipe.fit.epochs > 1 else scans
            trial = Trial(scans, settings, plan, following)
            if isinstance(recipe.fit.lr, tuple):
                model, outcome = best_trial(trial, recipe, folder)
            else:
                model, outcome = trial(recipe, folder.path, resume=folder.resume)
            if is_main():
                save(folder, recipe, scans, model, settings, looked_at | outcome)
            for part in scans.parts:
                test(folder, recipe, part, model, settings)
        wait_for_all()  # the others may still read slices
        if is_main():
            folder.finish()
    return folder.path


@contextmanager
def _begun(
    recipe: Labelled, folder: RunFolder, scans: LabelledScans, plan: Sequence[ScanWindows] | None
) -> Iterator[Sequence[Callback]]:
    """Let the main process begin the run and follow it, while the block trains."""
    if not is_main():
        yield []
        return
    folder.begin()
    for name in (PROGRESS, HISTORY):
        folder.file(name)
    scans.keep(folder)
    if plan is not None:
        write_windows(plan, scans.parts[0].task, folder)
    if recipe.logging.tracker == "off":
        yield []
        return
    with tracked(recipe.logging, recipe.model_dump(mode="json"), folder.path) as following:
        yield following


def build_model(recipe: Labelled, out_dim: int, covariates: int = 0) -> nn.Module:
    """The recipe's model, seeded, with its backbone loaded where the recipe names weights.

    Args:
        recipe: what to do.
        out_dim: the number of outputs.
        covariates: how many numbers a scan it reads beside the slices.
    """
    from slivit.models._lora import adapt_backbone
    from slivit.models._weights import load_backbone
    from slivit.models.registry import COVARIATES, check_output, create_model
    from slivit.train.callbacks import seed_everything

    seed_everything(recipe.seed)
    args = recipe.model.args_for(recipe.preprocessing.planes) | ({COVARIATES: covariates} if covariates else {})
    model = create_model(recipe.model.name, out_dim, **args)
    check_output(model, "mask" if any(part.task.dense for part in recipe.parts.values()) else "vector")
    if recipe.model.weights:
        load_backbone(model, recipe.model.weights)
    if recipe.fit.adapt:
        adapt_backbone(model, recipe.fit.lora, recipe.model.start)
    return model


def fitted_preprocessing(recipe: Labelled) -> Preprocessing:
    """The recipe's preprocessing with the size that its model takes; a model that cannot be made is an error here."""
    model = build_model(recipe, 1)
    sets = {name: part.data.channels for name, part in recipe.parts.items()}
    if len(set(sets.values())) > 1:
        listed = "; ".join(f"{name}: {list(columns)}" for name, columns in sets.items())
        raise RecipeError(f"sets that are trained together have the same data.channels, and these have {listed}")
    return settings_for(recipe.preprocessing, spec_of(model), next(iter(sets.values())))


@dataclass(frozen=True)
class Trial:
    """One training by a recipe whose rate is one number or "find".

    Args:
        scans: what is trained on.
        settings: the preprocessing, with its size set.
        plan: how scans are cut into windows, if they are.
        cbs: further callbacks.
    """

    scans: LabelledScans
    settings: Preprocessing
    plan: Sequence[ScanWindows] | None = None
    cbs: Sequence[Callback] = ()

    def __call__(
        self, recipe: Labelled, folder: Path, *, resume: bool = False, earlier: int = 0
    ) -> tuple[nn.Module, dict[str, Any]]:
        """Train a new model with early stopping, and keep the weights of its best epoch.

        Args:
            recipe: what to do.
            folder: for the history and the progress.
            resume: go on with a training that died there.
            earlier: epochs of trials before this one, from which what is followed counts on.

        Returns:
            The model, and what `config.json` keeps of it: the peak rate, the best epoch, the monitored value there, and
            the precision in which it computed.
        """
        from slivit.device import choose_device, choose_precision
        from slivit.train import callbacks
        from slivit.train.learner import find_lr, scheduled
        from slivit.train.pace import Beforehand, Pace, later_epochs

        fit, items = recipe.fit, "windows" if self.plan is not None else "scans"
        progress = callbacks.progress_of(folder, resume=resume)
        learn = self.learner(recipe, folder)
        peak: Any = progress["lr_max"] if progress else find_lr(learn) if fit.lr == "find" else fit.lr
        best = callbacks.KeepBest(fit.monitor)
        cbs = [
            *later_epochs(self.cbs, earlier),
            callbacks.SeedEpochs(recipe.seed),
            callbacks.StopOnNaN(),
            callbacks.LogEpochs(),
            Beforehand(items),
            Pace(items, work=not isinstance(self.scans.task, Segmentation)),
            best,
            callbacks.SaveProgress(folder, peak),
            callbacks.WriteHistory(folder / HISTORY),
        ]
        cbs += [callbacks.StopEarly(fit.monitor, fit.patience)] if fit.patience else []
        cbs += [callbacks.AverageWeights(fit.average_weights)] if fit.average_weights else []
        learn.first_epoch = progress["epoch"] if progress else 0
        train = scheduled(learn, fit, peak, cbs)
        with nullcontext() if sys.stdout.isatty() else learn.no_bar(), learn.no_logging():
            train()
        log.info("best epoch %d: %s %.4f", best.best_epoch + 1, fit.monitor, best.best)
        outcome = {"lr": peak, "best_epoch": best.best_epoch + 1, fit.monitor: float(best.best)}
        return bare(learn.model), outcome | {"precision": choose_precision(fit.precision, choose_device(fit.device))}

    def model(self, recipe: Labelled) -> nn.Module:
        """A new model of the recipe, with as many outputs as the scans need."""
        task = self.scans.task
        inputs = task.inputs if isinstance(task, Task) else ()
        return build_model(recipe, task.out_dim, width_of(inputs) if inputs else 0)

    def learner(self, recipe: Labelled, folder: Path) -> VolumeLearner:
        """The fastai Learner of a recipe, with a new model."""
        from slivit.data.workers import readers_with_room
        from slivit.device import choose_device
        from slivit.train.learner import volume_learner

        task, fit = self.scans.task, recipe.fit
        model = self.model(recipe)
        batch = fit.batch_size * math.prod(self.settings.stored.size or ())  # bytes
        workers = readers_with_room(self.scans.processes, batch)
        loading: dict[str, Any] = {"batch_size": fit.batch_size, "workers": workers}
        loading |= {"cache": self.scans.cache, "device": local_device(choose_device(fit.device)), "task": task}
        if isinstance(task, Segmentation):
            return self._mask_learner(recipe, folder, model, task, loading)
        from slivit.data.blocks import volume_dataloaders

        dls = volume_dataloaders(
            self.scans.manifest,
            spec_of(model),
            self.settings,
            augmentation=recipe.augmentation,
            oversample=fit.oversample,
            plan=self.plan,
            **loading,
        )
        own: dict[str, Any] = {}
        if not isinstance(task, Task):
            from slivit.train.mixture import MixtureLoss, mixture_metrics

            joint = getattr(recipe, "loss", "own") == "joint"
            loss = MixtureLoss(task, fit.label_smoothing, joint=joint)
            own = {"loss_func": loss, "metrics": mixture_metrics(task)}
        return volume_learner(dls, model, task, fit, **own, path=folder)  # type: ignore[arg-type]

    def _mask_learner(
        self, recipe: Labelled, folder: Path, model: nn.Module, task: Segmentation, loading: dict[str, Any]
    ) -> VolumeLearner:
        """The Learner of a segmentation."""
        from slivit.data.patch_blocks import patch_dataloaders
        from slivit.train.learner import volume_learner

        align = self.scans.parts[0].data.align
        dls = patch_dataloaders(
            self.scans.manifest, spec_of(model), self.settings, patches=recipe.patches, align=align, **loading
        )
        learn: Any = volume_learner(dls, model, task, recipe.fit, path=folder)
        learn.overlap = recipe.patches.overlap
        return learn


def save(
    folder: RunFolder,
    recipe: Labelled,
    scans: LabelledScans,
    model: nn.Module,
    settings: Preprocessing,
    outcome: dict[str, Any],
) -> None:
    """Keep the model: whole where there is one set, its backbone where there are several."""
    record: dict[str, Any] = {"stage": recipe.stage, "recipe": recipe.model_dump(mode="json")}
    record |= {"scans": _sums([part.counts for part in scans.parts]), "source": scans.manifest.source}
    record |= started_from(recipe.model) | outcome
    if scans.alone:
        save_checkpoint(folder.file(CHECKPOINT), model, scans.parts[0].task, settings, record)
        return
    record |= {"method": "mixed", "sets": {part.name: part.counts for part in scans.parts}}
    record |= {"outputs": {part.name: list(part.task.prediction_columns) for part in scans.parts}}
    save_backbone(folder.file(CHECKPOINT), model, settings, record, {"head": model.get_submodule("head")})


def _sums(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    splits = dict.fromkeys(split for count in counts for split in count)
    return {split: sum(count.get(split, 0) for count in counts) for split in splits}


def test(folder: RunFolder, recipe: Labelled, part: Part, model: nn.Module, settings: Preprocessing) -> None:
    """Predict the validation and test rows of a set once each; write `predictions.csv` and `metrics.json`."""
    if isinstance(part.task, Segmentation):
        from slivit.train.mask_testing import test_segmentation

        test_segmentation(folder, recipe, part, model, settings)
        return
    table = predicted(recipe, part, model, settings)
    if not is_main():
        return
    run = describe_splits(part.manifest.frame, part.task)
    data = {"source": part.manifest.source, "external": False, "run": run}
    decision = decided(recipe, table, part.task)
    if decision and not part.name:
        store_operating_point(folder.path, decision)
    metrics = measure(table, part.task, recipe.testing, decision=decision, data=data)
    if recipe.testing.baselines and not part.name and keep_baseline(folder, part, settings, recipe.seed):
        add_baseline(metrics, table, part.task, recipe.testing, folder.path)
    for name in (PREDICTIONS, METRICS):
        folder.file(f"{part.name}/{name}" if part.name else name)
    write_results(folder.path / part.name, table, part.task, metrics)


def predicted(recipe: Labelled, part: Part, model: nn.Module, settings: Preprocessing) -> pd.DataFrame:
    """The validation and test rows of a set, each predicted once, by all processes together."""
    from slivit.device import choose_device
    from slivit.predict.engine import predict_table

    if part.name:
        from slivit.train.mixture import OnePart

        model = OnePart(model, part.outputs)
        log.info("%s:", part.name)
    rows = part.rows("val", "test")
    table = predict_table(
        model,
        own_part(rows, "scans"),
        part.task,
        settings,
        device=str(local_device(choose_device(recipe.fit.device))),
        batch_size=recipe.testing.batch_size,
        workers=part.data.processes,
        precision=recipe.testing.precision,
        cache=part.cache,
    )
    return joined(table, len(rows))


def keep_baseline(folder: RunFolder, part: Part, settings: Preprocessing, seed: int) -> bool:
    """Write what size and grey levels alone predict of the scans that are tested; whether that could be learned."""
    from slivit.train.baselines import baseline_table

    table = baseline_table(part, settings, seed)
    if table is not None:
        write_table(folder.file(BASELINE), table)
    return table is not None


def decided(recipe: Labelled, table: pd.DataFrame, task: Task) -> Decision | None:
    """The operating point that the recipe asks for; a run does not die of one that cannot be."""
    if not task.makes_calls or not chooses(recipe.testing):
        return None
    try:
        return decide(table[table["split"] == "val"], task, recipe.testing)
    except RecipeError as error:
        log.warning("no operating point is fixed: %s", error)
        return None


def measure_again(recipe: Labelled, folder: RunFolder) -> Path:
    """Measure the predictions of a finished run under the recipe's `testing`; nothing is trained or predicted."""
    measured: dict[str, Any] = {}
    if any(part.task.dense for part in recipe.parts.values()):
        from slivit.train.mask_testing import measure_cases_again

        return measure_cases_again(recipe, folder)
    for name in recipe.parts:
        old = folder.read_json(str(Path(name) / METRICS))
        table, task = read_predictions(folder.path / name / PREDICTIONS, Task(**old["task"]))
        check_subgroups(table, recipe.testing)
        decision = decided(recipe, table, task)
        metrics = measure(table, task, recipe.testing, decision=decision, data=old["data"])
        if recipe.testing.baselines:
            add_baseline(metrics, table, task, recipe.testing, folder.path / name)
        measured[name] = metrics, task, decision
    chose = chooses(folder.stored.testing)
    folder.begin()
    for name, (metrics, task, decision) in measured.items():
        if not name and (decision or chose):
            store_operating_point(folder.path, decision)
        write_json(folder.path / name / METRICS, metrics)
        log_headlines(metrics, task)
    folder.finish()
    return folder.path
