"""Which images belong together: series, patients, clips and kinds of image are told apart, and one is chosen."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from slivit.data.readers.base import counted
from slivit.data.readers.dicom_headers import Frame, Series
from slivit.data.readers.dicom_line import line_of
from slivit.data.readers.dicom_pixels import decode, is_colour
from slivit.data.readers.dicom_places import places_of, separable
from slivit.data.readers.dicom_values import Vector
from slivit.errors import ReadError, nearest, one_of

_SAME_DIRECTION = 0.01  # direction cosines nearer than this are the same
_SIDE = ("1.2.840.10008.5.1.4.1.1.481.2", "1.2.840.10008.5.1.4.1.1.481.1")  # RT Dose and RT Image
# Radiographs and photographs: each image is an exposure of its own, and several are no volume.
_EXPOSURES = frozenset(("CR", "DX", "RG", "MG", "IO", "PX", "OP", "XC", "GM", "ES"))
_KEYS = ("uid", "number", "description", "modality", "patient")

Wanted = str | int | Mapping[str, Any]
Groups = dict[str, list[Frame]]


def choose_series(frames: Sequence[Frame], wanted: Wanted | None, source: str) -> list[Frame]:
    """Return the frames of the only series, or of the one that is wanted.

    Args:
        frames: of all files.
        wanted: UID, number, or (part of) the description; or several of "uid", "number", "description", "modality" and
            "patient" with what each must be. Where a series has parts, also the name that the message lists.
        source: for messages.
    """
    groups = series_groups(frames)
    if wanted is None:
        if len(groups) == 1:
            return next(iter(groups.values()))
        patients = {group[0].series.patient for group in groups.values()}
        of = f" of {len(patients)} patients" if len(patients) > 1 else ""
        raise ReadError(
            f"{source}: holds {len(groups)} DICOM series{of}, or parts of series that do not belong together, and they "
            f"must not be mixed. Choose one with series=NUMBER, DESCRIPTION or UID:\n{listing(groups)}"
        )
    for matches in _matches(groups, wanted, source):
        if len(matches) == 1:
            return groups[matches[0]]
        if matches:
            chosen = {label: groups[label] for label in matches}
            raise ReadError(
                f"{source}: series={wanted!r} fits {len(matches)} series. Use another name:\n{listing(chosen)}"
            )
    known = {*groups, *(group[0].series.description for group in groups.values())}
    raise ReadError(f"{source}: has no series {wanted!r}.{nearest(str(wanted), known)} It holds:\n{listing(groups)}")


def _matches(groups: Groups, wanted: Wanted, source: str) -> list[list[str]]:
    """Return the labels that fit, by label, UID, number, description and part of it, the strictest first."""
    series = {label: group[0].series for label, group in groups.items()}
    if isinstance(wanted, Mapping):
        return [[label for label, s in series.items() if _fits(s, wanted, source)]]
    name = str(wanted).strip()
    folded = name.casefold()
    part = [label for label, s in series.items() if folded in s.description.casefold()]
    return [
        [label for label in groups if label == name],
        [label for label, names in _names(groups).items() if name in names],
        [label for label, s in series.items() if s.number == name],
        [label for label, s in series.items() if s.description.casefold() == folded],
        [label for label, group in groups.items() if folded in group[0].marks.part.casefold()] if name else [],
        part if name and not name.isdecimal() else [],
    ]


def _fits(series: Series, wanted: Mapping[str, Any], source: str) -> bool:
    if unknown := next((key for key in wanted if key not in _KEYS), None):
        raise ReadError(f'{source}: series has no "{unknown}"; it has {one_of(_KEYS)}.{nearest(unknown, _KEYS)}')
    values = {key: getattr(series, key).casefold() for key in wanted}
    asked = {key: str(value).strip().casefold() for key, value in wanted.items()}
    return all(asked[key] in values[key] if key == "description" else asked[key] == values[key] for key in wanted)


def _names(groups: Groups) -> dict[str, set[str]]:
    """Return for each label the UID that it is known by, with the number of the part where the series has several."""
    members: dict[str, list[str]] = {}
    for label, group in groups.items():
        members.setdefault(group[0].series.uid, []).append(label)
    names: dict[str, set[str]] = {}
    for uid, labels in members.items():
        for place, label in enumerate(labels, start=1):
            names[label] = {uid} if uid else set()
            if uid and len(labels) > 1:
                names[label].add(f"{uid}.{place}")
    return names


def lasting_name(groups: Groups, label: str) -> str:
    """Return the UID of a series, with the number of the part where it has several: a name for tables."""
    return max(_names(groups)[label], key=len, default=label)


def series_groups(frames: Sequence[Frame]) -> Groups:
    """Group frames by what belongs together, under a label that tells the groups apart.

    A series is divided by patient, by multi-frame file and exposure (each clip and radiograph is a scan), by class and
    kind of image, by shape and by orientation. The label is the series number; "3.1", "3.2" where one series has
    several such parts; the UID where two series have the same number or none.
    """
    by_series: dict[tuple[str, ...], list[Frame]] = {}
    for frame in frames:
        own = frame.series
        by_series.setdefault((own.uid,) if own.uid else ("", own.number, own.description), []).append(frame)
    numbers = Counter(members[0].series.number for members in by_series.values())
    groups: Groups = {}
    for (uid, *_), members in by_series.items():
        number = members[0].series.number
        label = number if number and numbers[number] == 1 else uid or "without UID"
        parts = _parts(members)
        for place, part in enumerate(parts, start=1):
            own_label = label if len(parts) == 1 else f"{label}.{place}"
            groups[own_label if own_label not in groups else f"{own_label} ({len(groups)})"] = part
    return groups


def _parts(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Divide a series into what can be read as one stack."""
    parts = []
    for alike in _divided(frames, _kind):
        for stack in _stacks(alike):
            line = line_of(stack)
            parts += separable(stack, places_of(line.along, line.thickness))
    return parts


