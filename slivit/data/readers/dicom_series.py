"""Which frames make up one series, in which order, and where they lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slivit.data.readers.base import Affine, Array, counted, natural_key
from slivit.data.readers.dicom_headers import Frame, Vector, normal
from slivit.data.readers.geometry import LPS_TO_RAS
from slivit.errors import ReadError, nearest

_SAME_PLACE = 1e-3  # mm: positions nearer than this are the same
_SAME_DIRECTION = 0.01  # direction cosines nearer than this are the same


@dataclass(frozen=True)
class Stack:
    """The frames of one series in order.

    Args:
        frames: sorted by position along the normal, then InstanceNumber, then name.
        affine: (4, 4) from (slice, row, column) to RAS mm; None where the positions or distances are unknown.
        spacing: mm between slices, rows and columns where it is known without an affine.
        notes: what the user should know.
    """

    frames: list[Frame]
    affine: Affine | None
    spacing: tuple[float, float, float] | None
    notes: tuple[str, ...]


def choose_series(frames: Sequence[Frame], wanted: str | int | None, source: str) -> list[Frame]:
    """Return the frames of the only series, or of the one named by UID, number or description."""
    groups = _labelled(frames)
    if wanted is None:
        if len(groups) == 1:
            return next(iter(groups.values()))
        raise ReadError(
            f"{source}: holds {len(groups)} DICOM series, and they must not be mixed. Choose one with "
            f"series=NUMBER, DESCRIPTION or UID:\n{_listing(groups)}"
        )
    name = str(wanted).strip()
    for matches in _matches(groups, name):
        if len(matches) == 1:
            return groups[matches[0]]
        if matches:
            chosen = {label: groups[label] for label in matches}
            raise ReadError(
                f"{source}: series={name!r} fits {len(matches)} series. Use another name:\n{_listing(chosen)}"
            )
    known = {*groups, *(group[0].series.description for group in groups.values())}
    raise ReadError(f"{source}: has no series {name!r}.{nearest(name, known)} It holds:\n{_listing(groups)}")


def _matches(groups: dict[str, list[Frame]], name: str) -> list[list[str]]:
    """Return the labels that fit a name, by label, UID, number and description, the strictest first."""
    folded = name.casefold()
    series = {label: group[0].series for label, group in groups.items()}
    return [
        [label for label in groups if label == name],
        [label for label, s in series.items() if s.uid == name],
        [label for label, s in series.items() if s.number == name],
        [label for label, s in series.items() if s.description.casefold() == folded],
    ]


def _labelled(frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    """Group frames by series, shape and orientation, under a label that tells the groups apart.

    The label is the series number; "3.1", "3.2" where one series holds several stacks (as localizers do); the UID
    where two series have the same number or none.
    """
    by_uid: dict[str, list[Frame]] = {}
    for frame in frames:
        by_uid.setdefault(frame.series.uid, []).append(frame)
    numbers = Counter(members[0].series.number for members in by_uid.values())
    groups: dict[str, list[Frame]] = {}
    for uid, members in by_uid.items():
        number = members[0].series.number
        label = number if number and numbers[number] == 1 else uid or "without UID"
        stacks = _stacks(members)
        for place, stack in enumerate(stacks, start=1):
            groups[label if len(stacks) == 1 else f"{label}.{place}"] = stack
    return groups


def _stacks(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Split a series where the shape or the orientation changes; scanners jitter, so nearly alike is alike."""
    stacks: dict[tuple[tuple[int, int], Vector | None], list[Frame]] = {}
    known: dict[tuple[tuple[int, int], Vector | None], tuple[tuple[int, int], Vector | None]] = {}
    for frame in frames:
        key = frame.shape, frame.orientation
        if key not in known:
            known[key] = next((old for old in stacks if _alike(old, key)), key)
        stacks.setdefault(known[key], []).append(frame)
    return list(stacks.values())


def _alike(old: tuple[tuple[int, int], Vector | None], new: tuple[tuple[int, int], Vector | None]) -> bool:
    if old[0] != new[0] or old[1] is None or new[1] is None:
        return old == new
    return bool(np.abs(np.subtract(old[1], new[1])).max() < _SAME_DIRECTION)


def _listing(groups: dict[str, list[Frame]], limit: int = 40) -> str:
    lines = []
    for label, frames in list(groups.items())[:limit]:
        series, (rows, columns) = frames[0].series, frames[0].shape
        name = f' "{series.description}"' if series.description else ""
        size = f"{counted(len(frames), 'slice')} of {rows} x {columns}"
        lines.append(f"  - {label}: {series.modality}{name}, {size}, UID {series.uid}")
    if len(groups) > limit:
        lines.append(f"  ... and {len(groups) - limit} more")
    return "\n".join(lines)


def stack_frames(frames: Sequence[Frame], source: str, frame: int | None) -> Stack:
    """Order the frames of one series, and report what is unusual about their places.

    Args:
        frames: of one series, in any order.
        source: for messages.
        frame: where each place holds several slices (time points, echoes), which of them to keep, from 0.
    """
    along = _along(frames)
    if along is None:
        return _unplaced(frames, source, frame)
    order = sorted(range(len(frames)), key=lambda i: (_bin(along[i]), *_tie(frames[i])))
    ordered, places = [frames[i] for i in order], along[order]
    ordered, places, notes = _pick_frame(ordered, places, source, frame)
    affine, more = _affine(ordered, places)
    return Stack(ordered, affine, None, (*notes, *more))


