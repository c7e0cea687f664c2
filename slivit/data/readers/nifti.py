"""NIfTI and Analyze files, through nibabel."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from slivit.data.readers import geometry
from slivit.data.readers.base import (
    COLOUR_NOTE,
    Affine,
    Array,
    Scan,
    ScanInfo,
    check_size,
    decoding,
    rescale,
    size_limit,
    to_grey,
)
from slivit.data.readers.channels import ALL, chosen_channel
from slivit.data.readers.entries import Entry
from slivit.errors import ReadError, nearest, one_of

_TO_MM = {"meter": 1000.0, "micron": 0.001}
_GZIP = b"\x1f\x8b"
_FORMS = ("sform", "qform")
_APART = 0.5  # voxels by which sform and qform may differ anywhere in the grid
SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img")


def open_nifti(
    entry: Entry,
    source: str,
    *,
    axis: str | None = None,
    frame: int | None = None,
    channel: int | str | None = None,
    affine: str | None = None,
) -> Scan:
    """Open a NIfTI file, turned to the view described in `geometry`.

    An uncompressed file is mapped into memory, so that only the pages of the chosen slices are read; a gzipped one
    has to be unpacked whole. Whether it is gzipped, its content tells, not its name.

    Args:
        entry: a .nii, .nii.gz, .hdr or .img file.
        source: its name for messages.
        axis: "axial", "coronal" or "sagittal": the axis across slices; by default that of the acquired planes.
        frame: which volume of a 4D series, from 0.
        channel: the same for a file whose volumes are channels, or "all" of them.
        affine: "sform" or "qform": the one that counts; by default the sform where the header has one.
    """
    with decoding(source, "NIfTI"):
        image = _image(entry)
        shape = image.shape
        kind = image.get_data_dtype()
        check_size(source, shape, kind.itemsize, entry.size)
        picks = channel_indices(shape, frame, channel, source)
        if kind.kind == "c":
            raise ReadError(
                f"{source}: the values are complex numbers. Save the magnitude or the phase as its own file."
            )
        to_ras, notes = _affine(image, affine, source)
        dtype = str(_scaled(np.zeros(1, kind), image).dtype)
    grid = tuple(shape[:3]) + (1,) * (3 - len(shape))
    chosen, why = geometry.slicing_axis(grid, to_ras) if axis is None else (axis, "")
    seen = geometry.view(grid, to_ras, source, chosen)
    notes += (why,) if why else ()
    if kind.names:
        notes += (COLOUR_NOTE,)

    def load(indices: Sequence[int]) -> Array:
        with decoding(source, "NIfTI"):
            raw = _values(image, entry)
            # The turned grid is a view: on a memory-mapped file only the chosen slices are read from disk.
            picked = [np.array(seen.turn(raw[pick].reshape(grid))[list(indices)], order="C") for pick in picks]
            return _scaled(np.stack(picked) if channel == ALL else picked[0], image)

    info = ScanInfo("nifti", seen.shape, dtype, seen.spacing, source, seen.affine, notes, len(picks))
    return Scan(info, load)


def _image(entry: Entry) -> Any:
    """Return the nibabel image of a file on disk, or of the bytes of one in an archive."""
    import nibabel
    from nibabel.imageglobals import LoggingOutputSuppressor

    with entry.open() as stream:
        zipped = stream.read(2) == _GZIP
    named = entry.name.casefold().endswith(".gz") == zipped and entry.name.casefold().endswith((*SUFFIXES, ".img.gz"))
    with LoggingOutputSuppressor():
        if entry.path is not None and named:
            try:
                return nibabel.load(entry.path)
            except (gzip.BadGzipFile, nibabel.filebasedimages.ImageFileError):
                if not zipped:
                    raise
        return _from_bytes(entry)  # also where nibabel would read on into what follows the gzipped part


def _from_bytes(entry: Entry) -> Any:
    """Return the image of a file whose name does not say how it is stored, or that lies in an archive."""
    import nibabel

    with entry.open() as stream:
        raw = stream.read()
    content = _unpacked(raw, entry) if raw[:2] == _GZIP else raw
    kind = nibabel.Nifti2Image if content[4:8] == b"n+2\0" else nibabel.Nifti1Image
    return kind.from_bytes(content)


def _values(image: Any, entry: Entry) -> Array:
    """Return the stored values, as a view of the file where it is not compressed."""
    try:
        return np.asanyarray(image.dataobj.get_unscaled())
    except gzip.BadGzipFile:
        return np.asanyarray(_from_bytes(entry).dataobj.get_unscaled())


def _unpacked(raw: bytes, entry: Entry) -> bytes:
    """Return gzipped bytes unpacked, without what may follow them, unless they unpack to an absurd size (a bomb)."""
    content, rest = bytearray(), raw
    limit = size_limit(len(raw))
    while rest[:2] == _GZIP:
        unpacker = zlib.decompressobj(wbits=31)
        content += unpacker.decompress(rest, limit + 1 - len(content))
        if len(content) > limit:
            raise ReadError(f"{entry.name}: unpacks to more than {limit / 1e9:.3g} GB, too much to be a scan")
        if not unpacker.eof:
            raise EOFError("the gzipped data end too early")
        rest = unpacker.unused_data
    return bytes(content)


def channel_indices(
    shape: tuple[int, ...], frame: int | None, channel: int | str | None, source: str
) -> list[tuple[Any, ...]]:
    """Return the index of each 3D grid that is read: one, or all channels of a 4D file."""
    if channel is None:
        return [frame_index(shape, frame, source)]
    if frame is not None:
        raise ReadError(f"{source}: frame and channel both choose a volume of a 4D file; give one of them.")
    extra = [size for size in shape[3:] if size != 1]
    count = extra[0] if len(extra) == 1 else 1
    chosen = chosen_channel(channel, count, source)
    return [frame_index(shape, place, source) for place in (range(count) if chosen is None else [chosen])]


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
            f'Choose one with frame=0 to {extra[0] - 1}, or read them as channels with channel="all".'
        )
    if not 0 <= frame < extra[0]:
        raise ReadError(f"{source}: frame={frame} is outside the series; allowed are 0 to {extra[0] - 1}.")
    return (..., *(frame if size == extra[0] else 0 for size in shape[3:]))


def _affine(image: Any, form: str | None, source: str) -> tuple[Affine, tuple[str, ...]]:
    """Return the affine to RAS mm, and notes."""
    header = image.header
    if form is not None and form not in _FORMS:
        raise ReadError(f"{source}: affine must be {one_of(_FORMS)}. Got {form!r}.{nearest(form, _FORMS)}")
    known = {name: _form(header, name) for name in _FORMS}
    if form is not None and known[form] is None:
        raise ReadError(f"{source}: affine={form} was asked for, but the header has no {form}. Leave the option out.")
    usable = [name for name in _FORMS if _is_usable(known[name])]
    broken = form is None and known["sform"] is not None and usable == ["qform"]
    affine = np.array(known["qform"] if broken else image.affine if form is None else known[form], dtype=np.float64)
    if hasattr(header, "get_xyzt_units"):
        unit = header.get_xyzt_units()[0]
        affine[:3] *= _TO_MM.get(unit, 1.0)
    if not any(matrix is not None for matrix in known.values()):
        return affine, ("the header has no orientation; the usual order of axes was assumed",)
    if broken:
        return affine, ("the sform of the header is no orientation: the qform was used",)
    return affine, _disagreement(known, image.shape, form or "sform")


def _is_usable(matrix: Affine | None) -> bool:
    """Return whether a form has three directions."""
    return matrix is not None and bool(np.isfinite(matrix).all()) and abs(np.linalg.det(matrix[:3, :3])) > 1e-12


def _form(header: Any, name: str) -> Affine | None:
    """Return the sform or qform of a header, None where it has none."""
    if f"{name}_code" not in header or not int(header[f"{name}_code"]):
        return None
    matrix: Affine | None = getattr(header, f"get_{name}")(coded=True)[0]
    return matrix


def _disagreement(known: dict[str, Affine | None], shape: Sequence[int], used: str) -> tuple[str, ...]:
    """Return a note where sform and qform put a voxel at places that are clearly apart."""
    sform, qform = known["sform"], known["qform"]
    if sform is None or qform is None or not (np.isfinite(sform).all() and np.isfinite(qform).all()):
        return ()
    sizes = [max(0, size - 1) for size in (*shape[:3], 1, 1, 1)[:3]]
    corners = np.array([(*corner, 1) for corner in product(*((0, size) for size in sizes))], dtype=np.float64)
    apart = np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max()
    voxel = np.sqrt((sform[:3, :3] ** 2).sum(axis=0)).min()
    if apart <= _APART * voxel:
        return ()
    sides = (np.sign(np.diag(m[:3, :3])).tolist() for m in (sform, qform))
    mirrored = " in orientation" if next(sides) != next(sides) else ""
    other = "qform" if used == "sform" else "sform"
    note = f"sform and qform of the header disagree{mirrored}, by up to {apart:.3g} mm: the {used} was used"
    return (f'{note}; affine="{other}" takes the other',)


def _scaled(stored: Array, image: Any) -> Array:
    """Return the values in native byte order, grey, with the header's slope and intercept applied."""
    if stored.dtype.names:
        channels = [stored[name] for name in stored.dtype.names[:3]]
        return to_grey(np.stack(channels, axis=-1))
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if native.dtype.kind == "f" and native.dtype.itemsize > 8:
        native = native.astype(np.float64)
    return rescale(native, float(image.dataobj.slope), float(image.dataobj.inter))
