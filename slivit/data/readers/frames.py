"""2D images, multi-page TIFF files, and folders or archives of frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np

from slivit.data.readers.base import (
    COLOUR_NOTE,
    Array,
    Load,
    Scan,
    ScanInfo,
    check_size,
    counted,
    decoding,
    natural_key,
)
from slivit.data.readers.entries import Entry
from slivit.data.readers.images import ImageHeader, read_header, read_pages
from slivit.errors import ReadError

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")


def suffix(name: str) -> str:
    """Return the last suffix in lower case."""
    return PurePosixPath(name).suffix.casefold()


def open_image(entry: Entry, source: str) -> Scan:
    """Open one image file: each page of a TIFF is a slice; any other image is a volume with D = 1."""
    header = _header(entry, source)

    def load(indices: Sequence[int]) -> Array:
        with decoding(source, "image"), entry.open() as stream:
            return _stack(read_pages(stream, indices), [f"page {i + 1}" for i in indices], header, source)

    return _scan("image", header.pages, header, source, (), load)


def open_frames(entries: Sequence[Entry], source: str) -> Scan:
    """Open a set of image files, one a slice, in natural order of their names (slice2 before slice10)."""
    frames = sorted((e for e in entries if suffix(e.name) in SUFFIXES), key=lambda e: natural_key(e.name))
    kinds = Counter(suffix(e.name) for e in frames)
    if len(kinds) > 1:
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        raise ReadError(f"{source}: frames of several kinds lie together ({counts}). Keep one kind in the folder.")
    header = _header(frames[0], f"{source}/{frames[0].name}")
    if header.pages > 1:
        raise ReadError(
            f"{source}/{frames[0].name}: has {header.pages} pages, but a folder of frames needs one slice a file. "
            "Give the path of the file itself."
        )
    others = len(entries) - len(frames)
    notes = (f"{counted(others, 'file')} beside the frames ignored",) if others else ()

    def load(indices: Sequence[int]) -> Array:
        chosen = [frames[i] for i in indices]
        return _stack((_read_frame(e, source) for e in chosen), [e.name for e in chosen], header, source)

    return _scan("frames", len(frames), header, source, notes, load)


def _read_frame(entry: Entry, source: str) -> Array:
    with decoding(f"{source}/{entry.name}", "image"), entry.open() as stream:
        return next(read_pages(stream, [0]))


def _header(entry: Entry, source: str) -> ImageHeader:
    with decoding(source, "image"), entry.open() as stream:
        header = read_header(stream)
        check_size(source, header.shape, header.dtype.itemsize, entry.size)
    return header


def _scan(kind: str, depth: int, header: ImageHeader, source: str, notes: tuple[str, ...], load: Load) -> Scan:
    notes += header.notes
    if header.colour:
        notes += (COLOUR_NOTE,)
    return Scan(ScanInfo(kind, (depth, *header.shape), str(header.dtype), None, source, notes=notes), load)


def _stack(slices: Iterable[Array], names: Sequence[str], header: ImageHeader, source: str) -> Array:
    """Return slices as (D, H, W), or raise where one differs in shape or type from the first of the scan.

    The stack is filled slice by slice, so that only one slice is held beside it.
    """
    stack = np.empty((len(names), *header.shape), header.dtype)
    for place, pixels in enumerate(slices):
        if pixels.shape != header.shape or pixels.dtype != header.dtype:
            raise ReadError(
                f"{source}: {names[place]} is {pixels.shape} {pixels.dtype}, but the first slice is {header.shape} "
                f"{header.dtype}; the slices of a scan must be alike. Remove or resize the odd one."
            )
        stack[place] = pixels
    return stack
