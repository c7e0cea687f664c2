"""MetaImage and NRRD files, through SimpleITK (an optional extra)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
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
    grey_type,
    needed,
    to_grey,
)
from slivit.data.readers.channels import ALL, chosen_channel
from slivit.data.readers.nifti import channel_indices, frame_index
from slivit.errors import ReadError

SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
_SHORT, _HEADER = 1 << 13, 1 << 20  # bytes in which most headers end, and all
_DATA_FILE = re.compile(
    rb"^[ \t]*(?:ElementDataFile[ \t]*=|data ?file[ \t]*:)[ \t]*(.*?)[ \t\r]*$", re.IGNORECASE | re.MULTILINE
)
_MOST_FILES = 100_000  # that a pattern may name
_PATTERN = re.compile(r"%\d*d")


def open_itk(
    path: Path, source: str, *, axis: str | None = None, frame: int | None = None, channel: int | str | None = None
) -> Scan:
    """Open a MetaImage or NRRD file, turned to the view described in `geometry`.

    Only the slab that spans the chosen slices is read, where the file is uncompressed.

    Args:
        path: the file, or the header of a detached pair.
        source: its name for messages.
        axis: "axial", "coronal" or "sagittal": the axis across slices; by default that of the acquired planes.
        frame: which volume of a 4D series, from 0.
        channel: which component of each voxel, or volume of a 4D file, or "all" of them; colour is read as grey
            without it.
    """
    named = check_data_files(path, source)
    with decoding(source, "MetaImage or NRRD"):
        header = _header(path, source)
        shape = tuple(header.GetSize())
        components = header.GetNumberOfComponents()
        kind = _value_type(header, source, channel is not None)
        stored = sum(part.stat().st_size for part in (path, *(path.parent / name for name in named)))
        check_size(source, (*shape, components), kind.itemsize, stored)
        picks, part = _picks(shape, components, frame, channel, source)
        affine = _affine(header)
    grid = tuple(shape[:3]) + (1,) * (3 - len(shape))
    chosen, why = geometry.slicing_axis(grid, affine) if axis is None else (axis, "")
    seen = geometry.view(grid, affine, source, chosen)
    is_grey = components > 1 and channel is None
    loads = [partial(_load, path, source, seen, shape, grid, pick, p) for pick, p in zip(picks, part, strict=True)]
    dtype = str(grey_type(kind) if is_grey else kind)
    notes = (*((COLOUR_NOTE,) if is_grey else ()), *((why,) if why else ()))
    info = ScanInfo("itk", seen.shape, dtype, seen.spacing, source, seen.affine, notes, len(loads))
    if channel != ALL:
        return Scan(info, loads[0])
    return Scan(info, lambda indices: np.stack([load(indices) for load in loads]))


def _picks(
    shape: tuple[int, ...], components: int, frame: int | None, channel: int | str | None, source: str
) -> tuple[list[tuple[Any, ...]], list[int | None]]:
    """Return the index of the grid, and the component of its voxels, of each channel that is read."""
    if channel is None or components == 1:
        picks = channel_indices(shape, frame, channel, source)
        return picks, [None] * len(picks)
    chosen = chosen_channel(channel, components, source)
    parts = range(components) if chosen is None else [chosen]
    return [frame_index(shape, frame, source)] * len(parts), list(parts)


def data_files(path: Path) -> list[str]:
    """Return the names of the files that hold the values of a MetaImage or NRRD file; none where its header tells none.

    Source: the documentation of MetaIO (ElementDataFile: LOCAL, LIST, a name, a pattern) and the definition of NRRD
    (data file).
    """
    with path.open("rb") as stream:
        head = stream.read(_SHORT)
        match = _DATA_FILE.search(head)
        if match is None or b"LIST" in match[1].upper() or match.end() == len(head):
            head += stream.read(_HEADER)
    is_nrrd = head.startswith(b"NRRD")
    head = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0] if is_nrrd else head
    match = _DATA_FILE.search(head)
    value = os.fsdecode(match[1]) if match else "LOCAL"
    if match is None or value.upper() == "LOCAL":
        return []
    if value.upper().startswith("LIST"):
        return [line.strip() for line in os.fsdecode(head[match.end() :]).splitlines() if line.strip()]
    name, *numbers = value.split()
    if (pattern := _PATTERN.search(name)) and len(numbers) >= 3 and all(n.lstrip("-").isdecimal() for n in numbers):
        first, last, step = (int(n) for n in numbers[:3])
        places = range(first, last + 1, step or 1)
        if len(places) > _MOST_FILES:
            raise ValueError(f"it names {len(places):,} files")
        return [name[: pattern.start()] + pattern[0] % place + name[pattern.end() :] for place in places]
    return [value]


def check_data_files(path: Path, source: str) -> list[str]:
    """Return the names of `data_files`, or raise where one lies outside the header's folder, or is no file.

    A header that somebody sent could otherwise have any file of the machine read, or a pipe that never ends.
    """
    with decoding(source, "MetaImage or NRRD"):
        named = data_files(path)
    for name in named:
        if Path(name).is_absolute() or os.path.normpath(name).startswith(os.pardir):
            raise ReadError(
                f"{source}: says that its values lie in {name!r}, which is not in its own folder. Put that file beside "
                f"{path.name}, and write its name alone into the header."
            )
        part = path.parent / name
        if not part.is_file():
            what = "is no regular file" if part.exists() else "is missing"
            raise ReadError(f"{source}: its values should lie in {name!r}, which {what}. Put it beside {path.name}.")
    return named


def _load(
    path: Path,
    source: str,
    seen: geometry.View,
    shape: tuple[int, ...],
    grid: tuple[int, ...],
    pick: tuple[Any, ...],
    component: int | None,
    indices: Sequence[int],
) -> Array:
    """Read the slab of the stored grid that spans the chosen slices, and turn it."""
    across = int(np.flatnonzero(seen.transform[:, 0] == 0)[0])  # the stored axis that runs across slices
    backwards = seen.transform[across, 1] < 0
    stored = [grid[across] - 1 - i if backwards else i for i in indices]
    start, stop = min(stored), max(stored) + 1
    with decoding(source, "MetaImage or NRRD"):
        slab = _read_slab(path, shape, pick, across, start, stop)
        is_vector = slab.ndim > min(3, len(shape))
        grey = slab if not is_vector else to_grey(slab) if component is None else slab[..., component]
        values = grey.reshape([stop - start if axis == across else size for axis, size in enumerate(grid)])
    offset = grid[across] - stop if backwards else start
    return np.ascontiguousarray(seen.turn(values)[[i - offset for i in indices]])


def _header(path: Path, source: str) -> Any:
    """Return a SimpleITK reader that has read the header alone."""
    sitk = needed("SimpleITK", "formats", source)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _value_type(header: Any, source: str, any_number: bool) -> np.dtype[Any]:
    import SimpleITK

    name = SimpleITK.GetPixelIDValueAsString(header.GetPixelID())
    channels = header.GetNumberOfComponents()
    if "complex" in name or (channels not in (1, 3, 4) and not any_number):
        way_out = "" if "complex" in name else ' Choose one with channel=0, or read all with channel="all".'
        raise ReadError(
            f"{source}: the values are {name} with {channels} components; only grey and colour can be read.{way_out}"
        )
    words = name.removeprefix("vector of ").split()
    if words[0] in ("32-bit", "64-bit") and words[1] == "float":
        return np.dtype(f"float{words[0][:2]}")
    return np.dtype(f"{'u' if words[1] == 'unsigned' else ''}int{words[0].split('-')[0]}")


def _affine(header: Any) -> Affine:
    """Return the affine from the stored index (x, y, z) to RAS mm; a missing third axis is across the plane."""
    dimension = header.GetDimension()
    used = min(dimension, 3)
    direction = np.array(header.GetDirection()).reshape(dimension, dimension)[:used, :used]
    affine = np.eye(4)
    affine[:used, :used] = direction * np.array(header.GetSpacing())[:used]
    affine[:used, 3] = header.GetOrigin()[:used]
    return geometry.LPS_TO_RAS @ affine


def _read_slab(path: Path, shape: tuple[int, ...], pick: tuple[Any, ...], across: int, start: int, stop: int) -> Array:
    """Return the stored values between two slices, indexed (x, y, z), with channels last."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    if across < len(shape):
        index, size = [0] * len(shape), list(shape)
        index[across], size[across] = start, stop - start
        for axis, place in enumerate(pick[1:], start=3):
            index[axis], size[axis] = place, 0  # a size of 0 drops the axis
        reader.SetExtractIndex(index)
        reader.SetExtractSize(size)
    image = reader.Execute()
    values = SimpleITK.GetArrayFromImage(image)
    dimensions = image.GetDimension()
    return np.moveaxis(values, range(dimensions), range(dimensions - 1, -1, -1))
