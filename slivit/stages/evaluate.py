"""Evaluation: a checkpoint and labelled scans in, predictions and metrics out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slivit.checkpoint import Checkpoint, load_checkpoint
from slivit.data.manifest import Manifest
from slivit.errors import ManifestError, RecipeError
from slivit.files import write_text
from slivit.recipe import EvaluateRecipe, apply_override, check_recipe, load_recipe, resolved_toml
from slivit.stages.measure import measure, write_results
from slivit.stages.runs import RECIPE, SPLIT, logged
from slivit.stages.sources import load_manifest

log = logging.getLogger(__name__)


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
        options = ([f"data.manifest={manifest}"] if manifest else []) + ([f"out={out}"] if out else [])
        return load_recipe("evaluate", target, [*overrides, *options])
    split = Path(target) / SPLIT
    if manifest is None and not split.is_file():
        raise RecipeError(f"{target}: holds no {SPLIT}; name the labelled scans with --manifest CSV")
    values: dict[str, Any] = {"checkpoint": target, "out": str(out or Path(target) / "evaluation")}
    values["data"] = {"manifest": manifest or str(split)}
    for override in overrides:
        apply_override(values, override)
    return check_recipe(EvaluateRecipe, values, f"evaluation of {target}")


def run(recipe: EvaluateRecipe, *, overwrite: bool = False) -> Path:
    """Evaluate a checkpoint; how its model is built and its scans prepared stands in its `config.json`.

    Args:
        recipe: from `load_recipe("evaluate", ...)`.
        overwrite: replace an evaluation in the same folder.

    Returns:
        The folder with `predictions.csv` and `metrics.json`.
    """
    from slivit.predict import predict_table

    checkpoint = load_checkpoint(recipe.checkpoint)
    folder = _open(Path(recipe.out), overwrite)
    with logged(folder):
        manifest = evaluation_rows(recipe, checkpoint)
        log.info("%r", manifest)
        table = predict_table(
            checkpoint.model,
            manifest.rows(),
            checkpoint.task,
            checkpoint.preprocessing,
            device=recipe.device,
            batch_size=recipe.testing.batch_size,
            workers=recipe.data.workers,
            flips=recipe.testing.flips,
        )
        write_results(folder, table, checkpoint.task, measure(table, checkpoint.task, recipe.testing))
        write_text(folder / RECIPE, resolved_toml(recipe))
    return folder


def evaluation_rows(recipe: EvaluateRecipe, checkpoint: Checkpoint) -> Manifest:
    """The rows to evaluate: those of the recipe's split, or all where the manifest has no split column.

    Raises:
        ManifestError: a manifest that does not fit the checkpoint's task, or without rows of that split.
    """
    manifest = load_manifest(recipe.data, checkpoint.task, need_splits=(), split=False)
    if not manifest.has_split:
        return Manifest.from_frame(manifest.frame.assign(split="test"), checkpoint.task, source=manifest.source, need_splits=())
    if recipe.split == "all":
        return manifest
    if recipe.split not in manifest.splits:
        raise ManifestError(f'{manifest.source}: no row of split "{recipe.split}"; choose with split=NAME or split=all')
    return manifest.subset(recipe.split)


def _open(folder: Path, overwrite: bool) -> Path:
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise RecipeError(f"{folder}: is not empty; replace it with --overwrite, or choose another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
