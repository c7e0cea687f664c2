"""Checks of what callers hand in: shapes, ranges and labels, in the caller's words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.errors import nearest, one_of
from slivit.statistics.estimate import StatisticsError

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

ROUNDING = 1e-6
"""How far outside 0 to 1 a probability may lie: a float32 softmax can return 1.0000001."""

ROW_SUM_TOLERANCE = 0.01
"""How far from 1 the probabilities of a case may sum: tables are often rounded."""


def one_from(value: str, allowed: Iterable[str], what: str) -> str:
    """Return `value` if it is one of `allowed`; `what` names it in the message."""
    names = list(allowed)
    if value not in names:
        raise StatisticsError(f'{what} must be one of {one_of(names)}; got "{value}".{nearest(value, names)}')
    return value


def numbers(values: Any, what: str, dims: tuple[int, ...] = (1,)) -> Array:
    """Return `values` as float64 with one of the numbers of dimensions `dims`; None becomes NaN."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as problem:
        raise StatisticsError(f"{what} must be numbers: {problem}.") from problem
    if array.ndim not in dims:
        allowed = " or ".join(str(d) for d in dims)
        raise StatisticsError(f"{what} must have {allowed} dimension(s); got shape {array.shape}.")
    return array


def same_length(n: int, array: npt.NDArray[Any], what: str) -> None:
    """Raise unless `array` has one entry for each of `n` cases."""
    if len(array) != n:
        raise StatisticsError(f"{what} must have one entry for each of the {n} cases; got {len(array)}.")


def zero_one(values: Any, what: str = "y", dims: tuple[int, ...] = (1,)) -> Array:
    """Return labels that are 0, 1 or missing (NaN)."""
    array = numbers(values, what, dims)
    wrong = array[~(np.isnan(array) | (array == 0) | (array == 1))]
    if wrong.size:
        raise StatisticsError(f"{what} must hold 0, 1 or NaN (missing); got {one_of(map(str, np.unique(wrong)), 5)}.")
    return array


def class_numbers(values: Any, classes: int, what: str = "y") -> Array:
    """Return labels that are a class number from 0 to `classes` - 1, or missing (NaN)."""
    array = numbers(values, what)
    known = array[~np.isnan(array)]
    wrong = known[(known < 0) | (known >= classes) | (known != np.floor(known))]
    if wrong.size:
        raise StatisticsError(
            f"{what} must hold class numbers from 0 to {classes - 1}, as the predictions have {classes} columns; "
            f"got {one_of(map(str, np.unique(wrong)), 5)}."
        )
    return array


def probabilities(values: Any, what: str = "p", dims: tuple[int, ...] = (1,)) -> Array:
    """Return probabilities from 0 to 1; values that are not finite are kept as NaN and reported later."""
    array = numbers(values, what, dims)
    array = np.where(np.isfinite(array), array, np.nan)
    low, high = np.nanmin(array, initial=0.0), np.nanmax(array, initial=1.0)
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise StatisticsError(
            f"{what} must be probabilities from 0 to 1; got values from {np.nanmin(array):.4g} to "
            f"{np.nanmax(array):.4g}. Apply a sigmoid or softmax to logits first."
        )
    return np.clip(array, 0, 1)


def class_probabilities(values: Any, what: str = "p") -> Array:
    """Return (n, C) probabilities whose rows sum to 1."""
    array = probabilities(values, what, (2,))
    if array.shape[1] < 2:
        raise StatisticsError(f"{what} must have a column for each of two or more classes; got shape {array.shape}.")
    sums = array.sum(axis=1)
    off = sums[np.isfinite(sums) & (np.abs(sums - 1) > ROW_SUM_TOLERANCE)]
    if off.size:
        raise StatisticsError(
            f"{what} must sum to 1 over the classes of a case; {off.size} of {len(sums)} rows do not (the first: "
            f'{off[0]:.4g}). Where classes do not exclude each other, use the kind "multilabel".'
        )
    return array


def names_for(names: Sequence[Any] | None, count: int, what: str = "names") -> list[str]:
    """Return `count` different names of classes, labels or outputs; their numbers where `names` is None."""
    if names is None:
        return [str(i) for i in range(count)]
    different = [str(name) for name in names]
    if len(different) != count or len(set(different)) != count:
        raise StatisticsError(f"{what} must be {count} different names; got {one_of(different)}.")
    return different


def codes(values: Any, n: int, what: str) -> tuple[npt.NDArray[Any], Index]:
    """Return the different values of a column and, for each of `n` cases, which of them it has."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise StatisticsError(f"{what} must have 1 dimension; got shape {array.shape}.")
    same_length(n, array, what)
    missing = missing_values(array)
    if missing.any():
        raise StatisticsError(f"{what} must be known for every case; {int(missing.sum())} of {n} are missing.")
    if array.dtype == object:
        array = array.astype(str)
    different, inverse = np.unique(array, return_inverse=True)
    return different, inverse


def missing_values(array: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return where a column holds None or NaN."""
    if array.dtype == object:
        return np.array([_is_missing(value) for value in array], dtype=bool)
    return np.isnan(array) if array.dtype.kind == "f" else np.zeros(len(array), dtype=bool)


def _is_missing(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas.NA, which is neither equal to itself nor not
        return True
