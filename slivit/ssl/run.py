"""Self-supervised pre-training: scans without labels in, a backbone out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.checkpoint import save_backbone
from slivit.checkpoint.lineage import started_from
from slivit.data.cache import SliceCache
from slivit.data.cache_memory import room_for_slices
from slivit.data.images import LARGER
from slivit.data.preprocessing import Preprocessing
from slivit.data.recipe import cache_of
from slivit.data.table import write_table
from slivit.errors import ManifestError, RecipeError
from slivit.folder import CHECKPOINT, HISTORY, PROGRESS, SLICES, SPLIT, RunFolder
from slivit.models.registry import spec_of
from slivit.parallel import from_main, is_main, local_device, process_group, wait_for_all
from slivit.settings import changed
from slivit.ssl.probed import PROBE, make_probe
from slivit.ssl.recipe import SelfSupervisedRecipe
from slivit.ssl.unlabelled import scan_depths, unlabelled_frame
from slivit.train.callbacks import progress_of
from slivit.train.processes import opened
from slivit.train.tracking import tracked

if TYPE_CHECKING:
    import pandas as pd
    from fastai.callback.core import Callback
    from torch import nn

    from slivit.ssl.learner import PretextLearner
    from slivit.ssl.pretext import Pretext

log = logging.getLogger(__name__)

KEPT = "kept"
PICTURES = "pictures"


def run(recipe: SelfSupervisedRecipe, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Pre-train a backbone without labels; in several processes where a launcher started them.

    Args:
        recipe: from `load_recipe("pretrain", ...)`.
        resume: go on with a run that died.
        overwrite: replace a run in the same folder.

    Returns:
        The run's folder: recipe, split, history, checkpoint, versions, log.
    """
    from slivit.device import choose_device
    from slivit.ssl.learner import KeepSteps
    from slivit.ssl.registry import create_pretext
    from slivit.train.callbacks import seed_everything

    recipe.check()
    device = local_device(choose_device(recipe.fit.device))
    with process_group(device), opened(recipe, resume=resume, overwrite=overwrite) as (folder, _):
        frame = from_main(usable_scans(recipe) if is_main() else None)
        seed_everything(recipe.seed)
        model = build_encoder(recipe)
        settings = recipe.preprocessing.model_copy(update={"size": spec_of(model).size})
        pretext = create_pretext(recipe.method, model, **recipe.pretext.args)
        check_options(recipe, pretext)
        probes = _probes(recipe, pretext, settings, folder.path)
        with _begun(recipe, folder, frame) as following:
            wait_for_all()  # until the main process has cleared the folder of an earlier run
            slices = slice_cache(recipe, frame, pretext, settings, folder.file(SLICES))
            learn = make_learner(recipe, frame, pretext, settings, folder.path, slices)
            keep = partial(save_backbone, model=pretext.encoder, preprocessing=settings, extra=pretext.extra)
            keep = partial(keep, training=_record(recipe, frame))
            kept = [KeepSteps(folder.file(KEPT), recipe.fit, keep)] if recipe.fit.keep_at else []
            fit(learn, recipe, folder.path, resume=resume, cbs=[*following, *probes, *kept])
            keep(folder.file(CHECKPOINT))
        wait_for_all()  # the others may still read slices
        if is_main():
            folder.finish()
    return folder.path


@contextmanager
def _begun(recipe: SelfSupervisedRecipe, folder: RunFolder, frame: pd.DataFrame) -> Iterator[Sequence[Callback]]:
    """Let the main process begin the run and follow it, while the block trains."""
    if not is_main():
        yield []
        return
    folder.begin()
    write_table(folder.file(SPLIT), frame)
    for name in (PROGRESS, HISTORY, PICTURES, PROBE, KEPT):
        folder.file(name)
    with tracked(recipe.logging, recipe.model_dump(mode="json"), folder.path) as following:
        yield following


def check_options(recipe: SelfSupervisedRecipe, pretext: Pretext) -> None:
    """Refuse rates by layer for a method without layers, and a cache of slices for one that reads whole scans.

    Raises:
        RecipeError: they would do nothing.
    """
    if pretext.load is not None and recipe.data.cache:
        raise RecipeError(f"data.cache would do nothing: {recipe.method} reads whole scans; leave it out")
    if pretext.depth_of is None and (idle := changed(recipe.fit, "layer_decay", "patch_lr")):
        keys = " and ".join(f"fit.{key}" for key in idle)
        raise RecipeError(f"{keys} would do nothing: {recipe.method} has no layers by depth; leave it out")


