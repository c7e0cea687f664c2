"""DICOM headers as plain records, one a frame, so that sorting and grouping need no pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from slivit.data.readers.base import check_size, counted, decoding
from slivit.data.readers.dicom_deflated import inflated
from slivit.data.readers.dicom_scan import PlainHeader, plain_header
from slivit.data.readers.dicom_values import (
    SYNTAX,
    TAGS,
    Get,
    Vector,
    b_value,
    getter,
    joined,
    normal,
    number,
    orientation,
    pixel_spacing,
    positive,
    text,
    vector,
)
from slivit.data.readers.entries import Entry
from slivit.errors import ReadError

if TYPE_CHECKING:
    from pydicom import Dataset

_MAGIC_AT = 128
# Classes with rows and columns that are no image of a volume: masks, whole slides, spectra.
_NO_SCANS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "VL Whole Slide Microscopy Image Storage",
    "1.2.840.10008.5.1.4.1.1.4.2": "MR Spectroscopy Storage",
}
_NO_SCAN_MODALITIES = {"SEG": "Segmentation", "SM": "Slide Microscopy"}


@dataclass(frozen=True)
class Series:
    """What names a series in messages and in the option `series`."""

    uid: str
    number: str
    description: str
    modality: str
    patient: str = ""


@dataclass(frozen=True)
class Marks:
    """What tells the images at one place apart; None or "" where the header does not say it.

    Args:
        image_type: ImageType, or the FrameType of an enhanced file.
        echo_time: ms.
        temporal_position: the number of the time point.
        b_value: s/mm2.
        inversion_time: ms.
        flip_angle: degrees.
        kvp: kV of the tube.
        trigger_time: ms after the R wave.
        acquisition: AcquisitionNumber.
        acquired: date and time of acquisition.
        shown: date and time of the image.
        dimensions: DimensionIndexValues of an enhanced file.
        part: of a file of nuclear medicine that holds several stacks, such as "energy window 1, detector 2".
    """

    image_type: str = ""
    echo_time: float | None = None
    temporal_position: float | None = None
    b_value: float | None = None
    inversion_time: float | None = None
    flip_angle: float | None = None
    kvp: float | None = None
    trigger_time: float | None = None
    acquisition: float | None = None
    acquired: str = ""
    shown: str = ""
    dimensions: tuple[int, ...] = ()
    part: str = ""


@dataclass(frozen=True)
class Frame:
    """One slice of a DICOM series: where its pixels are, where it lies, how its values are scaled.

    Args:
        entry: the file.
        index: which frame of the file.
        count: how many frames the file has.
        series: the series that it belongs to.
        sop_class: SOPClassUID.
        syntax: TransferSyntaxUID, or "".
        instance: InstanceNumber, or None.
        uid: SOPInstanceUID, or "".
        concatenation: what names the files that one multi-frame image was cut into, or "".
        marks: what tells it from other images at its place.
        shape: (rows, columns).
        position: ImagePositionPatient in LPS mm, or None.
        location: SliceLocation in mm, or None.
        orientation: ImageOrientationPatient: the directions of a row and of a column, or None.
        pixel_spacing: mm between rows and between columns, or None.
        thickness: SpacingBetweenSlices or else SliceThickness in mm, or None.
        slope: RescaleSlope; a 0, which would erase the image, counts as 1.
        intercept: RescaleIntercept.
        samples: values a pixel: 1 for grey and palettes, 3 for colours.
        photometric: PhotometricInterpretation, or "".
        lut: "used" where a Modality LUT stands in the place of slope and intercept, "empty" where there is a void one.
        stored: the type of the stored values.
        bits: how many of its bits are used.
        high_bit: the uppermost of them.
        pixels_at: where in the file the pixels of frame 0 start, if they are stored as they are; else None.
        tile: (row, column) where the slice starts in a mosaic, or None.
    """

    entry: Entry
    index: int
    count: int
    series: Series
    sop_class: str
    syntax: str
    instance: int | None
    uid: str
    concatenation: str
    marks: Marks
    shape: tuple[int, int]
    position: Vector | None
    location: float | None
    orientation: Vector | None
    pixel_spacing: Vector | None
    thickness: float | None
    slope: float
    intercept: float
    samples: int
    photometric: str
    lut: str
    stored: np.dtype[Any]
    bits: int
    high_bit: int
    pixels_at: int | None
    tile: tuple[int, int] | None = None

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame."""
        return self.shape[0] * self.shape[1] * self.stored.itemsize


