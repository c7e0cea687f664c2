"""A scan as a model sees it, and where in the scan each of its slices lies."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.data.foreground import to_foreground
from slivit.data.physical import slices_behind
from slivit.data.preprocessing import Preprocessing, grid_of, preprocess
from slivit.data.readers import read_volume
from slivit.data.slices import BLANK, Grey, resample_positions, sample_slices
from slivit.errors import ReadError
from slivit.targets.covariates import extents
from slivit.volume import Volume


@dataclass(frozen=True, eq=False)
class SeenScan:
    """What a model saw of a scan.

    Args:
        source: the file or folder.
        stack: (S, H, W), the model's slices; (C, S, H, W) of a scan of several channels.
        slices: (S,) the number of the scan's slice that each shows, from 0; the nearest one where slices were
            interpolated, -1 for a blank that only pads a short scan.
        shape: (D, H, W) of the scan itself.
        spacing: mm between slices, rows and columns of the scan; None where unknown.
        affine: (4, 4) from the voxel index (d, h, w, 1) to RAS coordinates in mm; None where unknown.
        notes: what the reader noticed.
        grid: (rows, columns) of a slice before it was cropped or padded to the stack's; None where it fills them.
        channel: which of several is shown.
        columns: what is known beside the slices, its geometry too: a model that reads covariates has them held fixed.
    """

    source: str
    stack: Grey
    slices: npt.NDArray[np.intp]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] | None
    affine: npt.NDArray[np.float64] | None
    notes: tuple[str, ...]
    grid: tuple[int, int] | None = None
    channel: int = 0
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> Grey:
        """(S, H, W): what pictures show of the stack, which is one channel."""
        return self.stack[self.channel] if self.stack.ndim == 4 else self.stack

    @property
    def sampled(self) -> npt.NDArray[np.intp]:
        """The numbers of the scan's slices that the model saw, each once, in ascending order."""
        return np.unique(self.slices[self.slices != BLANK])

    @property
    def aspect(self) -> float:
        """Width of a slice over its height, in mm where the spacing is known, else in pixels."""
        _, height, width = self.shape
        if self.grid:
            return self.stack.shape[-1] / self.stack.shape[-2]
        rows, columns = self.spacing[1:] if self.spacing else (1.0, 1.0)
        return width * columns / (height * rows)


def see_scan(scan: str | Path | Volume, settings: Preprocessing, columns: Mapping[str, Any] | None = None) -> SeenScan:
    """Read a scan as a prediction does, and keep where its slices come from.

    Args:
        scan: anything that `read_volume` takes, or a whole volume.
        settings: the preprocessing, with its size set.
        columns: what is known of it beside the slices.

    Raises:
        ReadError: the scan cannot be read or sampled.
    """
    if settings.planes:
        raise ReadError(
            f"the model sees slices of {len(settings.planes)} planes at once; explanations are of models of one plane"
        )
    if isinstance(scan, Volume):
        if scan.indices is not None:
            raise ReadError(f"{scan.source}: only some slices were read; read the whole volume to have it explained")
        volume = scan
    else:
        volume = read_volume(scan, select=settings.select, **settings.reader)
    known = {"path": volume.source, **(columns or {}), **extents((volume.depth, *volume.shape[1:]), volume.spacing)}
    # What was cut off is not explained: shape, slices and place are those of the cropped scan.
    volume, settings = to_foreground(volume, settings.foreground), settings.model_copy(update={"foreground": None})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        stack = preprocess(volume, settings)
    notes = (*volume.notes, *(str(w.message) for w in caught))
    shape = (volume.depth, *volume.shape[1:])
    slices = slice_numbers(volume.depth, settings, volume.spacing)
    grid = grid_of(volume, settings)
    return SeenScan(volume.source, stack, slices, shape, volume.spacing, volume.affine, notes, grid, columns=known)


def slice_numbers(
    depth: int, settings: Preprocessing, spacing: tuple[float, float, float] | None = None
) -> npt.NDArray[np.intp]:
    """(S,) which of a scan's `depth` slices each of the model's slices shows; -1 for a blank. With windows, all."""
    slices = settings.size[0] if settings.size else 0
    if settings.windows and depth >= slices:
        return np.arange(depth)
    if settings.between_slices and spacing:
        return slices_behind(depth, spacing[0], settings.between_slices, slices)
    if settings.resamples(depth):
        lower, weight = resample_positions(depth, slices)
        return np.where(weight < 0.5, lower, lower + 1)
    return sample_slices(depth, slices, settings.sampling, settings.short)
