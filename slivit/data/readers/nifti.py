"""NIfTI and Analyze files, through nibabel."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from slivit.data.readers import geometry
from slivit.data.readers.base import COLOUR_NOTE, Affine, Array, Scan, ScanInfo, check_size, decoding, rescale, to_grey
from slivit.data.readers.entries import Entry
from slivit.errors import ReadError

_TO_MM = {"meter": 1000.0, "micron": 0.001}
_LARGE, _DENSEST = 1 << 30, 100
SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img")


def open_nifti(entry: Entry, source: str, *, axis: str = "axial", frame: int | None = None) -> Scan:
    """Open a NIfTI file, turned to the view described in `geometry`.

    An uncompressed file is mapped into memory, so that only the pages of the chosen slices are read; a gzipped one
    has to be unpacked whole.

    Args:
        entry: a .nii, .nii.gz, .hdr or .img file.
        source: its name for messages.
        axis: "axial", "coronal" or "sagittal": the axis across slices.
        frame: which volume of a 4D series, from 0.
    """
    geometry.check_axis(axis, source)
    with decoding(source, "NIfTI"):
        image = _image(entry)
        shape = image.shape
        kind = image.get_data_dtype()
        check_size(source, shape, kind.itemsize, entry.size)
        pick = frame_index(shape, frame, source)
        if kind.kind == "c":
            raise ReadError(
                f"{source}: the values are complex numbers. Save the magnitude or the phase as its own file."
            )
        affine, notes = _affine(image)
        dtype = str(_scaled(np.zeros(1, kind), image).dtype)
    grid = tuple(shape[:3]) + (1,) * (3 - len(shape))
    seen = geometry.view(grid, affine, source, axis)
    if kind.names:
        notes += (COLOUR_NOTE,)

    def load(indices: Sequence[int]) -> Array:
        with decoding(source, "NIfTI"):
            raw: Array = np.asanyarray(image.dataobj.get_unscaled())
            # The turned grid is a view: on a memory-mapped file only the chosen slices are read from disk.
            picked = np.array(seen.turn(raw[pick].reshape(grid))[list(indices)], order="C")
            return _scaled(picked, image)

    return Scan(ScanInfo("nifti", seen.shape, dtype, seen.spacing, source, seen.affine, notes), load)


def _image(entry: Entry) -> Any:
    """Return the nibabel image of a file on disk, or of the bytes of one in an archive."""
    import nibabel
    from nibabel.imageglobals import LoggingOutputSuppressor

    with LoggingOutputSuppressor():
        if entry.path is not None:
            return nibabel.load(entry.path)
        with entry.open() as stream:
            raw = stream.read()
        content = _unpacked(raw) if raw[:2] == b"\x1f\x8b" else raw
        kind = nibabel.Nifti2Image if content[4:8] == b"n+2\0" else nibabel.Nifti1Image
        return kind.from_bytes(content)


def _unpacked(raw: bytes) -> bytes:
    """Return gzipped bytes unpacked, unless they unpack to an absurd size (a bomb)."""
    with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
        content = stream.read(max(_LARGE, _DENSEST * len(raw)) + 1)
    if len(content) > max(_LARGE, _DENSEST * len(raw)):
        raise ReadError(f"the gzipped file unpacks to more than {_DENSEST} times its size, too much to be a scan")
    return content


def frame_index(shape: tuple[int, ...], frame: int | None, source: str) -> tuple[Any, ...]:
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


def _affine(image: Any) -> tuple[Affine, tuple[str, ...]]:
    """Return the affine to RAS mm, and notes."""
    affine = np.array(image.affine, dtype=np.float64)
    header = image.header
    notes: tuple[str, ...] = ()
    if hasattr(header, "get_xyzt_units"):
        unit = header.get_xyzt_units()[0]
        affine[:3] *= _TO_MM.get(unit, 1.0)
    known = [int(header[code]) for code in ("sform_code", "qform_code") if code in header]
    if not any(known):
        notes = ("the header has no orientation; the usual order of axes was assumed",)
    return affine, notes


def _scaled(stored: Array, image: Any) -> Array:
    """Return the values in native byte order, grey, with the header's slope and intercept applied."""
    if stored.dtype.names:
        channels = [stored[name] for name in stored.dtype.names[:3]]
        return to_grey(np.stack(channels, axis=-1))
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if native.dtype.kind == "f" and native.dtype.itemsize > 8:
        native = native.astype(np.float64)
    return rescale(native, float(image.dataobj.slope), float(image.dataobj.inter))
