"""What the scans are like, as the check found them: shape, spacing, orientation, intensities, what cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from slivit.data.readers.base import COLOUR_NOTE
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
        colour: whether it is stored in colour, and read as grey.
        error: why it cannot be read; "" where it can.
    """

    shape: tuple[int, int, int] = (0, 0, 0)
    spacing: tuple[float, float, float] | None = None
    oriented: bool = False
    bytes: bool = False
    mask: bool = False
    low: float = 0.0
    high: float = 0.0
    colour: bool = False
    error: str = ""


def facts_of(table: pd.DataFrame) -> list[Facts]:
    """The scans of a check's table, one row each."""
    return [_facts(row) for row in table.to_dict("records")]


def _facts(row: Mapping[Any, Any]) -> Facts:
    if row["problem"]:
        return Facts(error=f"{row['path']}: {row['problem']}")
    spacing = (float(row["spacing_d"]), float(row["spacing_h"]), float(row["spacing_w"]))
    return Facts(
        shape=(int(row["depth"]), int(row["height"]), int(row["width"])),
        spacing=None if np.isnan(spacing).any() else spacing,
        oriented=bool(row["orientation"]),
        bytes=row["dtype"] == "uint8",
        mask=bool(row["two_values"]),
        low=float(row["p1"]),
        high=float(row["p99"]),
        colour=COLOUR_NOTE in str(row["notes"]),
    )


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
        "intensities": [round(float(np.median(v)), 4) for v in ([f.low for f in known], [f.high for f in known])],
    }
    for axis, name in enumerate(("between_slices", "between_rows", "between_columns") if spacing else ()):
        described[name] = _range([s[axis] for s in spacing])
    return described


def _range(values: Sequence[float]) -> list[float]:
    """The least, the median and the greatest."""
    return [float(v) for v in np.round(np.percentile(values, (0, 50, 100)), 4)]
