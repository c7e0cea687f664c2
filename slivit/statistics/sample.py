"""What binary, multiclass and regression samples have in common: metrics by name, missing labels, reasons."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.statistics.arrays import Array

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Metric:
    """A statistic of many draws, and when it is not defined.

    Args:
        values: from the draws of a sample to (B,), NaN where not defined.
        needs: what the cases must hold for the metric to be defined, as "needs both classes".
        higher: whether higher is better; None where neither is.
    """

    values: Callable[[Any], Array]
    needs: str
    higher: bool | None = True


class MetricSample(ABC):
    """Cases, the metrics to compute from them, and the cases to leave out because their label is missing.

    Args:
        known: (n,) whether a case has a label.
        predicted: (n,) whether a case has a finite prediction.
        metrics: the metrics to compute, by name.
    """

    def __init__(self, known: Flags, predicted: Flags, metrics: Mapping[str, Metric]) -> None:
        self.n = len(known)
        self.rows = np.flatnonzero(known)
        self.metrics = metrics
        self.blocked = _blocked(len(self.rows), int((~predicted[self.rows]).sum()))

    @abstractmethod
    def draws(self, weights: Array) -> Any:
        """Return what the metrics take, from the counts of the cases with a label, (B, labelled)."""

    @abstractmethod
    def holds(self) -> str:
        """Return what the sample holds, for the reason why a metric is not defined."""

    def values(self, weights: Array) -> dict[str, Array]:
        """Return every metric, (B,), from counts (B, n)."""
        if self.blocked:
            return {name: np.full(len(weights), np.nan) for name in self.metrics}
        draws = self.draws(weights if len(self.rows) == self.n else weights.take(self.rows, axis=1))
        return {name: metric.values(draws) for name, metric in self.metrics.items()}

    def size(self, name: str) -> int:
        """Return the number of cases with a label."""
        return len(self.rows)

    def why(self, name: str) -> str:
        """Return why the metric `name` is not defined on the sample, or an empty string where it is."""
        if not np.isnan(self.point[name]):
            return ""
        return self.blocked or f"{self.metrics[name].needs}; here: {self.holds()}"

    @cached_property
    def point(self) -> dict[str, float]:
        """Every metric on the sample itself, NaN where not defined."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return {name: float(value[0]) for name, value in self.values(np.ones((1, self.n))).items()}


def _blocked(n: int, unknown: int) -> str:
    if n < 2:
        return "there is no case with a label" if n == 0 else "there is one case only"
    return f"{unknown} of {n} predictions are missing or not finite" if unknown else ""


def ratio(above: Array, below: Array) -> Array:
    """Return `above` / `below`, NaN where `below` is 0."""
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below != 0)


def running(counts: Array) -> Array:
    """Return (B, m + 1): the sums of the first 0, 1, 2, ... columns of `counts`, (B, m)."""
    sums = np.zeros((counts.shape[0], counts.shape[1] + 1))
    np.cumsum(counts, axis=1, out=sums[:, 1:])
    return sums


@dataclass(frozen=True, eq=False)
class Share:
    """The share of the cases `among` that are `hits` as well.

    Args:
        hits: (n,) bool.
        among: (n,) bool.
        needs: what the cases must hold for the share to be defined, as "needs a positive case".
        blocked: why no share can be given whatever the cases are; empty where it can.
    """

    hits: npt.NDArray[np.bool_]
    among: npt.NDArray[np.bool_]
    needs: str
    blocked: str = ""


class ShareSample:
    """Several shares of the same cases, as a `Sample` for the bootstrap.

    Args:
        shares: the shares, by name; at least one.

    Source: Altman and Bland, BMJ 308 (1994) 1552 (sensitivity and specificity as shares of cases).
    """

    def __init__(self, shares: dict[str, Share]) -> None:
        self.shares = shares
        self.n = len(next(iter(shares.values())).hits)
        self.above = self._columns([share.hits & share.among for share in shares.values()])
        self.below = self._columns([share.among for share in shares.values()])

    def values(self, weights: Array) -> dict[str, Array]:
        """Return every share, (B,), from counts (B, n)."""
        shares = ratio(weights @ self.above, weights @ self.below)
        shares[:, [bool(self._blocked(share)) for share in self.shares.values()]] = np.nan
        return dict(zip(self.shares, shares.T, strict=True))

    def size(self, name: str) -> int:
        """Return the number of cases that the share is of."""
        return int(self.shares[name].among.sum())

    def why(self, name: str) -> str:
        """Return why a share is not defined, or an empty string."""
        share = self.shares[name]
        return self._blocked(share) or (share.needs if not share.among.any() else "")

    def _blocked(self, share: Share) -> str:
        return share.blocked or ("there is one case only" if self.n == 1 else "")

    def _columns(self, flags: list[Any]) -> Array:
        return np.stack(flags, axis=1).astype(np.float64)
