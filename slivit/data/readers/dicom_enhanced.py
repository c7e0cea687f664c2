"""Enhanced DICOM: what the functional groups of a multi-frame file say of each frame."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slivit.data.readers.dicom_headers import Frame, Marks
from slivit.data.readers.dicom_values import joined, number, orientation, positive, text, vector

if TYPE_CHECKING:
    from pydicom import Dataset

_FRAME_TYPES = (
    "MRImageFrameTypeSequence",
    "CTImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "XAXRFFrameCharacteristicsSequence",
)


class _Groups:
    """The macros of a frame: its own before the shared ones."""

    def __init__(self, shared: Dataset | None, own: Dataset) -> None:
        self._groups = (own, shared)

    def macro(self, name: str) -> Dataset | None:
        """Return the item of a macro, or None."""
        for group in self._groups:
            items = group.get(name) if group is not None else None
            if items:
                return items[0]
        return None

    def value(self, macro: str, *keywords: str) -> Any:
        """Return the first value that the macro has, or None."""
        item = self.macro(macro)
        values = [] if item is None else [item.get(k) for k in keywords]
        return next((v for v in values if v not in (None, "")), None)


def functional(whole: Frame, shared: Dataset | None, own: Dataset) -> Frame:
    """Return a frame of an enhanced file: its own functional groups come before the shared ones.

    Args:
        whole: what the file's header says of all frames, with the frame's index.
        shared: the item of SharedFunctionalGroupsSequence, or None.
        own: the frame's item of PerFrameFunctionalGroupsSequence.

    Source: DICOM PS3.3 C.7.6.16 and C.8.13.5 (macros of MR).
    """
    groups = _Groups(shared, own)
    changes: dict[str, Any] = {"marks": _marks(whole.marks, groups), "location": None}
    if (plane := groups.macro("PlanePositionSequence")) is not None:
        changes["position"] = vector(plane.get("ImagePositionPatient"), 3)
    if (plane := groups.macro("PlaneOrientationSequence")) is not None:
        changes["orientation"] = orientation(plane.get("ImageOrientationPatient"))
    if (measures := groups.macro("PixelMeasuresSequence")) is not None:
        changes["pixel_spacing"] = vector(measures.get("PixelSpacing"), 2)
        distance = positive(measures.get("SpacingBetweenSlices")) or positive(measures.get("SliceThickness"))
        changes["thickness"] = distance
    if (scaling := groups.macro("PixelValueTransformationSequence")) is not None:
        slope = number(scaling.get("RescaleSlope"))
        changes["slope"] = 1.0 if slope is None else slope
        changes["intercept"] = number(scaling.get("RescaleIntercept")) or 0.0
    return replace(whole, **changes)


def _marks(whole: Marks, groups: _Groups) -> Marks:
    content, heart = "FrameContentSequence", "CardiacSynchronizationSequence"
    marks: dict[str, Any] = {
        "image_type": joined(next(filter(None, (groups.value(name, "FrameType") for name in _FRAME_TYPES)), None)),
        "echo_time": number(groups.value("MREchoSequence", "EffectiveEchoTime")),
        "temporal_position": number(groups.value(content, "TemporalPositionIndex")),
        "b_value": number(groups.value("MRDiffusionSequence", "DiffusionBValue")),
        "inversion_time": number(_first(groups.value("MRModifierSequence", "InversionTimes"))),
        "flip_angle": number(groups.value("MRTimingAndRelatedParametersSequence", "FlipAngle")),
        "kvp": number(groups.value("CTXRayDetailsSequence", "KVP")),
        "trigger_time": number(groups.value(heart, "NominalCardiacTriggerDelayTime", "ActualCardiacTriggerDelayTime")),
        "acquisition": number(groups.value(content, "FrameAcquisitionNumber")),
        "acquired": text(groups.value(content, "FrameAcquisitionDateTime", "FrameReferenceDateTime")),
        "dimensions": _whole_numbers(groups.value(content, "DimensionIndexValues")),
    }
    return replace(whole, **{name: value for name, value in marks.items() if value not in (None, "", ())})


def _first(value: Any) -> Any:
    return value[0] if hasattr(value, "__len__") and not isinstance(value, str) and len(value) else value


def _whole_numbers(value: Any) -> tuple[int, ...]:
    values = () if value is None else value if hasattr(value, "__len__") else (value,)
    return tuple(int(v) for v in values if number(v) is not None)
