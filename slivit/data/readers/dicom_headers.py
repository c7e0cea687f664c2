"""DICOM headers as plain records, one a frame, so that sorting and grouping need no pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from slivit.data.readers.base import Array, check_size, counted, decoding
from slivit.data.readers.dicom_scan import PlainHeader, plain_header
from slivit.data.readers.entries import Entry
from slivit.errors import ReadError

if TYPE_CHECKING:
    from pydicom import Dataset

_MAGIC_AT = 128
TAGS = {
    0x00080016: "SOPClassUID",
    0x00080018: "SOPInstanceUID",
    0x00080060: "Modality",
    0x0008103E: "SeriesDescription",
    0x00180050: "SliceThickness",
    0x00180088: "SpacingBetweenSlices",
    0x00181164: "ImagerPixelSpacing",
    0x00182010: "NominalScannedPixelSpacing",
    0x00186011: "SequenceOfUltrasoundRegions",
    0x0020000E: "SeriesInstanceUID",
    0x00200011: "SeriesNumber",
    0x00200013: "InstanceNumber",
    0x00200032: "ImagePositionPatient",
    0x00200037: "ImageOrientationPatient",
    0x00280002: "SamplesPerPixel",
    0x00280004: "PhotometricInterpretation",
    0x00280008: "NumberOfFrames",
    0x00280010: "Rows",
    0x00280011: "Columns",
    0x00280030: "PixelSpacing",
    0x00280100: "BitsAllocated",
    0x00280101: "BitsStored",
    0x00280102: "HighBit",
    0x00280103: "PixelRepresentation",
    0x00281052: "RescaleIntercept",
    0x00281101: "RedPaletteColorLookupTableDescriptor",
    0x00281053: "RescaleSlope",
    0x00283000: "ModalityLUTSequence",
    0x3004000C: "GridFrameOffsetVector",
    0x3004000E: "DoseGridScaling",
    0x52009229: "SharedFunctionalGroupsSequence",
    0x52009230: "PerFrameFunctionalGroupsSequence",
}
_TAG_OF = {keyword: tag for tag, keyword in TAGS.items()}

Vector = tuple[float, ...]
Get = Callable[[str], Any]


@dataclass(frozen=True)
class Series:
    """What names a series in messages and in the option `series`."""

    uid: str
    number: str
    description: str
    modality: str


@dataclass(frozen=True)
class Frame:
    """One slice of a DICOM series: where its pixels are, where it lies, how its values are scaled.

    Args:
        entry: the file.
        index: which frame of the file.
        series: the series that it belongs to.
        instance: InstanceNumber, or 0.
        uid: SOPInstanceUID, or "".
        shape: (rows, columns).
        position: ImagePositionPatient in LPS mm, or None.
        orientation: ImageOrientationPatient: the directions of a row and of a column, or None.
        pixel_spacing: mm between rows and between columns, or None.
        thickness: SpacingBetweenSlices or else SliceThickness in mm, or None.
        slope: RescaleSlope; a 0, which would erase the image, counts as 1.
        intercept: RescaleIntercept.
        photometric: PhotometricInterpretation.
        has_lut: whether a Modality LUT stands in the place of slope and intercept.
        stored: the type of the stored values.
        bits: how many of its bits are used.
        high_bit: the uppermost of them.
        pixels_at: where in the file the pixels of frame 0 start, if they are stored as they are; else None.
    """

    entry: Entry
    index: int
    series: Series
    instance: int
    uid: str
    shape: tuple[int, int]
    position: Vector | None
    orientation: Vector | None
    pixel_spacing: Vector | None
    thickness: float | None
    slope: float
    intercept: float
    photometric: str
    has_lut: bool
    stored: np.dtype[Any]
    bits: int
    high_bit: int
    pixels_at: int | None

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame."""
        return self.shape[0] * self.shape[1] * self.stored.itemsize


def read_dataset(entry: Entry, source: str, *, pixels: bool) -> Dataset | None:
    """Return a DICOM dataset, or None where the file is no DICOM.

    Args:
        entry: the file.
        source: its name for messages.
        pixels: whether to read the pixels too; without them only the elements named in TAGS are read.
    """
    from pydicom import dcmread

    with entry.open() as stream:
        head = stream.read(_MAGIC_AT + 4)
        is_part10 = head[_MAGIC_AT:] == b"DICM"
        if not is_part10 and not _looks_bare(head):
            return None
        stream.seek(0)
        with decoding(source, "DICOM"):
            options: dict[str, Any] = {} if pixels else {"stop_before_pixels": True, "specific_tags": list(TAGS)}
            return dcmread(stream, force=not is_part10, **options)


