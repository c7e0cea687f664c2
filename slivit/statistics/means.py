"""Means of columns over cases, with what is not defined left out, as a sample for the bootstrap."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from slivit.statistics.arrays import Array


class MeanSample:
    """Columns of values of the same cases.

    Args:
        columns: (n,) by name, NaN where a case has no value.
    """

    def __init__(self, columns: Mapping[str, Array]) -> None:
        self.columns = {name: np.asarray(column, float) for name, column in columns.items()}
        self.n = len(next(iter(self.columns.values()))) if self.columns else 0

    def values(self, weights: Array) -> dict[str, Array]:
        """Return every mean, (B,), NaN where no case has a value, from counts (B, n)."""
        known = {name: ~np.isnan(column) for name, column in self.columns.items()}
        return {
            name: weights[:, known[name]] @ column[known[name]] / weights[:, known[name]].sum(axis=1)
            for name, column in self.columns.items()
        }

    def size(self, name: str) -> int:
        """Return the number of cases that count."""
        return int((~np.isnan(self.columns[name])).sum())

    def why(self, name: str) -> str:
        """Return how many cases are left out, which a reader must know."""
        left = self.n - self.size(name)
        if not self.n:
            return "there is no case"
        return f"{left} of {self.n} cases are left out: it is not defined there" if left else ""
