"""Which slices of a volume, and what their intensities become. Pure functions on arrays."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from slivit.data.readers.base import all_finite
from slivit.errors import ReadError

Sampling = Literal["even", "middle", "all", "resample", "linspace", "linspace_middle"]
Interpolation = Literal["area", "bilinear"]
Short = Literal["repeat", "pad", "error"]
Grey = npt.NDArray[Any]
"""Slices from 0 to 255: uint8, or float32 where they are not rounded."""
BLANK = -1
"""The index that stands for an empty slice where a short volume is padded."""
Array = npt.NDArray[Any]
_CHUNK = 1 << 24  # OpenCV counts in float32, which is exact up to here


def sample_slices(
    depth: int, slices: int, sampling: Sampling = "even", short: Short = "repeat"
) -> npt.NDArray[np.intp]:
    """Choose which slices of a volume are used.

    Args:
        depth: the number of slices D of the volume.
        slices: the number S of slices wanted; ignored by "all".
        sampling: "even" takes the centres of S equal parts of the volume (with S = D, every slice once), "middle" the
            S slices round the centre, "all" every slice, "resample" those between which S slices are interpolated (see
            `resample_positions`). "linspace" and "linspace_middle" are the released SLIViT's "eq" and "mid": S places
            from the first to the last slice, or from S // 2 before to S // 2 behind slice D // 2, rounded down (one
            slice in the middle is skipped so; what lies outside becomes the first or last slice).
        short: for D < S: "repeat" spreads the D slices evenly over S places ("resample" interpolates instead), "pad"
            puts blank slices (index -1) behind them, "error" raises.

    Returns:
        (S,) indices in ascending order, blanks last; D of them for "all", each once and up to 2 S for "resample".

    Raises:
        ReadError: an empty volume, or too few slices where `short` is "error".

    Example:
        >>> sample_slices(10, 4).tolist(), sample_slices(10, 4, "middle").tolist(), sample_slices(2, 4).tolist()
        ([1, 3, 6, 8], [3, 4, 5, 6], [0, 0, 1, 1])
    """
    if depth < 1 or slices < 1:
        raise ReadError(f"cannot take {slices} slices of a volume of {depth}; both must be at least 1")
    if sampling == "all":
        return np.arange(depth)
    if depth < slices and short == "error":
        raise ReadError(f"the volume has {depth} slices, {slices} are asked for; allow it with short = repeat or pad")
    if depth < slices and short == "pad":
        return np.concatenate([np.arange(depth), np.full(slices - depth, BLANK)])
    if sampling == "resample":
        lower, weight = resample_positions(depth, slices)
        return np.union1d(lower, lower[weight > 0] + 1)
    if sampling == "linspace" or (sampling == "linspace_middle" and depth < slices):
        return np.linspace(0, depth - 1, slices).astype(np.intp)
    if sampling == "linspace_middle":
        middle, half = depth // 2, slices // 2
        return np.linspace(middle - half, middle + half, slices).clip(0, depth - 1).astype(np.intp)
    if depth < slices or sampling == "even":
        return ((np.arange(slices) + 0.5) * depth / slices).astype(np.intp)
    return np.arange(slices) + (depth - slices) // 2


def resample_positions(depth: int, slices: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Where S slices lie that are spread evenly over the D of a volume: at the centres of S equal parts.

    Args:
        depth: the number of slices D of the volume.
        slices: the number S of slices wanted.

    Returns:
        (S,) the slice below each, and (S,) the weight from 0 to 1 of the slice above that one; the first and the last
        slice are continued outwards.

    Example:
        >>> resample_positions(2, 4)
        (array([0, 0, 0, 1]), array([0.  , 0.25, 0.75, 0.  ]))
    """
    positions = np.clip((np.arange(slices) + 0.5) * depth / slices - 0.5, 0, depth - 1)
    lower = positions.astype(np.intp)
    return lower, positions - lower


