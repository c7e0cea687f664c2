"""The patient's space: volumes turned so that their axes run to the right, to the front and to the top (RAS)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.files import whole_file
from slivit.volume import Volume

Affine = npt.NDArray[np.float64]


def affine_of(volume: Volume) -> Affine:
    """From the voxel index (d, h, w, 1) to mm.

    A format that knows no orientation gets one under which the top of a slice is in front and its left is the
    patient's right, as in axial views, with the first slice on top; without spacing, voxels are 1 mm wide.
    """
    if volume.affine is not None:
        return volume.affine
    depth, height, width = volume.spacing or (1.0, 1.0, 1.0)
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, -width], [0, -height, 0], [-depth, 0, 0]]
    return affine


def turned_to_ras(array: npt.NDArray[Any], affine: Affine) -> tuple[npt.NDArray[Any], Affine]:
    """Turn a volume by flips and swaps of axes alone, to the nearest axes of the patient.

    Args:
        array: (D, H, W, ...).
        affine: (4, 4) from (d, h, w, 1) to RAS mm.

    Returns:
        (X, Y, Z, ...), whose axes run to the right, to the front and to the top, and the affine from (x, y, z, 1).
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    orientation = io_orientation(affine)
    return apply_orientation(array, orientation), affine @ inv_ornt_aff(orientation, array.shape[:3])


def save_nifti(path: Path, array: npt.NDArray[Any], affine: Affine) -> None:
    """Write values, or colours, on the grid of a scan, whole or not at all.

    Args:
        path: ends with .nii or .nii.gz.
        array: (D, H, W) float32, or (D, H, W, 3) uint8, which becomes NIfTI's RGB.
        affine: (4, 4) from (d, h, w, 1) to RAS mm.
    """
    import nibabel

    turned, space = turned_to_ras(array, affine)
    if array.ndim == 4:
        turned = np.ascontiguousarray(turned).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    image = nibabel.Nifti1Image(turned, space)
    image.header.set_xyzt_units("mm")
    # A temporary name keeps the last suffix alone, and nibabel tells by ".nii.gz" how to write.
    with whole_file(path) as partial:
        content = image.to_bytes()
        partial.write_bytes(_gzipped(content) if path.suffix == ".gz" else content)


def _gzipped(content: bytes) -> bytes:
    import gzip

    return gzip.compress(content, 6, mtime=0)
