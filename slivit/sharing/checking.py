"""Does an export compute what the model computes: on scans, from their files to their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.checkpoint import Checkpoint
from slivit.data.readers import read_volume
from slivit.data.scan_reading import ScanRef, read_scan
from slivit.errors import CheckpointError, SlivitError
from slivit.sharing import standalone
from slivit.sharing.serving import Predict
from slivit.targets.covariates import width_of
from slivit.targets.task import Task

Array = npt.NDArray[Any]

TOLERANCE, TOLERANCE_BF16 = 1e-3, 2e-2
"""The largest difference that an export may have: of a probability, or of a value in spreads of the target."""


@dataclass(frozen=True)
class Difference:
    """How an export differs from the original.

    Args:
        scans: how many were compared.
        real: False where they were made up, because no scan was there.
        largest: the largest difference of a prediction: of a probability, or in the target's unit.
        relative: as `largest`, but in spreads of the target for a regression.
        pixels: in how many pixels the preprocessing of `preprocess.py` differs; None where that is not exported.
        unit: of `largest`; "" for probabilities.
    """

    scans: int
    real: bool
    largest: float
    relative: float
    pixels: int | None = None
    unit: str = ""

    def __str__(self) -> str:
        what = "scans" if self.real else "made-up scans, as no scan was at hand"
        unit = f" {self.unit}" if self.unit else ""
        pixels = "" if self.pixels is None else f"; {self.pixels} pixels of the preprocessed slices differ"
        return f"largest difference from the original on {self.scans} {what}: {self.largest:.2g}{unit}{pixels}"


def example_volume(slices: int, *channels: int) -> Array:
    """A small made-up scan, the same each time: a bright ball in noise, of another shape than the model takes.

    Args:
        slices: that the model takes.
        channels: how many, where there are several: an axis before the others.
    """
    rng = np.random.default_rng(20240601)
    shape = (slices + 3, 40, 48)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    ball = np.sqrt((grid**2).sum(0)) < 0.7
    return (rng.normal(100, 25, (*channels, *shape)) + 300 * ball).round().astype(np.int16)


def example_covariates(checkpoint: Checkpoint) -> Array:
    """(1, k) float32 made-up covariates, the same each time."""
    rng = np.random.default_rng(20240601)
    return rng.normal(0, 1, (1, width_of(checkpoint.task.inputs))).astype(np.float32)


def readable(refs: Sequence[ScanRef], checkpoint: Checkpoint, most: int) -> list[tuple[ScanRef, Array]]:
    """Up to `most` scans that can be read, with their slices (..., N, H, W)."""
    scans: list[tuple[ScanRef, Array]] = []
    for ref in refs:
        scan = read_scan(ref, checkpoint.preprocessing)
        if scan.stack is not None:
            scans.append((ref, scan.stack))
        if len(scans) == most:
            break
    return scans


def predicted(predict: Predict, stack: Array, checkpoint: Checkpoint) -> Array:
    """(..., N, H, W) slices of a scan -> (outputs,), from all of its windows where it is cut."""
    settings = checkpoint.preprocessing
    windows = settings.windows.model_dump() if settings.windows else None
    length = settings.size[0] if settings.size else stack.shape[-3]
    starts = settings.windows.starts(stack.shape[-3], length) if settings.windows else [0]
    parts = [np.ascontiguousarray(stack[None, ..., s : s + length, :, :] if windows else stack[None]) for s in starts]
    known = [example_covariates(checkpoint)] if checkpoint.task.inputs else []
    return standalone.combined(np.concatenate([predict(part, *known) for part in parts]).astype(np.float64), windows)


def compare(original: Predict, exported: Predict, stacks: Sequence[Array], checkpoint: Checkpoint) -> Array:
    """The differences (scans, outputs) of predictions."""
    pairs = [(predicted(original, s, checkpoint), predicted(exported, s, checkpoint)) for s in stacks]
    return np.abs(np.array([first - second for first, second in pairs]))


def difference(differences: Array, task: Task, *, real: bool, pixels: int | None) -> Difference:
    """The largest difference, in the terms of the task."""
    spread = np.array(task.spread or (1.0,))
    largest, relative = float(differences.max()), float((differences / spread).max())
    unit = "" if task.makes_calls else task.unit or "units of the target"
    return Difference(len(differences), real, largest, relative, pixels, unit)


def check_preprocessing(scans: Sequence[tuple[ScanRef, Array]], settings: dict[str, Any]) -> int:
    """In how many pixels the preprocessing that is exported differs from the one that scans were read with."""
    wrong = 0
    for ref, stack in scans:
        volume = read_volume(ref.path, **{**settings["reader"], **ref.options})
        wrong += int((standalone.preprocess(volume.array, settings, volume.spacing) != stack).sum())
    return wrong


def refuse(difference: Difference, tolerance: float) -> None:
    """Refuse an export that computes something else.

    Raises:
        CheckpointError: a difference above the tolerance, not a number, or of pixels.
    """
    if difference.pixels:
        raise CheckpointError(f"the exported preprocessing is not the original's: {difference}. Nothing was exported.")
    if not difference.relative <= tolerance:
        raise CheckpointError(
            f"{difference}: above the tolerance of {tolerance:g}. Nothing was exported; allow more with --tolerance, "
            "or export in float32."
        )


def check_tolerance(tolerance: float | None, bf16: bool) -> float:
    """The tolerance that holds: what was asked for, or the default.

    Raises:
        SlivitError: a tolerance that is not above 0.
    """
    if tolerance is None:
        return TOLERANCE_BF16 if bf16 else TOLERANCE
    if not tolerance > 0:
        raise SlivitError(f"--tolerance must be above 0, got {tolerance}")
    return tolerance
