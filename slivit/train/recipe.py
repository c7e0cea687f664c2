"""The recipes of training on labels: one set, or several at once."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from slivit.data.augmentation import Augmentation
from slivit.data.preprocessing import Preprocessing
from slivit.data.recipe import Data, refuse_unused
from slivit.evaluate.recipe import Testing
from slivit.models.recipe import Model
from slivit.settings import Section
from slivit.targets.task import Task


class Fit(Section):
    """How it is trained.

    Args:
        epochs: at most this many.
        lr: the (peak) learning rate, or "find"; of a list, such as [1e-3, 1e-4], every rate is tried, and the one kept
            whose best epoch has the best `monitor`.
        schedule: "one_cycle", in which the rate rises to `lr` and falls to nearly 0, or "constant".
        batch_size: scans a step; windows where scans are cut into windows.
        oversample: repeat the training items of rarer classes, until all classes are drawn equally often; binary and
            multiclass.
        weight_decay: decoupled weight decay.
        warmup: the fraction of the schedule in which the rate rises.
        patience: epochs without a better `monitor` after which training stops; 0 never stops early.
        monitor: "valid_loss", "roc_auc", "average_precision", "r2" or "mae", on the validation rows.
        backbone_lr: the backbone's rate as a fraction of `lr`.
        freeze_backbone: train the integrator and the head alone.
        label_smoothing: of classification targets.
        average_weights: decay of an exponential moving average of the weights that is validated and kept; 0 for none.
        precision: "float32", "bfloat16", "float16" (GPU only), or "auto": half precision where there is a GPU.
        device: "auto", "cpu", "cuda", "mps".
    """

    epochs: int = Field(default=20, ge=1)
    lr: float | Literal["find"] | tuple[float, ...] = "find"
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    batch_size: int = Field(default=8, ge=1)
    oversample: bool = False
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.25, gt=0, lt=1)
    patience: int = Field(default=5, ge=0)
    monitor: Literal["valid_loss", "roc_auc", "average_precision", "r2", "mae"] = "valid_loss"
    backbone_lr: float = Field(default=1.0, gt=0)
    freeze_backbone: bool = False
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    average_weights: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    device: str = "auto"

    @model_validator(mode="after")
    def _rates(self) -> Self:
        rates = self.lr if isinstance(self.lr, tuple) else (1.0 if self.lr == "find" else self.lr,)
        if not rates or min(rates) <= 0 or len(set(rates)) != len(rates):
            raise ValueError(f"lr is a rate above 0, a list of different ones, or find; got {self.lr}")
        return self


class Logging(Section):
    """Where a run is followed beside its own files.

    Args:
        tracker: "off", "wandb" (Weights & Biases) or "mlflow".
        project: its project or experiment.
        offline: Weights & Biases only: keep everything in the run's folder, for `wandb sync`.
        store: MLflow only: its tracking URI, such as "sqlite:///mlflow.db" or a server's address; MLflow's own default
            where empty.
        checkpoint: send the checkpoint as an artefact too.
    """

    tracker: Literal["off", "wandb", "mlflow"] = "off"
    project: str = Field(default="slivit", min_length=1)
    offline: bool = False
    store: str = ""
    checkpoint: bool = True

    @model_validator(mode="after")
    def _fits_the_tracker(self) -> Self:
        if self.offline and self.tracker == "mlflow":
            raise ValueError('offline is for wandb; give mlflow a local store, such as store = "sqlite:///mlflow.db"')
        if self.store and self.tracker != "mlflow":
            raise ValueError('store is for tracker = "mlflow"')
        return self


class TrainingRecipe(Section):
    """What pre-training and fine-tuning share."""

    out: str = Field(min_length=1)
    seed: int = 0
    data: Data
    task: Task
    model: Model = Model()
    preprocessing: Preprocessing = Preprocessing()
    augmentation: Augmentation = Augmentation()
    fit: Fit = Fit()
    testing: Testing = Testing()
    logging: Logging = Logging()


class PretrainRecipe(TrainingRecipe):
    """Supervised pre-training on 2D images; ends in a checkpoint whose backbone every model of its kind can use."""

    method: Literal["supervised"] = "supervised"


class FinetuneRecipe(TrainingRecipe):
    """Fine-tuning on labelled volumes; ends in a checkpoint, predictions and metrics."""


class LabelledSet(Section):
    """One of several labelled sets that are trained together.

    Args:
        data: where it is.
        task: what its labels say.
    """

    data: Data
    task: Task


class MixedRecipe(Section):
    """Supervised pre-training on several sets at once; ends in a checkpoint of the backbone, and results for each set.

    The outputs of the sets lie side by side; each item is supervised on its own set's outputs alone.
    """

    method: Literal["mixed"]
    out: str = Field(min_length=1)
    seed: int = 0
    sets: dict[str, LabelledSet] = Field(min_length=2)
    model: Model = Model()
    preprocessing: Preprocessing = Preprocessing()
    augmentation: Augmentation = Augmentation()
    fit: Fit = Fit()
    testing: Testing = Testing()
    logging: Logging = Logging()

    @model_validator(mode="after")
    def _monitors_the_loss(self) -> Self:
        if self.fit.monitor != "valid_loss":
            raise ValueError(f"fit.monitor must be valid_loss where several sets are trained, got {self.fit.monitor}")
        return self

    @model_validator(mode="after")
    def _of_one_set(self) -> Self:
        if self.fit.oversample or self.preprocessing.windows:
            raise ValueError("fit.oversample and preprocessing.windows are for one labelled set, not for several")
        for part in self.sets.values():
            refuse_unused(part.data, "windows of slices are for one labelled set", "slice_labels")
        return self
