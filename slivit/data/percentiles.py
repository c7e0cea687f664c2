"""Exact percentiles of large arrays through histograms: several times faster than sorting, and far less memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_CHUNK = 1 << 24  # OpenCV counts in float32, which is exact up to here


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
    found = np.empty(len(ranks), np.float64)
    for bucket in np.unique(buckets):
        mine = buckets == bucket
        before = ends[bucket - 1] if bucket else 0
        members = flat[leading == bucket + np.iinfo(np.int16).min]
        inside = ranks[mine] - before
        found[mine] = np.partition(members, np.unique(inside))[inside]
    return found
