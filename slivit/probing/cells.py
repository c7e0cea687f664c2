"""Where the cells of a model's grid lie in a scan, and how their values are brought onto the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slivit.data.preprocessing import Preprocessing
from slivit.errors import SlivitError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Box:
    """The part of a scan that a model sees, in voxels: from `start` over `length`, along slices, rows and columns.

    A voxel reaches from its number to its number plus 1. A box may reach beyond the scan, where short ones are padded.

    Args:
        start: three numbers.
        length: three numbers, above 0.
    """

    start: tuple[float, float, float]
    length: tuple[float, float, float]

    def affine(self, cells: Sequence[int], affine: Array) -> Array:
        """From the number of a cell to mm.

        Args:
            cells: numbers of cells along slices, rows and columns, into which the box is cut evenly.
            affine: (4, 4) from the voxel index (d, h, w, 1) to mm.

        Returns:
            (4, 4) from the index of a cell to mm, of its middle.
        """
        scale = np.array(self.length) / np.array(cells)
        step = np.diag([*scale, 1.0])
        step[:3, 3] = np.array(self.start) + scale / 2 - 0.5
        return np.asarray(affine @ step)

    def onto(self, values: npt.NDArray[np.floating], shape: Sequence[int], *, nearest: bool = False) -> Array:
        """Bring the values of cells onto the voxels of the scan.

        Args:
            values: (s, h, w) or (s, h, w, n).
            shape: (D, H, W) of the scan.
            nearest: take the cell that a voxel lies in, instead of interpolating linearly between cells' middles.

        Returns:
            (D, H, W) or (D, H, W, n); 0 outside of the box.
        """
        out = np.asarray(values, np.float64)
        for axis in range(3):
            weights = self._weights(axis, values.shape[axis], shape[axis], nearest)
            out = np.moveaxis(np.tensordot(weights, out, axes=(1, axis)), 0, axis)
        return out

    def _weights(self, axis: int, cells: int, voxels: int, nearest: bool) -> Array:
        """(voxels, cells) weights along one axis; a row is 0 where the voxel's middle lies outside of the box."""
        inside = (np.arange(voxels) + 0.5 - self.start[axis]) / self.length[axis]
        position = np.clip(inside * cells - 0.5, 0, cells - 1)
        if nearest:
            position = np.floor(np.clip(inside * cells, 0, cells - 1e-9))
        lower = np.clip(position.astype(int), 0, max(cells - 2, 0))
        weights = np.zeros((voxels, cells))
        rows = np.arange(voxels)
        weights[rows, lower] = 1 - (position - lower)
        weights[rows, np.minimum(lower + 1, cells - 1)] += position - lower
        weights[(inside < 0) | (inside > 1)] = 0
        return weights


def seen_box(shape: Sequence[int], settings: Preprocessing) -> Box:
    """The part of a scan that a preprocessing keeps.

    Args:
        shape: (D, H, W) of the scan.
        settings: the preprocessing, with its size set.

    Raises:
        SlivitError: a preprocessing that cuts scans into windows, or brings them to a spacing or an aspect.
    """
    if settings.spacing or settings.fit == "pad":
        raise SlivitError(
            "features cannot be brought back to a scan that was resampled in mm or padded: leave out "
            "preprocessing.spacing, and preprocessing.fit"
        )
    if settings.windows:
        raise SlivitError("a scan that is cut into windows is not seen as a whole: leave out preprocessing.windows")
    slices, *size = settings.stored.size or (0, 0, 0)
    depth = shape[0]
    first, count = 0.0, float(depth)
    if settings.short == "pad" and depth < slices:
        count = float(slices)
    elif settings.sampling == "middle" and depth >= slices:
        first, count = float((depth - slices) // 2), float(slices)
    kept = (settings.size or (0, 0, 0))[1:]
    scale = [n / resized for n, resized in zip(shape[1:], size, strict=True)]
    starts = [(r - k) // 2 * s for r, k, s in zip(size, kept, scale, strict=True)]
    lengths = [k * s for k, s in zip(kept, scale, strict=True)]
    return Box((first, starts[0], starts[1]), (count, lengths[0], lengths[1]))
