"""Scans cut into windows: what a recipe must say, and the plan of its windows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slivit.data.manifest import Manifest
from slivit.data.preprocessing import Preprocessing
from slivit.data.table import as_shown
from slivit.errors import RecipeError
from slivit.files import whole_file
from slivit.folder import WINDOWS
from slivit.train.recipe import TrainingRecipe

if TYPE_CHECKING:
    from slivit.data.window_plan import ScanWindows

log = logging.getLogger(__name__)


def check_windows(recipe: TrainingRecipe) -> None:
    """Check that what a recipe says of windows and of oversampling fits its task, before anything long is run.

    Raises:
        RecipeError: settings that belong to another kind of task, or to scans that are cut into windows.
    """
    task, windows = recipe.task, recipe.preprocessing.windows
    if recipe.data.slice_labels and not windows:
        raise RecipeError(
            "data.slice_labels label the windows of a scan, and scans are not cut into windows; set "
            "preprocessing.windows, such as preprocessing.windows.stride=16"
        )
    if recipe.data.slice_labels and not task.two_classes:
        raise RecipeError(f"data.slice_labels belong to a binary task, not to a {task.kind} one; leave them out")
    if windows and windows.score != "mean" and task.exclusive:
        raise RecipeError(
            f'preprocessing.windows.score is "{windows.score}", after which the probabilities of a multiclass task no '
            'longer add up to 1; set it to "mean"'
        )
    if recipe.fit.oversample and not task.one_class:
        raise RecipeError(f"fit.oversample is for binary and multiclass tasks, not for a {task.kind} one")


def plan_of(
    recipe: TrainingRecipe, manifest: Manifest, settings: Preprocessing, folder: Path
) -> Sequence[ScanWindows] | None:
    """The windows of the scans that train and validate, also written to `windows.csv`; None where scans stay whole.

    Args:
        recipe: what to do.
        manifest: fitted.
        settings: the preprocessing, with its size set.
        folder: of the run.

    Raises:
        ManifestError: labels of slices that contradict the scans or each other.
        ReadError: scans that cannot be read.
    """
    if settings.windows is None:
        return None
    from slivit.data.slice_labels import read_slice_labels
    from slivit.data.window_plan import count_slices, plan_windows, used_rows

    paths = [str(row["path"]) for row in used_rows(manifest)]
    depths = count_slices(paths, settings.reader, workers=recipe.data.processes)
    source, root = recipe.data.slice_labels, recipe.data.root or None
    labels = read_slice_labels(source, manifest, depths, root=root, reader=settings.reader) if source else None
    plan = plan_windows(manifest, settings, depths, labels)
    _write(plan, manifest, folder)
    return plan


def _write(plan: Sequence[ScanWindows], manifest: Manifest, folder: Path) -> None:
    import pandas as pd

    from slivit.data.window_plan import summary

    target = manifest.task.targets[0] if manifest.task.two_classes else None
    table = pd.DataFrame(summary(plan, target))
    with whole_file(folder / WINDOWS) as partial:
        as_shown(table).to_csv(partial, index=False)
    for split, part in table.groupby("split", sort=False):
        positive = f", {part['positive'].sum()} of them positive" if target else ""
        log.info("%s: %d scans, %d windows%s", split, len(part), part["windows"].sum(), positive)
