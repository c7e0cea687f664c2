"""The directories of a TIFF file, and its plain pages: uncompressed ones, taken from their place in the file.

OCT volumes and frames exported by common tools are mostly such pages. Reading them here is several times as fast as
through an image library, and keeps every type. Compressed, tiled, planar and palette pages are left to the libraries.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from slivit.data.readers.base import Array, to_grey

BIG_BIG_ENDIAN = b"MM\0+"
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", BIG_BIG_ENDIAN)
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS = 256, 257, 258, 259, 262, 273
DESCRIPTION, ORIENTATION, SAMPLES, COUNTS, PLANAR, TILE_WIDTH, SAMPLE_FORMAT = 270, 274, 277, 279, 284, 322, 339
_WANTED = {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, ORIENTATION, SAMPLES, COUNTS, PLANAR, TILE_WIDTH}
_WANTED |= {SAMPLE_FORMAT, DESCRIPTION}
_LETTERS = {2: "B", 3: "H", 4: "I", 16: "Q"}  # the types of letters, and of whole numbers of 2, 4 and 8 bytes
_TEXT = 2
_LONGEST = 2000  # bytes of a description; what ImageJ says of a stack stands at the start
_KINDS = {1: "u", 2: "i", 3: "f"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2

Tags = dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """How numbers are written in a file.

    Args:
        order: "<" or ">" for struct.
        link: struct letter of a link between directories.
        count: struct letter of the number of entries.
    """

    order: str
    link: str
    count: str

    @property
    def entry(self) -> struct.Struct:
        """Tag, type, number of values, and the values or where they are."""
        return struct.Struct(f"{self.order}HH{self.link}{8 if self.link == 'Q' else 4}s")

    def read(self, stream: BinaryIO, letter: str) -> int:
        """Return the next number of the file."""
        return int(struct.unpack(self.order + letter, stream.read(struct.calcsize(letter)))[0])


@dataclass(frozen=True)
class PlainPage:
    """An uncompressed page: its values lie in the file in one piece.

    Args:
        at: where they start.
        shape: (H, W), or (H, W, samples) for colour.
        stored: the type in the file.
        inverted: whether 0 is white.
    """

    at: int
    shape: tuple[int, ...]
    stored: np.dtype[np.generic]
    inverted: bool

    @property
    def bytes(self) -> int:
        """Its size."""
        return int(np.prod(self.shape)) * self.stored.itemsize

    def read(self, stream: BinaryIO) -> Array:
        """Return the page as grey (H, W) values."""
        stream.seek(self.at)
        raw = stream.read(self.bytes)
        if len(raw) < self.bytes:
            raise ValueError(f"a page ends after {len(raw)} of {self.bytes} bytes")
        pixels: Array = np.frombuffer(raw, self.stored).reshape(self.shape)
        pixels = pixels.astype(self.stored.newbyteorder("="), copy=False)
        if self.inverted:
            return np.iinfo(pixels.dtype).max - pixels
        return to_grey(pixels) if pixels.ndim == 3 else pixels


def directories(stream: BinaryIO) -> list[Tags]:
    """Return the wanted tags of every page, by following the chain of directories.

    Libraries take a chain that leads out of the file for its end, and so read a file cut short as a shorter one; here
    that is an error.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    magic = stream.read(4)
    order, big = "<" if magic[:2] == b"II" else ">", 43 in magic[2:4]
    layout = Layout(order, "Q", "Q") if big else Layout(order, "I", "H")
    if big:
        stream.seek(8)
    pages: list[Tags] = []
    seen: set[int] = set()
    at = layout.read(stream, layout.link)
    while at:
        if at in seen or at + 8 > size:
            raise ValueError(f"the chain of pages breaks off after page {len(pages)}")
        seen.add(at)
        stream.seek(at)
        pages.append(dict(_entries(stream, layout)))
        at = layout.read(stream, layout.link)
    return _all_images(pages, order, size)


