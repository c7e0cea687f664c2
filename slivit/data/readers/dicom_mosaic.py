"""Mosaics: one picture that holds the slices of a whole volume side by side, as Siemens and UIH write EPI series."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from slivit.data.readers.base import Array, decoding
from slivit.data.readers.dicom_headers import Frame, read_dataset
from slivit.data.readers.dicom_values import Vector, normal, number, vector
from slivit.errors import ReadError

if TYPE_CHECKING:
    from pydicom import Dataset

_COUNT, _CSA_IMAGE, _CSA_SERIES = 0x0019100A, 0x00291010, 0x00291020
_UIH_COUNT, _UIH_FRAMES = 0x00651050, 0x00651051
_TAGS = (0x00290010, 0x00290011, _COUNT, _CSA_IMAGE, _CSA_SERIES, _UIH_COUNT, _UIH_FRAMES)
_WAY_OUT = "Convert it with dcm2niix and give the NIfTI file."
_CENTRE = re.compile(r"sSliceArray\.asSlice\[(\d+)\]\.sPosition\.d(Sag|Cor|Tra)\s*=\s*(\S+)")
_AXES = {"Sag": 0, "Cor": 1, "Tra": 2}  # L, P and S of the patient


def tiles(frames: Sequence[Frame], source: str) -> list[Frame]:
    """Return one frame a slice, cut out of a mosaic.

    The tiles fill a square grid row by row, and those after the last slice are empty. Siemens' position is that of the
    first pixel of the picture as if one slice filled it, so the first slice starts half the difference of the sizes
    further on; the others follow along the normal, whose sign is in the private header.

    Args:
        frames: of the file, which must be one.
        source: its name for messages.

    Raises:
        ReadError: the header does not say how many slices there are or how they follow each other.

    Source: Li et al. 2016, J Neurosci Methods 264:47 (dcm2niix); nibabel's manual, "Siemens mosaic format".
    """
    dataset = read_dataset(frames[0].entry, source, pixels=False, tags=_TAGS)
    if len(frames) != 1 or dataset is None:
        raise ReadError(f"{source}: is a mosaic in a multi-frame file, which is not read. {_WAY_OUT}")
    picture = frames[0]
    csa = _csa(dataset, _CSA_IMAGE, source)
    count = _count(dataset, csa)
    if count is None:
        raise ReadError(f"{source}: is a mosaic, and its header does not say of how many slices. {_WAY_OUT}")
    side = math.ceil(math.sqrt(count))
    rows, columns = picture.shape[0] // side, picture.shape[1] // side
    if (rows * side, columns * side) != picture.shape:
        raise ReadError(f"{source}: is a mosaic of {count} slices, which do not fit {picture.shape} pixels. {_WAY_OUT}")
    places = _uih_places(dataset, count) or _siemens_places(picture, (rows, columns), count, dataset, csa, source)
    starts = [(k // side * rows, k % side * columns) for k in range(count)]
    cut = replace(picture, shape=(rows, columns), pixels_at=None, location=None)
    return [
        replace(cut, index=k, position=place, tile=start)
        for k, (place, start) in enumerate(zip(places, starts, strict=True))
    ]


def _csa(dataset: Dataset, tag: int, source: str) -> dict[str, Any]:
    """Return the entries of a CSA header, {} where there is none."""
    content = dataset[tag].value if tag in dataset else None
    if not isinstance(content, bytes) or not content:
        return {}
    from nibabel.nicom import csareader

    with decoding(source, "the private header (CSA) of a Siemens mosaic", _WAY_OUT):
        return dict(csareader.read(content)["tags"])


def _items(csa: dict[str, Any], name: str) -> list[Any]:
    return list(csa[name]["items"]) if name in csa else []


def _count(dataset: Dataset, csa: dict[str, Any]) -> int | None:
    own = [dataset[tag].value if tag in dataset else None for tag in (_COUNT, _UIH_COUNT)]
    counts = [number(v) for v in (_unpacked(own[0]), own[1], *_items(csa, "NumberOfImagesInMosaic")[:1])]
    return next((int(n) for n in counts if n is not None and n >= 1), None)


def _unpacked(value: Any) -> Any:
    """Return the number of an unsigned short that pydicom left as bytes."""
    return int.from_bytes(value, "little") if isinstance(value, bytes) and len(value) == 2 else value


def _uih_places(dataset: Dataset, count: int) -> list[Vector] | None:
    """Return the positions that UIH writes for each slice of a grid, or None."""
    items = dataset[_UIH_FRAMES].value if _UIH_FRAMES in dataset else None
    if items is None or isinstance(items, bytes) or len(items) != count:
        return None
    places = [vector(item.get("ImagePositionPatient"), 3) for item in items]
    return None if None in places else [p for p in places if p is not None]


def _siemens_places(
    picture: Frame, shape: tuple[int, int], count: int, dataset: Dataset, csa: dict[str, Any], source: str
) -> list[Vector]:
    """Return the position of each slice in LPS mm."""
    if picture.position is None or picture.orientation is None or picture.pixel_spacing is None:
        raise ReadError(f"{source}: is a mosaic without position, orientation or pixel spacing. {_WAY_OUT}")
    direction = _direction(picture.orientation, dataset, csa, count, source)
    if picture.thickness is None:
        raise ReadError(f"{source}: is a mosaic whose distance between slices is unknown. {_WAY_OUT}")
    cosines = np.array(picture.orientation)
    spare = (np.array(picture.shape) - shape) / 2 * np.array(picture.pixel_spacing)
    first = np.array(picture.position) + spare[1] * cosines[:3] + spare[0] * cosines[3:]
    return [tuple((first + k * picture.thickness * direction).tolist()) for k in range(count)]


def _direction(cosines: Vector, dataset: Dataset, csa: dict[str, Any], count: int, source: str) -> Array:
    """Return the unit vector from the first slice to the last: the normal, with the sign of the private header."""
    across = normal(cosines) / np.linalg.norm(normal(cosines))
    direction = vector(_items(csa, "SliceNormalVector")[:3], 3)
    if direction is None:
        direction = _between_centres(_items(_csa(dataset, _CSA_SERIES, source), "MrPhoenixProtocol"), count)
    along = 0.0 if direction is None else float(np.dot(across, direction) / (np.linalg.norm(direction) or 1.0))
    if abs(along) < 0.9:
        raise ReadError(f"{source}: is a mosaic, and its header does not say how its slices are ordered. {_WAY_OUT}")
    return across * np.sign(along)


def _between_centres(protocol: Sequence[Any], count: int) -> Vector | None:
    """Return the way from the first slice's centre to the last one's, as the Phoenix protocol has them."""
    centres: dict[int, list[float]] = {}
    for index, axis, value in _CENTRE.findall(str(protocol[0]) if protocol else ""):
        centres.setdefault(int(index), [0.0, 0.0, 0.0])[_AXES[axis]] = number(value) or 0.0
    if 0 not in centres or count - 1 not in centres:
        return None
    return tuple(np.subtract(centres[count - 1], centres[0]).tolist())
