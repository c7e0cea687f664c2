"""DICOM segmentation objects as masks: the numbers of their segments on the grid of the scan that they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.data.readers.base import needed
from slivit.errors import ManifestError, ReadError
from slivit.volume import Volume

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage."""
NEAR = 1e-2
"""By how much of a voxel the two grids may lie apart, over the whole volume."""


def is_dicom_seg(path: str | Path) -> bool:
    """Whether a file is a DICOM segmentation object."""
    from pydicom import dcmread

    file = Path(path)
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return False
    header = dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID"])
    return str(header.get("SOPClassUID", "")) in SEGMENTATIONS


def read_dicom_seg(path: str | Path) -> Volume:
    """The numbers of segments as one map, on the slices that the object stores.

    Args:
        path: of the file.

    Returns:
        (D, H, W) with the affine from (slice, row, column) to mm; slices in which nothing is drawn may be missing at
        both ends.

    Raises:
        ReadError: highdicom is not installed, the file is damaged, or segments overlap.
    """
    highdicom = needed("highdicom", "seg", str(path))
    try:
        mask: Any = highdicom.seg.segread(str(path)).get_volume(combine_segments=True, allow_missing_positions=True)
    except (ValueError, RuntimeError, AttributeError, KeyError, TypeError) as error:
        raise ReadError(f"{path}: cannot be read as a mask: {error}") from error
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(mask.affine, np.float64)  # DICOM's x and y run the other way
    z, y, x = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    return Volume(np.asarray(mask.array), (z, y, x), str(path), affine)


def placed(mask: Volume, affine: npt.NDArray[np.float64] | None, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A segmentation object's map on the voxels of its scan, 0 where it stores no slices.

    Args:
        mask: from `read_dicom_seg`.
        affine: of the scan.
        shape: (D, H, W) of the scan.

    Raises:
        ManifestError: the scan does not say where it lies, or its voxels are others than the object's.
    """
    if affine is None or mask.affine is None:
        raise ManifestError("is a DICOM SEG, and its scan does not say where its voxels lie")
    step = np.linalg.inv(mask.affine) @ affine
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    apart = np.abs((step - np.rint(step))[:3, :3] @ corners + (step - np.rint(step))[:3, 3:]).max()
    if apart > NEAR:
        raise ManifestError(f"the voxels of the DICOM SEG lie up to {apart:.3g} of a voxel off the scan's")
    from scipy.ndimage import affine_transform

    step = np.rint(step)
    return np.asarray(affine_transform(mask.array, step[:3, :3], step[:3, 3], shape, order=0))
