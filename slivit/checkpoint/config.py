"""What the `config.json` of a checkpoint may hold, and the limits it is held to: it may come from a stranger."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from slivit.data.preprocessing import Preprocessing
from slivit.data.training_range import TrainingRange
from slivit.errors import CheckpointError, gather
from slivit.models._lora import Lora
from slivit.targets.covariates import width_of
from slivit.targets.decision import Decision
from slivit.targets.task import Task

FORMAT = 1
LARGEST_FILE = 16_000_000
"""Bytes of a `config.json`."""
LONGEST_TEXT = 1000
"""Characters of a text among a model's arguments."""
LARGEST_NUMBER = 65_536
"""Of the whole numbers among a model's arguments: widths, depths, heads, slices, pixels."""
MOST_SLICES, LONGEST_SIDE = 4096, 2048
"""Of what a model takes: slices of a scan, and rows or columns of a slice."""
FETCHING = frozenset(("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"))
"""Arguments of timm that open or fetch files; a checkpoint brings its own weights."""

Values = dict[str, JsonValue]
PluginName = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]*$", max_length=100)]
ShortText = Annotated[str, Field(pattern="^[^ \\n]*$", max_length=100)]


class DescribedModel(BaseModel):
    """The network: what `create_model` is called with.

    Args:
        name: as it is registered.
        out_dim: the number of its outputs.
        args: its own arguments, within the limits of this module.
    """

    name: str = Field(max_length=200)
    out_dim: int = Field(ge=1, le=LARGEST_NUMBER, strict=True)
    args: Values = Field(default_factory=dict)

    @field_validator("args")
    @classmethod
    def _limited(cls, args: Values) -> Values:
        for where, value in _leaves(args):
            if isinstance(value, str) and len(value) > LONGEST_TEXT:
                raise ValueError(f"{where} has {len(value)} characters; at most {LONGEST_TEXT} are read")
            if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
                raise ValueError(f"{where} is {value}; the largest number that is read is {LARGEST_NUMBER}")
        if fetching := sorted(FETCHING & _keys(args.get("backbone_args"))):
            raise ValueError(f"backbone_args has {', '.join(fetching)}, which would open other files")
        return args


class DescribedAdapter(BaseModel):
    """Adapters of a backbone whose own weights are not in the checkpoint.

    Args:
        lora: their rank, scale and layers.
        backbone: the network that they adapt, for messages.
        start: the file, folder or name that it was loaded from where the checkpoint was made.
        revision: of published weights that were named.
        sha256: of the backbone's tensors: no other backbone is taken.
    """

    model_config = ConfigDict(extra="forbid")

    lora: Lora
    backbone: str = Field(max_length=LONGEST_TEXT)
    start: str = Field(default="", max_length=LONGEST_TEXT)
    revision: ShortText = ""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Training(BaseModel):
    """How a checkpoint came about; what is read of it has a type, the rest is kept as it is.

    Args:
        scans: how many, by split; of several sets in older files, of each set.
        scans_range: what the training scans were like.
        started_from: the checkpoint or file that it started from.
        source: the table of scans; of several sets in older files, of each set.
        recipe: the whole recipe.
    """

    model_config = ConfigDict(extra="allow")

    scans: dict[str, int | dict[str, int]] = Field(default_factory=dict)
    scans_range: TrainingRange | None = None
    started_from: Values = Field(default_factory=dict)
    source: str | dict[str, str] = ""
    recipe: Values = Field(default_factory=dict)


