"""The pixels of DICOM frames, as grey values in their unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from slivit.data.readers.base import COLOUR_NOTE, Array, grey_type, needed, rescale, to_grey
from slivit.data.readers.dicom_headers import Frame, read_dataset
from slivit.errors import ReadError

if TYPE_CHECKING:
    from pydicom import Dataset

INVERTED_NOTE = "MONOCHROME1 (low is white) was inverted, so that bright is bright"
_WITH_UNIT = ("CT", "PT")  # inverting would turn HU and Bq/ml into nonsense
_AS_STORED = ("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
_RUN_LENGTHS = "1.2.840.10008.1.2.5"
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"  # with 12 bits, only the GPL decoder pylibjpeg-libjpeg takes it: an extra
_VIDEO = ("1.2.840.10008.1.2.4.10", "1.2.840.10008.1.2.7.")  # MPEG, H.264, HEVC; uncompressed streams


def is_colour(frame: Frame) -> bool:
    """True for RGB, YBR and palette images."""
    return frame.samples > 1 or not (frame.photometric or "MONOCHROME").startswith("MONOCHROME")


def is_inverted(frame: Frame) -> bool:
    """True for MONOCHROME1, except where the values have a unit."""
    return frame.photometric == "MONOCHROME1" and frame.series.modality not in _WITH_UNIT and frame.stored.kind != "f"


def value_notes(frames: Sequence[Frame]) -> tuple[str, ...]:
    """Return what was done to the values of a series besides scaling, and what is odd about them."""
    inverted = [is_inverted(f) for f in frames]
    notes = (COLOUR_NOTE,) * any(map(is_colour, frames)) + (INVERTED_NOTE,) * any(inverted)
    if any(inverted) and not all(inverted):
        notes += (f"only {sum(inverted)} of {len(frames)} slices are MONOCHROME1",)
    if any(f.slope == 0 for f in frames):
        notes += ("RescaleSlope is 0, which would erase the image; it was taken for 1",)
    if odd := next(filter(is_left_aligned, frames), None):
        low = odd.high_bit + 1 - odd.bits
        notes += (f"HighBit is {odd.high_bit} with {odd.bits} bits stored: bits {low} to {odd.high_bit} were read",)
    if not all(f.photometric for f in frames):
        notes += ("the header has no PhotometricInterpretation; the values were taken as they are",)
    if any(f.lut == "empty" for f in frames):
        notes += ("an empty Modality LUT was ignored",)
    return notes


def is_left_aligned(frame: Frame) -> bool:
    """True where the values do not stand in the lowest bits (allowed until 2014)."""
    return frame.bits <= frame.high_bit < 8 * frame.stored.itemsize


def check_compression(frames: Sequence[Frame], source: str) -> None:
    """Raise where the pixels are compressed in a way that no decoder at hand takes.

    Args:
        frames: of one series.
        source: for messages.
    """
    for frame in {(f.syntax, f.bits): f for f in frames if f.syntax not in _AS_STORED}.values():
        where = source if source.endswith(frame.entry.name) else f"{source}/{frame.entry.name}"
        if frame.syntax == _JPEG_EXTENDED and frame.bits > 8:
            needed("libjpeg", "jpeg", where)
        if not _is_decodable(frame.syntax):
            way = (
                "Convert it to a video file (.mp4), for instance with ffmpeg or dcm2mp4"
                if _is_video(frame.syntax)
                else ("Convert it with: gdcmconv --raw IN OUT (GDCM), or dcmconv (DCMTK)")
            )
            raise ReadError(f"{where}: its compression is not supported ({_name(frame.syntax)}). {way}.")


def _name(syntax: str) -> str:
    from pydicom.uid import UID

    return str(UID(syntax).name)


def _is_video(syntax: str) -> bool:
    return syntax.startswith(_VIDEO)


@cache
def _is_decodable(syntax: str) -> bool:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    try:
        return bool(get_decoder(UID(syntax)).is_available)
    except NotImplementedError:
        return False


def value_type(frames: Sequence[Frame]) -> np.dtype[Any]:
    """Return the type of the grey values of a series, the same for whichever of its slices are decoded."""
    scalings = {(is_colour(f), f.lut == "used", f.stored, _slope(f), f.intercept) for f in frames}
    return np.result_type(*(_grey_type(*scaling) for scaling in scalings))


def _grey_type(colour: bool, has_lut: bool, stored: np.dtype[Any], slope: float, intercept: float) -> np.dtype[Any]:
    if colour:
        return grey_type(stored)
    return np.dtype(np.uint16) if has_lut else rescale(np.zeros(1, stored), slope, intercept).dtype


def decode(frames: Sequence[Frame], source: str) -> Iterator[Array]:
    """Yield the (rows, columns) grey values of frames that lie in one file."""
    if all(frame.pixels_at is not None for frame in frames):
        with frames[0].entry.open() as stream:
            yield from (_finished(_native(frame, stream), frame) for frame in frames)
        return
    dataset = read_dataset(frames[0].entry, source, pixels=True)
    if dataset is None:
        raise ReadError(f"{source}: is no longer a DICOM file. Copy it again.")
    _complete(dataset, frames[0])
    if frames[0].tile is not None:
        yield from _cut(frames, dataset)
    else:
        yield from (_grey(frame, dataset) for frame in frames)


def _cut(frames: Sequence[Frame], dataset: Dataset) -> Iterator[Array]:
    """Yield the slices of a mosaic, which is decoded once."""
    picture = _grey(replace(frames[0], index=0), dataset)
    for frame in frames:
        (top, left), (rows, columns) = frame.tile or (0, 0), frame.shape
        yield picture[top : top + rows, left : left + columns]


def _native(frame: Frame, stream: BinaryIO) -> Array:
    """Return the stored values of a frame that lies in the file as it is."""
    stream.seek((frame.pixels_at or 0) + frame.index * frame.frame_bytes)
    raw = stream.read(frame.frame_bytes)
    if len(raw) < frame.frame_bytes:
        raise ValueError(f"the pixels end after {len(raw)} of {frame.frame_bytes} bytes")
    pixels = np.frombuffer(raw, frame.stored.newbyteorder("<")).reshape(frame.shape)
    return _used_bits(pixels, frame)


def _used_bits(pixels: Array, frame: Frame) -> Array:
    """Return the values without the bits that are not used, whose content is undefined."""
    width = 8 * frame.stored.itemsize
    left = width - 1 - frame.high_bit if is_left_aligned(frame) else width - frame.bits
    if frame.bits >= width:
        return pixels
    return (pixels << left) >> (width - frame.bits)


def _complete(dataset: Dataset, frame: Frame) -> None:
    """Say what pydicom needs to know and the header leaves out: kinds of pixels, and how the values are encoded.

    A file without a file meta header is encoded as found while reading it.
    """
    if not dataset.get("SamplesPerPixel"):
        dataset.SamplesPerPixel = frame.samples
    if not frame.photometric:
        dataset.PhotometricInterpretation = "MONOCHROME2" if frame.samples == 1 else "RGB"
    if dataset.file_meta.get("TransferSyntaxUID"):
        return
    from pydicom import uid

    implicit, little = dataset.original_encoding
    explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit


def _decoder(syntax: str, bits: int) -> str:
    """Return the plug-in of pydicom's for a transfer syntax: the same whatever else is installed; "" for any."""
    from pydicom import uid

    if syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
        return "pylibjpeg" if bits > 8 else "pillow"
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1, *uid.JPEGLSTransferSyntaxes):
        return "gdcm"
    return "pylibjpeg" if syntax in uid.JPEG2000TransferSyntaxes else ""