def read_dataset(entry: Entry, source: str, *, pixels: bool, tags: Sequence[int] = ()) -> Dataset | None:
    """Return a DICOM dataset, or None where the file is no DICOM.

    Args:
        entry: the file.
        source: its name for messages.
        pixels: whether to read the pixels too; without them only the elements named in TAGS are read.
        tags: elements to read besides those.
    """
    from pydicom import dcmread

    with entry.open() as stream:
        head = stream.read(_MAGIC_AT + 4)
        is_part10 = head[_MAGIC_AT:] == b"DICM"
        if not is_part10 and not _looks_bare(head):
            return None
        stream.seek(0)
        with decoding(source, "DICOM"):
            options: dict[str, Any] = {} if pixels else {"stop_before_pixels": True, "specific_tags": [*TAGS, *tags]}
            return dcmread(inflated(stream, source), force=not is_part10, **options)


def _looks_bare(head: bytes) -> bool:
    """True where a file without the DICOM preamble starts like a dataset: with an element of a low, even group."""
    return head[:2] in (b"\x02\0", b"\x08\0", b"\0\x08")


def read_frames(entry: Entry, source: str) -> list[Frame] | str | None:
    """Return the frames of a file; a few words where it is a DICOM file without a scan; None where no DICOM."""
    with decoding(source, "DICOM"), entry.open() as stream:
        plain = plain_header(stream, TAGS)
    if plain is not None and plain.get("Rows") and plain.get("Columns") and not is_mosaic(plain.get):
        return _no_scan(plain.get) or _checked(list(frames_of(plain.get, entry, source, plain)), source)
    dataset = read_dataset(entry, source, pixels=False)
    if dataset is None:
        return None
    with decoding(source, "DICOM"):
        get = getter(dataset)
        if "Rows" not in dataset or "Columns" not in dataset:
            return _without_image(dataset, source)
        if kind := _no_scan(get):
            return kind
        frames = list(frames_of(get, entry, source, None))
        if is_mosaic(get):
            from slivit.data.readers.dicom_mosaic import tiles

            return tiles(frames, source)
        return _checked(frames, source)


def _checked(frames: list[Frame], source: str) -> list[Frame]:
    if len(frames) == 1 or frames[0].series.modality != "NM":
        return frames
    from slivit.data.readers.dicom_nuclear import nuclear_parts

    return nuclear_parts(frames, source)


def is_mosaic(get: Get) -> bool:
    """True where one picture holds all slices of a volume side by side: Siemens mosaics, UIH grids."""
    return "MOSAIC" in joined(get("ImageType")).upper().split("\\") or (number(get("UihGridSlices")) or 0) > 1


def _no_scan(get: Get) -> str:
    """Return what a file is whose pixels are no image of a volume, or ""."""
    named = _NO_SCANS.get(text(get("SOPClassUID")), "")
    return named or _NO_SCAN_MODALITIES.get(text(get("Modality")).upper(), "")


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
    count = max(1, int(number(get("NumberOfFrames")) or 1))
    whole = _whole(get, entry, count, plain)
    check_size(source, (count, *whole.shape), 1, entry.size)
    groups = get("PerFrameFunctionalGroupsSequence")
    if groups and count > 1 and len(groups) != count:
        raise ReadError(
            f"{source}: has {counted(count, 'frame')} and tells the places of {len(groups)}, so it is not known "
            "where they lie; the file is damaged. Copy or export it again."
        )
    if groups and len(groups) == count:
        from slivit.data.readers.dicom_enhanced import functional

        shared = (get("SharedFunctionalGroupsSequence") or [None])[0]
        for index, own in enumerate(groups):
            yield functional(replace(whole, index=index), shared, own)
        return
    offsets = get("GridFrameOffsetVector")
    for index in range(count):
        yield _plain_frame(whole, index, count, offsets)


def _native_start(plain: PlainHeader | None, needed: int, bits: int) -> int | None:
    """Return where the pixels start, where they are stored as they are: grey, uncompressed, of the right length."""
    if plain is None or plain.pixel_bytes not in (needed, needed + 1):
        return None
    grey = plain.get("SamplesPerPixel") == 1
    grey = grey and (plain.get("PhotometricInterpretation") or "MONOCHROME").startswith("MONOCHROME")
    allocated = plain.get("BitsAllocated")
    usual = allocated in (8, 16, 32) and bits <= allocated and plain.get("PixelRepresentation") in (0, 1)
    return plain.pixels_at if grey and usual else None