class Config(BaseModel):
    """A `config.json`.

    Args:
        format: of this file.
        model: how the network is made.
        task: what it predicts; None for a pre-trained backbone.
        preprocessing: how scans are brought into its input.
        training: how it came about.
        sha256: of the file of weights.
        operating_point: how probabilities become calls, where that was fixed.
        weights: the precision of large weights, where it is not float32.
        adapter: of a model that holds the adapters of a backbone and a head alone.
        versions: of packages.
        plugins: the version of each plugin that was loaded when it was made.
        export: of a shared model, how it was made.
    """

    format: Literal[1]
    model: DescribedModel
    task: Task | None
    preprocessing: Preprocessing
    training: Training
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    operating_point: Decision | None = None
    weights: Literal["bfloat16"] | None = None
    adapter: DescribedAdapter | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    plugins: dict[PluginName, ShortText] = Field(default_factory=dict)
    export: Values | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.preprocessing.size is None:
            raise ValueError("preprocessing.size is missing: the slices, rows and columns that the model takes")
        check_size(self.preprocessing.size, "preprocessing.size")
        if self.preprocessing.resize:
            check_size((1, *self.preprocessing.resize), "preprocessing.resize")
        if self.task is None:
            return self
        if self.task.out_dim != self.model.out_dim:
            raise ValueError(f"model.out_dim is {self.model.out_dim}, and the task has {self.task.out_dim} outputs")
        needed, given = width_of(self.task.inputs), self.model.args.get("covariates", 0)
        if needed != given:
            raise ValueError(
                f"model.args.covariates is {given}, and the covariates of task.inputs are {needed} numbers"
            )
        if self.operating_point and (unknown := self.operating_point.thresholds.keys() - set(self.task.targets)):
            raise ValueError(f"operating_point has a threshold for {', '.join(sorted(unknown))}, which is no target")
        return self


def check_size(size: tuple[int, ...], what: str) -> None:
    """Hold slices, rows and columns to the limits.

    Raises:
        ValueError: with the size and the limits.
    """
    slices, *sides = size
    if not (1 <= slices <= MOST_SLICES and all(1 <= side <= LONGEST_SIDE for side in sides)):
        raise ValueError(
            f"{what} is {size}; allowed are 1 to {MOST_SLICES} slices of 1 to {LONGEST_SIDE} rows and columns"
        )


def parse_config(path: Path) -> dict[str, Any]:
    """Read a `config.json`, and check every value of it.

    Returns:
        Plain values, as they stand in the file.

    Raises:
        CheckpointError: a file that cannot be read, is too large, or holds what it may not; every problem is named.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CheckpointError(f"{path}: has {path.stat().st_size} bytes; at most {LARGEST_FILE} are read")
        values = json.loads(path.read_text("utf-8"), parse_constant=_refused, parse_float=_finite)
        json.dumps(values, ensure_ascii=False).encode()  # halves of characters, which no table could be written with
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except RecursionError:
        raise CheckpointError(f"{path}: cannot be read: its values are nested too deeply") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: not a checkpoint of this package; it holds a {type(values).__name__}")
    if "format" in values and values["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: format {_short(values['format'])}; this version of slivit reads format {FORMAT}"
        )
    try:
        Config.model_validate(values)
    except ValidationError as error:
        gather([_problem(dict(detail)) for detail in error.errors()], str(path), CheckpointError, limit=12)
    except RecursionError:
        raise CheckpointError(f"{path}: its values are nested too deeply") from None
    return values


def _problem(detail: Mapping[str, Any]) -> str:
    where = ".".join(str(part)[:60] for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ").replace("Input should be", "should be")
    if detail["type"] == "missing":
        return f"{where} is missing; this is not a checkpoint of this package"
    got = "" if detail["type"] == "value_error" else f", got {_short(detail['input'])}"
    return f"{where}: {message}{got}" if where else message


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # too deep, or a number of too many digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}..."


def _refused(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _keys(value: Any) -> set[str]:
    return set(value) if isinstance(value, dict) else set()


def _leaves(value: JsonValue, where: str = "") -> Iterator[tuple[str, JsonValue]]:
    """Every value in nested lists and mappings, with its place."""
    if not isinstance(value, dict | list):
        yield where, value
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(part, f"{where}.{key}"[:100] if where else str(key))