def usable_scans(recipe: SelfSupervisedRecipe) -> pd.DataFrame:
    """The scans of a recipe, with the number of slices where it is needed, and none that is too short."""
    frame = unlabelled_frame(recipe.data, recipe.images, recipe.seed)
    images = recipe.images
    if images.slices != "all" and images.min_slices == 1:
        return frame
    frame = frame.assign(slices=scan_depths(frame, recipe.preprocessing.reader, recipe.data.processes))
    long = frame["slices"] >= images.min_slices
    if not long.all():
        log.info("%d scans have fewer than %d slices and are left out", (~long).sum(), images.min_slices)
    if not (frame[long]["split"] == "train").any():
        raise ManifestError(f"{recipe.data.manifest}: no training scan has {images.min_slices} slices")
    return frame[long].reset_index(drop=True)


def build_encoder(recipe: SelfSupervisedRecipe) -> nn.Module:
    """The recipe's model, with its backbone loaded where the recipe names weights; its head is not trained."""
    from slivit.models._weights import load_backbone
    from slivit.models.registry import check_output, create_model

    model = create_model(recipe.model.name, 1, **recipe.model.args)
    check_output(model, "vector")
    if recipe.model.weights:
        load_backbone(model, recipe.model.weights)
    return model


def slice_cache(
    recipe: SelfSupervisedRecipe, frame: pd.DataFrame, pretext: Pretext, settings: Preprocessing, own: Path
) -> SliceCache | None:
    """Where slices are kept, so that a scan is decoded once however many of its slices are asked for.

    Args:
        recipe: names a cache, or none.
        frame: the scans.
        pretext: a method in 3D reads whole scans by itself.
        settings: the preprocessing, with its size set.
        own: a folder of the run, which is removed at its end; for scans of several slices where the recipe names none.
    """
    if pretext.load is not None:
        return None
    if recipe.data.cache or ("slices" in frame and (frame["slices"] == 1).all()):
        return cache_of(recipe.data)
    rows, columns = settings.stored.size[1:] if settings.stored.size else (1, 1)
    most = 1.0 if settings.resize else LARGER**2
    need = round(int(frame["slices"].sum() if "slices" in frame else 0) * rows * columns * most)
    return SliceCache(own) if room_for_slices(own, need) else None


def make_learner(
    recipe: SelfSupervisedRecipe,
    frame: pd.DataFrame,
    pretext: Pretext,
    settings: Preprocessing,
    folder: Path,
    cache: SliceCache | None = None,
) -> PretextLearner:
    """The fastai Learner of a recipe."""
    from slivit.device import choose_device
    from slivit.ssl.learner import pretext_dataloaders, pretext_learner

    options = recipe.fit
    dls = pretext_dataloaders(
        [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")],
        pretext,
        settings,
        slices=recipe.images.slices,
        batch_size=options.batch_size,
        workers=recipe.data.processes,
        device=local_device(choose_device(options.device)),
        cache=cache,
    )
    return pretext_learner(dls, pretext, options, path=folder)


def fit(
    learn: PretextLearner,
    recipe: SelfSupervisedRecipe,
    folder: Path,
    *,
    resume: bool = False,
    cbs: Sequence[Callback] = (),
) -> None:
    """Train under the recipe's schedule; the last weights are kept."""
    from slivit.ssl.learner import fit_pretext
    from slivit.ssl.pictures import DrawPictures
    from slivit.train import callbacks
    from slivit.train.pace import Beforehand, Pace

    options = recipe.fit
    progress = progress_of(folder, resume=resume)
    own = [
        callbacks.SeedEpochs(recipe.seed),
        callbacks.StopOnNaN(),
        callbacks.LogEpochs(),
        *([] if options.shards else [Beforehand("views")]),
        Pace("items", work=False),
        callbacks.SaveProgress(folder, options.lr),
        callbacks.WriteHistory(folder / HISTORY),
    ]
    if is_main() and not options.shards:
        own.append(DrawPictures(learn.pretext, folder / PICTURES, recipe.pictures.every, recipe.pictures.count))
    bars = nullcontext() if sys.stdout.isatty() else learn.no_bar()
    with bars, learn.no_logging():
        fit_pretext(learn, cbs=[*own, *cbs], start_epoch=progress["epoch"] if progress else 0)


def _probes(recipe: SelfSupervisedRecipe, pretext: Pretext, settings: Preprocessing, folder: Path) -> list[Callback]:
    if recipe.probe is None or not is_main():
        return []
    return [make_probe(recipe.probe, pretext, settings, recipe.fit.batch_size, folder)]


def _record(recipe: SelfSupervisedRecipe, frame: pd.DataFrame) -> dict[str, Any]:
    """How a checkpoint came about, as plain values."""
    from slivit.device import choose_device, choose_precision

    record = {
        "precision": choose_precision(recipe.fit.precision, choose_device(recipe.fit.device)),
        "stage": "pretrain",
        "method": recipe.method,
        "recipe": recipe.model_dump(mode="json"),
        "scans": {str(k): int(v) for k, v in frame["split"].value_counts().items()},
        "source": recipe.data.manifest,
    }
    return record | started_from(recipe.model)
