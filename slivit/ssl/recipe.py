"""The recipe of pre-training without labels: a backbone comes out."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from slivit.data.preprocessing import Preprocessing
from slivit.data.recipe import Data, refuse_unused
from slivit.errors import RecipeError
from slivit.models._starts import fill_start
from slivit.models.recipe import Model
from slivit.plugins import Plugged
from slivit.recipe import Stage
from slivit.settings import Precision, Section, Seed, changed
from slivit.targets.task import Task
from slivit.train.recipe import Logging


class Images(Section):
    """Which items an epoch has: slices of scans for methods in 2D, whole scans for those in 3D.

    Args:
        slices: "all" takes every slice of every scan; a number takes that many slices a scan, spread over it and drawn
            anew each epoch. Methods in 3D take whole scans, whatever stands here.
        min_slices: leave out scans with fewer slices.
        validation: where the manifest has no val rows, this fraction of the training patients (at least one) is kept
            for the validation loss.
        per_group: draw at most this many scans of each value of the column `group_by`, by the recipe's seed; 0 keeps
            all. So a large data set, or a scan repeated in many forms, does not crowd out the others.
        group_by: the column that names the data set (or whatever is to be thinned out).
    """

    slices: int | Literal["all"] = "all"
    min_slices: int = Field(default=1, ge=1)
    validation: float = Field(default=0.05, gt=0, lt=1)
    per_group: int = Field(default=0, ge=0)
    group_by: str = ""


class PretextSettings(BaseModel):
    """The method's own settings; `slivit.ssl.create_pretext` checks them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def args(self) -> dict[str, Any]:
        """The settings by name."""
        return dict(self.model_extra or {})


