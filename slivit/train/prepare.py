"""Fill the cache before training: every scan of a recipe, or of a manifest, read and preprocessed once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slivit.data.cache_build import Prepared, prepare
from slivit.data.inspection import inspect_manifest
from slivit.data.notes import gathered_notes
from slivit.data.preprocessing import Preprocessing
from slivit.data.recipe import Data, cache_of
from slivit.data.sources import load_manifest
from slivit.data.stacking import settings_for
from slivit.data.table import is_table
from slivit.errors import RecipeError
from slivit.files import size_text
from slivit.machines import readers_at
from slivit.models.recipe import Model
from slivit.plugins import Plugged
from slivit.recipe import Stage, apply_override, check_recipe, load_recipe
from slivit.train.recipe import TrainingRecipe

log = logging.getLogger(__name__)
_SHOWN = 20


class PrepareRecipe(Plugged):
    """What is needed to prepare the scans of a manifest: the parts of a training recipe that slices depend on."""

    data: Data
    model: Model = Model()
    preprocessing: Preprocessing = Preprocessing()


def recipe_for(target: str, overrides: Sequence[str], stage: Stage = "finetune") -> TrainingRecipe | PrepareRecipe:
    """What to prepare, given by a training recipe or by a manifest.

    Args:
        target: a recipe's file or name, or a CSV of scans.
        overrides: "key=value", such as "data.cache=FOLDER"; for a CSV with the keys of data, model and preprocessing.
        stage: of the recipe, "finetune" or "pretrain".

    Raises:
        RecipeError: every problem at once.
    """
    if not is_table(target) and Path(target).suffix.casefold() != ".txt":
        return load_recipe(stage, target, overrides)
    values: dict[str, Any] = {"data": {"manifest": target}}
    for override in overrides:
        apply_override(values, override)
    return check_recipe(PrepareRecipe, values, f"preparing {target}")


def run(recipe: TrainingRecipe | PrepareRecipe, *, cluster: str = "", progress: bool = True) -> Prepared:
    """Fill the cache of a recipe, so that its training starts at full speed.

    Args:
        recipe: from `recipe_for`, or a training recipe; `data.workers` processes read.
        cluster: a Ray cluster that reads in their place; it must see the scans and the cache.
        progress: show a progress bar.

    Returns:
        How many scans were prepared, how many were there, and which cannot be read.

    Raises:
        RecipeError: the recipe names no cache.
        CacheError: the cache cannot be used, or the disk is full.
    """
    cache = cache_of(recipe.data)
    if cache is None:
        raise RecipeError("data.cache is empty, so there is nowhere to keep slices; set it with data.cache=FOLDER")
    settings = settings_for(recipe.preprocessing, _spec(recipe.model), recipe.data.channels)
    rows = _rows(recipe)
    with gathered_notes(cache.folder), readers_at(cluster, recipe.data.processes) as workers:
        result = prepare(rows, settings, cache, workers=workers, progress=progress)
    log.info("%d scans prepared, %d were there, %d cannot be read", result.built, result.kept, len(result.failed))
    held = cache.info()
    log.info("%s: %d scans, %s", cache.folder, held.scans, size_text(held.bytes))
    for _, reason in result.failed[:_SHOWN]:
        log.warning("%s", reason)
    if len(result.failed) > _SHOWN:
        log.warning("... and %d more", len(result.failed) - _SHOWN)
    return result


def _rows(recipe: TrainingRecipe | PrepareRecipe) -> Sequence[Mapping[str, Any]]:
    data = recipe.data
    if isinstance(recipe, TrainingRecipe):
        return load_manifest(data, recipe.task).rows()
    # Of a table alone only the paths matter: what is wrong with its patients and splits is reported by training.
    inspection = inspect_manifest(
        data.manifest,
        columns=data.columns,
        root=data.root or None,
        patient_from_path=True,
        where=data.where,
        channels=data.channels,
    )
    return [{"path": path} for path in inspection.frame["path"] if path]


def _spec(model: Model) -> Any:
    """What a model takes."""
    from slivit.models.registry import create_model

    untrained = {"pretrained": False} if "pretrained" in model.args else {}
    return create_model(model.name, 1, **model.args | untrained).spec
