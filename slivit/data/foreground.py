"""The part of a scan that is not air: by a stated rule, a box round it, and the scan cropped to that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from slivit.errors import ReadError
from slivit.settings import NonNegative, Section, Share
from slivit.volume import Volume

Box = tuple[slice, slice, slice]
_VALUES, _BINS, _ENDS = 1_000_000, 256, (0.1, 99.9)


class Foreground(Section):
    """By what rule a scan is cropped to its foreground.

    Args:
        threshold: voxels above it are foreground: "otsu" finds the one that parts dark from bright best, over 256 bins
            between percentiles 0.1 and 99.9; or a number.
        unit: of that number: "value", as the scan stores it (HU for CT), or "percent", a percentile of the scan.
        least: the share of a slice, row or column that must be foreground, or it is cut off from the outside.
        margin: mm to keep round the box; voxels where the scan has no spacing.

    Source: Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms".

    Example:
        >>> slivit.Preprocessing(foreground={"threshold": -500, "margin": 10}).foreground.unit
        'value'
    """

    threshold: Literal["otsu"] | float = "otsu"
    unit: Literal["value", "percent"] = "value"
    least: Share = 0.01
    margin: NonNegative = Field(default=5.0)


def foreground_box(array: npt.NDArray[Any], spacing: Sequence[float] | None, rule: Foreground) -> Box:
    """The smallest box round the foreground of a grid; an axis without any stays whole.

    Args:
        array: (D, H, W), or (C, D, H, W), whose channels are looked at one by one.
        spacing: (z, y, x) in mm, where it is known.
        rule: by which.

    Returns:
        The slices, rows and columns to keep, also for what lies on the same grid, such as a mask.
    """
    if array.ndim == 4:
        first, *others = (foreground_box(channel, spacing, rule) for channel in array)
        for other in others:
            first = _round(first, other)
        return first
    above = array > _threshold(array, rule)
    depth, rows, columns = (_side(above, axis, (spacing or (1.0,) * 3)[axis], rule) for axis in range(3))
    return depth, rows, columns


def _round(one: Box, other: Box) -> Box:
    """The box round two."""
    a, b, c = (slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(one, other, strict=True))
    return a, b, c


def _side(above: npt.NDArray[np.bool_], axis: int, spacing: float, rule: Foreground) -> slice:
    shares = above.mean(tuple(other for other in range(3) if other != axis))
    kept = np.flatnonzero(shares >= max(rule.least, 1e-12))
    if not len(kept):
        return slice(0, len(shares))
    margin = math.ceil(rule.margin / spacing - 1e-6)
    return slice(max(0, int(kept[0]) - margin), min(len(shares), int(kept[-1]) + 1 + margin))


def _threshold(array: npt.NDArray[Any], rule: Foreground) -> float:
    if rule.threshold != "otsu" and rule.unit == "value":
        return float(rule.threshold)
    step = max(1, array.size // _VALUES) | 1  # an odd step does not fall into step with rows of even length
    values = array.reshape(-1)[::step].astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return math.inf
    return float(np.percentile(values, rule.threshold)) if rule.threshold != "otsu" else otsu(values)


def otsu(values: npt.NDArray[np.float64]) -> float:
    """The threshold with the largest variance between what lies below and above it."""
    counts, edges = np.histogram(values.clip(*np.percentile(values, _ENDS)), _BINS)
    below = counts.cumsum()[:-1]
    sums = (counts * (edges[:-1] + edges[1:]) / 2).cumsum()
    apart = (sums[-1] * below / len(values) - sums[:-1]) ** 2 / np.maximum(below * (len(values) - below), 1)
    return float(edges[1 + apart.argmax()])


def to_foreground(volume: Volume, rule: Foreground | None) -> Volume:
    """A volume cropped to its foreground, with its place in the patient; itself without a rule.

    Args:
        volume: whole.
        rule: of `preprocessing.foreground`.

    Raises:
        ReadError: only some slices were read.
    """
    if rule is None:
        return volume
    if volume.indices is not None and len(volume.indices) < volume.depth:
        raise ReadError(f"{volume.source}: only some slices were read; preprocessing.foreground needs the whole volume")
    box = foreground_box(volume.array, volume.spacing, rule)
    affine = volume.affine
    if affine is not None:
        affine = affine.copy()
        affine[:, 3] = volume.affine @ np.array([*(side.start for side in box), 1.0])
    return replace(volume, array=volume.array[(..., *box)], affine=affine, indices=None, depth=0)
