"""Images that share a place: time points, echoes, b-values. They are told apart by their headers, never by chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.data.readers.base import Array, counted, natural_key
from slivit.data.readers.dicom_headers import Frame
from slivit.errors import ReadError

_SAME_PLACE, _MOST = 1e-3, 0.05  # mm: positions nearer than this are the same; with thick slices up to so much
_SHARE = 0.01  # of the slice thickness
_LIMIT = 40  # choices that a message lists

Places = npt.NDArray[np.int64]
Value = Any
# What tells the volumes of a series apart: each must have every one of them at every place ...
_STRICT = {
    "EchoTime": "echo_time",
    "TemporalPosition": "temporal_position",
    "b-value": "b_value",
    "ImageType": "image_type",
}
# ... these where they do; what varies from slice to slice only orders the images of a place.
_LENIENT = {"InversionTime": "inversion_time", "FlipAngle": "flip_angle", "KVP": "kvp"}
_ORDER = {
    "TriggerTime": "trigger_time",
    "AcquisitionNumber": "acquisition",
    "acquisition time": "acquired",
    "image time": "shown",
    "DimensionIndexValues": "dimensions",
}


def places_of(along: Array, thickness: float | None) -> Places:
    """Number the places along a line from its lower end: positions nearer than the tolerance are one place.

    Args:
        along: (N,) mm, in any order.
        thickness: of a slice in mm, or None.

    Returns:
        (N,) the number of each position's place.
    """
    tolerance = float(np.clip(_SHARE * (thickness or 0.0), _SAME_PLACE, _MOST))
    order = np.argsort(along, kind="stable")
    new = np.concatenate([[False], np.diff(along[order]) > tolerance])
    numbers = np.empty(len(along), np.int64)
    numbers[order] = np.cumsum(new)
    return numbers


def classes_of(frames: Sequence[Frame], places: Places) -> tuple[list[str], list[tuple[Value, ...]]]:
    """Return what tells the images at one place apart besides time and order: its names, and its values by frame.

    Args:
        frames: of one stack.
        places: (N,) the place of each.
    """
    names, values = [], []
    for name, attribute in (_STRICT | _LENIENT).items():
        column = [_rounded(getattr(f.marks, attribute)) for f in frames]
        held = _held(column, places)
        differs = any(len(set(c)) > 1 for c in held)
        if differs and (name in _STRICT or all(c == held[0] for c in held)):
            names.append(name)
            values.append(column)
    return names, list(zip(*values, strict=True)) if values else [()] * len(frames)


def _rounded(value: Value) -> Value:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _held(column: Sequence[Value], places: Places) -> list[Counter[Value]]:
    """Return for each place the values of its images."""
    held: list[Counter[Value]] = [Counter() for _ in range(int(places.max()) + 1)]
    for value, place in zip(column, places, strict=True):
        held[place][value] += 1
    return held


def separable(frames: Sequence[Frame], places: Places) -> list[list[Frame]]:
    """Return the frames in parts that can be read by themselves where the places do not all hold the same images.

    A series of slices with one derived projection in it, or whose second echo has fewer slices, falls into parts. One
    whose places all hold the same number of images is one part.
    """
    if len(set(np.bincount(places))) == 1:
        return [list(frames)]
    _, values = classes_of(frames, places)
    parts: dict[tuple[Value, ...], list[Frame]] = {}
    for frame, value in zip(frames, values, strict=True):
        parts.setdefault(value, []).append(frame)
    return list(parts.values())


def volumes_of(frames: Sequence[Frame], places: Places, where: Callable[[int], str], source: str) -> list[list[int]]:
    """Sort the frames of a stack into volumes that have one image at each place.

    Args:
        frames: of one stack, with several images at a place.
        places: (N,) the place of each.
        where: says in words where a place is.
        source: for messages.

    Returns:
        For each volume the indices of its frames, by place. Volumes are ordered by EchoTime, temporal position, b-value
        and ImageType, then by trigger time, acquisition and time, then by InstanceNumber.

    Raises:
        ReadError: the places hold different images, or images that nothing tells apart.
    """
    names, values = classes_of(frames, places)
    held = _held(values, places)
    if odd := next((i for i, counts in enumerate(held) if counts != held[0]), None):
        raise ReadError(
            f"{source}: several images share a place, and the places do not hold the same ones: {where(0)} has "
            f"{_text(held[0], names)}, {where(odd)} has {_text(held[odd], names)}. They cannot be sorted into volumes; "
            "slices may be missing, or other images be among them. Give the path of a folder with one volume alone."
        )
    groups: dict[tuple[int, tuple[Value, ...]], list[int]] = {}
    for i, (place, value) in enumerate(zip(places, values, strict=True)):
        groups.setdefault((int(place), value), []).append(i)
    ranked = {key: _ranked(group, frames, where(key[0]), source) for key, group in groups.items()}
    order = sorted(held[0], key=_sortable)
    return [
        [ranked[place, value][rank] for place in range(len(held))] for value in order for rank in range(held[0][value])
    ]


def _ranked(group: list[int], frames: Sequence[Frame], where: str, source: str) -> list[int]:
    """Order images of one place and class by time, then number."""
    if len(group) == 1:
        return group
    used = [a for a in _ORDER.values() if all(getattr(frames[i].marks, a) not in (None, "", ()) for i in group)]
    with_numbers = all(frames[i].instance is not None for i in group)

    def key(i: int) -> tuple[Value, ...]:
        frame = frames[i]
        marks = tuple(getattr(frame.marks, a) for a in used)
        return (*marks, frame.instance if with_numbers else 0, frame.index)

    ordered = sorted(group, key=key)
    for one, other in pairwise(ordered):
        if key(one) == key(other):
            raise ReadError(
                f"{source}: {where} holds several images that nothing in their headers tells apart, such as "
                f"{frames[one].entry.name} and {frames[other].entry.name}. Leave one of them out."
            )
    return ordered


def _sortable(values: tuple[Value, ...]) -> tuple[Any, ...]:
    """Return a sorting key in which what is missing comes first."""
    return tuple((v is not None, natural_key(v) if isinstance(v, str) else v or 0) for v in values)


def _text(counts: Counter[Any], names: Sequence[str]) -> str:
    total = counted(sum(counts.values()), "image")
    if not names:
        return total
    return f"{total} ({'; '.join(described(names, v) + (f' x {n}' if n > 1 else '') for v, n in counts.items())})"


def described(names: Sequence[str], values: Sequence[Value]) -> str:
    r"""Return "EchoTime 4.6, ImageType ORIGINAL\PRIMARY"."""
    return ", ".join(f"{name} {_word(value)}" for name, value in zip(names, values, strict=True))


def _word(value: Value) -> str:
    if value in (None, ""):
        return "unknown"
    return f"{value:g}" if isinstance(value, float) else str(value)


def choices(frames: Sequence[Frame], volumes: Sequence[Sequence[int]], places: Places) -> str:
    """Return one line a volume that says how it is chosen and what it is."""
    names, values = classes_of(frames, places)
    lines = []
    for number, volume in enumerate(volumes[:_LIMIT]):
        first = frames[volume[0]]
        words = described(names, values[volume[0]]) or _first_mark(first)
        lines.append(f"  - frame={number}: {words}, {first.entry.name}")
    if len(volumes) > _LIMIT:
        lines.append(f"  ... and {len(volumes) - _LIMIT} more")
    return "\n".join(lines)


def _first_mark(frame: Frame) -> str:
    for name, attribute in _ORDER.items():
        value = getattr(frame.marks, attribute)
        if attribute != "dimensions" and value not in (None, ""):
            return described([name], [value])
    return f"InstanceNumber {frame.instance}"
