"""Stacks on a grid of millimetres: every scan at the same spacing, at its own aspect, or in another plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from slivit.data.slices import Grey
from slivit.volume import Volume

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = get_args(Plane)


def fitted(shape: Sequence[int], spacing: Sequence[float] | None, size: Sequence[int]) -> tuple[int, int]:
    """The largest rows and columns that keep a slice's aspect and fit.

    Args:
        shape: (h, w) of the slice, in pixels.
        spacing: (y, x) in mm; square pixels where None.
        size: (H, W) to fit into.

    Example:
        >>> fitted((100, 50), None, (64, 64)), fitted((100, 50), (1.0, 2.0), (64, 64))
        ((64, 32), (64, 64))
    """
    sides = np.asarray(shape) * np.asarray(spacing or (1.0, 1.0))
    rows, columns = np.maximum(np.rint(sides * (np.asarray(size) / sides).min()), 1).astype(int)
    return int(rows), int(columns)


def at_spacing(count: int, spacing: float, wanted: float) -> int:
    """How many slices, rows or columns `count` of them become at another spacing; at least one.

    Args:
        count: along the axis.
        spacing: between them, in mm.
        wanted: mm; 0 keeps the axis as it is.
    """
    return max(1, round(count * spacing / wanted)) if wanted else count


def resample_depth(stack: Grey, depth: int) -> Grey:
    """Other slices of the same stack: by averages where they become fewer, linearly where they become more.

    Args:
        stack: (D, h, w).
        depth: the number of slices wanted.

    Returns:
        (depth, h, w).
    """
    import cv2

    if len(stack) == depth:
        return stack
    how = cv2.INTER_AREA if depth < len(stack) else cv2.INTER_LINEAR
    flat = np.ascontiguousarray(stack).reshape(len(stack), -1)
    return np.asarray(cv2.resize(flat, (flat.shape[1], depth), interpolation=how)).reshape(depth, *stack.shape[1:])


def place_stack(stack: Grey, size: Sequence[int]) -> Grey:
    """Crop or pad a stack round its centre; what is added is 0.

    Args:
        stack: (d, h, w).
        size: (S, H, W).
    """
    out = np.zeros(tuple(size), stack.dtype)
    source, target = zip(*(_overlap(a, b) for a, b in zip(stack.shape, size, strict=True)), strict=True)
    out[target] = stack[source]
    return out


def taken_back(plane: npt.NDArray[np.float32], grid: Sequence[int]) -> npt.NDArray[np.float32]:
    """What `place_stack` made of a slice, on the slice's own grid again; 0 where it was cropped.

    Args:
        plane: (H, W).
        grid: (h, w) before the slice was placed.
    """
    out = np.zeros(tuple(grid), np.float32)
    source, target = zip(*(_overlap(a, b) for a, b in zip(grid, plane.shape, strict=True)), strict=True)
    out[source] = plane[target]
    return out


def slices_behind(depth: int, spacing: float, wanted: float, slices: int) -> npt.NDArray[np.intp]:
    """(slices,) which slice of a scan each one shows that was resampled between slices and placed; -1 where none does.

    Args:
        depth: of the scan.
        spacing: between its slices, in mm.
        wanted: between the slices that are shown, in mm.
        slices: that are shown.
    """
    resampled = at_spacing(depth, spacing, wanted)
    source, target = _overlap(resampled, slices)
    numbers = np.full(slices, -1, np.intp)
    numbers[target] = ((np.arange(resampled)[source] + 0.5) * depth / resampled).astype(np.intp)
    return numbers


def _overlap(count: int, wanted: int) -> tuple[slice, slice]:
    """The part of an axis that is kept, and where it goes."""
    kept = min(count, wanted)
    first, to = (count - kept) // 2, (wanted - kept) // 2
    return slice(first, first + kept), slice(to, to + kept)


def in_plane(volume: Volume, plane: Plane) -> tuple[Volume, tuple[int, int, int]]:
    """A whole volume as slices of another plane, turned by flips and swaps of axes alone.

    Args:
        volume: as it was read; of one without an orientation the planes run across slices, rows and columns.
        plane: across which slices lie.

    Returns:
        The volume, a view of the same values, and which axis, of (z, y, x) of an axial volume, each of its axes is.
    """
    from slivit.data.readers.geometry import view

    order = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}[plane]
    if volume.affine is None:
        spacing = volume.spacing and (volume.spacing[order[0]], volume.spacing[order[1]], volume.spacing[order[2]])
        return Volume(volume.array.transpose(order), spacing, volume.source), order
    seen = view(volume.shape, volume.affine, volume.source, plane)
    turned = np.ascontiguousarray(seen.turn(volume.array))
    return Volume(turned, seen.spacing, volume.source, seen.affine), order
