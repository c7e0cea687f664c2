"""What is predicted: the fields of a task, and what each kind of task must give. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from slivit.errors import ManifestError, one_of
from slivit.targets.covariates import Covariate, columns_of, fit_covariates
from slivit.targets.words import Words
from slivit.targets.words import class_name as class_name
from slivit.targets.words import is_missing as is_missing

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from slivit.targets.cases import Cases, Column
    from slivit.targets.decision import Decision
    from slivit.targets.loss import TaskLoss
    from slivit.targets.words import Measures

Kind = Literal["binary", "multiclass", "multilabel", "regression", "segmentation"]
MASK_LOSSES = ("dice_ce", "dice", "vis_mae")
Array = npt.NDArray[np.float64]


class Estimators(Protocol):
    """Makes models as scikit-learn has them, not yet fitted."""

    def classifier(self) -> Any:
        """One with `predict_proba`."""

    def regressor(self) -> Any:
        """One with `predict`."""


class Task(Words, BaseModel):
    """A prediction task.

    `Task(kind=...)` is of the class of that kind (`Binary`, `Multiclass`, `Multilabel`, `Regression`), as `Path(...)`
    is a `PosixPath`. The fields are the same for all kinds; what differs between kinds is a method or an attribute of
    the class, so that no other code asks for a kind.

    Args:
        kind: "binary" (one target, 0 or 1), "multiclass" (one target, one class name a scan), "multilabel" (several
            0/1 targets, an empty cell is a missing label), "regression" (one or several numbers) or "segmentation"
            (masks, with fields of its own; see `slivit.targets.segmentation.Segmentation`).
        targets: the manifest's target columns.
        classes: multiclass only: the class names in the order of the outputs; found in the training rows where empty.
        unit: regression only: the unit of the targets, for tables and figures ("%", "mm").
        class_weights: classification only: "balanced" weighs each class by the inverse of its frequency in the
            training rows; a list gives one weight a class (multiclass) or one weight of the positives a target.
        loss: of regression "l1" (the paper's), "mse" or "huber", on targets standardised by the training rows; of
            segmentation the name of one in `slivit.targets.mask_losses`.
        center: regression only: what standardises the targets; found in the training rows where empty.
        spread: as `center`.
        covariates: columns of what is known beside the slices (age, sex), which the model reads before its head:
            numbers, standardised by the training rows, and texts, one number a level. "geometry" is the extent in mm
            and the number of slices, read from the scan. Missing ones are allowed. Not for segmentation.
        inputs: the covariates as the training rows have them; found there.

    A new kind is a subclass that narrows `kind` to its own name, in a file that `slivit/targets/__init__.py` imports;
    its name stands in `Kind`. Defaults are those of a target that is a number. A kind must give:

    - of tables: `tags`, by which splits are stratified; `encode`, `outputs`, `allowed` and the like where the defaults
      do not fit; `check` and `completed` for fields of its own (a mask is encoded from the file that a cell names);
    - of torch: `criterion` and `activation`; `decodes`, `counted`, `evidence` where the defaults do not fit (dense
      logits are (B, out_dim, D, H, W), and a criterion leaves out what has no label);
    - of measurement: `measures`, `counts` and `arrays`, with a kind of the same name in `slivit.statistics`; where
      probabilities become calls (`makes_calls`), `views` and `calls`;
    - of words: `panels` and `findings`, names of figures and sentences that `slivit.report` knows, and the texts at
      the end of this class.

    Source: Avram et al. 2024, Methods, "Per-task fine-tuning" (BCE for classification, L1 for regression).

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
    loss: Literal["l1", "mse", "huber", "dice_ce", "dice", "vis_mae"] = "l1"
    center: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    covariates: tuple[str, ...] = ()
    inputs: tuple[Covariate, ...] = ()

    makes_calls: ClassVar[bool] = False
    """Whether predictions are probabilities that a `Decision` turns into calls."""
    exclusive: ClassVar[bool] = False
    """Whether a cell names one of `classes`, whose probabilities add up to 1, and the most probable one is called."""
    two_classes: ClassVar[bool] = False
    """Whether it is one target that is 0 or 1: one ROC curve, DeLong's test, labels of slices."""
    blanks: ClassVar[bool] = False
    """Whether a training row may lack a label."""
    allowed: ClassVar[tuple[float, ...]] = ()
    """The numbers that a target may be, each target with a threshold of its own; empty where there are no such."""
    dense: ClassVar[bool] = False
    """Whether the target is a mask, and a model says something of every voxel."""
    prefix: ClassVar[str] = "prob_"
    """What stands before an output's name in the columns of predictions."""
    measures: ClassVar[Measures]
    panels: ClassVar[tuple[str, ...]] = ()
    """The sections of a page that are this kind's own, in `slivit.report.page`."""
    findings: ClassVar[tuple[str, ...]] = ()
    """The findings that a page puts into words, in `slivit.report.summary`."""

    # -- a task of a kind --------------------------------------------------------------------------------------------

    def __new__(cls, *args: Any, **fields: Any) -> Self:
        own: Any = _class_of(fields.get("kind")) if cls is Task else None
        return super().__new__(own or cls)

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_kind(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Any:
        own = _class_of(values.get("kind")) if cls is Task and isinstance(values, dict) else None
        return own.model_validate(values) if own else handler(values)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.check()
        return self

    def check(self) -> None:
        """Check that the fields fit each other and the kind.

        Raises:
            ValueError: what does not fit.
        """
        if self.one_class and len(self.targets) != 1:
            raise ValueError(f"a {self.kind} task has one target column, got {len(self.targets)}: {self.targets}")
        if self.classes and not self.exclusive:
            raise ValueError(f"classes belong to a multiclass task, not to a {self.kind} one")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError(f"target columns are repeated: {self.targets}")
        if self.loss in MASK_LOSSES and not self.dense:
            raise ValueError(f"the loss {self.loss} belongs to segmentation, not to {self.kind}")
        self._check_weights()
        self._check_scale()
        self._check_covariates()

    def _check_covariates(self) -> None:
        if self.covariates and self.dense:
            raise ValueError("covariates are read before the head of a prediction a scan, not by a segmentation")
        taken = {*self.targets, "path", "patient", "split"}
        if odd := [c for i, c in enumerate(self.covariates) if c in taken or c in self.covariates[:i]]:
            raise ValueError(f"{odd[0]} is no covariate: it is a target, where the scan is or whose, or named twice")
        if self.inputs and tuple(c.name for c in self.inputs) != columns_of(self.covariates):
            raise ValueError(f"inputs are not those of the covariates {self.covariates}")

    def _check_weights(self) -> None:
        if self.class_weights is None:
            return
        if not self.makes_calls:
            raise ValueError(f"class_weights belong to classification, not to {self.kind}")
        if isinstance(self.class_weights, str):
            return
        needed = self.out_dim
        # Without names of classes their number is not known yet: `fitted` fills them in, and checks again.
        if needed and len(self.class_weights) != needed:
            what = "class" if self.exclusive else "target"
            raise ValueError(f"class_weights has {len(self.class_weights)} numbers; give one a {what}, so {needed}")
        if not all(math.isfinite(w) and w >= 0 for w in self.class_weights):
            raise ValueError(f"class_weights must be numbers that are not negative, got {self.class_weights}")

    def _check_scale(self) -> None:
        if self.center or self.spread:
            raise ValueError("center and spread belong to regression, and come together: one number each a target")

    # -- tables ------------------------------------------------------------------------------------------------------

    @property
    def one_class(self) -> bool:
        """Whether every scan has exactly one class: it can be oversampled, drawn by class, or put into a confusion."""
        return self.two_classes or self.exclusive

    @property
    def thresholded(self) -> tuple[str, ...]:
        """The targets that are called positive from a threshold upwards."""
        return self.targets if self.allowed else ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of a model's outputs: the classes, or the targets."""
        return self.targets

    @property
    def parts(self) -> tuple[str, ...]:
        """What is measured one by one: the outputs."""
        return self.outputs

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of what `arrays` gives in columns: the outputs."""
        return self.outputs

    @property
    def out_dim(self) -> int:
        """The number of outputs of a model for this task."""
        return len(self.outputs)

    @property
    def prediction_columns(self) -> tuple[str, ...]:
        """The columns of predictions: `prob_<class or target>` in [0, 1], or `pred_<target>` in the target's unit."""
        return tuple(self.prefix + name for name in self.outputs)

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
        return np.array([self._number(row[t], t) for t in self.targets], dtype=np.float32)

    def _number(self, value: Any, target: str) -> float:
        if is_missing(value):
            if self.blanks:
                return math.nan
            raise ManifestError(f"{target} is empty; a {self.kind} task needs a value in every row")
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ManifestError(f"{target} is {value!r}, which is not a number") from None
        if self.allowed and number not in self.allowed:
            raise ManifestError(f"{target} is {value!r}; a {self.kind} target is 0 or 1")
        if not math.isfinite(number):
            raise ManifestError(f"{target} is {value!r}; a target must be finite")
        return number

    def describe(self, encoded: Tensor) -> str:
        """Encoded targets in words: a class name, or "ef 61.2 %", or "drusen 1"."""
        pairs = zip(self.targets, encoded.flatten().tolist(), strict=True)
        return ", ".join(f"{t} {'missing' if is_missing(v) else f'{v:.4g}'} {self.unit}".rstrip() for t, v in pairs)

    def fitted(self, rows: Sequence[Mapping[str, Any]]) -> Task:
        """Return the task completed by the training rows: class names, standardisation, class weights.

        What the user gave is kept. Call it on training rows alone, so that nothing of the other splits leaks.

        Raises:
            ManifestError: weights for another number of classes than the rows have.
        """
        completed = self.completed(rows)
        if self.covariates and not self.inputs:
            completed["inputs"] = fit_covariates(self.covariates, rows)
        try:
            task = Task.model_validate(self.model_dump() | completed)
        except ValidationError as error:
            message, classes = error.errors()[0]["msg"], one_of(completed.get("classes", ()))
            raise ManifestError(f"{self.targets[0]}: {message}; the training rows have {classes}") from error
        if self.class_weights == "balanced":
            return task.model_copy(update={"class_weights": task.balanced_weights(rows)})
        return task

    def only(self, targets: Sequence[str]) -> Task:
        """The task of some of the targets, in their order here; all of them where none is named."""
        kept = [i for i, name in enumerate(self.targets) if not targets or name in targets]
        fields = ("targets", "center", "spread", *(("class_weights",) if self.class_weights != "balanced" else ()))
        cut = {name: tuple(value[i] for i in kept) for name in fields if (value := getattr(self, name))}
        return self.model_copy(update=cut) if len(kept) < len(self.targets) else self

    def completed(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The fields that the training rows fill in where the user left them empty."""
        return {}

    def balanced_weights(self, rows: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
        """Weights that make up for unequal class counts: n / (classes * count), or negatives / positives a target."""
        raise NotImplementedError

    def tags(self, frame: pd.DataFrame) -> pd.DataFrame:
        """By what splits are stratified: columns "patient" and "tag", a row for each tag of a patient.

        Args:
            frame: with the column `patient`, and those targets that are known.
        """
        raise NotImplementedError

    # -- torch -------------------------------------------------------------------------------------------------------

    def criterion(self, logits: Tensor, target: Tensor, given: TaskLoss) -> Tensor:
        """Loss of (B, out_dim) logits against encoded targets; `given` has weights, smoothing and reduction."""
        raise NotImplementedError

    def counted(self, target: Tensor, weights: Tensor | None) -> float:
        """What the mean over a batch was divided by: known labels, or scans by the weights of their classes."""
        return float((~target.isnan()).sum())

    def activation(self, logits: Tensor, center: Tensor, spread: Tensor) -> Tensor:
        """(B, out_dim) float32 logits to probabilities; standardised outputs to the target's unit.

        Args:
            logits: of the model.
            center: (k,) of the targets, or one 0.
            spread: (k,) of the targets, or one 1.
        """
        raise NotImplementedError

    def decodes(self, predictions: Tensor) -> Tensor:
        """Probabilities to decided classes, encoded like targets; values stay as they are."""
        return predictions

    def evidence(self, logits: Tensor) -> Tensor:
        """What speaks for each output: log-odds of a class or label, or the value in the target's unit.

        Args:
            logits: (..., out_dim).

        Returns:
            (..., out_dim) float64. Unlike probabilities, log-odds do not stop changing where a model is sure.
        """
        return logits.double()

    def readout(self, x: Array, y: npt.NDArray[Any], other: Array, model: Estimators | None = None) -> Array:
        """Predictions of a plain model of scikit-learn.

        Args:
            x: (n, D) features to learn from.
            y: their encoded targets.
            other: (m, D) features to predict.
            model: makes what learns; logistic or ridge regression on standardised features where None.

        Returns:
            (m, out_dim) probabilities or values.
        """
        raise NotImplementedError

    # -- measurement -------------------------------------------------------------------------------------------------

    def arrays(self, table: pd.DataFrame) -> tuple[Array, Array]:
        """The known answers and the predictions of a table as arrays for `slivit.statistics`.

        Returns:
            y and p: (n,) and (n,) for binary; (n,) class numbers and (n, C) for multiclass; (n, k) and (n, k)
            otherwise, with NaN for a missing label.
        """
        return table[list(self.target_columns)].to_numpy(float), table[list(self.prediction_columns)].to_numpy(float)

    def counts(self, known: pd.Series) -> dict[str, Any]:
        """How often each class occurs among the known values of a target, or how a quantity is distributed."""
        raise NotImplementedError

    def views(self, cases: Cases) -> Iterator[Column]:
        """The two-class views of a classification: each class against the rest, each label, or the one target."""
        yield from ()

    def calls(self, p: pd.DataFrame, decision: Decision) -> dict[str, Any]:
        """The calls of every target, empty where there is no prediction.

        Args:
            p: the columns of predictions, scaled by the decision's temperature.
            decision: its thresholds.
        """
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """What Jupyter shows."""
        from slivit.display import facts

        shown = {"targets": ", ".join(self.targets), "classes": ", ".join(self.classes), "unit": self.unit}
        scale = {"mean of training": _numbers(self.center), "spread of training": _numbers(self.spread)}
        weights = self.class_weights if isinstance(self.class_weights, str) else _numbers(self.class_weights or ())
        return facts(f"Task: {self.kind}", {**shown, **scale, "class weights": weights})


def _class_of(kind: Any, parent: type[Task] | None = None) -> type[Task] | None:
    """The class below `parent` whose `kind` is this one alone."""
    for child in (parent or Task).__subclasses__():
        if own := child if get_args(child.model_fields["kind"].annotation) == (kind,) else _class_of(kind, child):
            return own
    return None


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.4g}" for v in values)