def _divided(frames: Sequence[Frame], key: Callable[[Frame], Hashable]) -> list[list[Frame]]:
    groups: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(key(frame), []).append(frame)
    return list(groups.values())


def _kind(frame: Frame) -> Hashable:
    """Return what all slices of a volume have in common.

    Patient, clip or exposure, energy window and the like, class, colour, original or derived, shape.
    """
    alone = frame.count > 1 or (frame.position is None and frame.series.modality in _EXPOSURES)
    clip: Hashable = frame.concatenation or ((frame.uid, frame.entry.name) if alone else "")
    derived = frame.marks.image_type.partition("\\")[0].upper()
    return frame.series.patient, clip, frame.marks.part, frame.sop_class, is_colour(frame), derived, frame.shape


def _stacks(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Split where the orientation changes; scanners jitter, so nearly alike is alike.

    Slices without an orientation join the only stack that there is.
    """
    stacks: list[tuple[Any, list[Frame]]] = []
    loose = [f for f in frames if f.orientation is None]
    by_orientation: dict[Vector, list[Frame]] = {}
    for frame in frames:
        if frame.orientation is None:
            continue
        if frame.orientation not in by_orientation:
            cosines = np.array(frame.orientation)
            own = next((members for known, members in stacks if np.abs(known - cosines).max() < _SAME_DIRECTION), None)
            if own is None:
                stacks.append((cosines, own := []))
            by_orientation[frame.orientation] = own
        by_orientation[frame.orientation].append(frame)
    if len(stacks) == 1 and loose:
        return [list(frames)]
    return [members for _, members in stacks] + ([loose] if loose else [])


def listing(groups: Groups, limit: int = 40) -> str:
    """Return one line a group that says how it is chosen and what it is."""
    several = len({group[0].series.patient for group in groups.values()}) > 1
    types = Counter(group[0].series.uid for group in groups.values())
    lines = []
    for label, frames in list(groups.items())[:limit]:
        first = frames[0]
        series, (rows, columns) = first.series, first.shape
        words = [f'{series.modality} "{series.description}"' if series.description else series.modality]
        words.append(f"{counted(len(frames), 'slice')} of {rows} x {columns}")
        words += [f"patient {series.patient or 'without ID'}"] * several
        if types[series.uid] > 1:
            words += [f"ImageType {first.marks.image_type}"] * bool(first.marks.image_type)
            words.append(first.marks.part or f"from {first.entry.name}")
        lines.append(f"  - {label}: {', '.join(words)}, UID {series.uid}")
    if len(groups) > limit:
        lines.append(f"  ... and {len(groups) - limit} more")
    return "\n".join(lines)


def main_images(frames: list[Frame]) -> tuple[list[Frame], tuple[str, ...]]:
    """Return the frames without the dose grids and port images that lie beside scans, and a note on them."""
    kept = [f for f in frames if f.sop_class not in _SIDE]
    if not kept or len(kept) == len(frames):
        return frames, ()
    files = len({id(f.entry) for f in frames if f.sop_class in _SIDE})
    return kept, (f"{counted(files, 'file')} of radiotherapy (RT Dose, RT Image) beside the scan ignored",)


def without_copies(frames: list[Frame]) -> tuple[list[Frame], tuple[str, ...]]:
    """Return the frames without those that are there twice, header and pixels, and a note on them.

    Images that share a SOPInstanceUID and differ are all kept.
    """
    uids = Counter((f.uid, f.index) for f in frames)
    twice = [f for f in frames if f.uid and uids[f.uid, f.index] > 1]
    headers = Counter(map(_header, twice))
    seen: set[Hashable] = set()
    kept = []
    for frame in frames:
        if frame.uid and uids[frame.uid, frame.index] > 1 and headers[_header(frame)] > 1:
            key = _header(frame), _content(frame)
            if key in seen:
                continue
            seen.add(key)
        kept.append(frame)
    if len(kept) == len(frames):
        return frames, ()
    words = counted(len(frames) - len(kept), "identical copy").replace("copys", "copies")
    return kept, (f"{words} of slices (the same SOPInstanceUID, header and pixels in several files) ignored",)


def _header(frame: Frame) -> Frame:
    """Return what a copy of a frame has in common with it: all but the file and its compression."""
    return replace(frame, entry=_NOWHERE, pixels_at=None, syntax="")


def _content(frame: Frame) -> str:
    """Return a digest of the pixels, or of the file where they cannot be decoded."""
    try:
        (pixels,) = decode([frame], frame.entry.name)
        return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    except Exception:  # decoders raise many kinds on broken files, and reading will tell it
        with frame.entry.open() as stream:
            return hashlib.sha256(stream.read()).hexdigest()


class _Nowhere:
    """Stands for the file where it does not count."""

    name, size, path = "", 0, None


_NOWHERE: Any = _Nowhere()
