"""One image file to grey pages without loss: Pillow where it keeps every value, else tifffile or OpenCV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from slivit.data.readers import tiff
from slivit.data.readers.base import Array, grey_type, keeps_colour, to_grey
from slivit.data.readers.hyperstack import Planes, planes_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from tifffile import TiffPage

_DTYPES = {"I": np.int32, "F": np.float32}


@dataclass(frozen=True)
class ImageHeader:
    """What an image file holds.

    Args:
        pages: more than one in a multi-page TIFF.
        shape: (H, W) of the first page.
        dtype: of the grey values.
        colour: whether colour is converted.
        planes: what the pages of a microscope's stack are, where the file tells.
    """

    pages: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    colour: bool
    planes: Planes | None = None


def read_header(stream: BinaryIO) -> ImageHeader:
    """Return the header of an image without decoding it."""
    pages = _tiff_pages(stream)
    return replace(_header(stream, pages), planes=planes_of(stream, pages) if len(pages) > 1 else None)


def _header(stream: BinaryIO, pages: Sequence[tiff.Tags]) -> ImageHeader:
    plain = _plain(stream, pages[:1])
    if plain:
        grey = np.dtype(plain[0].stored.newbyteorder("="))
        colour = len(plain[0].shape) == 3
        height, width = plain[0].shape[:2]
        return ImageHeader(len(pages), (height, width), grey_type(grey) if colour else grey, colour)
    magic = _magic(stream)
    if pages and not _pillow_keeps(pages[0], magic):
        return _tifffile_header(stream, len(pages))
    return _pillow_header(stream, len(pages))


def read_pages(stream: BinaryIO, indices: Sequence[int]) -> Iterator[Array]:
    """Yield the chosen pages as grey (H, W) arrays in their stored precision."""
    pages = _tiff_pages(stream)
    chosen = [pages[i] for i in indices] if pages else []
    plain = _plain(stream, chosen)
    if plain:
        yield from (page.read(stream) for page in plain)
        return
    magic = _magic(stream)
    if not all(_pillow_keeps(tags, magic) for tags in chosen):
        yield from _tifffile_pages(stream, indices)
    else:
        yield from _pillow_pages(stream, indices)


def _tiff_pages(stream: BinaryIO) -> list[tiff.Tags]:
    """Return the tags of the pages of a TIFF; none for other images."""
    return tiff.directories(stream) if _magic(stream) in tiff.MAGIC else []


def _magic(stream: BinaryIO) -> bytes:
    """Return the first four bytes, and leave the stream at its start."""
    stream.seek(0)
    magic = stream.read(4)
    stream.seek(0)
    return magic


def _plain(stream: BinaryIO, pages: Sequence[tiff.Tags]) -> list[tiff.PlainPage]:
    """Return where pages lie in the file as they are; nothing where any does not."""
    order = "<" if _magic(stream)[:2] == b"II" else ">"
    plain = [page for tags in pages if (page := tiff.plain_page(tags, order)) is not None]
    return plain if len(plain) == len(pages) else []


def _pillow_header(stream: BinaryIO, pages: int) -> ImageHeader:
    from PIL import Image

    with Image.open(stream) as image:
        width, height = image.size
        deep = image.mode.startswith("I;16") or _is_deep_colour(image)  # asked first: later the tiles are gone
        if image.format != "TIFF" and image.getexif().get(tiff.ORIENTATION, 1) >= 5:
            width, height = height, width
        colour = image.mode not in ("1", "L", "LA", "I", "F") and not image.mode.startswith("I;16")
        dtype = np.dtype(np.uint16 if deep else _DTYPES.get(image.mode, np.uint8))
    return ImageHeader(pages or 1, (height, width), dtype, colour)


def _pillow_pages(stream: BinaryIO, indices: Sequence[int]) -> Iterator[Array]:
    from PIL import Image

    with Image.open(stream) as image:
        for index in indices:
            if image.format == "TIFF":
                image.seek(index)
            yield _grey_page(image, stream)


def _grey_page(image: Image, stream: BinaryIO) -> Array:
    from PIL import ImageOps

    if _is_deep_colour(image):
        return _deep_colour(stream)
    if image.format == "JPEG" and image.mode == "RGB" and not keeps_colour():
        image.draft("L", image.size)  # the file's own luminance channel, without the detour through colour
    if image.format != "TIFF" and image.getexif().get(tiff.ORIENTATION, 1) != 1:
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


def _pillow_keeps(tags: tiff.Tags, magic: bytes) -> bool:
    """True where Pillow keeps the values of a TIFF page: not where they are signed, wide, planar or deep colour.

    It does not know big-endian BigTIFF, and swaps the bytes of compressed big-endian floats once too often.
    """
    if magic == tiff.BIG_BIG_ENDIAN:
        return False
    bits, formats = set(tags.get(tiff.BITS, (1,))), set(tags.get(tiff.SAMPLE_FORMAT, (1,)))
    samples, planar = tags.get(tiff.SAMPLES, (1,)), tags.get(tiff.PLANAR, (1,))
    if max(bits) <= 8:
        return formats == {1} and (samples == (1,) or planar == (1,))
    if samples != (1,) or tags.get(tiff.PHOTOMETRIC) != (1,):
        return False
    return (bits, formats) in (({16}, {1}), *([({32}, {3})] if magic[:2] == b"II" else []))


def _tifffile_header(stream: BinaryIO, pages: int) -> ImageHeader:
    import tifffile

    with tifffile.TiffFile(stream) as file:
        page = file.pages.first
        # Pages of one bit become 0 and 255.
        dtype = np.dtype(np.uint8 if page.dtype is None or page.dtype == bool else page.dtype)
        colour = page.samplesperpixel >= 3
        shape = page.imagelength, page.imagewidth
        return ImageHeader(pages, shape, grey_type(dtype) if colour else dtype, colour)


def _tifffile_pages(stream: BinaryIO, indices: Sequence[int]) -> Iterator[Array]:
    import tifffile

    with tifffile.TiffFile(stream) as file:
        for index in indices:
            page: TiffPage = file.pages[index]  # type: ignore[assignment]
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