def _bin(place: Any) -> int:
    return round(place / _SAME_PLACE)


def _tie(frame: Frame) -> tuple:
    return frame.instance, natural_key(frame.entry.name), frame.index


def _along(frames: Sequence[Frame]) -> Array | None:
    """Return the place of each frame along the normal in mm, or None where a frame does not say where it lies."""
    if any(f.position is None or f.orientation is None for f in frames):
        return None
    direction = normal(frames[0].orientation or ())
    direction = direction / np.linalg.norm(direction)
    return np.array([f.position for f in frames], dtype=np.float64) @ direction


def _unplaced(frames: Sequence[Frame], source: str, frame: int | None) -> Stack:
    """Order frames without positions by InstanceNumber, then name."""
    if frame not in (None, 0):
        raise ReadError(f"{source}: frame={frame} needs slices with positions, and these have none. Leave it out.")
    ordered = sorted(frames, key=_tie)
    first = ordered[0]
    notes: tuple[str, ...] = ()
    if len(ordered) > 1 and len({f.entry.name for f in ordered}) > 1:
        by = "InstanceNumber" if len({f.instance for f in ordered}) == len(ordered) else "InstanceNumber and name"
        notes = (f"the slices have no positions; they were ordered by {by}",)
    spacing = None
    if first.pixel_spacing is not None and first.thickness is not None:
        spacing = (first.thickness, first.pixel_spacing[0], first.pixel_spacing[1])
    return Stack(ordered, None, spacing, notes)


def _pick_frame(
    frames: list[Frame], places: Array, source: str, frame: int | None
) -> tuple[list[Frame], Array, tuple[str, ...]]:
    """Keep one slice a place where `frame` asks for it; say where places are shared."""
    counts = Counter(_bin(p) for p in places)
    most, fewest = max(counts.values()), min(counts.values())
    if frame is None:
        return frames, places, _shared_places(frames, counts, most, fewest)
    if not 0 <= frame < fewest:
        raise ReadError(f"{source}: frame={frame} is not at every place; allowed are 0 to {fewest - 1}.")
    seen: Counter[int] = Counter()
    keep = []
    for i, place in enumerate(places):
        if seen[_bin(place)] == frame:
            keep.append(i)
        seen[_bin(place)] += 1
    return [frames[i] for i in keep], places[keep], ()


def _shared_places(frames: list[Frame], counts: Counter[int], most: int, fewest: int) -> tuple[str, ...]:
    if most == 1:
        return ()
    copies = len(frames) - len({(f.uid, f.index) for f in frames}) if all(f.uid for f in frames) else 0
    if copies:
        return (f"{counted(copies, 'repeated slice')} (the same SOPInstanceUID in several files); all were kept",)
    if most == fewest:
        return (
            f"each of {len(counts)} places holds {most} slices (time points or echoes?), read in order of place, then "
            f"InstanceNumber; choose one a place with frame=0 to {most - 1}",
        )
    shared = sum(1 for count in counts.values() if count > 1)
    return (f"{shared} of {len(counts)} places hold several slices, up to {most}; all were kept",)


def _affine(frames: list[Frame], places: Array) -> tuple[Affine | None, tuple[str, ...]]:
    """Return the affine from (slice, row, column) to RAS mm, and notes on distances."""
    first, last = frames[0], frames[-1]
    orientation, origin = np.array(first.orientation), np.array(first.position)
    step, notes = _step(places, first.thickness)
    if first.pixel_spacing is None:
        return None, (*notes, "the header has no pixel spacing")
    notes += _pixel_notes(frames)
    across = normal(first.orientation or ())
    across = across / np.linalg.norm(across) * step
    if places[-1] - places[0] > _SAME_PLACE:
        sideways = (np.array(last.position) - origin) * (step / (places[-1] - places[0])) - across
        if np.linalg.norm(sideways) > 0.02 * step:
            notes += ("the slices are shifted sideways (a tilted gantry?)",)
            across = across + sideways
    affine = np.eye(4)
    affine[:3, 0] = across
    affine[:3, 1] = orientation[3:] * first.pixel_spacing[0]
    affine[:3, 2] = orientation[:3] * first.pixel_spacing[1]
    affine[:3, 3] = origin
    return LPS_TO_RAS @ affine, notes


def _pixel_notes(frames: Sequence[Frame]) -> tuple[str, ...]:
    """Return a note where pixels are larger in some slices than in others, so that no one grid holds them."""
    sizes = np.array([f.pixel_spacing or (np.nan, np.nan) for f in frames])
    low, high = np.nanmin(sizes), np.nanmax(sizes)
    if np.allclose(sizes, sizes[0], rtol=0.01):
        return ()
    return (f"the pixel spacing differs between slices, {low:.3g} to {high:.3g} mm; that of the first was taken",)


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
