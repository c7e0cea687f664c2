"""The end of a run that segments: its scans are segmented and measured, and measured again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.checkpoint import Checkpoint
from slivit.data.preprocessing import Preprocessing
from slivit.errors import RecipeError
from slivit.evaluate.masks import measure_masks, read_cases, scored_cases, write_cases
from slivit.folder import CASES, MASKS, METRICS, RunFolder
from slivit.targets.cases import describe_splits

if TYPE_CHECKING:
    from torch import nn

    from slivit.train.recipe import Labelled
    from slivit.train.scans import Part


def test_segmentation(
    folder: RunFolder, recipe: Labelled, part: Part, model: nn.Module, settings: Preprocessing
) -> None:
    """Segment the validation and test scans once each; write `cases.csv`, `metrics.json` and the masks."""
    from slivit.predict.engine import Engine

    task: Any = part.task
    testing = recipe.testing
    engine = Engine(
        Checkpoint(model, task, settings),
        recipe.fit.device,
        batch_size=testing.batch_size,
        precision=testing.precision,
    )
    for name in (CASES, METRICS, MASKS):
        folder.file(name)
    cases = scored_cases(engine, part.rows("val", "test"), testing, folder.path, align=part.data.align)
    rows = describe_splits(part.manifest.frame, task)
    data = {"source": part.manifest.source, "external": False, "run": rows}
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
