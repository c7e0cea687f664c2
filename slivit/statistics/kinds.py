"""What each kind of prediction is made of: the shapes of its arrays, its metrics, its sample, its likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from slivit.statistics.arrays import (
    Array,
    class_numbers,
    class_probabilities,
    names_for,
    numbers,
    one_from,
    probabilities,
    same_length,
    zero_one,
)
from slivit.statistics.binary import BinarySample
from slivit.statistics.bootstrap import Sample
from slivit.statistics.calibration import logit
from slivit.statistics.classification import BINARY
from slivit.statistics.columns import SUBSET, MultilabelSample, regression_columns
from slivit.statistics.estimate import StatisticsError
from slivit.statistics.means import MeanSample
from slivit.statistics.multiclass import MULTICLASS, MulticlassSample
from slivit.statistics.regression import REGRESSION, RegressionSample
from slivit.statistics.segmentation import CASE_METRICS

FAINTEST = 1e-12
"""Probabilities are kept this far from 0 (and 1) before their logarithm is taken."""


class CaseKind(ABC):
    """One kind of prediction.

    A new kind is a subclass and a line of `KINDS`.
    """

    metrics: tuple[str, ...]
    compared: tuple[str, ...] = ("roc_auc", "average_precision")
    """The metrics whose differences are tested, where none are named."""
    one_class = False
    """Whether each case has one class, whose numbers a draw can keep."""
    tempered = True
    """Whether predictions are probabilities with logits to divide by a temperature."""

    @abstractmethod
    def read(self, y: Any, p: Any) -> tuple[Array, Array]:
        """Return the truth and the predictions as arrays of this kind's shapes."""

    def check(self, y: Any, p: Any) -> tuple[Array, Array]:
        """Return the arrays, which fit each other.

        Raises:
            StatisticsError: if they do not.
        """
        y, p = self.read(y, p)
        same_length(len(y), p, "p")
        self.check_shapes(y, p)
        if y.ndim == 2 and y.shape[1] == 0:
            raise StatisticsError(f"y must have at least one column; got shape {y.shape}.")
        return y, p

    def check_shapes(self, y: Array, p: Array) -> None:
        """Raise unless there is a prediction for each label."""
        if y.shape != p.shape:
            raise StatisticsError(f"y and p must have the same shape; got {y.shape} and {p.shape}.")

    @abstractmethod
    def sample(
        self, y: Array, p: Array, metrics: Sequence[str], names: Sequence[Any] | None, threshold: Any, bins: int
    ) -> Sample:
        """Return checked cases as a sample for the bootstrap; see `summarise` for the arguments."""

    def unknown(self, p: Array) -> Array:
        """Return labels that are all missing, for predictions `p` of this kind."""
        return np.full(len(p), np.nan)

    def predicted(self, p: Array) -> Any:
        """Return where there is a prediction, in the shape of the labels."""
        return np.isfinite(p)

    def likelihood(self, y: Array, p: Array) -> Callable[[float], float]:
        """Return a function from a temperature to the mean negative log-likelihood of the known labels."""
        known = ~np.isnan(y)
        margin = np.where(y[known] == 1, 1, -1) * logit(p[known], FAINTEST)
        return lambda temperature: float(np.logaddexp(0, -margin / temperature).mean())

    def tempered_by(self, p: Array, temperature: float) -> Array:
        """Return probabilities whose logits are divided by a temperature."""
        return 1 / (1 + np.exp(-logit(p, FAINTEST) / temperature))


class _Binary(CaseKind):
    """(n,) 0 or 1, and (n,) probabilities of 1."""

    metrics = tuple(BINARY)
    one_class = True

    def read(self, y: Any, p: Any) -> tuple[Array, Array]:
        return zero_one(_one_column(y)), probabilities(_one_column(p))

    def sample(
        self, y: Array, p: Array, metrics: Sequence[str], names: Sequence[Any] | None, threshold: Any, bins: int
    ) -> Sample:
        chosen = {name: BINARY[name] for name in metrics}
        return BinarySample(y, p, chosen, threshold=_thresholds(threshold, 1)[0], bins=bins)


