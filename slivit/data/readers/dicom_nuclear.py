"""Nuclear medicine: one multi-frame file may hold energy windows, detectors, time slots and slices at once."""

from __future__ import annotations

from slivit.data.readers.base import counted
from slivit.data.readers.dicom_headers import Frame, read_dataset
from slivit.data.readers.dicom_values import vector
from slivit.errors import ReadError

_VECTORS = {
    0x00540010: "energy windows",
    0x00540020: "detectors",
    0x00540030: "phases",
    0x00540050: "rotations",
    0x00540060: "R-R intervals",
    0x00540070: "time slots",
    0x00540080: "slices",
    0x00540090: "angular views",
    0x00540100: "time slices",
}


def check_nuclear(frames: list[Frame], source: str) -> list[Frame]:
    """Return the frames of a file, or raise where they run along more than one dimension.

    Args:
        frames: of one multi-frame file of nuclear medicine.
        source: its name for messages.

    Raises:
        ReadError: several images share a slice, which the file's vectors tell.

    Source: DICOM PS3.3 C.8.4.8 (NM Multi-frame Module).
    """
    dataset = read_dataset(frames[0].entry, source, pixels=False, tags=tuple(_VECTORS))
    sizes = {}
    for tag, name in _VECTORS.items():
        values = dataset[tag].value if dataset is not None and tag in dataset else None
        numbers = vector(values, len(frames))
        if numbers is not None and len(set(numbers)) > 1:
            sizes[name] = len(set(numbers))
    if len(sizes) > 1:
        told = " x ".join(f"{size} {name}" for name, size in sizes.items())
        raise ReadError(
            f"{source}: holds {counted(len(frames), 'image')} of nuclear medicine, {told}, and they must not be mixed. "
            "Export them as one file for each, or as enhanced or single-frame DICOM."
        )
    return frames
