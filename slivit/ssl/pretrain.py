"""Pre-training: images or volumes in, a backbone out that every model of its kind can start from."""

from __future__ import annotations

from pathlib import Path

from slivit.ssl import run as selfsupervised
from slivit.ssl.recipe import SelfSupervisedRecipe
from slivit.train import mixed
from slivit.train.finetune import build_model
from slivit.train.recipe import MixedRecipe, PretrainRecipe
from slivit.train.run import train


def run(
    recipe: PretrainRecipe | MixedRecipe | SelfSupervisedRecipe, *, resume: bool = False, overwrite: bool = False
) -> Path:
    """Pre-train a backbone, on one or several sets of labelled 2D images (volumes of one slice), or without labels.

    Args:
        recipe: from `load_recipe("pretrain", ...)`.
        resume: go on with a run that died.
        overwrite: replace a run in the same folder.

    Returns:
        The run's folder; give it as `model.weights` to a fine-tuning recipe.
    """
    if isinstance(recipe, SelfSupervisedRecipe):
        return selfsupervised.run(recipe, resume=resume, overwrite=overwrite)
    if isinstance(recipe, MixedRecipe):
        return mixed.run(recipe, resume=resume, overwrite=overwrite)
    return train(recipe, "pretrain", build_model, resume=resume, overwrite=overwrite)