class _Multilabel(CaseKind):
    """(n, k) 0 or 1, and (n, k) probabilities of 1."""

    metrics = (*BINARY, SUBSET)

    def read(self, y: Any, p: Any) -> tuple[Array, Array]:
        return zero_one(y, "y", (2,)), probabilities(p, "p", (2,))

    def sample(
        self, y: Array, p: Array, metrics: Sequence[str], names: Sequence[Any] | None, threshold: Any, bins: int
    ) -> Sample:
        chosen = {name: BINARY[name] for name in metrics if name != SUBSET}
        cuts, labels = _thresholds(threshold, y.shape[1]), names_for(names, y.shape[1])
        return MultilabelSample(y, p, labels, chosen, thresholds=cuts, bins=bins, subset=SUBSET in metrics)

    def unknown(self, p: Array) -> Array:
        return np.full(p.shape, np.nan)


class _Multiclass(CaseKind):
    """(n,) class numbers, and (n, C) probabilities that sum to 1."""

    metrics = MULTICLASS
    one_class = True

    def read(self, y: Any, p: Any) -> tuple[Array, Array]:
        p = class_probabilities(p)
        return class_numbers(y, p.shape[1]), p

    def check_shapes(self, y: Array, p: Array) -> None:
        """The labels are class numbers, so the shapes differ."""

    def sample(
        self, y: Array, p: Array, metrics: Sequence[str], names: Sequence[Any] | None, threshold: Any, bins: int
    ) -> Sample:
        return MulticlassSample(y, p, names_for(names, p.shape[1]), tuple(metrics), bins=bins)

    def predicted(self, p: Array) -> Any:
        return np.isfinite(p).all(axis=1)

    def likelihood(self, y: Array, p: Array) -> Callable[[float], float]:
        logits, rows = np.log(np.clip(p, FAINTEST, None)), np.arange(len(y))
        return lambda temperature: float(-_log_softmax(logits / temperature)[rows, y.astype(np.intp)].mean())

    def tempered_by(self, p: Array, temperature: float) -> Array:
        return np.exp(_log_softmax(np.log(np.clip(p, FAINTEST, None)) / temperature))


class _Regression(CaseKind):
    """(n,) or (n, k) quantities, and predictions of the same shape."""

    metrics = tuple(REGRESSION)
    compared = ("r2", "mae")
    tempered = False

    def read(self, y: Any, p: Any) -> tuple[Array, Array]:
        return numbers(y, "y", (1, 2)), numbers(p, "p", (1, 2))

    def sample(
        self, y: Array, p: Array, metrics: Sequence[str], names: Sequence[Any] | None, threshold: Any, bins: int
    ) -> Sample:
        table = {name: REGRESSION[name] for name in metrics}
        if y.ndim == 1:
            return RegressionSample(y, p, table)
        return regression_columns(y, p, names_for(names, y.shape[1]), table)


class _Segmentation(CaseKind):
    """(n, k) 0 for a case that was measured, NaN for another, and (n, k) what was measured of it.

    The columns are named by a metric, or by a metric and a structure ("dice/liver"). What is given is their mean.
    """

    metrics = CASE_METRICS
    compared = ("dice",)
    tempered = False

    def read(self, y: Any, p: Any) -> tuple[Array, Array]:
        return numbers(y, "y", (2,)), numbers(p, "p", (2,))

    def sample(
        self, y: Array, p: Array, metrics: Sequence[str], names: Sequence[Any] | None, threshold: Any, bins: int
    ) -> Sample:
        columns = dict(zip(names_for(names, p.shape[1]), p.T, strict=True))
        return MeanSample({name: c for name, c in columns.items() if name.partition("/")[0] in metrics})


KINDS: Mapping[str, CaseKind] = MappingProxyType(
    {
        "binary": _Binary(),
        "multiclass": _Multiclass(),
        "multilabel": _Multilabel(),
        "regression": _Regression(),
        "segmentation": _Segmentation(),
    }
)
"""Every kind of prediction by its name."""


def kind_of(name: str) -> CaseKind:
    """Return a kind of prediction by its name.

    Raises:
        StatisticsError: there is none of this name.
    """
    return KINDS[one_from(name, KINDS, "kind")]


def _one_column(values: Any) -> Any:
    array = np.asarray(values)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _thresholds(threshold: float | Sequence[float], labels: int) -> list[float]:
    cuts = numbers(threshold, "threshold", (0, 1))
    if (cuts.ndim == 1 and len(cuts) != labels) or not np.isfinite(cuts).all():
        raise StatisticsError(f"threshold must be one number, or one for each of {labels} label(s); got {threshold}.")
    return np.broadcast_to(cuts, labels).tolist()


def _log_softmax(logits: Array) -> Array:
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
