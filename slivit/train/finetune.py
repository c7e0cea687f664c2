"""Fine-tuning: labelled volumes and a backbone in, a tested model out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slivit.data.manifest import Manifest
from slivit.train.recipe import FinetuneRecipe, TrainingRecipe
from slivit.train.run import train

if TYPE_CHECKING:
    from torch import nn


def run(recipe: FinetuneRecipe, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Fine-tune a volume model by a recipe.

    Args:
        recipe: from `load_recipe("finetune", ...)`.
        resume: go on with a run that died.
        overwrite: replace a run in the same folder.

    Returns:
        The run's folder: recipe, split, history, checkpoint, predictions, metrics, versions, log.
    """
    return train(recipe, "finetune", build_model, resume=resume, overwrite=overwrite)


def build_model(recipe: TrainingRecipe, manifest: Manifest) -> nn.Module:
    """The recipe's model, with its backbone loaded where the recipe names weights."""
    from slivit.models._weights import load_backbone
    from slivit.models.registry import create_model

    model = create_model(recipe.model.name, manifest.task.out_dim, **recipe.model.args)
    if recipe.model.weights:
        load_backbone(model, recipe.model.weights)
    return model
