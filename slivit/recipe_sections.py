"""The sections that recipes are made of: typed, checked, and unchanged after they were read."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from slivit.data.augmentation import Augmentation
from slivit.data.manifest import Columns
from slivit.data.preprocessing import Preprocessing
from slivit.data.slice_labels import SliceLabels
from slivit.errors import SlivitError
from slivit.task import Task


def _rule_text(rule: Any) -> Any:
    """Check the rule of an operating point; TOML may give a threshold as a number."""
    from slivit.statistics.thresholds import parse_rule

    if isinstance(rule, bool) or not isinstance(rule, str | int | float) or rule == "":
        return rule
    try:
        return str(parse_rule(rule)).removeprefix("fixed=")
    except SlivitError as error:
        raise ValueError(str(error)) from None


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, and nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Where the scans are.

    Args:
        manifest: a CSV; or a data set that an importer lists: its folder, a MedMNIST `.npz`, or "medmnist:NAME"
            ("medmnist:NAME@64").
        importer: one of `slivit list importers`; for a folder "folders" and for an `.npz` "medmnist" where empty.
        importer_options: what that importer takes.
        test_manifest: a CSV of scans kept for testing, in place of the manifest's own test rows.
        root: the folder that relative scan paths start from (the CSV's by default), or that holds MedMNIST files.
        download: let medmnist download a set that is not in `root`.
        columns: the names of the manifest's columns.
        fractions: train, val and test fractions of patients, where the manifest has no split column.
        split_seed: the seed of every split that is made here.
        val_from_train: where the manifest has train rows but no val rows, move this fraction of the training patients
            to val; 0 makes that an error for a CSV and takes a tenth for an importer.
        train_fraction: keep this fraction of the training patients (label efficiency); nested for one seed.
        workers: processes that read scans, at most as many as there are cores; 0 reads in the training process.
        cache: folder of preprocessed slices; read anew each epoch where empty.
        cache_gb: the largest size of that folder, in GB; what was used longest ago makes room. 0 sets no limit.
        slice_labels: which slices are positive, where scans are cut into windows; see
            `slivit.data.slice_labels.SliceLabels`. Without them every window has the target of its scan.
    """

    manifest: str = Field(min_length=1)
    importer: str = ""
    importer_options: dict[str, Any] = Field(default_factory=dict)
    test_manifest: str = ""
    root: str = ""
    download: bool = False
    columns: Columns = Columns()
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    split_seed: int = 0
    val_from_train: float = Field(default=0.0, ge=0, lt=1)
    train_fraction: float = Field(default=1.0, gt=0, le=1)
    workers: int = Field(default=2, ge=0)
    cache: str = ""
    cache_gb: float = Field(default=0.0, ge=0)
    slice_labels: SliceLabels | None = None

    @property
    def processes(self) -> int:
        """`workers`, but no more than there are cores: beyond that they only slow each other down."""
        return min(self.workers, os.cpu_count() or 1)


class Model(BaseModel):
    """Which network: its registered name, its own arguments beside it, and weights to start from.

    Args:
        name: one of `slivit list models`.
        weights: a backbone to start from: a run or checkpoint folder, or a weight file; random where empty.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "slivit"
    weights: str = ""

    @property
    def args(self) -> dict[str, Any]:
        """The model's own arguments."""
        return dict(self.model_extra or {})


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


class Testing(Section):
    """How predictions are made and measured.

    Args:
        level: of the intervals.
        draws: of the bootstrap.
        by_patient: draw patients instead of scans.
        stratified: keep the number of scans (or patients) of each class in every draw; binary and multiclass.
        batch_size: scans a batch.
        operating_point: the rule by which the threshold of a call is chosen on the validation rows: a threshold,
            "youden", "sensitivity=0.9" or "specificity=0.9". Empty: what the checkpoint holds, else 0.5.
        temperature: divide the logits by the temperature that fits the validation rows best.
        subgroups: columns of the manifest by which every metric is given too.
        bands: the edges that cut a column of numbers into bands, such as {age = [40, 60, 80]}; quarters if absent.
        reference: for a column, the subgroup that the others are compared with.
        site: the column that names where a scan comes from, for a view of the sites side by side.
        readers: a CSV of human readers' calls: the first column names the scan, every other column is a reader.
        pictures: how many of the most confident errors the page shows with pictures of their slices.
    """

    level: float = Field(default=0.9, gt=0, lt=1)
    draws: int = Field(default=1000, ge=1)
    by_patient: bool = False
    stratified: bool = False
    batch_size: int = Field(default=8, ge=1)
    operating_point: Annotated[str, BeforeValidator(_rule_text)] = ""
    temperature: bool = False
    subgroups: tuple[str, ...] = ()
    bands: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    reference: dict[str, str] = Field(default_factory=dict)
    site: str = ""
    readers: str = ""
    pictures: int = Field(default=10, ge=0)


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
