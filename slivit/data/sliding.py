"""How a scan that is larger than a network's patch is segmented: windows that slide over it, and what follows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from slivit.settings import NonNegative, Section


class Sliding(Section):
    """Windows over a scan, the scale of its values, and what is done to the mask.

    Args:
        values: "range" brings what `window` and `stretch` name to 0 and 1, and cuts off what lies beyond; "zscore"
            gives every channel a mean of 0 and a standard deviation of 1 over its voxels (behind `window` and
            `stretch`, which cut off, where they are given).
        overlap: of neighbouring windows, as a share of their sides.
        blend: "gaussian" counts the middle of a window more than its border, "constant" all of it alike.
        largest: keep the largest connected part of each structure alone.
        fill_holes: fill holes in each structure.
        smallest_ml: remove connected parts of less than this volume; 0 keeps all.
    """

    values: Literal["range", "zscore"] = "range"
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    blend: Literal["gaussian", "constant"] = "gaussian"
    largest: bool = False
    fill_holes: bool = False
    smallest_ml: NonNegative = 0.0
