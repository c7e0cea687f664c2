"""One image file to grey pages without loss: Pillow where it keeps every value, else tifffile or OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from slivit.data.readers.base import Array, to_grey

if TYPE_CHECKING:
    from PIL.Image import Image
    from tifffile import TiffPage

_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _SAMPLE_FORMAT = 274, 258, 262, 277, 284, 339
_DTYPES = {"I": np.int32, "F": np.float32}


@dataclass(frozen=True)
class ImageHeader:
    """What an image file holds.

    Args:
        pages: more than one in a multi-page TIFF.
        shape: (H, W) of the first page.
        dtype: of the grey values.
        colour: whether colour is converted.
    """

    pages: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    colour: bool


def read_header(stream: BinaryIO) -> ImageHeader:
    """Return the header of an image without decoding it."""
    if _needs_tifffile(stream):
        return _tifffile_header(stream)
    from PIL import Image

    with Image.open(stream) as image:
        width, height = image.size
        deep = image.mode.startswith("I;16") or _is_deep_colour(image)  # asked first: later the tiles are gone
        if image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) >= 5:
            width, height = height, width
        pages = count_pages(stream) if image.format == "TIFF" else 1
        colour = image.mode not in ("1", "L", "LA", "I", "F") and not image.mode.startswith("I;16")
        dtype = np.dtype(np.uint16 if deep else _DTYPES.get(image.mode, np.uint8))
    return ImageHeader(pages, (height, width), dtype, colour)


def read_pages(stream: BinaryIO, indices: Sequence[int]) -> Iterator[Array]:
    """Yield the chosen pages as grey (H, W) arrays in their stored precision."""
    if _needs_tifffile(stream):
        yield from _tifffile_pages(stream, indices)
        return
    from PIL import Image

    with Image.open(stream) as image:
        for index in indices:
            if image.format == "TIFF":
                image.seek(index)
            yield _grey_page(image, stream)


def count_pages(stream: BinaryIO) -> int:
    """Return the number of pages of a TIFF by following its chain of directories.

    Libraries take a chain that leads out of the file for its end, and so read a file cut short as a shorter one.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(16)
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    big = 43 in head[2:4]
    width, count_width, entry_width = (8, 8, 20) if big else (4, 2, 12)
    at = int.from_bytes(head[8:16] if big else head[4:8], order)
    pages: set[int] = set()
    while at:
        if at in pages or at + count_width + width > size:
            raise ValueError(f"the chain of pages breaks off after page {len(pages)}")
        pages.add(at)
        stream.seek(at)
        entries = int.from_bytes(stream.read(count_width), order)
        stream.seek(at + count_width + entry_width * entries)
        link = stream.read(width)
        if len(link) < width:
            raise ValueError(f"page {len(pages)} is cut short")
        at = int.from_bytes(link, order)
    return len(pages)


def _grey_page(image: Image, stream: BinaryIO) -> Array:
    from PIL import ImageOps

    if _is_deep_colour(image):
        return _deep_colour(stream)
    if image.format == "JPEG" and image.mode == "RGB":
        image.draft("L", image.size)  # the file's own luminance channel, without the detour through colour
    if image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("L", "I", "F"):
        return np.array(image)
    if image.mode.startswith("I;16"):
        return np.array(image).astype(np.uint16, copy=False)
    if image.mode == "LA":
        return np.array(image.getchannel("L"))
    return to_grey(np.asarray(image.convert("RGB")))


def _is_deep_colour(image: Image) -> bool:
    """True for a PNG with 16 bits a colour channel, which Pillow would cut to 8."""
    tile = getattr(image, "tile", None)
    if image.format != "PNG" or not tile:
        return False
    return str(tile[0].args).startswith(("RGB;16", "RGBA;16", "LA;16"))


def _deep_colour(stream: BinaryIO) -> Array:
    import cv2

    stream.seek(0)
    decoded = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise ValueError("OpenCV cannot decode it")
    return to_grey(decoded[..., 2::-1]) if decoded.ndim == 3 else decoded


def _needs_tifffile(stream: BinaryIO) -> bool:
    """True for a TIFF whose values Pillow would change: signed, wide, 16-bit colour, planar, 16-bit with white as 0."""
    from PIL import Image, UnidentifiedImageError

    stream.seek(0)
    is_tiff = stream.read(4)[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    stream.seek(0)
    if not is_tiff:
        return False
    try:
        with Image.open(stream) as image:
            tags = image.tag_v2  # type: ignore[attr-defined]
            return not _pillow_keeps(dict(tags))
    except UnidentifiedImageError:
        return True
    finally:
        stream.seek(0)


def _pillow_keeps(tags: dict[int, Any]) -> bool:
    bits = set(np.atleast_1d(tags.get(_BITS, 1)).tolist())
    formats = set(np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)).tolist())
    samples, planar = tags.get(_SAMPLES, 1), tags.get(_PLANAR, 1)
    if max(bits) <= 8:
        return formats == {1} and (samples == 1 or planar == 1)
    if samples != 1 or tags.get(_PHOTOMETRIC) != 1:
        return False
    return (bits, formats) in (({16}, {1}), ({32}, {3}))


def _tifffile_header(stream: BinaryIO) -> ImageHeader:
    import tifffile

    pages = count_pages(stream)
    stream.seek(0)
    with tifffile.TiffFile(stream) as tiff:
        page = tiff.pages.first
        height, width = page.imagelength, page.imagewidth
        dtype = np.dtype(page.dtype) if page.dtype is not None else np.dtype(np.uint8)
        if page.samplesperpixel >= 3 and dtype not in (np.uint8, np.uint16):
            dtype = np.dtype(np.float32)
        return ImageHeader(pages, (height, width), dtype, page.samplesperpixel >= 3)


def _tifffile_pages(stream: BinaryIO, indices: Sequence[int]) -> Iterator[Array]:
    import tifffile

    with tifffile.TiffFile(stream) as tiff:
        for index in indices:
            page: TiffPage = tiff.pages[index]  # type: ignore[assignment]
            yield _tifffile_grey(page, index)


def _tifffile_grey(page: TiffPage, index: int) -> Array:
    pixels = page.asarray()
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    if page.axes in ("SYX", "YXS"):
        return to_grey(pixels) if pixels.shape[-1] >= 3 else np.ascontiguousarray(pixels[..., 0])
    if page.axes != "YX":
        raise ValueError(f"page {index + 1} has the axes {page.axes}; only grey and colour pages can be read")
    if page.photometric == 0 and pixels.dtype.kind == "u":
        return np.iinfo(pixels.dtype).max - pixels
    return pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
