"""Scans, maps and masks as NIfTI for the viewer of three planes: a NIfTI file is one of many formats that are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.display import nifti_bytes, patient_axes, unplaced
from slivit.errors import ReadError, SlivitError
from slivit.explanation import Explanation
from slivit.explanation.outputs import overlay_array
from slivit.volume import Volume

Array = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]
COARSE = 160
"""Rows and columns of a map at most: it is smooth, and is laid over the scan by its place."""


def place_of(volume: Volume) -> dict[str, Any]:
    """Where a volume's slices run in the viewer, and how bright they are.

    Returns:
        `axis` (0 to 2, of the viewer's right, front, head) and `flipped`, by which a slice's number becomes a place;
        `low` and `high`, percentiles 1 and 99; `least`, `most`; `hu`, whether values look like HU of CT.
    """
    axes = patient_axes(volume.affine)
    points = axes[0] if axes else 3
    sample = np.asarray(volume.array[:: max(1, len(volume.array) // 24), ::2, ::2], np.float32)
    sample = sample[np.isfinite(sample)]
    low, high, least, most = (float(v) for v in np.percentile(sample, (1, 99, 0, 100))) if sample.size else (0, 1, 0, 1)
    return {
        "axis": abs(points) - 1,
        "flipped": points < 0,
        "shape": list(volume.shape),
        "spacing": list(volume.spacing) if volume.spacing else None,
        "placed": axes is not None,
        "low": low,
        "high": high if high > low else low + 1,
        "least": least,
        "most": most,
        "hu": least < -300 and most > 100,
    }


def map_bytes(explanation: Explanation, method: str) -> bytes:
    """A method's map over the scan as 0 to 255, no finer than it is shown; all of a scan's slices share one scale.

    Raises:
        SlivitError: the method judges whole slices and has no map.
    """
    maps = explanation.attributions[method].maps
    if maps is None:
        raise SlivitError(f"{method} says how much each slice counts, and nothing of places within it")
    scan = explanation.scan
    depth, height, width = scan.shape
    small = (depth, min(height, COARSE), min(width, COARSE))
    array = overlay_array(replace(explanation, scan=replace(scan, shape=small)), method)
    peak = float(array.max())
    grey = np.rint(255 * np.clip(array / peak, 0, 1)).astype(np.uint8) if peak > 0 else np.zeros(small, np.uint8)
    steps = (1.0, height / small[1], width / small[2])
    spacing = tuple(s * step for s, step in zip(scan.spacing or (1.0, 1.0, 1.0), steps, strict=True))
    affine = unplaced(scan.spacing) if scan.affine is None else scan.affine
    return nifti_bytes(grey, affine @ _coarser(steps), (spacing[0], spacing[1], spacing[2]))


def _coarser(steps: tuple[float, float, float]) -> Affine:
    """(4, 4) from the voxel index of a coarser grid to that of the fine one; both cover the same edges."""
    matrix = np.diag([*steps, 1.0])
    matrix[:3, 3] = [(step - 1) / 2 for step in steps]
    return matrix


def mask_bytes(path: Path) -> tuple[bytes, list[int]]:
    """A mask's file as NIfTI of whole numbers, and the labels in it but 0.

    Raises:
        ReadError: it cannot be read.
    """
    array, affine = read_mask(path)
    return nifti_bytes(array, affine, None), [int(v) for v in np.unique(array) if v != 0]


def read_mask(path: Path) -> tuple[Array, Affine]:
    """A NIfTI mask as (D, H, W) whole numbers, and its affine from (d, h, w, 1).

    Raises:
        ReadError: it cannot be read, or is no volume.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image: Any = nibabel.load(path)
        array = np.asarray(image.dataobj)
    except (ImageFileError, OSError, EOFError) as error:
        raise ReadError(f"{path}: this mask cannot be read: {error}") from error
    array = array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array
    if array.ndim != 3:
        raise ReadError(f"{path}: a mask is a volume of three axes, and this has the shape {array.shape}")
    whole = np.rint(np.nan_to_num(array)).astype(np.int16 if np.abs(array).max(initial=0) < 32768 else np.int32)
    return whole.transpose(2, 1, 0), np.asarray(image.affine, np.float64)[:, [2, 1, 0, 3]]
