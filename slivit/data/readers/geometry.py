"""How a stored grid lies in the patient, and how it is turned to the way radiologists view slices.

One convention for every format that knows its geometry: the rows of a slice run from the top of the view to its bottom
and the columns from its left to its right, and slices follow each other along rows x columns (the right-hand rule of
DICOM's image plane).

========  ====================  ====================  ====================
axis      D: slices run         H: rows run           W: columns run
========  ====================  ====================  ====================
axial     inferior to superior  anterior to posterior right to left
coronal   anterior to posterior superior to inferior  right to left
sagittal  left to right         superior to inferior  anterior to posterior
========  ====================  ====================  ====================

An oblique grid is turned to the nearest of these by flips and swaps of axes alone: no value is interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Protocol

import numpy as np
import numpy.typing as npt

from slivit.data.readers.base import Affine, Array
from slivit.errors import ReadError, nearest, one_of

TOWARDS = {"axial": "SPL", "coronal": "PIL", "sagittal": "RIP"}
_CLEARLY = 1.5  # times the second largest spacing
_SAME = 1e-3  # mm
_TURNED = 0.05  # degrees from which on a turn is reported
_NOISE = 0.1  # voxels by which a grid may stray elsewhere, where rounded directions turn it
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class View:
    """A stored 3D grid seen as (D, H, W) slices.

    Args:
        transform: (3, 2) nibabel orientation transform from the stored axes to (D, H, W).
        shape: (D, H, W).
        affine: (4, 4) from (d, h, w, 1) to RAS mm.
        axis: "axial", "coronal" or "sagittal".
    """

    transform: npt.NDArray[np.float64]
    shape: tuple[int, int, int]
    affine: Affine
    axis: str

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Mm between slices, rows and columns."""
        depth, height, width = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(depth), float(height), float(width)

    @property
    def keeps_slices(self) -> bool:
        """True where the slices are stored along the first axis, perhaps in reverse."""
        return int(self.transform[0, 0]) == 0

    def stored_index(self, index: int) -> int:
        """Return the place along the first stored axis of slice `index`, where `keeps_slices`."""
        return index if self.transform[0, 1] > 0 else self.shape[0] - 1 - index

    def turn(self, stored: Array) -> Array:
        """Return the stored grid as a (D, H, W) view of it."""
        from nibabel.orientations import apply_orientation

        return apply_orientation(stored, self.transform)

    def turn_slices(self, slices: Array) -> Array:
        """Turn slices already picked in order, (N, h, w), within their plane, where `keeps_slices`."""
        from nibabel.orientations import apply_orientation

        transform = self.transform.copy()
        transform[0] = (0, 1)
        return apply_orientation(slices, transform)


def check_axis(axis: str, source: str) -> None:
    """Raise where `axis` is none of the three."""
    if axis not in TOWARDS:
        raise ReadError(f"{source}: axis must be {one_of(TOWARDS)}. Got {axis!r}.{nearest(axis, TOWARDS)}")


def slicing_axis(shape: Sequence[int], affine: Affine) -> tuple[str, str]:
    """Return the axis across the planes that were acquired, and how it shows.

    It is the one with a single plane, or the one with the largest spacing, where that is clearly larger than the others
    (half as large again); else axial.

    Args:
        shape: of the stored grid, three sizes.
        affine: (4, 4) from the stored index to RAS mm.

    Returns:
        "axial", "coronal" or "sagittal", and a sentence where that is not what one would take without looking.
    """
    steps = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    start = _orientation(np.asarray(affine, np.float64).tobytes()) if np.isfinite(steps).all() else None
    if start is None or np.isnan(start).any():
        return "axial", ""  # the view will tell what is wrong
    largest, single = int(steps.argmax()), [i for i in range(3) if shape[i] == 1]
    if len(single) == 1:
        largest, why = single[0], "there is one plane"
    elif steps[largest] >= _CLEARLY * np.sort(steps)[1]:
        why = f"the spacing is largest: {steps[largest]:.3g} mm, else {np.sort(steps)[1]:.3g} mm"
    else:
        return "axial", ""
    axis = ("sagittal", "coronal", "axial")[int(start[largest, 0])]
    return axis, "" if axis == "axial" else f"read as {axis} slices, across which {why}; axis= takes others"


