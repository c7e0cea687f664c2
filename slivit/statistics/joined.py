"""Several samples over the same draws, so that their statistics can be subtracted draw by draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slivit.statistics.arrays import Array, Index
from slivit.statistics.bootstrap import Draws, Sample, percentile
from slivit.statistics.estimate import Estimate


class JoinedSample:
    """Parts that share their draws: several models on the same cases, or several subsets of them.

    Args:
        parts: the samples, by name; a name is a text, or (column, value) for a subset.
        n: the number of cases that are drawn.
        rows: for each part, which of these cases it holds; all of them where None.

    Source: Efron and Tibshirani (1993), section 8.3 (resampling cases with all that belongs to them).
    """

    def __init__(self, parts: Mapping[Any, Sample], n: int, rows: Mapping[Any, Index] | None = None) -> None:
        self.parts = parts
        self.n = n
        self.rows = rows
        self.numbers = {part: i for i, part in enumerate(parts)}
        self.names = list(parts)

    def key(self, part: Any, metric: str) -> str:
        """Return the name of the metric of a part among `values`."""
        return f"{self.numbers[part]}:{metric}"

    def values(self, weights: Array) -> dict[str, Array]:
        """Return every metric of every part, (B,), from counts (B, n)."""
        metrics = {}
        for part, sample in self.parts.items():
            kept = weights if self.rows is None else weights.take(self.rows[part], axis=1)
            metrics.update({self.key(part, metric): v for metric, v in sample.values(kept).items()})
        return metrics

    def size(self, name: str) -> int:
        """Return the number of cases behind a metric of a part."""
        number, _, metric = name.partition(":")
        return self.parts[self.names[int(number)]].size(metric)

    def why(self, name: str) -> str:
        """Return why a metric of a part is not defined, or what its reader must know."""
        number, _, metric = name.partition(":")
        return self.parts[self.names[int(number)]].why(metric)

    def difference(self, draws: Draws, metric: str, first: Any, second: Any) -> tuple[Estimate, Array]:
        """Return how far a metric of the part `first` lies above that of `second`, and this in every draw.

        Args:
            draws: the draws of this sample.
            metric: the metric.
            first: the name of a part.
            second: the name of the part to take away.

        Source: Efron and Tibshirani (1993), section 8.3.
        """
        keys = [self.key(part, metric) for part in (first, second)]
        reasons = {_in_words(part): self.why(key) for part, key in zip((first, second), keys, strict=True)}
        values = draws.values[keys[0]] - draws.values[keys[1]]
        point = draws.point[keys[0]] - draws.point[keys[1]]
        n = self.size(keys[0]) if self.rows is None else sum(self.size(key) for key in keys)
        why = "; ".join(f"{part}: {reason}" for part, reason in reasons.items() if reason)
        return percentile(point, values, n, draws.plan.level, why, draws.patients), values


def _in_words(part: Any) -> str:
    return part if isinstance(part, str) else str(part[-1])
