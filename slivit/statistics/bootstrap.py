"""The percentile bootstrap, computed from how often each case is drawn.

A draw with replacement is a row of counts that sum to the number of cases. Every statistic here is a function of such
counts, so a thousand draws are a matrix, and sorting, binning and ranking the predictions happens once for all of
them. The matrix is made and used a few draws at a time: memory stays bounded, and the work stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from slivit.statistics.arrays import Array, Index, codes, same_length
from slivit.statistics.estimate import Estimate, StatisticsError, check_level, finite

CELLS = 2**18
"""How many counts are held at a time (2 MiB as float64, which fits in a core's cache)."""

MAX_UNDEFINED = 0.2
"""The share of undefined draws beyond which no interval is given: it would describe only the luckier samples."""


class Sample(Protocol):
    """Cases whose statistics can be computed for many draws at once."""

    @property
    def n(self) -> int:
        """The number of cases, each of which has a column in the counts."""

    def values(self, weights: Array) -> Mapping[str, Array]:
        """Return each statistic, (B,) with NaN where not defined, from counts (B, n)."""

    def size(self, name: str) -> int:
        """Return how many cases the statistic `name` is computed from."""

    def why(self, name: str) -> str:
        """Return why the statistic `name` is not defined on the whole sample, or an empty string."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How to draw: the options that all bootstrap functions share.

    Args:
        level: share of the interval, above 0 and below 1: 0.9 in SLIViT, 0.95 elsewhere.
        draws: number of draws; 0 for no intervals.
        seed: the same seed draws the same cases, whatever is computed from them.
        groups: (n,) the patient of each case; all cases of a patient are then drawn together. None draws cases.
        strata: (n,) the class of each case; draws then keep the number of cases (or patients) of each class.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13; Davison and Hinkley,
    Bootstrap Methods and their Application (1997), section 3.8 (clusters) and 3.2 (strata).
    """

    level: float = 0.9
    draws: int = 1000
    seed: int = 0
    groups: Any = None
    strata: Any = None

    def __post_init__(self) -> None:
        check_level(self.level)
        if self.draws < 0 or int(self.draws) != self.draws:
            raise StatisticsError(f"draws must be a whole number, 0 for no intervals; got {self.draws}.")
        if self.seed < 0 or int(self.seed) != self.seed:
            raise StatisticsError(f"seed must be a whole number, 0 or more; got {self.seed}.")

    def of(self, kept: npt.NDArray[np.bool_]) -> Plan:
        """Return the plan for the cases that are `kept`, (n,) bool."""
        groups, strata = (self._column(name, kept) for name in ("groups", "strata"))
        return replace(self, groups=groups, strata=strata)

    def _column(self, name: str, kept: npt.NDArray[np.bool_]) -> Any:
        if getattr(self, name) is None:
            return None
        column = np.asarray(getattr(self, name))
        same_length(len(kept), column, name)
        return column[kept]


@dataclass(frozen=True)
class _Units:
    """What is drawn: cases or patients, in strata."""

    members: list[Index]
    """For each stratum, the numbers of its units."""
    count: int
    unit_of_case: Index | None


def count_chunks(n: int, plan: Plan, cells: int = CELLS) -> Iterator[Array]:
    """Yield how often each case is drawn, a few draws at a time.

    Args:
        n: number of cases.
        plan: the draws.
        cells: the largest number of counts to hold at a time; it does not change what is drawn.

    Yields:
        (b, n) float64 counts; the first dimensions add up to `plan.draws`.

    Source: Efron and Tibshirani (1993), section 20.2 (the bootstrap as multinomial weights).
    """
    units = _units(n, plan)
    generators = [np.random.default_rng([plan.seed, stratum]) for stratum in range(len(units.members))]
    rows = max(1, cells // max(n, 1))
    for start in range(0, plan.draws, rows):
        b = min(rows, plan.draws - start)
        counts = np.zeros((b, units.count))
        for generator, members in zip(generators, units.members, strict=True):
            counts[:, members] = _multinomial(generator, b, len(members))
        yield counts if units.unit_of_case is None else counts.take(units.unit_of_case, axis=1)


def _multinomial(generator: np.random.Generator, b: int, m: int) -> npt.NDArray[np.intp]:
    # Counting drawn numbers is several times faster than Generator.multinomial, and gives the same distribution.
    drawn = generator.integers(0, m, size=(b, m))
    drawn += np.arange(b)[:, None] * m
    return np.bincount(drawn.ravel(), minlength=b * m).reshape(b, m)


def _units(n: int, plan: Plan) -> _Units:
    if plan.groups is None:
        unit_of_case, count = None, n
        first = np.arange(n)
    else:
        patients, unit_of_case = codes(plan.groups, n, "groups")
        count = len(patients)
        first = np.unique(unit_of_case, return_index=True)[1]
    if plan.strata is None:
        return _Units([np.arange(count)], count, unit_of_case)
    kinds, stratum = codes(plan.strata, n, "strata")
    if unit_of_case is not None:
        _check_nested(stratum, first, unit_of_case)
    return _Units([np.flatnonzero(stratum[first] == s) for s in range(len(kinds))], count, unit_of_case)


def _check_nested(stratum: Index, first: Index, unit_of_case: Index) -> None:
    mixed = len(np.unique(unit_of_case[stratum != stratum[first][unit_of_case]]))
    if mixed:
        raise StatisticsError(
            f"strata must be the same for all cases of a patient, who is drawn as a whole; {mixed} patients have "
            "several. Give each patient one stratum, or draw without strata."
        )


@dataclass(frozen=True, eq=False)
class Draws:
    """Statistics on a sample and on each bootstrap draw of it.

    Args:
        point: the statistics on the sample itself, NaN where not defined.
        values: (draws,) for each statistic, NaN where not defined in a draw.
        plan: how they were drawn.
        patients: how many patients were drawn, where the draws were by patient.
    """

    point: dict[str, float]
    values: dict[str, Array]
    plan: Plan
    patients: int | None = field(default=None)

    def estimate(self, name: str, n: int, why: str = "") -> Estimate:
        """Return the statistic `name` with its percentile interval; `why` is said where it is not defined.

        Source: Efron and Tibshirani (1993), section 13.3.
        """
        return percentile(self.point[name], self.values[name], n, self.plan.level, why, self.patients)


def resample(sample: Sample, plan: Plan) -> Draws:
    """Compute all statistics of `sample` on itself and on every draw of `plan`.

    Source: Efron and Tibshirani (1993), algorithm 6.1.
    """
    with np.errstate(divide="ignore", invalid="ignore"), _one_blas_thread(plan.draws):
        point = {name: float(v[0]) for name, v in sample.values(np.ones((1, sample.n))).items()}
        chunks = [sample.values(weights) for weights in count_chunks(sample.n, plan)] if sample.n else []
    values = {name: np.concatenate([c[name] for c in chunks]) if chunks else np.empty(0) for name in point}
    patients = None if plan.groups is None else len(codes(plan.groups, sample.n, "groups")[0])
    return Draws(point, values, plan, patients)


def _one_blas_thread(draws: int) -> AbstractContextManager[Any]:
    # The products here are small. Threads would spend their time in waiting for each other, and on a busy machine make
    # them a hundred times slower.
    if draws == 0:
        return nullcontext()
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1, user_api="blas")


def bootstrap(sample: Sample, plan: Plan) -> dict[str, Estimate]:
    """Return every statistic of `sample` with its percentile bootstrap interval.

    Args:
        sample: the cases, as `BinarySample` or `RegressionSample`.
        plan: how to draw, and the level of the interval.

    Source: Efron and Tibshirani (1993), section 13.3.
    """
    draws = resample(sample, plan)
    return {name: draws.estimate(name, sample.size(name), sample.why(name)) for name in draws.point}


def percentile(
    point: float, values: Array, n: int, level: float = 0.9, why: str = "", patients: int | None = None
) -> Estimate:
    """Return the percentile interval of a statistic from its values in the bootstrap draws.

    Args:
        point: the statistic on the sample; NaN where not defined.
        values: (draws,) the statistic in each draw; NaN where not defined.
        n: how many cases the statistic is computed from.
        level: share of the interval.
        why: why the statistic is not defined, or what a reader must know of it.
        patients: how many patients were drawn, where the draws were by patient.

    Returns:
        The estimate; without an interval where a single patient was drawn or too many draws are undefined.

    Source: Efron and Tibshirani (1993), section 13.3.
    """
    draws, undefined = len(values), int(np.isnan(values).sum())
    value = finite(point)
    estimate = partial(Estimate, level=level, n=n, draws=draws, undefined=undefined, patients=patients)
    if value is None:
        return estimate(None, why=why or "the statistic is not defined on this sample")
    notes = [why] if why else []
    problem = _no_interval(draws, undefined, patients)
    if draws == 0 or problem:
        return estimate(value, why="; ".join(notes + problem) or None)
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    if low == high:
        notes.append("nearly all draws give the same value, so the interval has no width and promises too much")
    elif not low <= value <= high:
        notes.append("the draws lie to one side of the value, as the statistic is biased in samples of this size")
    return estimate(value, float(low), float(high), why="; ".join(notes) or None)


def _no_interval(draws: int, undefined: int, patients: int | None) -> list[str]:
    if patients == 1:
        return ["no interval: all cases are of one patient"]
    if undefined > MAX_UNDEFINED * draws:
        return [f"no interval: not defined in {undefined} of {draws} draws"]
    return []