def _whole(get: Get, entry: Entry, count: int, plain: PlainHeader | None) -> Frame:
    """Return what the file's own header says of all its frames."""
    slope = number(get("DoseGridScaling")) or number(get("RescaleSlope"))
    bits = int(number(get("BitsStored")) or number(get("BitsAllocated")) or 16)
    high_bit, instance = number(get("HighBit")), number(get("InstanceNumber"))
    photometric = text(get("PhotometricInterpretation"))
    shape, stored = (int(get("Rows")), int(get("Columns"))), _stored_type(get)
    return Frame(
        entry=entry,
        index=0,
        count=count,
        series=_series(get),
        sop_class=text(get("SOPClassUID")),
        syntax=text(get(SYNTAX)),
        instance=None if instance is None else int(instance),
        uid=text(get("SOPInstanceUID")),
        concatenation=text(get("ConcatenationUID")),
        marks=_marks(get),
        shape=shape,
        position=vector(get("ImagePositionPatient"), 3),
        location=number(get("SliceLocation")),
        orientation=orientation(get("ImageOrientationPatient")),
        pixel_spacing=pixel_spacing(get),
        thickness=positive(get("SpacingBetweenSlices")) or positive(get("SliceThickness")),
        slope=1.0 if slope is None else slope,
        intercept=number(get("RescaleIntercept")) or 0.0,
        samples=int(number(get("SamplesPerPixel")) or (3 if photometric.startswith(("RGB", "YBR")) else 1)),
        photometric=photometric,
        lut=_lut(get("ModalityLUTSequence")),
        stored=stored,
        bits=bits,
        high_bit=bits - 1 if high_bit is None else int(high_bit),
        pixels_at=_native_start(plain, count * shape[0] * shape[1] * stored.itemsize, bits),
    )


def _series(get: Get) -> Series:
    uid, own_number, description, modality, patient = (
        text(get(name)) for name in ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "PatientID")
    )
    return Series(uid, own_number, description, modality, patient or text(get("PatientName")))


def _marks(get: Get) -> Marks:
    return Marks(
        image_type=joined(get("ImageType")),
        echo_time=number(get("EchoTime")),
        temporal_position=number(get("TemporalPositionIdentifier")),
        b_value=b_value(get),
        inversion_time=number(get("InversionTime")),
        flip_angle=number(get("FlipAngle")),
        kvp=number(get("KVP")),
        trigger_time=number(get("TriggerTime")),
        acquisition=number(get("AcquisitionNumber")),
        acquired=text(get("AcquisitionDateTime")) or text(get("AcquisitionDate")) + text(get("AcquisitionTime")),
        shown=text(get("ContentDate")) + text(get("ContentTime")),
    )


def _lut(items: Any) -> str:
    """Return "used" for a lookup table, "empty" for an item without one, "" where there is nothing."""
    if not items:
        return ""
    return "used" if items[0].get("LUTDescriptor") and items[0].get("LUTData") else "empty"


def _stored_type(get: Get) -> np.dtype[Any]:
    """Return the type of the stored values, or of the palette's colours.

    Without PixelRepresentation they are floats (Float Pixel Data).
    """
    palette = get("RedPaletteColorLookupTableDescriptor")
    bits = int(number(palette[2] if palette else get("BitsAllocated")) or 16)
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
    return replace(whole, index=index, position=position, location=None)


def require_frames(content: list[Frame] | str | None, source: str) -> list[Frame]:
    """Return the frames of a single file, or raise with the reason why there are none."""
    if isinstance(content, list) and content:
        return content
    if isinstance(content, str) and content in (*_NO_SCANS.values(), *_NO_SCAN_MODALITIES.values()):
        raise ReadError(f"{source}: is a DICOM file of another kind than a scan ({content}). Choose one of the images.")
    if isinstance(content, str):
        raise ReadError(f"{source}: is a DICOM file without an image ({content[:200]}). Choose one of the images.")
    raise ReadError(f"{source}: is not a DICOM file, or its header is cut short. Copy or export it again.")
