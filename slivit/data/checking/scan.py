"""Look at one scan: can it be read, what is in it, and what does its middle slice look like."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.data.foreground import Foreground, foreground_box
from slivit.data.readers.channels import ALL
from slivit.data.readers.dispatch import read_volume
from slivit.errors import SlivitError
from slivit.volume import Volume

_SAMPLE = 200_000  # values from which percentiles are taken: enough for an overview, quick to sort
_GRID = 4  # blocks along each axis of the signature
_PICTURE = 160  # pixels of the longer side of the middle slice
COLOURED, APART, LEAST = 16, 0.1, 0.01
"""Scans whose colours are looked at; by what share of the grey scale channels differ, and in what share of pixels."""


@dataclass(frozen=True, eq=False)
class ScanFacts:
    """What one scan was found to be.

    Args:
        path: as in the manifest.
        problem: why it cannot be read; empty where it can.
        shape: (D, H, W).
        dtype: of the values, as numpy writes it.
        spacing: (D, H, W) in mm, None where unknown.
        channels: how many it has.
        orientation: "axial", "coronal" or "sagittal" (the slices), with "oblique" where they lie askew; "" if unknown.
        low, p1, median, p99, high: intensities, in the scan's own unit.
        invalid: how many values are NaN or infinite.
        empty: how many slices hold no number at all.
        foreground: the share of the scan that `preprocessing.foreground` would keep, by its defaults.
        content: a hash of shape and values, the same in every format and precision that holds them exactly.
        two_values: whether it has two values at most: a shape.
        signature: mean intensities of blocks, for scans that are the same but for rounding.
        notes: what the reader noticed.
        picture: the middle slice of each channel as a small JPEG; empty where there is none.
    """

    path: str
    problem: str = ""
    shape: tuple[int, int, int] = (0, 0, 0)
    dtype: str = ""
    spacing: tuple[float, float, float] | None = None
    channels: int = 1
    orientation: str = ""
    low: float = np.nan
    p1: float = np.nan
    median: float = np.nan
    p99: float = np.nan
    high: float = np.nan
    invalid: int = 0
    empty: int = 0
    foreground: float = np.nan
    content: str = ""
    two_values: bool = False
    signature: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    notes: tuple[str, ...] = field(default=())
    picture: bytes = b""

    @property
    def readable(self) -> bool:
        """Whether the scan could be read."""
        return not self.problem


def examine(path: str, reader: Mapping[str, Any] | None = None) -> ScanFacts:
    """Read a scan whole and say what is in it; a scan that cannot be read is a result, not an error.

    Args:
        path: a scan as `read_volume` takes it.
        reader: options for `read_volume`.
    """
    from slivit.data.readers import read_volume

    if not path:
        return ScanFacts(path, "the manifest names no path")
    try:
        volume = read_volume(path, **(reader or {}))
    except SlivitError as error:
        return ScanFacts(path, str(error).removeprefix(f"{path}: "))
    except MemoryError:
        return ScanFacts(path, "there is not enough memory to read it")
    return _facts(path, volume)


def _facts(path: str, volume: Volume) -> ScanFacts:
    channels = volume.by_channel()
    array = volume.array.reshape(-1, *volume.shape[1:])  # the slices of all channels, one after the other
    sample = _sample(array)
    finite = sample[np.isfinite(sample)]
    p1, median, p99 = np.percentile(finite, (1, 50, 99)) if finite.size else (np.nan,) * 3
    low, high, invalid, empty = _range(array)
    return ScanFacts(
        path=path,
        shape=volume.shape,
        dtype=str(array.dtype),
        spacing=volume.spacing,
        orientation=orientation(volume.affine),
        low=low,
        p1=float(p1),
        median=float(median),
        p99=float(p99),
        high=high,
        invalid=invalid,
        empty=empty,
        channels=volume.channels,
        foreground=_kept(volume),
        content=content_hash(array),
        two_values=len(np.unique(finite[:: max(1, finite.size // 20_000) | 1])) <= 2,
        signature=_signature(array),
        notes=(*volume.notes, *(_odd_channels(channels) if len(channels) > 1 else ())),
        picture=picture([part.array for part in channels], volume.spacing),
    )


def _kept(volume: Volume) -> float:
    box = foreground_box(volume.array, volume.spacing, Foreground())
    return float(np.prod([side.stop - side.start for side in box]) / np.prod(volume.shape))


def _odd_channels(channels: Sequence[Volume]) -> Iterator[str]:
    """Channels that hold nothing, or what another one holds: files that were exported or named wrongly."""
    seen: dict[str, int] = {}
    for number, channel in enumerate(channels):
        if channel.array.min() == channel.array.max():
            yield f"channel {number} holds one value alone"
            continue
        first = seen.setdefault(content_hash(channel.array), number)
        if first != number:
            yield f"channels {first} and {number} hold the same values"


def _sample(array: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """At most about 200,000 values, spread evenly over the whole scan."""
    step = max(1, array.size // _SAMPLE)
    # An odd step does not fall into step with rows of even length.
    return np.asarray(array.reshape(-1)[:: step | 1], dtype=np.float64)


def _range(array: npt.NDArray[np.generic]) -> tuple[float, float, int, int]:
    """Lowest and highest finite value, how many values are not finite, and in how many slices none is.

    The scan is looked at slice by slice to save memory.
    """
    low, high, invalid, empty = np.inf, -np.inf, 0, 0
    for part in array:
        finite = part if part.dtype.kind in "iub" else part[np.isfinite(part)]
        invalid += part.size - finite.size
        empty += not finite.size
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high, invalid, empty) if low <= high else (np.nan, np.nan, invalid, empty)


def has_colour(paths: Sequence[str], stored: Sequence[bool], reader: Mapping[str, Any] | None = None) -> bool:
    """Whether there is colour to see: all scans are stored in it, and half of a sample are not grey all the same.

    Args:
        paths: the scans' addresses.
        stored: of each, whether it is stored in colour.
        reader: options with which they are read; one that cannot be read in colour has none.
    """
    if not paths or not all(stored):
        return False
    sample = np.linspace(0, len(paths) - 1, min(len(paths), COLOURED)).astype(int)
    return float(np.mean([_coloured(paths[i], reader or {}) for i in sample])) >= 0.5


def _coloured(path: str, reader: Mapping[str, Any]) -> bool:
    """Whether the channels of a scan's middle slice differ, by more than a lossy format would make them."""
    try:
        volume = read_volume(path, **{**reader, "select": lambda depth: [depth // 2], "channel": ALL})
    except SlivitError:
        return False
    values = volume.array.astype(np.float64)
    apart = values.max(0) - values.min(0)
    return bool((apart > APART * max(values.max(), 1)).mean() > LEAST)


def content_hash(array: npt.NDArray[np.generic]) -> str:
    """A hash of the shape and values of a scan that does not depend on how they are stored.

    Whole numbers hash alike in every type (uint8, int16, float32), other values as float32.
    """
    kind = _common_type(array)
    digest = blake2b(f"{array.shape}{kind}".encode(), digest_size=16)
    for part in array:
        digest.update(np.ascontiguousarray(part, dtype=kind).data)
    return digest.hexdigest()


def _common_type(array: npt.NDArray[np.generic]) -> str:
    """The type in which values are hashed, which depends on the values alone: the smallest that holds whole numbers."""
    if array.dtype.kind not in "iub" and not all(np.array_equal(part, np.rint(part)) for part in array):
        return "<f4"
    low, high = float(array.min()), float(array.max())
    fits = (kind for kind in ("<i2", "<i4") if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return next(fits, "<f8")


def _signature(array: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Mean intensity of up to 4 x 4 x 4 blocks, NaN counted as 0."""
    cuts = [np.unique(np.linspace(0, n, min(_GRID, n) + 1).astype(int))[:-1] for n in array.shape]
    slabs = []
    for start, stop in zip(cuts[0], [*cuts[0][1:], array.shape[0]], strict=True):
        total = np.zeros(array.shape[1:], dtype=np.float64)
        for part in array[start:stop]:
            total += np.nan_to_num(part.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        slabs.append(np.add.reduceat(np.add.reduceat(total, cuts[1], axis=0), cuts[2], axis=1) / (stop - start))
    sizes = [np.diff([*cut, n]) for cut, n in zip(cuts[1:], array.shape[1:], strict=True)]
    return (np.stack(slabs) / np.outer(sizes[0], sizes[1])).ravel()


def orientation(affine: npt.NDArray[np.float64] | None) -> str:
    """The plane of the slices by the axis along which they follow one another."""
    if affine is None:
        return ""
    across = affine[:3, 0] / max(float(np.linalg.norm(affine[:3, 0])), 1e-12)
    axis = int(np.abs(across).argmax())
    plane = ("sagittal", "coronal", "axial")[axis]
    return plane if abs(across[axis]) > 0.99 else f"{plane}, oblique"


def picture(channels: Sequence[npt.NDArray[np.generic]], spacing: tuple[float, float, float] | None) -> bytes:
    """The middle slices as a JPEG of at most 160 pixels a side, each stretched from its 1st to its 99th percentile.

    Args:
        channels: (D, H, W) each; four stand in two rows.
        spacing: in mm.
    """
    from PIL import Image

    tiles = [_middle(array, spacing) for array in channels]
    columns = int(np.ceil(np.sqrt(len(tiles))))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[at : at + columns], axis=1) for at in range(0, len(tiles), columns)]
    image = Image.fromarray(np.concatenate(rows))
    image.thumbnail((_PICTURE, _PICTURE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _middle(array: npt.NDArray[np.generic], spacing: tuple[float, float, float] | None) -> npt.NDArray[np.uint8]:
    """The middle slice in its true proportions, stretched."""
    from PIL import Image

    middle = np.nan_to_num(array[array.shape[0] // 2].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = np.percentile(middle, (1, 99))
    if high <= low:
        low, high = float(middle.min()), float(middle.max())
    grey = np.clip((middle - low) / max(high - low, 1e-12), 0, 1) * 255
    height, width = (n * (s if s > 0 else 1) for n, s in zip(middle.shape, (spacing or (1, 1, 1))[1:], strict=True))
    scale = _PICTURE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR))
