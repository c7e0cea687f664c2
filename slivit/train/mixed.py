"""Supervised pre-training on several labelled sets at once, each item judged on its own set's outputs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.checkpoint import save_backbone
from slivit.data.caching import cache_of
from slivit.data.manifest import Manifest
from slivit.data.preprocessing import Preprocessing
from slivit.data.sources import load_manifest
from slivit.evaluate.measure import check_testing, measure, write_results
from slivit.folder import PROGRESS, SPLIT, forgotten_if_untrained, logged, open_run
from slivit.lineage import started_from
from slivit.models.registry import spec_of
from slivit.parallel import only_one_process
from slivit.train.recipe import MixedRecipe
from slivit.train.run import fit
from slivit.train.tracking import check_logging, tracked

if TYPE_CHECKING:
    from torch import nn

    from slivit.train.learner import VolumeLearner
    from slivit.train.mixture import Mixture

log = logging.getLogger(__name__)


def run(recipe: MixedRecipe, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Pre-train a backbone on several labelled sets.

    Args:
        recipe: from `load_recipe("pretrain", ...)`, with method "mixed".
        resume: go on with a run that died.
        overwrite: replace a run in the same folder.

    Returns:
        The run's folder: the checkpoint of the backbone, and a folder of predictions and metrics for each set.
    """
    from slivit.train.callbacks import seed_everything
    from slivit.train.mixture import Mixture

    for part in recipe.sets.values():
        check_testing(recipe.testing, part.task)
    check_logging(recipe.logging)
    only_one_process("training on labels")
    folder = open_run(recipe, resume=resume, overwrite=overwrite)
    values = recipe.model_dump(mode="json")
    with (
        forgotten_if_untrained(folder, resume=resume),
        logged(folder),
        tracked(recipe.logging, values, folder) as tracking,
    ):
        manifests = {name: _fitted(part.data, part.task) for name, part in recipe.sets.items()}
        mixture = Mixture({name: manifest.task for name, manifest in manifests.items()})
        together = joined(manifests)
        together.to_csv(folder / SPLIT)
        seed_everything(recipe.seed)
        model = _build(recipe, mixture.out_dim)
        settings = recipe.preprocessing.model_copy(update={"size": spec_of(model).size})
        learn = make_learner(recipe, together, mixture, model, settings, folder)
        best = fit(learn, recipe, folder, resume=resume, cbs=tracking)
        record = {**_record(recipe, manifests), **best}
        save_backbone(folder / "checkpoint", model, settings, record, {"head": model.get_submodule("head")})
        for name, manifest in manifests.items():
            predict_and_measure(recipe, manifest, mixture, name, learn.model, settings, folder / name)
        (folder / PROGRESS).unlink(missing_ok=True)
        log.info("done: %s", folder)
    return folder


def _fitted(data: Any, task: Any) -> Manifest:
    manifest = load_manifest(data, task)
    manifest = manifest.with_task(task.fitted(manifest.rows("train")))
    log.info("%r", manifest)
    return manifest


def joined(manifests: dict[str, Manifest]) -> Manifest:
    """The scans of all sets in one table, whose column "set" says where each is from; patients keep apart by set."""
    import pandas as pd

    frames = [m.frame.assign(set=n, patient=n + "/" + m.frame["patient"].astype(str)) for n, m in manifests.items()]
    first = next(iter(manifests.values()))
    source = " with ".join(m.source for m in manifests.values())
    return Manifest(pd.concat(frames, ignore_index=True), first.task, source)


def _build(recipe: MixedRecipe, out_dim: int) -> nn.Module:
    from slivit.models._weights import load_backbone
    from slivit.models.registry import create_model

    model = create_model(recipe.model.name, out_dim, **recipe.model.args)
    if recipe.model.weights:
        load_backbone(model, recipe.model.weights)
    return model


def make_learner(
    recipe: MixedRecipe,
    together: Manifest,
    mixture: Mixture,
    model: nn.Module,
    settings: Preprocessing,
    folder: Path,
) -> VolumeLearner:
    """The fastai Learner of all sets."""
    from slivit.data.blocks import volume_dataloaders
    from slivit.predict.engine import choose_device
    from slivit.train.learner import volume_learner
    from slivit.train.mixture import MixtureLoss, mixture_metrics

    sets = [part.data for part in recipe.sets.values()]
    dls = volume_dataloaders(
        together,
        spec_of(model),
        settings,
        task=mixture,  # type: ignore[arg-type]
        augmentation=recipe.augmentation,
        batch_size=recipe.fit.batch_size,
        workers=max(data.processes for data in sets),
        cache=next((cache_of(data) for data in sets if data.cache), None),
        device=choose_device(recipe.fit.device),
    )
    return volume_learner(
        dls,
        model,
        together.task,
        loss_func=MixtureLoss(mixture, recipe.fit.label_smoothing),
        metrics=mixture_metrics(mixture),
        weight_decay=recipe.fit.weight_decay,
        freeze_backbone=recipe.fit.freeze_backbone,
        precision=recipe.fit.precision,
        path=folder,
    )


def predict_and_measure(
    recipe: MixedRecipe,
    manifest: Manifest,
    mixture: Mixture,
    name: str,
    model: nn.Module,
    settings: Preprocessing,
    folder: Path,
) -> None:
    """Predict the validation and test rows of one set, and write its `predictions.csv` and `metrics.json`."""
    from slivit.predict.engine import predict_table
    from slivit.train.mixture import OnePart

    folder.mkdir(exist_ok=True)
    rows = [row for split in ("val", "test") if split in manifest.splits for row in manifest.rows(split)]
    table = predict_table(
        OnePart(model, mixture.spans[name]),
        rows,
        manifest.task,
        settings,
        device=recipe.fit.device,
        batch_size=recipe.testing.batch_size,
        workers=recipe.sets[name].data.processes,
        cache=cache_of(recipe.sets[name].data),
    )
    log.info("%s:", name)
    write_results(folder, table, manifest.task, measure(table, manifest.task, recipe.testing))


def _record(recipe: MixedRecipe, manifests: dict[str, Manifest]) -> dict[str, Any]:
    """How a checkpoint came about, as plain values."""
    record: dict[str, Any] = {
        "stage": "pretrain",
        "method": "mixed",
        "recipe": recipe.model_dump(mode="json"),
        "scans": {n: {split: len(m.rows(split)) for split in m.splits} for n, m in manifests.items()},
        "source": {name: manifest.source for name, manifest in manifests.items()},
        "outputs": {name: list(m.task.prediction_columns) for name, m in manifests.items()},
    }
    return record | started_from(recipe.model)
