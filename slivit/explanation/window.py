"""The part of a scan that is explained: all that a model saw, or one of the windows into which it cut the scan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from slivit.explanation.predicting import ScanModel
from slivit.explanation.scan import SeenScan, see_scan
from slivit.volume import Volume


def seen_by(model: ScanModel, scan: str | Path | Volume, target: str | None = None, batch_size: int = 8) -> SeenScan:
    """Read a scan as a model sees it; of a model that sees windows, the window that speaks most for the target.

    Args:
        model: with its preprocessing.
        scan: anything that `read_volume` takes, or a whole volume.
        target: the output to explain; the likeliest of the scan where None.
        batch_size: windows predicted at a time.

    Returns:
        The model's slices; with windows, its notes say which window it is.

    Raises:
        ReadError: the scan cannot be read or sampled.
        ExplainError: an unknown target.
    """
    seen, windows = see_scan(scan, model.settings), model.settings.windows
    if windows is None or model.settings.size is None:
        return seen
    length = model.settings.size[0]
    starts = windows.starts(len(seen.stack), length)
    found = [model.run(batch) for batch in windows.cut(torch.from_numpy(seen.stack), length, batch_size)]
    score = windows.aggregate(torch.cat([predicted for predicted, _ in found]))
    name = model.target_or(target, dict(model.table(score[None]).iloc[0]))
    evidence = torch.cat([evidence for _, evidence in found])[:, model.number_of(name)]
    best = starts[int(evidence.argmax())]
    numbers = seen.slices[best : best + length]
    note = (
        f"the window of slices {numbers[0]} to {numbers[-1]} is explained: of {len(starts)} it speaks most for {name}"
    )
    return replace(seen, stack=seen.stack[best : best + length], slices=numbers, notes=(*seen.notes, note))
