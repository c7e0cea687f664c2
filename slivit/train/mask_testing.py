"""The end of a run that segments: its scans are segmented and measured, and measured again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.checkpoint import Checkpoint
from slivit.data.preprocessing import Preprocessing
from slivit.data.recipe import Data
from slivit.errors import RecipeError
from slivit.evaluate.masks import measure_masks, read_cases, score_rows, write_cases
from slivit.folder import CASES, MASKS, METRICS, RunFolder
from slivit.predict.masks import Segmented, segment
from slivit.targets.cases import describe_splits
from slivit.targets.task import Task

if TYPE_CHECKING:
    from torch import nn

    from slivit.predict.engine import Engine
    from slivit.train.recipe import Labelled
    from slivit.train.scans import Part


def test_segmentation(
    folder: RunFolder, recipe: Labelled, part: Part, model: nn.Module, settings: Preprocessing
) -> None:
    """Segment the validation and test scans once each; write `cases.csv`, `metrics.json` and the masks."""
    engine = mask_engine(recipe, model, part.task, settings)
    rows = part.rows("val", "test")
    described = describe_splits(part.manifest.frame, part.task)
    data = {"source": part.manifest.source, "external": False, "run": described}
    keep_cases(folder, recipe, part.data, lambda row: segment(engine, row), rows, (part.task, settings), data)


def mask_engine(recipe: Labelled, model: nn.Module, task: Task, settings: Preprocessing) -> Engine:
    """What runs a model that segments as the recipe's `testing` says."""
    from slivit.predict.engine import Engine

    testing = recipe.testing
    checkpoint = Checkpoint(model, task, settings)
    return Engine(checkpoint, recipe.fit.device, batch_size=testing.batch_size, precision=testing.precision)


def keep_cases(
    folder: RunFolder,
    recipe: Labelled,
    section: Data,
    masks_of: Callable[[Mapping[str, Any]], Segmented],
    rows: Sequence[Mapping[str, Any]],
    made_for: tuple[Any, Preprocessing],
    data: Mapping[str, Any],
) -> None:
    """Segment rows and measure their masks; write `cases.csv`, `metrics.json` and the masks.

    Args:
        folder: of the run.
        recipe: its own.
        section: of the recipe, where the rows are from.
        masks_of: the predicted masks of a row.
        rows: of a manifest, with masks.
        made_for: the task and the preprocessing.
        data: what `metrics.json` says of the scans.
    """
    for name in (CASES, METRICS, MASKS):
        folder.file(name)
    task, settings = made_for
    testing = recipe.testing
    cases = score_rows(lambda row, _: masks_of(row), rows, task, settings, testing, folder.path, align=section.align)
    write_cases(folder.path, cases, task, measure_masks(cases, task, testing, data))


def measure_cases_again(recipe: Labelled, folder: RunFolder) -> Path:
    """Measure the cases of a finished segmentation under the recipe's `testing`; nothing is trained or predicted.

    Raises:
        RecipeError: another tolerance, for which the masks are needed.
    """
    if recipe.testing.tolerance_mm != folder.stored.testing.tolerance_mm:
        raise RecipeError("testing.tolerance_mm: the scores of cases have another one; use slivit evaluate")
    task: Any = next(iter(recipe.parts.values())).task
    cases = read_cases(folder.path / CASES)
    metrics = measure_masks(cases, task, recipe.testing, folder.read_json(METRICS)["data"])
    folder.begin()
    write_cases(folder.path, cases, task, metrics)
    folder.finish()
    return folder.path