def _grey(frame: Frame, dataset: Dataset) -> Array:
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    shifted = is_left_aligned(frame) and frame.syntax in (*_AS_STORED, _RUN_LENGTHS)
    plugin = _decoder(frame.syntax, frame.bits)
    pixels = pixel_array(dataset, index=frame.index, correct_unused_bits=not shifted, decoding_plugin=plugin)
    if frame.photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 3:
        return to_grey(pixels)
    if shifted:
        pixels = _used_bits(pixels, frame)
    if frame.lut != "used":
        return _finished(pixels, frame)
    looked_up = apply_modality_lut(pixels, dataset)
    return _inverted(looked_up, _lut_bits(dataset)) if is_inverted(frame) else looked_up


def _lut_bits(dataset: Dataset) -> int:
    """Return how many bits the values of the modality lookup table have."""
    return int(dataset.ModalityLUTSequence[0].LUTDescriptor[2])


def _slope(frame: Frame) -> float:
    return frame.slope or 1.0


def _finished(pixels: Array, frame: Frame) -> Array:
    """Return stored values in their unit, bright as bright."""
    return rescale(_inverted(pixels, frame.bits) if is_inverted(frame) else pixels, _slope(frame), frame.intercept)


def _inverted(pixels: Array, bits: int) -> Array:
    """Return stored values with black and white exchanged, within the bits that are used."""
    if pixels.dtype.kind == "i":
        return ~pixels
    return pixels.dtype.type((1 << bits) - 1) - pixels
