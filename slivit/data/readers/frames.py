"""2D images, multi-page TIFF files, and folders or archives of frames."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

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
)
from slivit.data.readers.channels import ALL
from slivit.data.readers.entries import Entry
from slivit.data.readers.images import ImageHeader, read_header, read_pages
from slivit.errors import ReadError

_SPELLINGS = {".tiff": ".tif", ".jpeg": ".jpg"}
_NUMBER = re.compile(r"(?<![0-9])[-+]?\d+(?:\.\d+)?")
SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")


def suffix(name: str) -> str:
    """Return the last suffix in lower case."""
    base = name[name.rfind("/") + 1 :]
    dot = base.rfind(".")
    return base[dot:].casefold() if dot > 0 else ""


def open_image(entry: Entry, source: str, *, channel: int | str | None = None, frame: int | None = None) -> Scan:
    """Open one image file: each page of a TIFF is a slice; any other image is a volume with D = 1.

    Args:
        entry: the file.
        source: its name for messages.
        channel: which channel of a stack of several, by its number from 0 or its name, or "all" of them.
        frame: which time point of a stack of several.
    """
    header = _header(entry, source)
    count = header.planes.pages.shape[2] if header.planes is not None else 1
    chosen_ones = range(count) if channel == ALL else [channel]
    pages, notes = zip(*(_pages(header, one, frame, source) for one in chosen_ones), strict=True)

    def read(indices: Sequence[int], of: Sequence[int]) -> Array:
        chosen = [of[i] for i in indices]
        with decoding(source, "image"), entry.open() as stream:
            return _stack(read_pages(stream, chosen), [f"page {i + 1}" for i in chosen], header, source)

    def load(indices: Sequence[int]) -> Array:
        return np.stack([read(indices, of) for of in pages]) if channel == ALL else read(indices, pages[0])

    scan = _scan("image", len(pages[0]), header, source, notes[0], load)
    return replace(scan, info=replace(scan.info, channels=len(pages)))


def _pages(
    header: ImageHeader, channel: int | str | None, frame: int | None, source: str
) -> tuple[Sequence[int], tuple[str, ...]]:
    """Return the pages that are slices of the scan, and notes."""
    if header.planes is not None:
        return header.planes.chosen(channel, frame, source)
    for name, value in (("channel", channel), ("frame", frame)):
        if value not in (None, 0):
            raise ReadError(f"{source}: {name}={value} was asked for, but the file tells of one {name} only.")
    return range(header.pages), ()


def open_frames(entries: Sequence[Entry], source: str, *, series: str | int | None = None) -> Scan:
    """Open a set of image files, one a slice, in natural order of their names (slice2 before slice10).

    Args:
        entries: the files.
        source: their folder or archive, for messages.
        series: of frames of several scans those to take: how their names are made, with # for numbers ("OD_#"), or a
            part of their names.
    """
    frames = [e for e in entries if suffix(e.name) in SUFFIXES]  # in natural order already
    frames = frames if series is None else _of_series(frames, str(series), source)
    stack = _stack_among(frames)
    if stack is not None:
        scan = open_image(stack, source)
        note = f"{counted(len(frames) - 1, 'picture')} beside {stack.name} ignored"
        return replace(scan, info=replace(scan.info, notes=(*scan.info.notes, note)))
    _check_alike(frames, source)
    _check_one_scan(frames, source)
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


def _stack_among(frames: Sequence[Entry]) -> Entry | None:
    """Return the one multi-page TIFF beside pictures of other kinds, which are previews of it."""
    stacks = [e for e in frames if _kind(e) == ".tif"]
    if len(stacks) != 1 or len(frames) == 1 or _header(stacks[0], stacks[0].name).pages == 1:
        return None
    return stacks[0]


def _check_alike(frames: Sequence[Entry], source: str) -> None:
    """Raise where frames lie in several folders (each a scan, or images and masks), or are of several kinds."""
    folders = Counter(e.name.rpartition("/")[0] or "." for e in frames)
    if len(folders) > 1:
        names = ", ".join(f"{folder} ({held})" for folder, held in list(folders.items())[:6])
        more = f" and {len(folders) - 6} more" if len(folders) > 6 else ""
        raise ReadError(f"{source}: frames lie in {len(folders)} folders: {names}{more}. Give the path of one of them.")
    kinds = Counter(map(_kind, frames))
    if len(kinds) > 1:
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        raise ReadError(f"{source}: frames of several kinds lie together ({counts}). Keep one kind in the folder.")


def _of_series(frames: Sequence[Entry], series: str, source: str) -> list[Entry]:
    """Return the frames whose names are made like that, or hold that."""
    families = _families(frames)
    matches = families.get(series) or [e for e in frames if series.casefold() in _stem(e).casefold()]
    if not matches:
        raise ReadError(f"{source}: no frame is called like {series!r}; there are {_listed(families)}.")
    return matches


def _check_one_scan(frames: Sequence[Entry], source: str) -> None:
    """Raise where names tell of several scans, or of images and masks: OD_1 and OS_1, 1 and 1_mask, P1_1 and P2_1.

    Names that hold no numbers, or hardly repeat, tell nothing.
    """
    families = _families(frames)
    numbered = {name: held for name, held in families.items() if "#" in name and len(held) > 1}
    if len(families) > 1 and 2 * sum(map(len, numbered.values())) >= len(frames):
        raise ReadError(
            f"{source}: the names of the frames are of {len(families)} kinds: {_listed(families)}. Choose one with "
            f'series="{max(numbered, key=lambda name: len(numbered[name]))}", or keep one scan in a folder.'
        )
    numbers = [_NUMBER.findall(_stem(e)) for e in frames]
    varied = [values for values in zip(*numbers, strict=False) if len(set(values)) > 1] if len(families) == 1 else []
    if len(varied) > 1 and all(len(set(values)) < len(frames) for values in varied):
        first = min(varied, key=lambda values: len(set(values)))
        raise ReadError(
            f"{source}: the names of the frames hold two numbers that vary, as those of several scans do: "
            f"{frames[0].name}, {frames[-1].name}. Take those of one with series=PART of their names, such as that "
            f"with {first[0]}, or keep one scan in a folder."
        )


def _families(frames: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Return the frames by how their names are made, with # for numbers."""
    families: dict[str, list[Entry]] = {}
    for entry in frames:
        families.setdefault(_NUMBER.sub("#", _stem(entry)), []).append(entry)
    return families


def _stem(entry: Entry) -> str:
    name = entry.name.rpartition("/")[2]
    return name[: len(name) - len(suffix(name))]


def _listed(families: Mapping[str, Sequence[Entry]]) -> str:
    counts = [f'"{name}" ({len(held)})' for name, held in sorted(families.items(), key=lambda f: -len(f[1]))]
    return ", ".join(counts[:6]) + (f" and {len(counts) - 6} more" if len(counts) > 6 else "")


def _kind(entry: Entry) -> str:
    """Return the suffix of an image file, one for all spellings."""
    ending = suffix(entry.name)
    return _SPELLINGS.get(ending, ending)


def _read_frame(entry: Entry, source: str) -> Array:
    with decoding(f"{source}/{entry.name}", "image"), entry.open() as stream:
        return next(read_pages(stream, [0]))


def _header(entry: Entry, source: str) -> ImageHeader:
    with decoding(source, "image"), entry.open() as stream:
        header = read_header(stream)
        check_size(source, header.shape, header.dtype.itemsize, entry.size)
    return header


def _scan(kind: str, depth: int, header: ImageHeader, source: str, notes: tuple[str, ...], load: Load) -> Scan:
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
