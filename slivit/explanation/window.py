"""The part of a scan that is explained: all that a model saw, or one of the windows into which it cut the scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from slivit.explanation.predicting import number_of, predict_with_evidence, target_or
from slivit.explanation.scan import SeenScan, see_scan
from slivit.predict.engine import Engine
from slivit.volume import Volume


def seen_by(
    engine: Engine, scan: str | Path | Volume, target: str | None = None, columns: Mapping[str, Any] | None = None
) -> SeenScan:
    """Read a scan as a model sees it; of a model that sees windows, the window that speaks most for the target.

    Args:
        engine: of the model.
        scan: anything that `read_volume` takes, or a whole volume.
        target: the output to explain; the likeliest of the scan where None.
        columns: what is known of it beside the slices, for a model that reads covariates.

    Returns:
        The model's slices; with windows, its notes say which window it is.

    Raises:
        ReadError: the scan cannot be read or sampled.
        ExplainError: an unknown target.
    """
    seen, windows = see_scan(scan, engine.settings, columns), engine.settings.windows
    if windows is None or engine.settings.size is None:
        return seen
    length = engine.settings.size[0]
    starts = windows.starts(seen.stack.shape[-3], length)
    cut = windows.cut(torch.from_numpy(seen.stack), length, engine.at_once)
    with engine.holding([seen.columns]):
        predictions, found = zip(*(predict_with_evidence(engine, batch) for batch in cut), strict=True)
    score = windows.aggregate(torch.cat(predictions))
    name = target_or(engine.task, target, dict(engine.called(score[None]).iloc[0]))
    evidence = torch.cat(found)[:, number_of(engine.task, name)]
    best = starts[int(evidence.argmax())]
    numbers = seen.slices[best : best + length]
    note = (
        f"the window of slices {numbers[0]} to {numbers[-1]} is explained: of {len(starts)} it speaks most for {name}"
    )
    return replace(seen, stack=seen.stack[..., best : best + length, :, :], slices=numbers, notes=(*seen.notes, note))
