"""The recipes of training on labels: one set, or several at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from slivit.checkpoint.lineage import check_start
from slivit.data.augmentation import Augmentation
from slivit.data.patches import Patches
from slivit.data.preprocessing import Preprocessing
from slivit.data.recipe import Data, refuse_unused
from slivit.errors import RecipeError
from slivit.evaluate.measure import check_testing
from slivit.evaluate.recipe import Testing
from slivit.folder import CASES, METRICS, PREDICTIONS
from slivit.models._lora import Lora
from slivit.models._starts import fill_start
from slivit.models.recipe import Model
from slivit.models.registry import COVARIATES
from slivit.plugins import Plugged
from slivit.recipe import Stage
from slivit.settings import Precision, Section, Seed, changed
from slivit.targets.task import Task


class Fit(Section):
    """How it is trained.

    Args:
        epochs: at most this many.
        lr: the (peak) learning rate, or "find"; of a list, such as [1e-3, 1e-4], every rate is tried, and the one kept
            whose best epoch has the best `monitor`.
        schedule: "one_cycle", in which the rate rises to `lr` and falls to nearly 0, "cosine" (it rises along a line
            and falls along a half cosine to 0), "poly" (as "cosine", but it falls with the power 0.9 of the steps that
            are left, as nnU-Net's), or "constant".
        optimiser: "adamw", "adam" (weight decay is a part of the gradient) or "sgd" (momentum 0.9).
        betas: of AdamW and Adam; fastai's 0.9 and 0.99 where it is not set, and then one cycle moves the first from
            0.95 to 0.85 and back.
        eps: of AdamW and Adam; the default is fastai's, PyTorch's is 1e-8.
        batch_size: scans a step; windows where scans are cut into windows.
        oversample: repeat the training items of rarer classes, until all classes are drawn equally often. An item of
            several labels counts as its rarest one, or as none.
        weight_decay: decoupled weight decay.
        warmup: the fraction of the schedule in which the rate rises.
        patience: epochs without a better `monitor` after which training stops; 0 never stops early.
        monitor: "valid_loss", "roc_auc", "average_precision", "r2", "mae" or "dice", on the validation rows.
        backbone_lr: the backbone's rate as a fraction of `lr`.
        layer_decay: rate of a block of the backbone as a fraction of that of the block behind it; 1 for none.
        mixup: scans of a batch are mixed in pairs, their losses too, with shares from Beta(mixup, mixup); 0 for none.
        freeze_backbone: train the integrator and the head alone; the backbone runs as it does in a prediction, and its
            normalisation layers, which fastai would go on training, stay as they are too.
        adapt: "lora" trains small matrices beside those of the frozen backbone, the integrator and the head; what is
            saved has no weights of the backbone, which is found again by its place and known by its digest. "" trains
            the backbone itself, or leaves it with `freeze_backbone`.
        lora: rank, scale and layers of those matrices.
        label_smoothing: of classification targets.
        average_weights: decay of an exponential moving average of the weights that is validated and kept; 0 for none.
        seeds: train as often, from `seed`, `seed` + 1 and so on, and keep the average of these models as one.
        precision: "float32", "bfloat16", "float16" (GPU only), or "auto": the fastest that the device has, which is
            bfloat16 on newer GPUs and processors, float16 on older GPUs, and float32 elsewhere.
        checkpoint_activations: keep less for the backward pass and compute it again: less memory, about a third more
            work; "auto" does where memory does not do for a single scan. (Where it does not do for a batch, a step adds
            up the gradients of its parts.)
        compile: have torch compile the network first; "auto" does on a GPU for 1,000 steps or more. Where that fails,
            the network goes on as it is.
        device: "auto", "cpu", "cuda", "mps".

    Example:
        >>> slivit.Fit(epochs=5, lr=1e-3).schedule
        'one_cycle'
    """

    epochs: int = Field(default=20, ge=1)
    lr: float | Literal["find"] | tuple[float, ...] = "find"
    schedule: Literal["one_cycle", "cosine", "poly", "constant"] = "one_cycle"
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = Field(default=1e-5, gt=0)
    batch_size: int = Field(default=8, ge=1)
    oversample: bool = False
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.25, ge=0, lt=1)
    patience: int = Field(default=5, ge=0)
    monitor: Literal["valid_loss", "roc_auc", "average_precision", "r2", "mae", "dice"] = "valid_loss"
    backbone_lr: float = Field(default=1.0, gt=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    mixup: float = Field(default=0.0, ge=0)
    freeze_backbone: bool = False
    adapt: Literal["", "lora"] = ""
    lora: Lora = Lora()
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    average_weights: float = Field(default=0.0, ge=0, lt=1)
    seeds: int = Field(default=1, ge=1)
    precision: Precision = "auto"
    checkpoint_activations: bool | Literal["auto"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    device: str = "auto"

    @model_validator(mode="after")
    def _rates(self) -> Self:
        rates = self.lr if isinstance(self.lr, tuple) else (1.0 if self.lr == "find" else self.lr,)
        if not rates or min(rates) <= 0 or len(set(rates)) != len(rates):
            raise ValueError(f"lr is a rate above 0, a list of different ones, or find; got {self.lr}")
        return self

    @model_validator(mode="after")
    def _nothing_idle(self) -> Self:
        if self.schedule == "constant" and self.warmup != type(self).model_fields["warmup"].default:
            raise ValueError('warmup would do nothing under schedule = "constant"; leave it out')
        if self.freeze_backbone and (idle := changed(self, "backbone_lr", "layer_decay")):
            raise ValueError(f"{' and '.join(idle)} would do nothing where freeze_backbone is true; leave it out")
        if self.adapt and self.layer_decay != 1:
            raise ValueError('layer_decay is for a backbone that trains itself, not for adapt = "lora"; leave it out')
        if self.layer_decay != 1 and self.backbone_lr != 1:
            raise ValueError("layer_decay sets the rates of the backbone; leave out backbone_lr")
        if self.optimiser == "sgd" and (idle := changed(self, "betas", "eps")):
            raise ValueError(
                f"{' and '.join(idle)} are of AdamW and Adam, and would do nothing for sgd; leave them out"
            )
        if self.freeze_backbone and self.adapt:
            raise ValueError("freeze_backbone leaves nothing for adapt to train; leave one of them out")
        if not self.adapt and (idle := changed(self.lora)):
            raise ValueError(f'lora.{idle[0]} would do nothing without adapt = "lora"')
        return self

    def check(self, task: Task) -> None:
        """Check what is meant for one kind of task, before anything long is run.

        Raises:
            RecipeError: an option that belongs to another kind of task.
        """
        if self.oversample and not task.makes_calls:
            raise RecipeError(f"fit.oversample is for classification, not for a {task.kind} task")
        if self.label_smoothing and not task.makes_calls:
            raise RecipeError(f"fit.label_smoothing is for classification, not for a {task.kind} task")
        shown = ("valid_loss", *task.measures.main)
        if self.monitor not in shown:
            allowed = " or ".join(shown)
            raise RecipeError(f"fit.monitor is {self.monitor}, and for a {task.kind} task it is {allowed}")


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
        if self.tracker == "off" and (idle := changed(self)):
            raise ValueError(f'{", ".join(idle)} would do nothing without a tracker; set tracker = "wandb" or "mlflow"')
        return self

    def check(self) -> None:
        """Check that the tracker is installed, before anything is written.

        Raises:
            RecipeError: it is not.
        """
        from slivit.train.trackers import need_package

        if self.tracker != "off":
            need_package(self.tracker)


class LabelledSet(Section):
    """A labelled set: the only one of a training, or one of several that are trained together.

    Args:
        data: where it is.
        task: what its labels say.
    """

    data: Data
    task: SerializeAsAny[Task]


class Labelled(Plugged):
    """What every training on labels is given, beside its labelled sets."""

    stage: ClassVar[Stage]
    runner: ClassVar[str] = "slivit.train.run:run"

    out: str = Field(min_length=1)
    seed: Seed = 0
    model: Model = Model()
    preprocessing: Preprocessing = Preprocessing()
    augmentation: Augmentation = Augmentation()
    patches: Patches = Patches()
    fit: Fit = Fit()
    testing: Testing = Testing()
    logging: Logging = Logging()

    @model_validator(mode="before")
    @classmethod
    def _published(cls, values: Any) -> Any:
        return fill_start(values) if isinstance(values, dict) else values

    @property
    def parts(self) -> dict[str, LabelledSet]:
        """The labelled sets by name; the name is empty where there is one alone."""
        raise NotImplementedError

    @property
    def results(self) -> tuple[str, ...]:
        """The files that a finished run has."""
        return tuple(
            (Path(name) / file).as_posix()
            for name, part in self.parts.items()
            for file in (CASES if part.task.dense else PREDICTIONS, METRICS)
        )

    def check(self) -> None:
        """Check every option against the tasks, before anything long is run.

        Raises:
            RecipeError: an option that would do nothing or belongs to another kind of task, a tracker that is not
                installed, a file that is not there.
        """
        self.logging.check()
        if self.preprocessing.planes and (self.augmentation.flip_slices or self.augmentation.shift_slices):
            raise RecipeError(
                "augmentation.flip_slices and shift_slices would mix preprocessing.planes; leave them out"
            )
        if self.fit.adapt and (self.stage != "finetune" or not self.model.start):
            raise RecipeError(
                'fit.adapt = "lora" adapts a pre-trained backbone to a task: it is for slivit finetune, with '
                "model.weights or model.pretrained"
            )
        if pictures := changed(self.testing, "pictures"):
            why = "training writes no page; give it to slivit evaluate"
            raise RecipeError(f"testing.{pictures[0]} would do nothing: {why}, and leave it out here")
        check_start(self.model)
        if COVARIATES in self.model.args:
            raise RecipeError("model.covariates follows from task.covariates; name the columns there")
        for name, part in self.parts.items():
            with in_set(name):
                check_testing(self.testing, part.task)
                check_windows(part, self.preprocessing)
                part.data.check()
                self.fit.check(part.task)
                check_dense(self, part)


@contextmanager
def in_set(name: str) -> Iterator[None]:
    """Say of an error which of several sets it is about."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"sets.{name}: {error}") if name else error from None


def check_dense(recipe: Labelled, part: LabelledSet) -> None:
    """Check that what a recipe says of patches and masks fits its task.

    Raises:
        RecipeError: settings of a segmentation for another task, or the other way round.
    """
    ours = {"patches": recipe.patches, "preprocessing.sliding": recipe.preprocessing.sliding}
    if not part.task.dense:
        if given := [name for name, section in ours.items() if section and changed(section)]:
            raise RecipeError(f"{given[0]} is for a segmentation, and would do nothing for a {part.task.kind} task")
        if part.data.align != "error":
            raise RecipeError(f"data.align is for a segmentation, and would do nothing for a {part.task.kind} task")
        return
    idle = {
        "augmentation": changed(recipe.augmentation),
        "preprocessing": changed(recipe.preprocessing, "sampling", "short", "fit", "windows", "rounded"),
    }
    for section, keys in idle.items():
        if keys:
            way = "; random changes stand in [patches]" if section == "augmentation" else "; leave it out"
            raise RecipeError(f"{section}.{keys[0]} would do nothing for a segmentation{way}")


def check_windows(part: LabelledSet, preprocessing: Preprocessing) -> None:
    """Check that what a recipe says of windows fits its task.

    Raises:
        RecipeError: settings that belong to another kind of task, or to scans that are cut into windows.
    """
    task, windows = part.task, preprocessing.windows
    if part.data.slice_labels and not windows:
        raise RecipeError(
            "data.slice_labels label the windows of a scan, and scans are not cut into windows; set "
            "preprocessing.windows, such as preprocessing.windows.stride=16"
        )
    if part.data.slice_labels and not task.two_classes:
        raise RecipeError(f"data.slice_labels belong to a binary task, not to a {task.kind} one; leave them out")
    if windows and windows.score != "mean" and task.exclusive:
        raise RecipeError(
            f'preprocessing.windows.score is "{windows.score}", after which the probabilities of a multiclass task no '
            'longer add up to 1; set it to "mean"'
        )


class TrainingRecipe(Labelled):
    """What pre-training and fine-tuning on one labelled set share."""

    data: Data
    task: SerializeAsAny[Task]

    @property
    def parts(self) -> dict[str, LabelledSet]:
        return {"": LabelledSet(data=self.data, task=self.task)}


class PretrainRecipe(TrainingRecipe):
    """Supervised pre-training on 2D images; ends in a checkpoint whose backbone every model of its kind can use."""

    stage = "pretrain"
    method: Literal["supervised"] = "supervised"


class FinetuneRecipe(TrainingRecipe):
    """Fine-tuning on labelled volumes; ends in a checkpoint, predictions and metrics."""

    stage = "finetune"


class MixedRecipe(Labelled):
    """Supervised pre-training on several sets at once; ends in a checkpoint of the backbone, and results for each set.

    The outputs of the sets lie side by side.

    Args:
        sets: the labelled sets, by name.
        loss: "own": each item is supervised on its own set's outputs alone, by the loss of its task. "joint": on the
            outputs of all sets, each an independent label, of which those of other sets are absent.
    """

    stage = "pretrain"
    method: Literal["mixed"]
    sets: dict[str, LabelledSet] = Field(min_length=2)
    loss: Literal["own", "joint"] = "own"

    @property
    def parts(self) -> dict[str, LabelledSet]:
        return self.sets

    @model_validator(mode="after")
    def _of_labels(self) -> Self:
        if self.loss == "joint" and (odd := [n for n, part in self.sets.items() if not part.task.makes_calls]):
            raise ValueError(f'loss = "joint" is over labels that are there or not; sets.{odd[0]} has none')
        return self

    @model_validator(mode="after")
    def _monitors_the_loss(self) -> Self:
        if self.fit.monitor != "valid_loss":
            raise ValueError(f"fit.monitor must be valid_loss where several sets are trained, got {self.fit.monitor}")
        return self

    @model_validator(mode="after")
    def _of_one_set(self) -> Self:
        if self.fit.oversample or self.preprocessing.windows or self.fit.seeds > 1:
            names = "fit.oversample, fit.seeds and preprocessing.windows"
            raise ValueError(f"{names} are for one labelled set, not for several")
        if self.testing.readers:
            raise ValueError("testing.readers names the scans of one labelled set, not those of several")
        for part in self.sets.values():
            refuse_unused(part.data, "windows of slices are for one labelled set", "slice_labels")
            refuse_unused(part.data, "folds are for one labelled set", "folds")
            if part.task.covariates:
                raise ValueError("task.covariates join the head of one labelled set; of several the backbone is kept")
        return self
