"""Nuclear medicine: one multi-frame file may hold energy windows, detectors, time slots and slices at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from slivit.data.readers.dicom_headers import Frame, read_dataset
from slivit.data.readers.dicom_values import vector

_VECTORS = {
    0x00540010: "energy window",
    0x00540020: "detector",
    0x00540030: "phase",
    0x00540050: "rotation",
    0x00540060: "R-R interval",
    0x00540070: "time slot",
    0x00540080: "slice",
    0x00540090: "angular view",
    0x00540100: "time slice",
}
# Along these, images follow each other as the slices of a volume, or as the frames of a clip: the first that is there.
_STACKED = ("slice", "angular view", "time slice", "time slot")


def nuclear_parts(frames: Sequence[Frame], source: str) -> list[Frame]:
    """Return the frames of a file in order, each marked with the part that it belongs to where there are several.

    Slices (or else angular views, time slices, time slots) make a stack; for each energy window, detector, phase,
    rotation, R-R interval and time slot beside them there is one of its own.

    Args:
        frames: of one multi-frame file of nuclear medicine.
        source: its name for messages.

    Source: DICOM PS3.3 C.8.4.8 (NM Multi-frame Module).
    """
    dataset = read_dataset(frames[0].entry, source, pixels=False, tags=tuple(_VECTORS))
    numbers = {name: _numbers(dataset, tag, len(frames)) for tag, name in _VECTORS.items()}
    varied = {name: values for name, values in numbers.items() if len(set(values)) > 1}
    along = next((name for name in _STACKED if name in varied), "")
    order = sorted(range(len(frames)), key=lambda i: varied[along][i]) if along else range(len(frames))
    parts = {name: values for name, values in varied.items() if name != along}
    return [
        _marked(frames[i], {name: values[i] for name, values in parts.items()}, place) for place, i in enumerate(order)
    ]


def _marked(frame: Frame, part: Mapping[str, float], place: int) -> Frame:
    label = ", ".join(f"{name} {number:g}" for name, number in part.items())
    return replace(frame, marks=replace(frame.marks, part=label), instance=place)


def _numbers(dataset: Any, tag: int, count: int) -> Sequence[float]:
    """The number of each frame along a dimension; none where the file does not tell."""
    return (vector(dataset[tag].value, count) if dataset is not None and tag in dataset else None) or ()