def window_intensity(array: npt.NDArray[np.generic], low: float, high: float) -> npt.NDArray[np.float32]:
    """Map the intensities from `low` to `high` (for example HU) onto [0, 1], and clip what lies outside."""
    scaled = (array.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def intensity_range(
    array: npt.NDArray[np.generic], low: float, high: float, window: tuple[float, float] | None = None
) -> tuple[float, float]:
    """The `low`-th and `high`-th percentile of the finite values of an array.

    Where the two coincide (a mask that is nearly empty, say) the minimum and maximum are returned instead, because a
    stretch between two equal percentiles would erase what is there.

    Args:
        array: any shape.
        low: from 0 to 100.
        high: above `low`, up to 100.
        window: (low, high) intensities to which the values are clipped first.

    Raises:
        ReadError: no finite value at all.
    """
    values = _finite(array)
    bottom, top = percentiles(values, (low, high), window)
    if bottom == top:
        bottom, top = np.clip([values.min(), values.max()], *(window or (-np.inf, np.inf)))
    return float(bottom), float(top)


def to_uint8(array: npt.NDArray[np.generic], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Map `low` to 0 and `high` to 255, clip, and round; not-a-number becomes 0, a flat range gives zeros."""
    if low == high:
        return np.zeros(array.shape, np.uint8)
    if array.dtype == np.uint8:
        return _through_table(array, _rounded(np.arange(256), low, high))
    return _rounded(array, low, high)


def to_float(array: npt.NDArray[np.generic], low: float, high: float) -> npt.NDArray[np.float32]:
    """As `to_uint8`, without rounding."""
    if low == high:
        return np.zeros(array.shape, np.float32)
    scaled = window_intensity(array, low, high)
    scaled *= 255
    return np.nan_to_num(scaled, copy=False, nan=0.0) if array.dtype.kind == "f" else scaled


def wrapped(array: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """255 times each value, without its fraction, modulo 256: what the released SLIViT's loader of MRI does.

    It takes stored values for shares of white, so that a value v of a whole number becomes (256 - v) modulo 256.
    """
    return (255 * array.astype(np.float64)).astype(np.int64).astype(np.uint8)


def shuffled(stack: Grey, seed: int) -> Grey:
    """(S, H, W) slices in another order, which the seed and the slices decide: a scan always has the same."""
    order = np.random.default_rng([seed, zlib.crc32(stack.tobytes())]).permutation(len(stack))
    return stack[order]


def _through_table(array: npt.NDArray[np.generic], table: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    import cv2

    flat = np.ascontiguousarray(array).reshape(1, -1)
    mapped: npt.NDArray[np.uint8] = np.asarray(cv2.LUT(flat, table), np.uint8)
    return mapped.reshape(array.shape)


def _rounded(array: npt.NDArray[np.generic], low: float, high: float) -> npt.NDArray[np.uint8]:
    scaled = to_float(array, low, high)
    return np.rint(scaled, out=scaled).astype(np.uint8)


def _finite(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if all_finite(array):
        return array
    values = array[np.isfinite(array)]
    if values.size == 0:
        raise ReadError("the volume has no finite value; it cannot be scaled")
    return values


def resize_slices(stack: Grey, size: Sequence[int]) -> Grey:
    """Resize every slice to (H, W): by area where it shrinks, linearly where it grows.

    Args:
        stack: (S, h, w).
        size: (H, W).

    Returns:
        (S, H, W), of the dtype of `stack`.
    """
    out = np.empty((len(stack), *size), stack.dtype)
    for source, target in zip(stack, out, strict=True):
        resize_slice(source, target)
    return out


def resize_slice(source: Grey, target: Grey, how: Interpolation = "area") -> None:
    """Resize (h, w) into (H, W): "area" as `resize_slices`, "bilinear" by Pillow's filter."""
    if source.shape == target.shape:
        target[...] = source
        return
    height, width = target.shape
    if how == "bilinear":
        from PIL import Image

        target[...] = np.asarray(Image.fromarray(source).resize((width, height), Image.Resampling.BILINEAR))
        return
    import cv2

    shrinks = source.shape[0] >= height and source.shape[1] >= width
    filtered = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cv2.resize(source, (width, height), dst=target, interpolation=filtered)


def interpolate_slices(stack: Grey, indices: npt.NDArray[np.intp], depth: int, slices: int) -> Grey:
    """Interpolate linearly between slices, so that S of them are spread evenly over a volume.

    Args:
        stack: (n, H, W), the slices that `sample_slices` chose for "resample".
        indices: (n,) their numbers in the volume.
        depth: the number of slices D of the volume.
        slices: S.

    Returns:
        (S, H, W).
    """
    import cv2

    out = np.empty((slices, *stack.shape[1:]), stack.dtype)
    lower, weights = resample_positions(depth, slices)
    for target, place, weight in zip(out, np.searchsorted(indices, lower), weights, strict=True):
        if weight:
            cv2.addWeighted(stack[place], 1 - weight, stack[place + 1], weight, 0, dst=target)
        else:
            target[...] = stack[place]
    return out


def percentiles(
    values: Array, percents: Sequence[float], limits: tuple[float, float] | None = None
) -> npt.NDArray[np.float64]:
    """Percentiles of the values, interpolated linearly between neighbours as `numpy.percentile` does.

    Args:
        values: any shape, real numbers without NaN.
        percents: from 0 to 100.
        limits: (low, high) to which the values are clipped first. Clipping keeps the order, so only the few values
            that count are clipped.

    Returns:
        As many float64 as there are `percents`.
    """
    exact = np.asarray(percents, np.float64) / 100 * (values.size - 1)
    below = np.floor(exact).astype(np.int64)
    above = np.minimum(below + 1, values.size - 1)
    ends = order_statistics(values, np.concatenate([below, above]))
    if limits is not None:
        ends = np.clip(ends, *limits)
    first, second = ends[: len(below)], ends[len(below) :]
    return first + (exact - below) * (second - first)


def order_statistics(values: Array, ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The values at places `ranks` (from 0) of the sorted array, without sorting it.

    Args:
        values: any shape, real numbers without NaN.
        ranks: in any order.

    Returns:
        float64, in the order of `ranks`.
    """
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        bottom = np.iinfo(values.dtype).min
        places = np.searchsorted(_counts(values).cumsum(), ranks, side="right")
        return (places + bottom).astype(np.float64)
    flat = np.ascontiguousarray(values).reshape(-1)
    if values.dtype == np.float32:
        return _float_order_statistics(flat, ranks)
    return np.partition(flat, np.unique(ranks))[ranks].astype(np.float64)


def _counts(values: Array) -> npt.NDArray[np.int64]:
    """How often each number of an 8- or 16-bit integer type occurs, from its least to its greatest."""
    import cv2

    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    flat = np.ascontiguousarray(values).view(unsigned).reshape(1, -1)
    bins = 1 << 8 * unsigned.itemsize
    counts = np.zeros(bins, np.int64)
    for start in range(0, flat.size, _CHUNK):
        part = flat[:, start : start + _CHUNK]
        counts += cv2.calcHist([part], [0], None, [bins], [0, bins]).reshape(-1).astype(np.int64)
    return np.roll(counts, bins // 2) if values.dtype.kind == "i" else counts


def _float_order_statistics(flat: npt.NDArray[np.float32], ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Count by the leading 16 bits, then select among the few values that share them with the one looked for."""
    bits = flat.view(np.int32)
    # As integers, the bits of positive floats are in order, and those of negative ones in reverse.
    leading = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> 16).astype(np.int16)
    ends = _counts(leading).cumsum()
    buckets = np.searchsorted(ends, ranks, side="right")
    values = np.empty(len(ranks), np.float64)
    for bucket in np.unique(buckets):
        mine = buckets == bucket
        before = ends[bucket - 1] if bucket else 0
        members = flat[leading == bucket + np.iinfo(np.int16).min]
        inside = ranks[mine] - before
        values[mine] = np.partition(members, np.unique(inside))[inside]
    return values
