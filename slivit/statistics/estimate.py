"""The answer that every statistic gives: a value with its interval, or the reason why there is none."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from slivit.errors import SlivitError


class StatisticsError(SlivitError):
    """Arrays or options from which no statistic can be computed."""


@dataclass(frozen=True)
class Estimate:
    """A number, its interval and what it was computed from. Never NaN: where there is no number, `why` says so.

    Args:
        value: the statistic on the sample itself; None where it is not defined.
        low: lower end of the interval; None without an interval.
        high: upper end of the interval; None without an interval.
        level: the share of the interval, as 0.9.
        n: how many cases the value was computed from.
        draws: how many bootstrap draws were made; 0 for an interval of another kind or none.
        undefined: in how many of them the statistic was not defined; they are left out of the interval.
        patients: how many patients were drawn, where the draws were by patient.
        why: why the value or its interval is missing, or what a reader of them must know.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    level: float = 0.9
    n: int = 0
    draws: int = 0
    undefined: int = 0
    patients: int | None = None
    why: str | None = None

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"Estimate.{name} is {number}; a statistic without a number is None, with its reason.")
        if self.value is None and not self.why:
            raise ValueError("An Estimate without a value must say why.")

    @property
    def defined(self) -> bool:
        """Whether there is a value."""
        return self.value is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        if self.value is None:
            return f"not defined: {self.why}"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.level:.0%} interval {self.low:.3f} to {self.high:.3f})"


def check_level(level: float) -> None:
    """Raise unless `level` is the share of an interval."""
    if not 0 < level < 1:
        raise StatisticsError(f"level must lie between 0 and 1, as 0.9 for a 90% interval; got {level}.")


def finite(number: float) -> float | None:
    """Return `number` as a Python float, or None where it is NaN or infinite."""
    return float(number) if math.isfinite(number) else None
