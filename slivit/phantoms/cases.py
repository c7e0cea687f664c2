"""Which scans are made: whose they are, what their answer is, and where their randomness comes from.

Scan i is the same whatever number of scans is asked for: every scan, every patient and every block of patients draws
from a seed of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

import numpy as np

from slivit.errors import SlivitError, nearest, one_of

Generator = np.random.Generator
T = TypeVar("T")

# Four patients share a block, and each gets a level from another quarter of the range: any few scans hold most answers.
BLOCK = 4


class PhantomError(SlivitError):
    """A wish for made-up scans that cannot be met."""


@dataclass(frozen=True)
class Case:
    """One scan to be made.

    Args:
        kind: the kind of scan, a key of `slivit.phantoms.KINDS`.
        seed: the seed of the whole set.
        index: the scan's number in the set, from 0.
        patient: the patient's number, from 0.
        visit: 0 for the first scan of the patient, 1 for the second (the other eye, or a later visit).
    """

    kind: str
    seed: int
    index: int
    patient: int
    visit: int

    @property
    def name(self) -> str:
        """The scan's name, counted from 1."""
        return f"scan_{self.index + 1:04d}"

    @property
    def patient_name(self) -> str:
        """The patient's name, counted from 1."""
        return f"P{self.patient + 1:04d}"

    @property
    def level(self) -> float:
        """Where the patient's answer lies in its range, in [0, 1): uniform, and spread evenly within each block."""
        block, place = divmod(self.patient, BLOCK)
        order = self._rng(2, block).permutation(BLOCK)
        return float((order[place] + self._rng(3, self.patient).uniform()) / BLOCK)

    def patient_rng(self) -> Generator:
        """A fresh generator that all scans of this patient share: anatomy."""
        return self._rng(0, self.patient)

    def scan_rng(self) -> Generator:
        """A fresh generator of this scan alone: positioning, gain, noise."""
        return self._rng(1, self.index)

    def _rng(self, role: int, number: int) -> Generator:
        entropy = [self.seed, zlib.crc32(self.kind.encode()), role, number]
        return np.random.default_rng(np.random.SeedSequence(entropy))


def plan_cases(kind: str, n: int, seed: int) -> list[Case]:
    """The first `n` scans of a set: patients with two scans and with one take turns.

    Args:
        kind: the kind of scan.
        n: how many scans, at least 1.
        seed: the seed of the set, 0 or more.

    Returns:
        One case a scan, in order.

    Raises:
        PhantomError: `n` or `seed` is not a whole number of the allowed size.
    """
    _check_whole("n", n, 1, None)
    _check_whole("seed", seed, 0, None)
    # Three scans in a row belong to two patients: the first has two of them.
    return [Case(kind, seed, i, patient=2 * (i // 3) + (i % 3) // 2, visit=int(i % 3 == 1)) for i in range(n)]


def whole_number(default: int, low: int, high: int) -> Any:
    """A dataclass field for a whole number between `low` and `high`."""
    return field(default=default, metadata={"check": lambda name, value: _check_whole(name, value, low, high)})


def number(default: float, low: float, high: float) -> Any:
    """A dataclass field for a number between `low` and `high`."""
    return field(default=default, metadata={"check": lambda name, value: _check_number(name, value, low, high)})


def make_options(options: type[T], kind: str, given: Mapping[str, object]) -> T:
    """Build a kind's options from what the user gave.

    Args:
        options: the dataclass of the kind's options.
        kind: the kind's name, for messages.
        given: option names and values.

    Returns:
        The options, checked.

    Raises:
        PhantomError: an unknown option, or a value that is not allowed.
    """
    known: dict[str, Field[Any]] = {f.name: f for f in fields(options)}  # type: ignore[arg-type]
    for name, value in given.items():
        if name not in known:
            raise PhantomError(
                f'phantoms "{kind}": there is no option "{name}". Known: {one_of(known)}.{nearest(name, known)}'
            )
        known[name].metadata["check"](name, value)
    return options(**given)


def _check_whole(name: str, value: object, low: int, high: int | None) -> None:
    right = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not right or value < low or (high is not None and value > high):  # type: ignore[operator]
        limit = f"of at least {low}" if high is None else f"between {low} and {high}"
        raise PhantomError(f'phantoms: "{name}" must be a whole number {limit}. Got {value!r} instead.')


def _check_number(name: str, value: object, low: float, high: float) -> None:
    right = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not right or not low <= value <= high:  # type: ignore[operator]
        raise PhantomError(f'phantoms: "{name}" must be a number between {low:g} and {high:g}. Got {value!r} instead.')
