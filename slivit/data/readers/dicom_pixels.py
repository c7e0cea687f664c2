"""The pixels of DICOM frames, as grey values in their unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from slivit.data.readers.base import COLOUR_NOTE, Array, grey_type, rescale, to_grey
from slivit.data.readers.dicom_headers import Frame, read_dataset
from slivit.errors import ReadError

if TYPE_CHECKING:
    from pydicom import Dataset

INVERTED_NOTE = "MONOCHROME1 (low is white) was inverted, so that bright is bright"
_WITH_UNIT = ("CT", "PT")  # inverting would turn HU and Bq/ml into nonsense


def is_colour(frame: Frame) -> bool:
    """True for RGB, YBR and palette images."""
    return not frame.photometric.startswith("MONOCHROME")


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
    if odd := next((f for f in frames if f.high_bit >= f.bits), None):
        notes += (f"HighBit {odd.high_bit} does not fit {odd.bits} bits stored; the lowest {odd.bits} bits were read",)
    return notes


def value_type(frames: Sequence[Frame]) -> np.dtype[Any]:
    """Return the type of the grey values of a series, the same for whichever of its slices are decoded."""
    scalings = {(is_colour(f), f.has_lut, f.stored, _slope(f), f.intercept) for f in frames}
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
    _name_syntax(dataset)
    yield from (_grey(frame, dataset) for frame in frames)


def _native(frame: Frame, stream: BinaryIO) -> Array:
    """Return the stored values of a frame that lies in the file as it is."""
    stream.seek((frame.pixels_at or 0) + frame.index * frame.frame_bytes)
    raw = stream.read(frame.frame_bytes)
    if len(raw) < frame.frame_bytes:
        raise ValueError(f"the pixels end after {len(raw)} of {frame.frame_bytes} bytes")
    pixels = np.frombuffer(raw, frame.stored.newbyteorder("<")).reshape(frame.shape)
    spare = 8 * frame.stored.itemsize - frame.bits
    if spare == 0:
        return pixels
    return (pixels << spare) >> spare  # what lies in unused bits is undefined


def _name_syntax(dataset: Dataset) -> None:
    """Say how the values are encoded in a file without a file meta header, as found while reading it."""
    if dataset.file_meta.get("TransferSyntaxUID"):
        return
    from pydicom import uid

    implicit, little = dataset.original_encoding
    explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit


def _grey(frame: Frame, dataset: Dataset) -> Array:
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    pixels = pixel_array(dataset, index=frame.index)
    if frame.photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 3:
        return to_grey(pixels)
    if not frame.has_lut:
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
