"""Occlusion of slices: what the prediction becomes without one of them.

Source: Zeiler and Fergus 2014 (arXiv:1311.2901), section 4.2, with a slice in place of a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from slivit.data.slices import BLANK, Grey
from slivit.errors import one_of
from slivit.explanation.predicting import ExplainError, number_of, predict_all
from slivit.explanation.scan import SeenScan
from slivit.predict.engine import Engine

Fill = Literal["mean", "black", "grey"]
FILLS: tuple[Fill, ...] = ("mean", "black", "grey")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Occlusion:
    """What a prediction becomes without each slice of the scan that the model saw.

    Args:
        slices: (n,) the numbers of the scan's slices, ascending.
        without: (n,) the prediction without each: a probability, or a value in the target's unit.
        evidence: (n,) how much less speaks for the target without it: log-odds, or the target's unit.
    """

    slices: npt.NDArray[np.intp]
    without: npt.NDArray[np.float64]
    evidence: npt.NDArray[np.float64]


def occlude(
    engine: Engine,
    scan: SeenScan,
    target: str,
    *,
    fill: Fill = "mean",
    progress: Progress | None = None,
) -> Occlusion:
    """Predict a scan once for each of its slices, with that slice replaced.

    Where a short scan's slices are shown to the model several times, all copies of a slice are replaced together.

    Args:
        engine: of the model; its batch size is that of the predictions.
        scan: what it saw.
        target: the output to explain.
        fill: by what a slice is replaced: "mean", the mean picture of the scan's other slices; "black", as the blank
            slices that pad a short scan; "grey", the scan's mean intensity throughout.
        progress: is called with how many of how many predictions are done.

    Raises:
        ExplainError: another `fill`, or a scan of one slice, of which nothing would be left.
    """
    if fill not in FILLS:
        raise ExplainError(f'fill is "{fill}"; allowed are {one_of(FILLS)}')
    if len(scan.sampled) < 2:
        raise ExplainError("occlusion needs at least two slices: nothing is left of a single one")
    number, total = number_of(engine.task, target), len(scan.sampled) + 1
    predicted, evidence = [], []
    with engine.holding([scan.columns]):
        for p, e in predict_all(engine, occluded_stacks(scan, fill)):
            predicted.append(p)
            evidence.append(e[:, number])
            if progress:
                progress(sum(map(len, predicted)), total)
    table = engine.called(torch.cat(predicted))
    column = engine.task.prediction_columns[number]
    values = torch.cat(evidence).numpy()
    return Occlusion(scan.sampled, table[column].to_numpy(float)[1:], values[0] - values[1:])


def occluded_stacks(scan: SeenScan, fill: Fill) -> Iterator[torch.Tensor]:
    """The whole stack first, then one stack of that shape for each of the scan's slices, which is replaced in it."""
    yield torch.from_numpy(scan.stack)
    for number in scan.sampled:
        yield torch.from_numpy(without_slice(scan, int(number), fill))


def without_slice(scan: SeenScan, number: int, fill: Fill) -> Grey:
    """What the model sees where one slice of the scan is replaced, in every channel: of the shape of its stack."""
    hidden = scan.slices == number
    rest = scan.stack[..., ~hidden & (scan.slices != BLANK), :, :]
    changed = scan.stack.copy()
    axes: tuple[int, ...] = (-3,) if fill == "mean" else (-3, -2, -1)
    mean = rest.mean(axis=axes, keepdims=True)
    mean = np.rint(mean) if rest.dtype == np.uint8 else mean
    changed[..., hidden, :, :] = 0 if fill == "black" else mean
    return changed
