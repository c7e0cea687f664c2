"""Several scans as the channels of one: the same grid, or brought to that of the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from slivit.data.readers.base import COLOUR_NOTE, COLOURS, Array, Recounted, Scan, ScanInfo, counted, one_colour
from slivit.data.readers.geometry import difference
from slivit.errors import ReadError, nearest

ALL = "all"
"""The value of the option `channel` that reads all channels of a file."""
RESAMPLE = "resample"
"""The value of the option `align` that brings channels to the grid of the first."""


def beside(scans: Sequence[Scan], source: str, align: str = "") -> Scan:
    """Put scans side by side as the channels of one.

    Args:
        scans: opened, one a channel.
        source: all of them, for messages.
        align: "resample" interpolates channels on another grid linearly at the voxels of the first; what lies outside
            of theirs gets their least value. Empty makes another grid an error.

    Returns:
        A scan that loads (C, n, H, W), with the geometry of the first channel.

    Raises:
        ReadError: grids that differ, or of which nothing is known where they are to be brought together.
    """
    if align not in ("", RESAMPLE):
        raise ReadError(f"{source}: align must be {RESAMPLE!r}. Got {align!r}.{nearest(align, [RESAMPLE])}")
    several = [scan.info.source for scan in scans if scan.info.channels > 1]
    if several:
        raise ReadError(f"{several[0]}: is a channel among others and has several itself; choose one with channel=0.")
    first = scans[0].info
    differ = [difference(scan.info, first) for scan in scans]
    notes = [note for scan in scans for note in scan.info.notes]
    for scan, why in zip(scans, differ, strict=True):
        if why and not align:
            raise ReadError(
                f"{scan.info.source}: does not lie on the grid of {first.source}: {why}. Channels are voxel for voxel "
                f'beside each other: export them so, or have them resampled to the first with align = "{RESAMPLE}".'
            )
        if why:
            _check_known(scan.info, first)
            notes.append(f"a channel was resampled to the grid of the first ({why})")

    def load(indices: Sequence[int]) -> Array:
        loaded = []
        for place, (scan, why) in enumerate(zip(scans, differ, strict=True)):
            try:
                loaded.append(_resampled(scan, first, indices) if why else scan.load(indices))
            except Recounted as again:  # a scan turned out to have another depth
                changed = [again.scan if i == place else other for i, other in enumerate(scans)]
                raise Recounted(beside(changed, source, align)) from again
        return np.stack(loaded)

    dtype = str(np.result_type(*(np.dtype(scan.info.dtype) for scan in scans)))
    info = replace(first, source=source, dtype=dtype, notes=tuple(dict.fromkeys(notes)), channels=len(scans))
    return Scan(info, load, scans[0].names)


def _check_known(one: ScanInfo, first: ScanInfo) -> None:
    for info in (one, first):
        if info.affine is None:
            raise ReadError(
                f"{info.source}: does not say where it lies in the patient, so it cannot be resampled; leave align out."
            )


def _resampled(scan: Scan, first: ScanInfo, indices: Sequence[int]) -> Array:
    """(n, H, W) float32 values of a scan at the voxels of chosen slices of another's grid."""
    from scipy.ndimage import affine_transform

    if scan.info.affine is None or first.affine is None:
        raise ReadError(f"{scan.info.source}: cannot be resampled without its place in the patient.")
    whole = scan.load(range(scan.info.shape[0])).astype(np.float32)
    to_own = np.linalg.inv(scan.info.affine) @ first.affine
    planes = []
    for index in indices:
        offset = to_own[:3, :3] @ (index, 0, 0) + to_own[:3, 3]
        out = (1, *first.shape[1:])
        planes.append(affine_transform(whole, to_own[:3, :3], offset, out, order=1, cval=float(np.nanmin(whole))))
    return np.concatenate(planes)


def in_colour(scan: Scan, channel: int | str) -> Scan:
    """A colour image or video as one of `COLOURS`, or as all three side by side, in place of its luminance.

    Args:
        scan: opened, whose notes say that it becomes grey.
        channel: "red", "green", "blue" or "all".
    """
    numbers = range(len(COLOURS)) if channel == ALL else [COLOURS.index(str(channel))]

    def of(number: int, indices: Sequence[int]) -> Array:
        with one_colour(number):
            return scan.load(indices)

    def load(indices: Sequence[int]) -> Array:
        try:
            loaded = [of(number, indices) for number in numbers]
        except Recounted as again:
            raise Recounted(in_colour(again.scan, channel)) from again
        return np.stack(loaded) if channel == ALL else loaded[0]

    notes = tuple(note for note in scan.info.notes if note != COLOUR_NOTE)
    return replace(scan, info=replace(scan.info, notes=notes, channels=len(numbers)), load=load)


def chosen_channel(channel: int | str | None, count: int, source: str) -> int | None:
    """The number of a channel of a file that knows them by number alone; None for all of them.

    Args:
        channel: a number from 0, or "all".
        count: how many there are.
        source: the file, for messages.
    """
    if channel == ALL:
        return None
    if isinstance(channel, int) and 0 <= channel < count:
        return channel
    raise ReadError(
        f'{source}: channel={channel} was asked for, and it has {counted(count, "channel")}: channel = "{ALL}", or '
        f"{'0' if count == 1 else f'0 to {count - 1}'}."
    )
