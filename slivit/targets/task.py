"""What is predicted: the targets, their encoding, the columns of a table of predictions. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slivit.errors import ManifestError, one_of

Kind = Literal["binary", "multiclass", "multilabel", "regression"]


class Task(BaseModel):
    """A prediction task.

    Args:
        kind: "binary" (one target, 0 or 1), "multiclass" (one target, one class name a scan), "multilabel" (several
            0/1 targets, an empty cell is a missing label) or "regression" (one or several numbers).
        targets: the manifest's target columns.
        classes: multiclass only: the class names in the order of the outputs; found in the training rows where empty.
        unit: regression only: the unit of the targets, for tables and figures ("%", "mm").
        class_weights: classification only: "balanced" weighs each class by the inverse of its frequency in the
            training rows; a list gives one weight a class (multiclass) or one weight of the positives a target.
        loss: regression only: "l1" (the paper's), "mse" or "huber", on targets standardised by the training rows.
        center: regression only: what standardises the targets; found in the training rows where empty.
        spread: as `center`.

    Source: Avram et al. 2024, Methods, "SLIViT's training and evaluation" (BCE for classification, L1 for regression).

    Example:
        >>> task = slivit.Task(kind="binary", targets=("drusen",))
        >>> task.out_dim, task.prediction_columns
        (1, ('prob_drusen',))
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    targets: tuple[str, ...] = Field(min_length=1)
    classes: tuple[str, ...] = ()
    unit: str = ""
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    loss: Literal["l1", "mse", "huber"] = "l1"
    center: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind in ("binary", "multiclass") and len(self.targets) != 1:
            raise ValueError(f"a {self.kind} task has one target column, got {len(self.targets)}: {self.targets}")
        if self.classes and self.kind != "multiclass":
            raise ValueError(f"classes belong to a multiclass task, not to a {self.kind} one")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError(f"target columns are repeated: {self.targets}")
        self._check_weights()
        self._check_scale()
        return self

    def _check_weights(self) -> None:
        if self.class_weights is None:
            return
        if self.kind == "regression":
            raise ValueError("class_weights belong to classification, not to regression")
        if isinstance(self.class_weights, str):
            return
        needed, what = len(self.targets), "target"
        if self.kind == "multiclass":
            needed, what = len(self.classes), "class"
        # Without names of classes their number is not known yet: `fitted` finds them, and checks again.
        if needed and len(self.class_weights) != needed:
            raise ValueError(f"class_weights has {len(self.class_weights)} numbers; give one a {what}, so {needed}")
        if not all(math.isfinite(w) and w >= 0 for w in self.class_weights):
            raise ValueError(f"class_weights must be numbers that are not negative, got {self.class_weights}")

    def _check_scale(self) -> None:
        """One number would be broadcast over several targets in silence, and a spread of 0 is divided by."""
        if not self.center and not self.spread:
            return
        if self.kind != "regression" or not len(self.center) == len(self.spread) == len(self.targets):
            raise ValueError("center and spread belong to regression, and come together: one number each a target")
        if not all(map(math.isfinite, self.center)) or not all(math.isfinite(s) and s > 0 for s in self.spread):
            raise ValueError(f"center must be finite and spread above 0, got {self.center} and {self.spread}")

    @property
    def out_dim(self) -> int:
        """The number of outputs of a model for this task."""
        return len(self.classes) if self.kind == "multiclass" else len(self.targets)

    @property
    def prediction_columns(self) -> tuple[str, ...]:
        """The columns of predictions: `prob_<class or target>` in [0, 1], or `pred_<target>` in the target's unit."""
        if self.kind == "regression":
            return tuple(f"pred_{t}" for t in self.targets)
        return tuple(f"prob_{c}" for c in (self.classes if self.kind == "multiclass" else self.targets))

    @property
    def target_columns(self) -> tuple[str, ...]:
        """The columns that hold the known answers in a table of predictions: `target_<name>`."""
        return tuple(f"target_{t}" for t in self.targets)

    def encode(self, row: Mapping[str, Any]) -> npt.NDArray[np.float32] | np.int64:
        """Encode the targets of one manifest row.

        Returns:
            The class index for multiclass; else (len(targets),) float32, NaN for a missing label.

        Raises:
            ManifestError: a value that the task does not allow.
        """
        if self.kind == "multiclass":
            return self._class_index(row[self.targets[0]])
        return np.array([self._number(row[t], t) for t in self.targets], dtype=np.float32)

    def _class_index(self, value: Any) -> np.int64:
        name = class_name(value)
        if name not in self.classes:
            raise ManifestError(f"{self.targets[0]} is {name!r}; allowed are {one_of(self.classes)}")
        return np.int64(self.classes.index(name))

    def _number(self, value: Any, target: str) -> float:
        if is_missing(value):
            if self.kind == "multilabel":
                return math.nan
            raise ManifestError(f"{target} is empty; a {self.kind} task needs a value in every row")
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ManifestError(f"{target} is {value!r}, which is not a number") from None
        if self.kind != "regression" and number not in (0.0, 1.0):
            raise ManifestError(f"{target} is {value!r}; a {self.kind} target is 0 or 1")
        if not math.isfinite(number):
            raise ManifestError(f"{target} is {value!r}; a target must be finite")
        return number

    def fitted(self, rows: Sequence[Mapping[str, Any]]) -> Task:
        """Return the task completed by the training rows: class names, standardisation, class weights.

        What the user gave is kept. Call it on training rows alone, so that nothing of the other splits leaks.

        Raises:
            ManifestError: weights for another number of classes than the rows have.
        """
        found: dict[str, Any] = {}
        if self.kind == "multiclass" and not self.classes:
            found["classes"] = tuple(sorted({class_name(r[self.targets[0]]) for r in rows}, key=_numbers_first))
        if self.kind == "regression" and not self.center:
            values = np.stack([np.asarray(self.encode(r)) for r in rows]).astype(np.float64)
            spread = values.std(axis=0)
            found["center"] = tuple(values.mean(axis=0).tolist())
            found["spread"] = tuple(np.where(spread > 0, spread, 1.0).tolist())
        try:
            task = Task.model_validate(self.model_dump() | found)
        except ValidationError as error:
            told, classes = error.errors()[0]["msg"], one_of(found.get("classes", ()))
            raise ManifestError(f"{self.targets[0]}: {told}; the training rows have {classes}") from error
        if self.class_weights == "balanced":
            return task.model_copy(update={"class_weights": task.balanced_weights(rows)})
        return task

    def balanced_weights(self, rows: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
        """Weights that make up for unequal class counts: n / (classes * count), or negatives / positives a target."""
        encoded = np.stack([np.asarray(self.encode(r)) for r in rows])
        if self.kind == "multiclass":
            counts = np.bincount(encoded.astype(int), minlength=self.out_dim)
            return tuple((len(rows) / (self.out_dim * np.maximum(counts, 1))).tolist())
        positives, negatives = (encoded == 1).sum(axis=0), (encoded == 0).sum(axis=0)
        return tuple((negatives / np.maximum(positives, 1)).tolist())

    def _repr_html_(self) -> str:
        """What Jupyter shows."""
        from slivit.display import facts

        shown = {"targets": ", ".join(self.targets), "classes": ", ".join(self.classes), "unit": self.unit}
        fitted = {"mean of training": _numbers(self.center), "spread of training": _numbers(self.spread)}
        weights = self.class_weights if isinstance(self.class_weights, str) else _numbers(self.class_weights or ())
        return facts(f"Task: {self.kind}", {**shown, **fitted, "class weights": weights})

    def strata(self, row: Mapping[str, Any]) -> str:
        """A label by which splits are stratified (classification); the value as text for regression."""
        return "|".join("" if is_missing(row[t]) else class_name(row[t]) for t in self.targets)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.4g}" for v in values)


def is_missing(value: Any) -> bool:
    """Whether a manifest cell is empty."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def class_name(value: Any) -> str:
    """The name of a class as text, so that 3, 3.0 and "3" are one class."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _numbers_first(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