class PretextFit(Section):
    """How it is trained: AdamW, or SGD, under a schedule of steps.

    Args:
        epochs: passes over the items.
        lr: the peak learning rate, at the batch size given here.
        batch_size: items a step of one process.
        accumulate: batches whose gradients are added up before the weights change.
        optimiser: "adamw", "sgd" (momentum 0.9) or "lars".
        betas: of AdamW.
        weight_decay: decoupled (of "lars" a part of the gradient); biases, norms and other vectors have none.
        weight_decay_end: weight decay follows a half cosine to this value; constant where it is negative.
        schedule: "cosine" (linear warm-up, then a half cosine) or "one_cycle" (fastai's).
        warmup: epochs in which the rate rises.
        lr_end: where the cosine ends.
        layer_decay: rate of a transformer block as a fraction of that of the block behind it; 1 for none.
        patch_lr: rate of the patch embedding as a fraction of what layer decay leaves.
        clip: the largest norm of the gradient, of each network by itself where the method has several (3DINO's backbone
            and heads); 0 for none.
        keep_at: shares of the steps, such as 0.9, after which the network is kept too, in the folder `kept/0.9` of the
            run, for a later stage to start from.
        precision: "float32", "bfloat16", "float16" (GPU only), or "auto": the fastest that the device has, which is
            bfloat16 on newer GPUs and processors, float16 on older GPUs, and float32 elsewhere.
        checkpoint_activations: keep less for the backward pass and compute it again: less memory, about a third more
            work; "auto" does where memory does not do otherwise. (Before that, methods that see each image by itself
            take a batch in parts.)
        shards: where several processes train, give each a share of the weights instead of a copy (FSDP).
        device: "auto", "cpu", "cuda", "mps".

    Example:
        >>> slivit.PretextFit(epochs=5, batch_size=16).optimiser
        'adamw'
    """

    epochs: int = Field(default=100, ge=1)
    lr: float = Field(default=5e-4, gt=0)
    batch_size: int = Field(default=64, ge=1)
    accumulate: int = Field(default=1, ge=1)
    optimiser: Literal["adamw", "sgd", "lars"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.05, ge=0)
    weight_decay_end: float = -1.0
    schedule: Literal["cosine", "one_cycle"] = "cosine"
    warmup: float = Field(default=10.0, ge=0)
    lr_end: float = Field(default=1e-6, ge=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    patch_lr: float = Field(default=1.0, gt=0)
    clip: float = Field(default=0.0, ge=0)
    keep_at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    precision: Precision = "auto"
    checkpoint_activations: bool | Literal["auto"] = "auto"
    shards: bool = False
    device: str = "auto"

    @model_validator(mode="after")
    def _nothing_idle(self) -> Self:
        if self.schedule == "one_cycle" and (idle := changed(self, "lr_end", "weight_decay_end")):
            raise ValueError(f'{" and ".join(idle)} would do nothing under schedule = "one_cycle"; leave it out')
        if self.optimiser != "adamw" and changed(self, "betas"):
            raise ValueError(f"betas are of AdamW, and would do nothing for {self.optimiser}; leave them out")
        return self


class Probe(Section):
    """A small labelled set on which the features are tried during training; its labels train nothing.

    Args:
        data: where it is; off where its manifest is not given.
        task: what its labels say.
        every: epochs between two probes; the last epoch always has one.
        kind: "knn" or "linear".
        neighbours: k of "knn".
    """

    data: Data
    task: SerializeAsAny[Task]
    every: int = Field(default=5, ge=1)
    kind: Literal["knn", "linear"] = "knn"
    neighbours: int = Field(default=20, ge=1)


class Pictures(Section):
    """What a masked method rebuilds, drawn while it trains: `pictures/epoch_010.png` and so on in the run's folder.

    Args:
        every: epochs between two pictures; the last epoch always has one. 0 draws none.
        count: images in each, from the validation part.
    """

    every: int = Field(default=10, ge=0)
    count: int = Field(default=6, ge=1)


class SelfSupervisedRecipe(Plugged):
    """Self-supervised pre-training; ends in a checkpoint whose backbone every model of its kind can use.

    Args:
        method: one of `slivit.list_pretexts()`; `create_pretext` checks it with its own settings.
    """

    stage: ClassVar[Stage] = "pretrain"
    runner: ClassVar[str] = "slivit.ssl.run:run"
    results: ClassVar[tuple[str, ...]] = ("checkpoint/config.json", "checkpoint/model.safetensors")

    method: str = Field(min_length=1)
    out: str = Field(min_length=1)
    seed: Seed = 0
    data: Data
    images: Images = Images()
    model: Model
    pretext: PretextSettings = PretextSettings()
    preprocessing: Preprocessing = Preprocessing()
    fit: PretextFit = PretextFit()
    probe: Probe | None = None
    pictures: Pictures = Pictures()
    logging: Logging = Logging()

    @model_validator(mode="before")
    @classmethod
    def _published(cls, values: Any) -> Any:
        return fill_start(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _without_labels(self) -> Self:
        if self.preprocessing.windows:
            raise ValueError("preprocessing.windows belong to labelled scans; images.slices says which slices are used")
        unused = (
            "also",
            "test_manifest",
            "fractions",
            "train_fraction",
            "fraction_seed",
            "slice_labels",
            "folds",
            "align",
        )
        refuse_unused(self.data, "every row that is not of the test split is used", *unused)
        if self.data.is_table:
            why = "images.validation and seed say which rows of a table are kept for validation"
            refuse_unused(self.data, why, "val_from_train", "split_seed")
        return self

    def check(self) -> None:
        """Check every option before anything long is run.

        Raises:
            RecipeError: an option that would do nothing, or a tracker that is not installed.
            ModelError: a method or a setting of it that there is not.
        """
        from slivit.ssl.registry import check_pretext

        self.logging.check()
        self.data.check()
        check_pretext(self.method, self.pretext.args)
        if self.probe is None:
            return
        self.probe.data.check()
        if self.fit.shards:
            raise RecipeError(
                "a probe needs the whole network in one process; leave [probe] out, or fit.shards = false"
            )
