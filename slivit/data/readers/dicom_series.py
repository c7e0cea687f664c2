"""In which order the frames of one series follow each other, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slivit.data.readers.base import Affine, Array, counted
from slivit.data.readers.dicom_headers import Frame
from slivit.data.readers.dicom_line import Line, line_of
from slivit.data.readers.dicom_places import choices, places_of, volumes_of
from slivit.data.readers.dicom_values import normal
from slivit.data.readers.geometry import LPS_TO_RAS
from slivit.errors import ReadError

CLIP = "time"
"""The `axis` along which the images of one place follow each other."""
_SAME_PLACE = 1e-3  # mm


@dataclass(frozen=True)
class Stack:
    """The frames of one series in order.

    Args:
        frames: sorted by place.
        affine: (4, 4) from (slice, row, column) to RAS; None where the positions are unknown.
        in_mm: whether its unit is mm; else the pixel spacing is unknown and counts as 1.
        spacing: mm between slices, rows and columns where it is known without an affine.
        notes: what the user should know.
    """

    frames: list[Frame]
    affine: Affine | None
    in_mm: bool
    spacing: tuple[float, float, float] | None
    notes: tuple[str, ...]


def stack_frames(frames: Sequence[Frame], source: str, frame: int | None, *, clip: bool = False) -> Stack:
    """Order the frames of one series, and report what is unusual about their places.

    Args:
        frames: of one series, in any order.
        source: for messages.
        frame: where each place holds several images (time points, echoes), which of them to keep, from 0.
        clip: whether to read the several images of the only place one after the other.

    Raises:
        ReadError: places hold several images, and none is chosen, or they cannot be sorted into volumes.
    """
    line = line_of(frames)
    places = places_of(line.along, line.thickness)
    if places.max(initial=0) == len(frames) - 1:
        return _single(line, source, frame, clip)
    volumes = volumes_of(line.frames, places, lambda place: _where(line, places, place), source)
    number = int(places.max()) + 1
    if clip:
        if number > 1:
            raise ReadError(f"{source}: axis={CLIP!r} reads the images of one place, and there are {number} places.")
        return _clip([line.frames[v[0]] for v in volumes], line)
    if frame is None:
        last, listed = len(volumes) - 1, choices(line.frames, volumes, places)
        whole = f", or all of them as a clip with axis={CLIP!r}" if number == 1 else ""
        where = "the only place" if number == 1 else f"each of {number} places"
        raise ReadError(
            f"{source}: {where} holds {len(volumes)} images (time points, echoes, ...), and they must not be mixed. "
            f"Choose one a place with frame=0 to {last}{whole}:\n{listed}"
        )
    if not 0 <= frame < len(volumes):
        raise ReadError(f"{source}: frame={frame} is not at every place; allowed are 0 to {len(volumes) - 1}.")
    return _stack(line, volumes[frame])


def _single(line: Line, source: str, frame: int | None, clip: bool) -> Stack:
    """Return the stack where each place holds one image."""
    if clip and len(line.frames) > 1 and line.in_mm:
        raise ReadError(f"{source}: axis={CLIP!r} reads several images of one place, and each place holds one.")
    if frame not in (None, 0):
        held = "each place holds one image" if line.in_mm else "the slices have no positions, and each is there once"
        raise ReadError(f"{source}: frame={frame} was asked for, and {held}; allowed is 0. Leave it out.")
    return _stack(line, np.argsort(line.along, kind="stable").tolist())


def _where(line: Line, places: Array, place: int) -> str:
    at = line.along[np.flatnonzero(places == place)[0]]
    return f"the place at {at:.6g} mm" if line.in_mm else f"InstanceNumber {at:g}"


def _clip(frames: list[Frame], line: Line) -> Stack:
    """Return the images of one place in the order of time, which have no distance."""
    return Stack(frames, None, False, None, (*line.notes, f"{counted(len(frames), 'image')} of one place, as a clip"))


def _stack(line: Line, order: Sequence[int]) -> Stack:
    frames, along = [line.frames[i] for i in order], line.along[list(order)]
    if line.in_space:
        affine, known, notes = _affine(frames, along)
        return Stack(frames, affine, known, None, (*line.notes, *notes))
    spacing, thickness = frames[0].pixel_spacing, frames[0].thickness
    notes = line.notes
    if line.in_mm:
        thickness, more = _step(along, thickness)
        notes += more
    known_spacing = None if spacing is None or thickness is None else (thickness, spacing[0], spacing[1])
    return Stack(frames, None, False, known_spacing, notes)


def _affine(frames: list[Frame], places: Array) -> tuple[Affine, bool, tuple[str, ...]]:
    """Return the affine from (slice, row, column) to RAS, whether it is in mm, and notes on distances."""
    first, last = frames[0], frames[-1]
    orientation, origin = np.array(first.orientation), np.array(first.position)
    step, notes = _step(places, first.thickness)
    spacing, more = _pixels(frames)
    notes += more
    across = normal(first.orientation or ())
    across = across / np.linalg.norm(across) * step
    if places[-1] - places[0] > _SAME_PLACE:
        sideways = (np.array(last.position) - origin) * (step / (places[-1] - places[0])) - across
        if np.linalg.norm(sideways) > 0.02 * step:
            notes += ("the slices are shifted sideways (a tilted gantry?)",)
            across = across + sideways
    rows, columns = spacing or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 0] = across
    affine[:3, 1] = orientation[3:] * rows
    affine[:3, 2] = orientation[:3] * columns
    affine[:3, 3] = origin
    return LPS_TO_RAS @ affine, spacing is not None, notes


def _pixels(frames: Sequence[Frame]) -> tuple[tuple[float, ...] | None, tuple[str, ...]]:
    """Return mm between rows and columns, and a note where they are unknown or differ, so that no one grid holds."""
    known = [f.pixel_spacing for f in frames if f.pixel_spacing is not None]
    if not known:
        return None, ("the header has no pixel spacing, or none that is a number; the distances in mm are unknown",)
    sizes = np.array(known)
    notes: tuple[str, ...] = ()
    if len(known) < len(frames):
        notes = (f"{counted(len(frames) - len(known), 'slice')} without pixel spacing; that of the others was taken",)
    if not np.allclose(sizes, sizes[0], rtol=0.01):
        notes += (
            f"the pixel spacing differs between slices, {sizes.min():.3g} to {sizes.max():.3g} mm; that of the first "
            "was taken",
        )
    return known[0], notes


def _step(places: Array, thickness: float | None) -> tuple[float, tuple[str, ...]]:
    """Return the distance between neighbouring slices in mm, and notes where it varies or is not measured."""
    gaps = np.diff(places)
    gaps = gaps[gaps > _SAME_PLACE]
    if not len(gaps):
        if thickness is not None:
            return thickness, ()
        return (1.0, ("the slice thickness is unknown; 1 mm was assumed",))
    step = float(np.median(gaps))
    odd = gaps[np.abs(gaps - step) > max(0.01 * step, 0.01)]
    if not len(odd):
        return float(gaps.mean()), ()
    missing = np.round(odd / step) - 1
    if (missing >= 1).all() and (np.abs(odd / step - missing - 1) < 0.05).all():
        number = counted(int(missing.sum()), "missing slice")
        return step, (f"{number} in {counted(len(odd), 'gap')} of the series; nothing was filled in",)
    return step, (
        f"the slices are unevenly spaced, {gaps.min():.3g} to {gaps.max():.3g} mm apart; taken as {step:.3g} mm",
    )
