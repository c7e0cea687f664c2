"""Whether training scans may be mirrored: tried with a simple model before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from slivit.data.augmentation import Augmentation
from slivit.data.splits import k_folds
from slivit.planned.plan import plan_folds
from slivit.planned.select import loss
from slivit.planned.select import losses as losses_of
from slivit.targets.task import Task
from slivit.train.table_models import features_of, fit_table, mean_of, outputs_of

Array = npt.NDArray[Any]
AXES = {"flip_slices": -3, "flip_vertical": -2, "flip_horizontal": -1}
FEATURE, PARTS = "voxels8", 3
SURE, WORSE = 3.0, 0.25
"""Standard errors, and a share of the loss, by which a model has to be worse with mirrored scans beside the others."""
ENOUGH = 800
"""Scans that are looked at, at most."""


def without_harm(
    settings: Augmentation, stacks: Sequence[Array], frame: pd.DataFrame, y: Array, task: Task, seed: int
) -> tuple[Augmentation, list[str]]:
    """Leave out the mirrors after which a model of voxels that learned from mirrored scans too is worse.

    That is so where side is the question, such as the left kidney or the right one. A model that learned nothing says
    nothing.

    Args:
        settings: the augmentation that is planned.
        stacks: slices of scans that train and choose, or of a part of them.
        frame: their rows, with "patient".
        y: their answers, as `fit_table` takes them.
        task: fitted.
        seed: of the parts and the model.

    Returns:
        The augmentation, and a sentence for each mirror that is left out.
    """
    left_out, reasons = {}, []
    if plan_folds(frame.drop(columns="fold", errors="ignore"), task)[0] < PARTS:
        return settings, []
    plain = features_of(stacks, [FEATURE])[FEATURE]
    parts = np.asarray(k_folds(frame, task, k=PARTS, seed=seed))
    alone = _losses(plain, plain[:0], y, parts, task, seed)
    if alone.mean() >= loss(task, y, np.broadcast_to(mean_of(task, y), (len(y), task.out_dim))):
        return settings, []
    for name, axis in AXES.items():
        if not getattr(settings, name) or stacks[0].shape[axis] == 1:
            continue
        mirrored = features_of([np.flip(stack, axis) for stack in stacks], [FEATURE])[FEATURE]
        both = _losses(plain, mirrored, y, parts, task, seed)
        more = both - alone
        if more.mean() > max(WORSE * alone.mean(), SURE * more.std() / np.sqrt(len(more))):
            left_out[name] = False
            reasons.append(
                f"{name} is left out: with mirrored scans a model of voxels is worse "
                f"(loss {alone.mean():.3f} to {both.mean():.3f}), so side may be the question"
            )
    return settings.model_copy(update=left_out), reasons


def _losses(plain: Array, extra: Array, y: Array, parts: Array, task: Task, seed: int) -> Array:
    """(n,) losses of scans as they are, of a model that learned from others, and from these mirrored."""
    losses = np.zeros(len(plain))
    for part in range(PARTS):
        train, rest = parts != part, parts == part
        x = np.concatenate([plain[train], extra[train]]) if len(extra) else plain[train]
        answers = np.concatenate([y[train], y[train]]) if len(extra) else y[train]
        model = fit_table("kernel", {FEATURE: plain.shape[1]}, x, answers, task, seed)
        by_output = losses_of(task, y[rest], outputs_of(model, plain[rest], task))
        losses[rest] = np.nanmean(by_output.reshape(len(by_output), -1), 1)
    return losses