def _looks_bare(head: bytes) -> bool:
    """True where a file without the DICOM preamble starts like a dataset: with an element of a low, even group."""
    return head[:2] in (b"\x02\0", b"\x08\0", b"\0\x08")


def read_frames(entry: Entry, source: str) -> list[Frame] | str | None:
    """Return the frames of a file; a few words where it is a DICOM file without an image; None where no DICOM."""
    with decoding(source, "DICOM"), entry.open() as stream:
        plain = plain_header(stream, TAGS)
    if plain is not None and plain.get("Rows") and plain.get("Columns"):
        return list(frames_of(plain.get, entry, source, plain))
    dataset = read_dataset(entry, source, pixels=False)
    if dataset is None:
        return None
    with decoding(source, "DICOM"):
        if "Rows" not in dataset or "Columns" not in dataset:
            return _without_image(dataset, source)
        return list(frames_of(getter(dataset), entry, source, None))


def getter(dataset: Dataset) -> Get:
    """Return a lookup by keyword that takes a value which pydicom cannot convert for an absent one."""

    def get(keyword: str) -> Any:
        try:
            return dataset[_TAG_OF[keyword]].value
        except (KeyError, ValueError, TypeError, OverflowError, NotImplementedError):
            return None

    return get


def _without_image(dataset: Dataset, source: str) -> str:
    """Return what a file without rows and columns is, or raise where it should have been an image."""
    uid = getter(dataset)("SOPClassUID") or getattr(dataset, "file_meta", {}).get("MediaStorageSOPClassUID", "")
    name = str(getattr(uid, "name", uid))
    if not name or "Image" in name:
        raise ReadError(f"{source}: the DICOM header is cut short or has no Rows and Columns. Copy or export it again.")
    return name


def frames_of(get: Get, entry: Entry, source: str, plain: PlainHeader | None) -> Iterator[Frame]:
    """Yield the frames of a file from its header.

    Args:
        get: value by keyword, or None.
        entry: the file.
        source: its name for messages.
        plain: the header, where the quick walk gave it: then it says where the pixels lie.
    """
    whole = _whole(get, entry)
    count = max(1, int(_number(get("NumberOfFrames")) or 1))
    check_size(source, (count, *whole.shape), 1, entry.size)
    whole = replace(whole, pixels_at=None if plain is None else _native_start(whole, plain, count))
    groups = get("PerFrameFunctionalGroupsSequence")
    if groups and count > 1 and len(groups) != count:
        raise ReadError(
            f"{source}: has {counted(count, 'frame')} and tells the places of {len(groups)}, so it is not known "
            "where they lie; the file is damaged. Copy or export it again."
        )
    if groups and len(groups) == count:
        shared = (get("SharedFunctionalGroupsSequence") or [None])[0]
        for index, own in enumerate(groups):
            yield _functional(replace(whole, index=index), shared, own)
        return
    offsets = get("GridFrameOffsetVector")
    for index in range(count):
        yield _plain_frame(whole, index, count, offsets)


def _native_start(whole: Frame, plain: PlainHeader, count: int) -> int | None:
    """Return where the pixels start, where they are stored as they are: grey, uncompressed, of the right length."""
    grey = plain.get("SamplesPerPixel") == 1 and whole.photometric.startswith("MONOCHROME")
    usual = plain.get("BitsAllocated") in (8, 16, 32) and plain.get("PixelRepresentation") in (0, 1)
    needed = count * whole.frame_bytes
    if grey and usual and whole.bits <= 8 * whole.stored.itemsize and plain.pixel_bytes in (needed, needed + 1):
        return plain.pixels_at
    return None


def _whole(get: Get, entry: Entry) -> Frame:
    """Return what the file's own header says of all its frames."""
    uid, number, description, modality = (
        _text(get(name)) for name in ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality")
    )
    slope = _number(get("DoseGridScaling")) or _number(get("RescaleSlope"))
    bits = int(_number(get("BitsStored")) or _number(get("BitsAllocated")) or 16)
    high_bit = _number(get("HighBit"))
    return Frame(
        entry=entry,
        index=0,
        series=Series(uid, number, description, modality),
        instance=int(_number(get("InstanceNumber")) or 0),
        uid=_text(get("SOPInstanceUID")),
        shape=(int(get("Rows")), int(get("Columns"))),
        position=_vector(get("ImagePositionPatient"), 3),
        orientation=_orientation(get("ImageOrientationPatient")),
        pixel_spacing=_pixel_spacing(get),
        thickness=_positive(get("SpacingBetweenSlices")) or _positive(get("SliceThickness")),
        slope=1.0 if slope is None else slope,
        intercept=_number(get("RescaleIntercept")) or 0.0,
        photometric=_text(get("PhotometricInterpretation")),
        has_lut=bool(get("ModalityLUTSequence")),
        stored=_stored_type(get),
        bits=bits,
        high_bit=bits - 1 if high_bit is None else int(high_bit),
        pixels_at=None,
    )