@lru_cache(maxsize=256)
def _orientation(affine: bytes) -> npt.NDArray[np.float64]:
    """Return nibabel's orientation of a (4, 4) float64 affine, which costs more than all else that a header takes."""
    from nibabel.orientations import io_orientation

    return io_orientation(np.frombuffer(affine, np.float64).reshape(4, 4))


def view(shape: Sequence[int], affine: Affine, source: str, axis: str | None = None) -> View:
    """Return how a grid is seen as slices along `axis`.

    Args:
        shape: of the stored grid, three sizes.
        affine: (4, 4) from the stored index to RAS mm.
        source: for messages.
        axis: "axial", "coronal" or "sagittal"; None keeps the grid's first axis as the one across slices.
    """
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

    usable = np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-12
    start = _orientation(np.asarray(affine, np.float64).tobytes()) if usable else None
    if start is None or np.isnan(start).any():
        raise ReadError(
            f"{source}: the orientation in the header is unusable: {affine.tolist()}. Export the scan again."
        )
    if axis is None:
        axis = ("sagittal", "coronal", "axial")[int(start[0, 0])]
    check_axis(axis, source)
    transform = ornt_transform(start, axcodes2ornt(tuple(TOWARDS[axis])))
    sizes = [0, 0, 0]
    for stored_axis, (target, _) in enumerate(transform):
        sizes[int(target)] = int(shape[stored_axis])
    turned = affine @ inv_ornt_aff(transform, tuple(shape))
    return View(transform, (sizes[0], sizes[1], sizes[2]), turned, axis)


class Grid(Protocol):
    """What says where voxels lie: a scan, opened or read."""

    @property
    def shape(self) -> Sequence[int]:
        """(D, H, W)."""

    @property
    def affine(self) -> Affine | None:
        """(4, 4) from (d, h, w, 1) to RAS mm, where it is known."""

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Mm between slices, rows and columns, where they are known."""


def difference(one: Grid, other: Grid) -> str:
    """Say how a grid differs from another; "" where voxels lie within 0.001 mm of each other.

    Directions that two programs round differently turn a grid by next to nothing, which counts as the same: some corner
    or the middle has to be where it was, and all others within a tenth of a voxel.
    """
    if tuple(one.shape) != tuple(other.shape):
        return f"{_by(one.shape)} voxels instead of {_by(other.shape)}"
    apart = 0.0
    if one.affine is not None and other.affine is not None:
        places = _apart(one.affine, other.affine, one.shape)
        voxel = float(np.sqrt((other.affine[:3, :3] ** 2).sum(axis=0)).min())
        apart = float(places.max())
        if apart <= _SAME or (places.min() <= _SAME and apart <= _NOISE * voxel):
            return ""
    if one.spacing and other.spacing and np.abs(np.subtract(one.spacing, other.spacing)).max() > _SAME:
        return f"voxels of {_by(one.spacing)} mm instead of {_by(other.spacing)} mm"
    if one.affine is None or other.affine is None:
        return ""
    turned = _turned(one.affine, other.affine)
    away = f"its voxels lie up to {apart:.3g} mm away"
    return f"its axes are turned by {turned:.3g} degrees, and {away}" if turned > _TURNED else away


def _turned(one: Affine, other: Affine) -> float:
    """The largest angle between the axes of two grids, in degrees."""
    axes, others = (a[:3, :3] / np.linalg.norm(a[:3, :3], axis=0) for a in (one, other))
    return float(np.degrees(np.arccos(np.clip((axes * others).sum(axis=0), -1, 1))).max())


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _apart(one: Affine, other: Affine, shape: Sequence[int]) -> Array:
    """(9,) how far the corners of two grids and their middles are from each other, in mm."""
    ends = np.array([*product(*((0, n - 1) for n in shape)), [(n - 1) / 2 for n in shape]], np.float64)
    return np.linalg.norm(ends @ (one - other)[:3, :3].T + (one - other)[:3, 3], axis=1)
