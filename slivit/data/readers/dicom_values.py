"""The elements of a DICOM header that reading needs, and their values as plain numbers and texts."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from slivit.data.readers.base import Array

if TYPE_CHECKING:
    from pydicom import Dataset

TAGS = {
    0x00080008: "ImageType",
    0x00080016: "SOPClassUID",
    0x00080018: "SOPInstanceUID",
    0x00080022: "AcquisitionDate",
    0x00080023: "ContentDate",
    0x0008002A: "AcquisitionDateTime",
    0x00080032: "AcquisitionTime",
    0x00080033: "ContentTime",
    0x00080060: "Modality",
    0x0008103E: "SeriesDescription",
    0x00100010: "PatientName",
    0x00100020: "PatientID",
    0x00180050: "SliceThickness",
    0x00180060: "KVP",
    0x00180081: "EchoTime",
    0x00180082: "InversionTime",
    0x00180088: "SpacingBetweenSlices",
    0x00181060: "TriggerTime",
    0x00181164: "ImagerPixelSpacing",
    0x00181314: "FlipAngle",
    0x00182010: "NominalScannedPixelSpacing",
    0x00186011: "SequenceOfUltrasoundRegions",
    0x00189087: "DiffusionBValue",
    0x00190010: "SiemensCreator",
    0x0019100C: "SiemensBValue",
    0x0020000E: "SeriesInstanceUID",
    0x00200011: "SeriesNumber",
    0x00200012: "AcquisitionNumber",
    0x00200013: "InstanceNumber",
    0x00200032: "ImagePositionPatient",
    0x00200037: "ImageOrientationPatient",
    0x00200100: "TemporalPositionIdentifier",
    0x00201041: "SliceLocation",
    0x00209161: "ConcatenationUID",
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
    0x00430010: "GeCreator",
    0x00431039: "GeBValue",
    0x00650010: "UihCreator",
    0x00651009: "UihBValue",
    0x00651050: "UihGridSlices",
    0x20010010: "PhilipsCreator",
    0x20011003: "PhilipsBValue",
    0x3004000C: "GridFrameOffsetVector",
    0x3004000E: "DoseGridScaling",
    0x52009229: "SharedFunctionalGroupsSequence",
    0x52009230: "PerFrameFunctionalGroupsSequence",
}
_TAG_OF = {keyword: tag for tag, keyword in TAGS.items()}
BINARY = {"DiffusionBValue": "<d", "UihBValue": "<d", "PhilipsBValue": "<f"}
"""Values that are stored as binary numbers, and how."""
_CREATORS = {
    "SiemensBValue": ("SiemensCreator", "SIEMENS MR HEADER"),
    "GeBValue": ("GeCreator", "GEMS_PARM_01"),
    "PhilipsBValue": ("PhilipsCreator", "Philips Imaging DD 001"),
    "UihBValue": ("UihCreator", "Image Private Header"),
}
_GE_OFFSET = 100_000  # GE adds 1e9 to some b-values

SYNTAX = "TransferSyntaxUID"
"""What stands in the file meta header and not in the dataset."""

Vector = tuple[float, ...]
Get = Callable[[str], Any]


def getter(dataset: Dataset) -> Get:
    """Return a lookup by keyword that takes a value which pydicom cannot convert for an absent one."""

    def get(keyword: str) -> Any:
        if keyword == SYNTAX:
            return getattr(dataset, "file_meta", {}).get(SYNTAX)
        try:
            return dataset[_TAG_OF[keyword]].value
        except (KeyError, ValueError, TypeError, OverflowError, NotImplementedError):
            return None

    return get


def text(value: Any) -> str:
    """Return a value as text without blanks around it, "" where there is none."""
    return "" if value is None else str(value).strip()


def joined(value: Any) -> str:
    r"""Return several texts as DICOM writes them, such as "ORIGINAL\PRIMARY"."""
    return text(value) if value is None or isinstance(value, str) else "\\".join(text(part) for part in value)


def number(value: Any) -> float | None:
    """Return a finite number, or None for an absent, empty or unreadable value."""
    if value is None or value == "":
        return None
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if isfinite(result) else None


def positive(value: Any) -> float | None:
    """Return a number above 0, or None."""
    result = number(value)
    return result if result is not None and result > 0 else None


def vector(value: Any, size: int) -> Vector | None:
    """Return that many numbers, or None."""
    if value is None or isinstance(value, str | bytes) or not hasattr(value, "__len__") or len(value) != size:
        return None
    numbers = [number(v) for v in value]
    return None if None in numbers else tuple(n for n in numbers if n is not None)


def orientation(value: Any) -> Vector | None:
    """Return the six direction cosines, or None where they span no plane."""
    cosines = vector(value, 6)
    return cosines if cosines is not None and _span_a_plane(cosines) else None


@lru_cache(maxsize=256)
def _span_a_plane(cosines: Vector) -> bool:
    return bool(np.linalg.norm(normal(cosines)) > 0.5)


@lru_cache(maxsize=256)
def normal(cosines: Vector) -> Array:
    """Return the direction across the slices: row direction x column direction."""
    return np.cross(cosines[:3], cosines[3:])


def pixel_spacing(get: Get) -> Vector | None:
    """Return mm between rows and between columns, from the first element that says it."""
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = vector(get(name), 2)
        if spacing is not None and min(spacing) > 0:
            return spacing
    regions = get("SequenceOfUltrasoundRegions")
    if regions and regions[0].get("PhysicalUnitsXDirection") == 3:  # 3 is centimetres
        steps = [positive(regions[0].get(f"PhysicalDelta{axis}")) for axis in "YX"]
        if None not in steps:
            return tuple(10.0 * s for s in steps if s is not None)
    return None


def b_value(get: Get) -> float | None:
    """Return the diffusion weighting in s/mm2, from the standard's element or the maker's own.

    Source: the private elements as listed by dcm2niix and in pydicom's private dictionary.
    """
    if (standard := _binary(get("DiffusionBValue"), "<d")) is not None:
        return standard
    for keyword, (creator, name) in _CREATORS.items():
        value = get(keyword)
        if value is None or text(get(creator)) != name:
            continue
        if keyword == "GeBValue":
            first = number(value[0] if not isinstance(value, str | bytes) and len(value) else value)
            return None if first is None else first % _GE_OFFSET
        return _binary(value, BINARY.get(keyword, ""))
    return None


def _binary(value: Any, kind: str) -> float | None:
    """Return a number that may still be its bytes."""
    if isinstance(value, bytes) and kind:
        return number(struct.unpack(kind, value)[0]) if len(value) == struct.calcsize(kind) else None
    return number(value)