def _all_images(pages: list[Tags], order: str, size: int) -> list[Tags]:
    """Return the pages that a file without a directory for each of its images holds.

    ImageJ writes a stack of more than 4 GB with the directory of the first image alone; the others follow it.
    """
    text = description(pages[0]) if len(pages) == 1 else ""
    if '"truncated": true' in text:  # as tifffile writes it
        raise ValueError("it has a directory for the first of its images alone; write it with one for each")
    count, first = imagej(text).get("images", 1), plain_page(pages[0], order) if text else None
    if count < 2 or first is None or first.at + 2 * first.bytes > size:
        return pages  # one image, perhaps taken out of a stack whose description it kept
    if first.at + count * first.bytes > size:
        raise ValueError(f"it ends before the last of its {count} images")
    starts = range(first.at, first.at + count * first.bytes, first.bytes)
    return [{**pages[0], OFFSETS: (start,), COUNTS: (first.bytes,)} for start in starts]


def description(tags: Tags) -> str:
    """Return the start of the text that a page carries."""
    return bytes(b for b in tags.get(DESCRIPTION, ()) if b < 256).decode("latin-1")


def imagej(text: str) -> dict[str, int]:
    """Return the numbers of images, channels, slices and frames that ImageJ notes in a description."""
    if not text.startswith("ImageJ="):
        return {}
    return {name: int(number) for name, number in re.findall(r"^(images|channels|slices|frames)=(\d+)", text, re.M)}


def _entries(stream: BinaryIO, layout: Layout) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield the wanted tags of the directory at hand, and leave the stream behind it."""
    number = layout.read(stream, layout.count)
    raw = stream.read(layout.entry.size * number)
    end = stream.tell()
    if len(raw) < layout.entry.size * number:
        raise ValueError("a directory is cut short")
    for tag, kind, count, value in layout.entry.iter_unpack(raw):
        if tag in _WANTED and kind in _LETTERS and (kind == _TEXT) == (tag == DESCRIPTION):
            yield tag, _numbers(stream, layout, _LETTERS[kind], count, value)
    stream.seek(end)


def _numbers(stream: BinaryIO, layout: Layout, letter: str, count: int, value: bytes) -> tuple[int, ...]:
    """Return the values of a tag, which stand in the entry itself where there is room, else elsewhere."""
    count = min(count, _LONGEST) if letter == "B" else count
    needed = count * struct.calcsize(letter)
    if needed > len(value):
        stream.seek(struct.unpack(layout.order + layout.link, value)[0])
        value = stream.read(needed)
    if len(value) < needed:
        raise ValueError("a tag is cut short")
    return struct.unpack(f"{layout.order}{count}{letter}", value[:needed])


def plain_page(tags: Tags, order: str) -> PlainPage | None:
    """Return a page that lies in the file as it is, or None where a library has to decode it.

    Args:
        tags: of the page.
        order: "<" or ">", the byte order of the file.
    """
    bits, formats = set(tags.get(BITS, (1,))), set(tags.get(SAMPLE_FORMAT, (1,)))
    samples, photometric = _one(tags, SAMPLES, 1), _one(tags, PHOTOMETRIC, -1)
    usual = _one(tags, COMPRESSION, 1) == 1 and _one(tags, ORIENTATION, 1) == 1 and TILE_WIDTH not in tags
    grey = samples == 1 and photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    colour = samples in (3, 4) and photometric == _RGB and _one(tags, PLANAR, 1) == 1
    if not (usual and (grey or colour) and len(bits) == len(formats) == 1):
        return None
    kind, size = _KINDS.get(formats.pop()), bits.pop()
    if kind is None or size not in ((16, 32, 64) if kind == "f" else (8, 16, 32, 64)):
        return None
    stored = np.dtype(f"{order}{kind}{size // 8}")
    height, width = _one(tags, HEIGHT, 0), _one(tags, WIDTH, 0)
    at = _one_piece(tags, height * width * samples * stored.itemsize)
    inverted = grey and photometric == _WHITE_IS_ZERO and kind == "u"
    shape = (height, width) if grey else (height, width, samples)
    return None if at is None else PlainPage(at, shape, stored, inverted)


def _one(tags: Tags, tag: int, default: int) -> int:
    return tags.get(tag, (default,))[0]


def _one_piece(tags: Tags, needed: int) -> int | None:
    """Return where the strips of a page start, where they follow each other without gaps and hold all its bytes."""
    offsets, counts = tags.get(OFFSETS, ()), tags.get(COUNTS, ())
    follow = all(a + n == b for a, n, b in zip(offsets, counts, offsets[1:], strict=False))
    return offsets[0] if offsets and len(offsets) == len(counts) and follow and sum(counts) == needed > 0 else None
