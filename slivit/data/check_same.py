"""Which scans hold the same pixels, exactly or but for rounding."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Signature = npt.NDArray[np.float64]


def same_pixels(contents: Sequence[str], signatures: Sequence[Signature], shapes: Sequence[Hashable]) -> list[int]:
    """A number for each scan, shared by those with the same pixels; -1 where there is nothing to compare.

    But for rounding means: one shape, and the means of all blocks agree within 1e-5 of the range of a scan's own block
    means, so that a scan stored in two formats or precisions counts as one.

    Args:
        contents: a hash of each scan's values; "" for scans to leave out.
        signatures: (blocks,) mean intensities of each scan.
        shapes: of each scan.
    """
    first: dict[str, int] = {}
    groups = [first.setdefault(content, i) if content else -1 for i, content in enumerate(contents)]
    alike: dict[Hashable, list[int]] = {}
    for i in first.values():
        alike.setdefault(shapes[i], []).append(i)
    root = {i: i for i in first.values()}
    for members in alike.values():
        for a, b in _near(members, np.stack([signatures[i] for i in members])):
            low, high = sorted((_top(root, a), _top(root, b)))
            root[high] = low
    return [_top(root, g) if g >= 0 else -1 for g in groups]


def connected(pairs: Iterable[tuple[int, str]]) -> dict[str, str]:
    """For each name the first of those that it is connected with by shared numbers, itself where there is no other."""
    root, first = dict[int, int](), dict[int, int]()
    numbers = dict[str, int]()
    for group, name in pairs:
        number = numbers.setdefault(name, len(numbers))
        root.setdefault(number, number)
        low, high = sorted((_top(root, first.setdefault(group, number)), _top(root, number)))
        root[high] = low
    names = list(numbers)
    return {name: names[_top(root, number)] for name, number in numbers.items()}


def _top(root: dict[int, int], i: int) -> int:
    while root[i] != i:
        i = root[i]
    return i


def _near(members: Sequence[int], values: npt.NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """Pairs of members whose block means agree, found among neighbours along one random direction."""
    extent = np.ptp(values, axis=1)
    tolerance = np.maximum(1e-5 * extent, 1e-6 * np.abs(values).max(axis=1))
    direction = np.random.default_rng(0).normal(size=values.shape[1])
    along = values @ (direction / np.abs(direction).sum())  # moves by no more than the largest difference of a block
    order = np.argsort(along, kind="stable")
    for place, a in enumerate(order):
        for b in order[place + 1 :]:
            if along[b] - along[a] > tolerance[a]:
                break
            if extent[a] > 0 and np.abs(values[a] - values[b]).max() <= tolerance[a]:
                yield members[a], members[b]
