"""Typed recipes: what a stage does, as a TOML file with `key=value` overrides, every problem told in one error."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from slivit.data.augmentation import Augmentation
from slivit.data.manifest import Columns
from slivit.data.preprocessing import Preprocessing
from slivit.errors import RecipeError, SlivitError, gather, nearest, one_of
from slivit.task import Task

Stage = Literal["pretrain", "finetune", "evaluate"]


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
        lr: the peak learning rate of the one-cycle schedule, or "find".
        batch_size: scans a step.
        weight_decay: decoupled weight decay.
        warmup: the fraction of the schedule in which the rate rises.
        patience: epochs without a better `monitor` after which training stops; 0 never stops early.
        monitor: "valid_loss", "roc_auc", "average_precision", "r2" or "mae", on the validation rows.
        backbone_lr: the backbone's rate as a fraction of `lr`.
        freeze_backbone: train the integrator and the head alone.
        label_smoothing: of classification targets.
        average_weights: decay of an exponential moving average of the weights that is validated and kept; 0 for none.
        precision: "float32", "bfloat16" or "float16" (GPU only).
        device: "auto", "cpu", "cuda", "mps".
    """

    epochs: int = Field(default=20, ge=1)
    lr: float | Literal["find"] = "find"
    batch_size: int = Field(default=8, ge=1)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.25, gt=0, lt=1)
    patience: int = Field(default=5, ge=0)
    monitor: Literal["valid_loss", "roc_auc", "average_precision", "r2", "mae"] = "valid_loss"
    backbone_lr: float = Field(default=1.0, gt=0)
    freeze_backbone: bool = False
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    average_weights: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"


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
        wandb: Weights & Biases: "off", "online" or "offline".
        project: its project.
    """

    wandb: Literal["off", "online", "offline"] = "off"
    project: str = "slivit"


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


class EvaluateRecipe(Section):
    """Evaluation of a checkpoint on a manifest."""

    checkpoint: str = Field(min_length=1)
    out: str = Field(min_length=1)
    data: Data
    split: Literal["train", "val", "test", "all"] = "test"
    device: str = "auto"
    testing: Testing = Testing()


RECIPES: dict[str, type[Section]] = {
    "pretrain": PretrainRecipe,
    "finetune": FinetuneRecipe,
    "evaluate": EvaluateRecipe,
}
Recipe = TypeVar("Recipe", bound=Section)


def recipe_folders(stage: Stage) -> list[Path]:
    """Where shipped recipes lie: inside the installed package, or in the stage's folder of a clone."""
    package = Path(__file__).parent
    return [f for f in (package / "recipes" / stage, package.parent / stage) if f.is_dir()]


def shipped_recipes(stage: Stage) -> dict[str, Path]:
    """The shipped recipes of a stage by name."""
    found = [p for folder in recipe_folders(stage) for p in sorted(folder.glob("*.toml"))]
    return {p.stem: p for p in reversed(found)}


def find_recipe(stage: Stage, name: str) -> Path:
    """The file of a recipe, given by its path or by the name of a shipped one.

    Raises:
        RecipeError: neither a file nor a shipped recipe.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes(stage)
    if name in shipped:
        return shipped[name]
    known = one_of(sorted(shipped)) or "none"
    raise RecipeError(f'no recipe "{name}": no such file, and shipped for {stage} are {known}.{nearest(name, shipped)}')


def load_recipe(stage: Stage, name: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Read and check a recipe.

    Args:
        stage: "pretrain", "finetune" or "evaluate".
        name: a TOML file, or the name of a shipped recipe.
        overrides: "key=value" with dotted keys, such as "fit.epochs=5"; values as in TOML, bare words are text.

    Returns:
        A `PretrainRecipe`, `FinetuneRecipe` or `EvaluateRecipe`.

    Raises:
        RecipeError: every problem of the recipe at once.
    """
    path = find_recipe(stage, str(name))
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a TOML file: {error}") from error
    for override in overrides:
        apply_override(values, override)
    return check_recipe(RECIPES[stage], values, str(path))


def check_recipe(kind: type[Recipe], values: Mapping[str, Any], where: str) -> Recipe:
    """Make a recipe of plain values.

    Raises:
        RecipeError: every problem at once, each with the key, what was given, and what is allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        gather([_problem(kind, e) for e in error.errors()], where, RecipeError)
        raise


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one "key=value" in a table of plain values; the key may be dotted.

    Raises:
        RecipeError: no key, or a key below something that is no section.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f'"{override}" is not an override; write key=value, such as fit.epochs=5')
    *sections, last = key.strip().split(".")
    table = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RecipeError(f'"{override}": {section} is a value, not a section')
    table[last] = parse_value(text.strip())


def parse_value(text: str) -> Any:
    """Read a value as TOML does; what is not TOML is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _problem(kind: type[BaseModel], error: Any) -> str:
    """One pydantic error in words."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        allowed = list(_fields_at(kind, error["loc"][:-1]))
        return f'unknown key "{key}".{nearest(str(error["loc"][-1]), allowed)} Allowed here are {one_of(allowed)}.'
    if error["type"] == "missing":
        return f'"{key}" is missing'
    message = error["msg"].removeprefix("Value error, ")
    given = "" if isinstance(error["input"], dict) else f" (given: {error['input']!r})"
    return f"{key}: {message[:1].lower()}{message[1:]}{given}"


def _fields_at(kind: type[BaseModel], location: Sequence[Any]) -> Iterator[str]:
    """The field names of the section at `location`."""
    for part in location:
        annotation = kind.model_fields[part].annotation if part in kind.model_fields else None
        options = [annotation, *get_args(annotation)]
        kind = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), kind)
    yield from kind.model_fields


def resolved_toml(recipe: BaseModel) -> str:
    """A recipe with all its defaults, as TOML that `load_recipe` reads back to the same recipe."""
    import tomli_w

    return tomli_w.dumps(_without_none(recipe.model_dump(mode="json")))


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no null: what is None is left out, and its absence means the same."""
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}
