"""The recipe of a sweep: a fine-tuning recipe, and the settings of it that are searched."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from slivit.plugins import Plugged
from slivit.settings import Section, Seed

SEARCHED = ("model", "preprocessing", "augmentation", "fit", "task")
FIXED = ("fit.device", "fit.monitor", "task.kind", "task.targets", "task.classes", "task.center", "task.spread")
LOSSES = ("fit.label_smoothing", "task.class_weights", "task.loss")


class Float(Section):
    """A number, drawn evenly between `low` and `high` (both included), in steps of `step` where given."""

    type: Literal["float"]
    low: float
    high: float
    step: float | None = Field(default=None, gt=0)


class Log(Section):
    """A number, drawn evenly on a logarithmic scale between `low` and `high`: for rates and weights."""

    type: Literal["log"]
    low: float = Field(gt=0)
    high: float


class Int(Section):
    """A whole number between `low` and `high` (both included), in steps of `step`."""

    type: Literal["int"]
    low: int
    high: int
    step: int = Field(default=1, ge=1)


class Categorical(Section):
    """One of `choices`: texts, numbers, truth values, or lists of these."""

    type: Literal["categorical"]
    choices: tuple[Any, ...] = Field(min_length=2)

    @property
    def named(self) -> dict[str, Any]:
        """The choices by their text."""
        return {c if isinstance(c, str) else json.dumps(c): c for c in self.choices}

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if len(self.named) < len(self.choices):
            raise ValueError(f"choices are repeated: {list(self.choices)}")
        return self


Dimension = Annotated[Float | Log | Int | Categorical, Field(discriminator="type")]


def _by_dotted_key(space: Any) -> Any:
    """`fit.lr = {...}` and `"fit.lr" = {...}` mean the same: tables are opened down to those that have a type."""
    if not isinstance(space, Mapping):
        return space
    flat: dict[str, Any] = {}
    for key, value in space.items():
        if isinstance(value, Mapping) and "type" not in value and not {"low", "high", "choices"} & set(value):
            flat |= {f"{key}.{inner}": v for inner, v in _by_dotted_key(value).items()}
        else:
            flat[key] = value
    return flat


class SweepRecipe(Plugged):
    """A search for the settings of a fine-tuning recipe that do best on the validation rows.

    Args:
        out: the folder; a sweep that was stopped there goes on.
        recipe: the fine-tuning recipe: a TOML file, or the name of a shipped one.
        set: changes to it, as sections of the recipe.
        space: what is searched, by the recipe's keys, such as "fit.lr".
        trials: how many, over all processes and calls; those that were pruned or failed count too.
        hours: begin no trial after this time; 0 sets no limit.
        seed: of the search; trainings keep the recipe's own.
        sampler: "tpe" learns from the trials before, "random" does not.
        startup: random trials before "tpe" and the pruner begin.
        prune: stop a trial whose `fit.monitor` is worse than the median of the others at the same epoch.
        prune_after: epochs that every trial has.
        storage: "journal" (a file that processes on several machines can share), "sqlite", or a database's URL.
    """

    out: str = Field(min_length=1)
    recipe: str = Field(min_length=1)
    set: dict[str, Any] = Field(default_factory=dict)
    space: Annotated[dict[str, Dimension], BeforeValidator(_by_dotted_key)] = Field(min_length=1)
    trials: int = Field(default=30, ge=1)
    hours: float = Field(default=0.0, ge=0)
    seed: Seed = 0
    sampler: Literal["tpe", "random"] = "tpe"
    startup: int = Field(default=8, ge=1)
    prune: bool = True
    prune_after: int = Field(default=2, ge=0)
    storage: str = Field(default="journal", min_length=1)

    @model_validator(mode="after")
    def _searchable(self) -> Self:
        for key, dimension in self.space.items():
            if key.partition(".")[0] not in SEARCHED or key in FIXED:
                raise ValueError(f'space: "{key}" cannot be searched; allowed are keys of {", ".join(SEARCHED)}')
            if not isinstance(dimension, Categorical):
                ends = (dimension.low, dimension.high)
                if not all(map(math.isfinite, ends)) or ends[0] >= ends[1]:
                    raise ValueError(f"space: {key}: low must be below high; got {ends[0]:g} and {ends[1]:g}")
        return self
