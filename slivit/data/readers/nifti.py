"""NIfTI and Analyze files, through nibabel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slivit.data.readers import geometry
from slivit.data.readers.base import COLOUR_NOTE, Affine, Array, Scan, ScanInfo, check_size, decoding, rescale, to_grey
from slivit.errors import ReadError

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

_TO_MM = {"meter": 1000.0, "micron": 0.001}


def open_nifti(path: Path, source: str, *, axis: str = "axial", frame: int | None = None) -> Scan:
    """Open a NIfTI file, turned to the view described in `geometry`.

    An uncompressed file is mapped into memory, so that only the pages of the chosen slices are read; a gzipped one
    has to be unpacked whole.

    Args:
        path: a .nii, .nii.gz, .hdr or .img file.
        source: its name for messages.
        axis: "axial", "coronal" or "sagittal": the axis across slices.
        frame: which volume of a 4D series, from 0.
    """
    import nibabel
    from nibabel.imageglobals import LoggingOutputSuppressor

    geometry.check_axis(axis, source)
    with decoding(source, "NIfTI"), LoggingOutputSuppressor():
        image: Any = nibabel.load(path)
    return open_image(image, source, path.stat().st_size, axis, frame)


def open_image(image: SpatialImage, source: str, stored: int, axis: str, frame: int | None) -> Scan:
    """Return the scan of a nibabel image whose file has `stored` bytes."""
    with decoding(source, "NIfTI"):
        shape = image.shape
        pick = _frame_index(shape, frame, source)
        grid = tuple(shape[:3]) + (1,) * (3 - len(shape))
        kind = _value_type(image.get_data_dtype(), source)
        check_size(source, shape, image.get_data_dtype().itemsize, stored)
        affine, notes = _affine(image)
    seen = geometry.view(grid, affine, source, axis)
    if kind.names:
        notes += (COLOUR_NOTE,)

    def load(indices: Sequence[int]) -> Array:
        with decoding(source, "NIfTI"):
            proxy: Any = image.dataobj
            raw: Array = np.asanyarray(proxy.get_unscaled())
            # The turned grid is a view: on a memory-mapped file only the chosen slices are read from disk.
            picked = np.array(seen.turn(raw[pick].reshape(grid))[list(indices)])
            return _scaled(picked, image)

    dtype = str(_scaled(np.zeros(1, image.get_data_dtype()), image).dtype)
    return Scan(ScanInfo("nifti", seen.shape, dtype, seen.spacing, source, seen.affine, notes), load)


def _frame_index(shape: tuple[int, ...], frame: int | None, source: str) -> tuple[Any, ...]:
    """Return the index that picks one 3D grid."""
    extra = [size for size in shape[3:] if size != 1]
    if not extra:
        if frame not in (None, 0):
            raise ReadError(f"{source}: frame={frame} was asked for, but the file holds a single volume of {shape}.")
        return (..., *([0] * len(shape[3:])))
    if len(extra) > 1:
        raise ReadError(f"{source}: the data have shape {shape}; only 3D volumes and 4D series can be read.")
    if frame is None:
        raise ReadError(
            f"{source}: the data are 4D {shape}, a series of {extra[0]} volumes. "
            f"Choose one with frame=0 to {extra[0] - 1}."
        )
    if not 0 <= frame < extra[0]:
        raise ReadError(f"{source}: frame={frame} is outside the series; allowed are 0 to {extra[0] - 1}.")
    return (..., *(frame if size == extra[0] else 0 for size in shape[3:]))


def _value_type(kind: np.dtype[Any], source: str) -> np.dtype[Any]:
    if kind.kind == "c":
        raise ReadError(f"{source}: the values are complex numbers. Save the magnitude or the phase as its own file.")
    return kind


def _affine(image: SpatialImage) -> tuple[Affine, tuple[str, ...]]:
    """Return the affine to RAS mm, and notes."""
    affine = np.array(image.affine, dtype=np.float64)
    header: Any = image.header
    notes: tuple[str, ...] = ()
    if hasattr(header, "get_xyzt_units"):
        unit = header.get_xyzt_units()[0]
        affine[:3] *= _TO_MM.get(unit, 1.0)
    known = [int(header[code]) for code in ("sform_code", "qform_code") if code in header]
    if not any(known):
        notes = ("the header has no orientation; the usual order of axes was assumed",)
    return affine, notes


def _scaled(stored: Array, image: SpatialImage) -> Array:
    """Return the values in native byte order, grey, with the header's slope and intercept applied."""
    if stored.dtype.names:
        channels = [stored[name] for name in stored.dtype.names[:3]]
        return to_grey(np.stack(channels, axis=-1))
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if native.dtype.kind == "f" and native.dtype.itemsize > 8:
        native = native.astype(np.float64)
    proxy: Any = image.dataobj
    return rescale(native, float(proxy.slope), float(proxy.inter))
