"""Where the slices of a stack lie along one line, by the best that their headers say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from slivit.data.readers.base import Array, counted, natural_order
from slivit.data.readers.dicom_headers import Frame
from slivit.data.readers.dicom_values import normal

_POSITION = "ImagePositionPatient"
_UPWARDS = np.array([-1.0, 1.0, 1.0])  # LPS: the slices of a view run to the right, to the back, to the head
_FIT = 0.1  # of the distance between slices: what a place may be off that is inferred from numbers


@dataclass(frozen=True)
class Line:
    """The slices of a stack along a line.

    Args:
        frames: the slices, in the order given; a position that was inferred is filled in.
        along: (N,) where each lies, in mm where `in_mm`, else a number that only orders.
        in_mm: whether distances along the line are known.
        in_space: whether every slice has a position, and the stack an orientation.
        notes: which part of the header the order is from, where it is not position and orientation.
    """

    frames: list[Frame]
    along: Array
    in_mm: bool
    in_space: bool
    notes: tuple[str, ...] = ()

    @property
    def thickness(self) -> float | None:
        """Thickness of a slice in mm, or None."""
        return self.frames[0].thickness if self.in_mm else None


def line_of(frames: Sequence[Frame]) -> Line:
    """Return where the slices of a stack lie: by position, SliceLocation, InstanceNumber or name, the best there is."""
    line = _by_normal(frames) or _by_inferred(frames) or _by_positions(frames) or _by_location(frames)
    return line or _by_number(frames)


def _by_normal(frames: Sequence[Frame]) -> Line | None:
    """Order by position along the normal: what every scanner writes."""
    cosines = next((f.orientation for f in frames if f.orientation is not None), None)
    if cosines is None or any(f.position is None for f in frames):
        return None
    across = normal(cosines) / np.linalg.norm(normal(cosines))
    if frames[0].orientation is None:
        frames = [replace(f, orientation=cosines) for f in frames]
    along = np.array([f.position for f in frames], dtype=np.float64) @ across
    return Line(list(frames), along, in_mm=True, in_space=True)


def _by_inferred(frames: Sequence[Frame]) -> Line | None:
    """Fill in the positions that a few slices lack, where SliceLocation or InstanceNumber run along with the others."""
    lacking = [f for f in frames if f.position is None]
    if not lacking or len(frames) - len(lacking) < 2 or lacking[0].count > 1:
        return None
    for name, values in (("SliceLocation", [f.location for f in frames]), ("InstanceNumber", _numbers(frames))):
        positions = _fitted(frames, values)
        line = None if positions is None else _by_normal(positions)
        if line is not None:
            return replace(line, notes=(f"{counted(len(lacking), 'slice')} without a position placed by {name}",))
    return None


def _fitted(frames: Sequence[Frame], values: Sequence[float | None]) -> list[Frame] | None:
    """Return the frames with all positions, where these are a straight line of the values; else None."""
    if any(v is None for v in values):
        return None
    at = np.array(values, dtype=np.float64)
    known = np.array([f.position is not None for f in frames])
    places = np.array([f.position for f in frames if f.position is not None], dtype=np.float64)
    if len(np.unique(at[known])) < 2:
        return None
    line = np.polynomial.polynomial.polyfit(at[known], places, 1)  # (2, 3)
    step = float(np.linalg.norm(line[1])) * float(np.median(np.diff(np.unique(at))))
    off = np.linalg.norm(line[0] + at[known, None] * line[1] - places, axis=1).max()
    if step == 0 or off > _FIT * step:
        return None
    fitted = line[0] + at[:, None] * line[1]
    return [
        f if f.position is not None else replace(f, position=tuple(p.tolist()))
        for f, p in zip(frames, fitted, strict=True)
    ]


def _numbers(frames: Sequence[Frame]) -> list[float | None]:
    return [None if f.instance is None else float(f.instance) for f in frames]


def _by_positions(frames: Sequence[Frame]) -> Line | None:
    """Order by positions that have no orientation: along the line on which they lie."""
    if len(frames) < 2 or any(f.position is None for f in frames):
        return None
    places = np.array([f.position for f in frames], dtype=np.float64)
    centred = places - places.mean(axis=0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][0]
    if np.abs(centred).max() == 0:
        return None
    direction = direction * np.sign((direction * _UPWARDS)[np.abs(direction).argmax()])
    note = f"the slices have no orientation; they were ordered by {_POSITION}"
    return Line(list(frames), centred @ direction, in_mm=True, in_space=False, notes=(note,))


def _by_location(frames: Sequence[Frame]) -> Line | None:
    if any(f.location is None for f in frames) or len({f.location for f in frames}) < 2:
        return None
    along = np.array([f.location for f in frames], dtype=np.float64)
    note = "the slices have no positions; they were ordered by SliceLocation"
    return Line(list(frames), along, in_mm=True, in_space=False, notes=(note,))


def _by_number(frames: Sequence[Frame]) -> Line:
    """Order by InstanceNumber, or by name where that is the same everywhere or missing; frames of a file as stored."""
    numbers = {f.instance for f in frames}
    if frames[0].count > 1:
        ranks = sorted(range(len(frames)), key=lambda i: (frames[i].instance or 0, frames[i].index))
        by = ""
    elif None in numbers or len(numbers) == 1:
        order = natural_order(f.entry.name for f in frames)
        ranks = sorted(range(len(frames)), key=lambda i: order(frames[i].entry.name))
        by = "file name, because InstanceNumber is missing or always the same"
    else:
        along = np.array([f.instance for f in frames], dtype=np.float64)
        note = "the slices have no positions; they were ordered by InstanceNumber"
        return Line(list(frames), along, in_mm=False, in_space=False, notes=(note,))
    along = np.empty(len(frames))
    along[ranks] = np.arange(len(frames))
    notes = (f"the slices have no positions; they were ordered by {by}",) if by and len(frames) > 1 else ()
    return Line(list(frames), along, in_mm=False, in_space=False, notes=notes)
