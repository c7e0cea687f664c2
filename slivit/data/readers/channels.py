"""Several scans as the channels of one: the same grid, or brought to that of the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from slivit.data.readers.base import Affine, Array, Recounted, Scan, ScanInfo, counted
from slivit.errors import ReadError, nearest

ALL = "all"
"""The value of the option `channel` that reads all channels of a file."""
RESAMPLE = "resample"
"""The value of the option `align` that brings channels to the grid of the first."""
_SAME = 1e-3  # mm
_NOISE = 0.1  # voxels by which a grid may stray elsewhere, where rounded directions turn it


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


def difference(one: ScanInfo, other: ScanInfo) -> str:
    """Say how the grid of a scan differs from another's; "" where voxels lie within 0.001 mm of each other.

    Directions that two programs round differently turn a grid by next to nothing, which counts as the same: some corner
    or the middle has to be where it was, and all others within a tenth of a voxel.
    """
    if one.shape != other.shape:
        return f"{' x '.join(map(str, one.shape))} voxels instead of {' x '.join(map(str, other.shape))}"
    if one.affine is not None and other.affine is not None:
        apart = _apart(one.affine, other.affine, one.shape)
        voxel = float(np.sqrt((other.affine[:3, :3] ** 2).sum(axis=0)).min())
        if apart.max() <= _SAME or (apart.min() <= _SAME and apart.max() <= _NOISE * voxel):
            return ""
        return f"its voxels lie up to {apart.max():.3g} mm away"
    if one.spacing and other.spacing and np.abs(np.subtract(one.spacing, other.spacing)).max() > _SAME:
        told = (" x ".join(f"{s:.4g}" for s in spacing) for spacing in (one.spacing, other.spacing))
        return f"a spacing of {next(told)} mm instead of {next(told)} mm"
    return ""


def _apart(one: Affine, other: Affine, shape: Sequence[int]) -> Array:
    """(9,) how far the corners of two grids and their middles are from each other, in mm."""
    ends = np.array([*product(*((0, n - 1) for n in shape)), [(n - 1) / 2 for n in shape]], np.float64)
    return np.linalg.norm(ends @ (one - other)[:3, :3].T + (one - other)[:3, 3], axis=1)


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
