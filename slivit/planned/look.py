"""What the scans are like, each read once: shape, spacing, orientation, intensities, and what cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slivit.data.pool import spread
from slivit.data.training_range import look_at
from slivit.errors import SlivitError


@dataclass(frozen=True)
class Facts:
    """What one scan is like.

    Args:
        shape: (D, H, W).
        spacing: mm between slices, rows and columns; None where unknown.
        oriented: whether it is known where right and left are.
        bytes: whether it has 8 bits.
        mask: whether it has two values at most: a shape.
        low: 1st percentile of the intensities.
        high: their 99th percentile.
        error: why it cannot be read; "" where it can.
    """

    shape: tuple[int, int, int] = (0, 0, 0)
    spacing: tuple[float, float, float] | None = None
    oriented: bool = False
    bytes: bool = False
    mask: bool = False
    low: float = 0.0
    high: float = 0.0
    error: str = ""


def look(path: str) -> Facts:
    """Read a scan and describe it; what is wrong with it is its `error`."""
    import warnings

    from slivit.data.readers import read_volume

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            volume = read_volume(path)
        seen = look_at(volume)
    except SlivitError as error:
        return Facts(error=str(error))
    values = volume.array.reshape(-1)[:: max(1, volume.array.size // 20_000) | 1]
    return Facts(
        shape=seen.shape,
        spacing=seen.spacing,
        oriented=volume.affine is not None,
        bytes=volume.array.dtype == np.uint8,
        mask=len(np.unique(values)) <= 2,
        low=seen.low,
        high=seen.high,
    )


def _died(path: str) -> Facts:
    return Facts(error=f"{path}: the process that read it died; it may need more memory than there is")


def look_at_all(paths: Sequence[str], workers: int) -> Iterator[tuple[int, Facts]]:
    """(index, facts) of every scan, in the order in which they are done."""
    return spread(look, list(paths), workers if len(paths) > 40 else 0, died=_died)


def summary(facts: Sequence[Facts]) -> dict[str, Any]:
    """The ranges of what can be read, as plain values for the plan.

    Raises:
        SlivitError: not one scan can be read.
    """
    known = [f for f in facts if not f.error]
    if not known:
        raise SlivitError(f"none of {len(facts)} scans can be read; the first one: {facts[0].error}")
    spacing = [f.spacing for f in known if f.spacing is not None]
    described: dict[str, Any] = {
        "scans": len(facts),
        "unreadable": len(facts) - len(known),
        "slices": _range([f.shape[0] for f in known]),
        "rows": _range([f.shape[1] for f in known]),
        "columns": _range([f.shape[2] for f in known]),
        "with_spacing": len(spacing),
        "with_orientation": sum(f.oriented for f in known),
        "of_8_bits": sum(f.bytes for f in known),
        "shapes": sum(f.mask for f in known),
        "intensities": [float(np.median([f.low for f in known])), float(np.median([f.high for f in known]))],
    }
    for axis, name in enumerate(("between_slices", "between_rows", "between_columns") if spacing else ()):
        described[name] = _range([s[axis] for s in spacing])
    return described


def _range(values: Sequence[float]) -> list[float]:
    """The least, the median and the greatest."""
    return [float(v) for v in np.round(np.percentile(values, (0, 50, 100)), 4)]