def _stored_type(get: Get) -> np.dtype[Any]:
    """Return the type of the stored values, or of the palette's colours.

    Without PixelRepresentation they are floats (Float Pixel Data).
    """
    palette = get("RedPaletteColorLookupTableDescriptor")
    bits = int(_number(palette[2] if palette else get("BitsAllocated")) or 16)
    size = next((size for size in (1, 2, 4, 8) if bits <= 8 * size), 8)
    signed = get("PixelRepresentation")
    kind = "f" if signed is None and size >= 4 else "i" if signed == 1 else "u"
    return np.dtype(f"{kind}{size}")


def _plain_frame(whole: Frame, index: int, count: int, offsets: Sequence[Any] | None) -> Frame:
    """Return one frame of a multi-frame file without functional groups; only dose grids say where each one lies."""
    if count == 1:
        return whole
    position = None
    if offsets is not None and len(offsets) == count and whole.position and whole.orientation:
        shift = float(offsets[index]) - float(offsets[0])
        position = tuple(np.add(whole.position, shift * normal(whole.orientation)).tolist())
    return replace(whole, index=index, position=position)


def _functional(whole: Frame, shared: Dataset | None, own: Dataset) -> Frame:
    """Return a frame of an enhanced file: its own functional groups come before the shared ones."""

    def macro(name: str) -> Dataset | None:
        for group in (own, shared):
            items = group.get(name) if group is not None else None
            if items:
                return items[0]
        return None

    changes: dict[str, Any] = {}
    if (plane := macro("PlanePositionSequence")) is not None:
        changes["position"] = _vector(plane.get("ImagePositionPatient"), 3)
    if (plane := macro("PlaneOrientationSequence")) is not None:
        changes["orientation"] = _orientation(plane.get("ImageOrientationPatient"))
    if (measures := macro("PixelMeasuresSequence")) is not None:
        changes["pixel_spacing"] = _vector(measures.get("PixelSpacing"), 2)
        distance = _positive(measures.get("SpacingBetweenSlices")) or _positive(measures.get("SliceThickness"))
        changes["thickness"] = distance
    if (scaling := macro("PixelValueTransformationSequence")) is not None:
        slope = _number(scaling.get("RescaleSlope"))
        changes["slope"] = 1.0 if slope is None else slope
        changes["intercept"] = _number(scaling.get("RescaleIntercept")) or 0.0
    return replace(whole, **changes)


@lru_cache(maxsize=256)
def normal(orientation: Vector) -> Array:
    """Return the direction across the slices: row direction x column direction."""
    return np.cross(orientation[:3], orientation[3:])


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _number(value: Any) -> float | None:
    """Return a finite number, or None for an absent, empty or unreadable value."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _positive(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and number > 0 else None


def _vector(value: Any, size: int) -> Vector | None:
    if value is None or isinstance(value, str) or not hasattr(value, "__len__") or len(value) != size:
        return None
    numbers = [_number(v) for v in value]
    return None if None in numbers else tuple(n for n in numbers if n is not None)


def _orientation(value: Any) -> Vector | None:
    """Return the six direction cosines, or None where they span no plane."""
    cosines = _vector(value, 6)
    return cosines if cosines is not None and np.linalg.norm(normal(cosines)) > 0.5 else None


def _pixel_spacing(get: Get) -> Vector | None:
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = _vector(get(name), 2)
        if spacing is not None and min(spacing) > 0:
            return spacing
    regions = get("SequenceOfUltrasoundRegions")
    if regions and regions[0].get("PhysicalUnitsXDirection") == 3:  # 3 is centimetres
        steps = [_positive(regions[0].get(f"PhysicalDelta{axis}")) for axis in "YX"]
        if None not in steps:
            return tuple(10.0 * s for s in steps if s is not None)
    return None


def require_frames(found: list[Frame] | str | None, source: str) -> list[Frame]:
    """Return the frames of a single file, or raise with the reason why there are none."""
    if isinstance(found, list) and found:
        return found
    if isinstance(found, str):
        raise ReadError(f"{source}: is a DICOM file without an image ({found}). Choose one of the images.")
    raise ReadError(f"{source}: is not a DICOM file, or its header is cut short. Copy or export it again.")
