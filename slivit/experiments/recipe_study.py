"""The recipe of a study: a fine-tuning recipe, and its models, initialisations, shares of labels and seeds."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from slivit.data.recipe import Data
from slivit.errors import nearest, one_of
from slivit.plugins import Plugged
from slivit.settings import Section, Seed

NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


class Phantoms(Section):
    """Made-up scans that a study needs, made where they are not there yet.

    Args:
        kind: one of `slivit list phantoms`.
        out: their folder.
        n: how many.
        seed: of their making.
    """

    kind: str
    out: str = Field(min_length=1)
    n: int = Field(ge=1)
    seed: Seed = 0


class StudyModel(Section):
    """A model of a study.

    Args:
        title: what it is called in tables; its key where empty.
        set: changes to the fine-tuning recipe, by its sections. `model.name` is the key where it is not set here. What
            the fine-tuning recipe says of another model does not count for this one.
    """

    title: str = ""
    set: dict[str, Any] = Field(default_factory=dict)


class Before(Section):
    """A run that comes first, and whose backbone an initialisation starts from.

    Args:
        stage: "pretrain" or "finetune".
        recipe: of that stage: a TOML file, or the name of a shipped one.
        set: changes to it, by its sections.
        start: the initialisation of this run itself; what its recipe says where empty.
        shared: one run for all models, with the recipe's own network; else one a model, with that model.
    """

    stage: Literal["pretrain", "finetune"] = "pretrain"
    recipe: str = Field(min_length=1)
    set: dict[str, Any] = Field(default_factory=dict)
    start: str = ""
    shared: bool = False

    @model_validator(mode="after")
    def _one_network(self) -> Self:
        if self.shared and self.start:
            raise ValueError("a shared run has the network of its recipe, so it takes no start")
        return self


class Start(Section):
    """An initialisation of a study.

    Args:
        title: what it is called in tables; its key where empty.
        set: changes to the fine-tuning recipe, such as `model.weights` or `model.pretrained`.
        models: more changes for single models.
        before: the run that gives the weights.
        before_models: another such run for single models, such as a pre-training of a model's own backbone.
    """

    title: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)
    before: Before | None = None
    before_models: dict[str, Before] = Field(default_factory=dict)

    def before_of(self, model: str) -> Before | None:
        """The run that a model starts from."""
        return self.before_models.get(model, self.before)


class Exclusion(Section):
    """Combinations that are left out, and why; an axis that is not named means all of it."""

    models: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    fractions: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    why: str = Field(min_length=1)

    def covers(self, model: str, start: str, fraction: float, seed: int) -> bool:
        """Whether a combination is left out."""
        pairs = ((model, self.models), (start, self.starts), (fraction, self.fractions), (seed, self.seeds))
        return all(not allowed or value in allowed for value, allowed in pairs)

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if not (self.models or self.starts or self.fractions or self.seeds):
            raise ValueError("an exclusion names models, starts, fractions or seeds; this one would leave out all")
        return self


class Reference(Section):
    """What others are tested against.

    Args:
        model: a model; the same model as the one tested where empty.
        start: an initialisation; the same one where empty.
        fraction: a share of the labels; the same one where 0. So a model with a quarter of the labels can stand
            against others with all.
    """

    model: str = ""
    start: str = ""
    fraction: float = Field(default=0.0, ge=0, le=1)


class Group(Section):
    """Models that are taken together: their mean, and the best of them.

    Args:
        title: what it is called in tables; its key where empty.
        models: by name.
    """

    title: str = ""
    models: tuple[str, ...] = Field(min_length=1)


class StudyTask(Section):
    """One of several tasks for which the whole grid is made.

    Args:
        title: what it is called; its key where empty.
        set: changes to the fine-tuning recipe, such as `task.targets`.
    """

    title: str = ""
    set: dict[str, Any] = Field(min_length=1)


class Shuffles(Section):
    """Copies of every run whose scans have their slices in another order, always the same for a scan.

    Args:
        copies: how many orders.
        when: "trained": each copy is trained and tested on its own order; "tested": the runs themselves are tested on
            each order.
    """

    copies: int = Field(default=100, ge=1)
    when: Literal["trained", "tested"] = "trained"


class Test(Data):
    """Another labelled set on which every run is tested, beside its own test rows; the rest as in `data` of a recipe.

    Args:
        title: what it is called in tables; its key where empty.
        targets: those of the task that this set has; all of them where empty.
        split: the rows that are used, where its table has a split.
    """

    title: str = ""
    targets: tuple[str, ...] = ()
    split: Literal["train", "val", "test", "all"] = "all"


class StudyRecipe(Plugged):
    """A grid of fine-tuning runs, and their comparison.

    Args:
        out: the folder; a study that was stopped there goes on.
        title: of the page; made of the targets where empty.
        stage: "finetune", or "probe": runs are probes of frozen networks (see `slivit probe`), and `set` says
            everything, as there are no recipes of probes.
        recipe: the fine-tuning recipe: a TOML file, or the name of a shipped one.
        set: changes to it for all runs, by its sections.
        models: by name.
        starts: the initialisations, by name. Where there are some, they alone say what a model starts from; without
            any, each model starts as the fine-tuning recipe says.
        fractions: of the training patients; the subsets are nested, and the same for all models and seeds.
        redraw: draw the subsets anew for each seed, alike for all models.
        seeds: of the training.
        rates_from: the share of the labels at which learning rates are tried; the rate that is kept there is used at
            the other shares. Each share tries its own where 0.
        exclude: what is left out of the grid.
        reference: what others are tested against, one or several; nothing is tested without one.
        groups: models that are taken together.
        shuffles: copies of every run with their slices in other orders, beside which the runs are ranked.
        tasks: by name; the study is made for each, in a folder of its name, and `tasks.csv` has the results of all.
        starts_in: the folder of the runs that others start from, so that several studies can share them; where empty
            `starts` in `out`.
        tests: further labelled sets on which every run is tested. They are no part of a run: others may be added later.
        metrics: those that are tested; ROC AUC and average precision, or R2 and MAE, where empty.
        phantoms: made-up scans that are made first.
    """

    out: str = Field(min_length=1)
    title: str = ""
    stage: Literal["finetune", "probe"] = "finetune"
    recipe: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    models: dict[str, StudyModel] = Field(min_length=1)
    starts: dict[str, Start] = Field(default_factory=dict)
    fractions: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    redraw: bool = False
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    rates_from: float = Field(default=0.0, ge=0, le=1)
    exclude: tuple[Exclusion, ...] = ()
    reference: Reference | tuple[Reference, ...] | None = None
    groups: dict[str, Group] = Field(default_factory=dict)
    tasks: dict[str, StudyTask] = Field(default_factory=dict)
    starts_in: str = ""
    tests: dict[str, Test] = Field(default_factory=dict)
    shuffles: Shuffles | None = None
    metrics: tuple[str, ...] = ()
    phantoms: tuple[Phantoms, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = [*self._values(), *self._names(), *self._known(), *self._circles()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def references(self) -> tuple[Reference, ...]:
        """What others are tested against."""
        return (self.reference,) if isinstance(self.reference, Reference) else self.reference or ()

    def _values(self) -> Iterator[str]:
        if bool(self.recipe) == (self.stage == "probe"):
            yield "recipe names a fine-tuning recipe; a study of probes has none, and says everything in set"
        if self.stage == "probe" and (self.tests or self.rates_from or self.shuffles):
            yield "tests, shuffles and rates_from are for fine-tuning, not for probes"
        if self.redraw and min(self.fractions) == 1:
            yield "redraw draws subsets of the labels, and all labels are used; give fractions below 1"
        for axis, values in (("fractions", self.fractions), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                yield f"{axis} are repeated: {list(values)}"
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                yield f"fractions lie above 0 and are 1 at most; got {fraction:g}"

    def _names(self) -> Iterator[str]:
        for name in (*self.models, *self.starts, *self.tests, *self.tasks):
            if not NAME.fullmatch(name):
                yield f'"{name}" becomes the name of a folder: letters, digits, "_", ".", "+" and "-" alone'

    def _known(self) -> Iterator[str]:
        """Names that are used without being defined."""
        for i, exclusion in enumerate(self.exclude, 1):
            for axis in ("models", "starts", "fractions", "seeds"):
                yield from _unknown(f"exclude {i}: {axis}", getattr(exclusion, axis), getattr(self, axis))
        for name, start in self.starts.items():
            yield from _unknown(f"starts.{name}.models", start.models, self.models)
            yield from _unknown(f"starts.{name}.before_models", start.before_models, self.models)
            if start.before and start.before.start:
                yield from _unknown(f"starts.{name}.before.start", [start.before.start], self.starts)
            if any(before.start for before in start.before_models.values()):
                yield f"starts.{name}.before_models take no start"
        for reference in self.references:
            yield from _unknown("reference.model", [reference.model or next(iter(self.models))], self.models)
            yield from _unknown("reference.start", [reference.start] if reference.start else [], self.starts)
            yield from _unknown("reference.fraction", [f for f in [reference.fraction] if f], self.fractions)
        for name, group in self.groups.items():
            yield from _unknown(f"groups.{name}.models", group.models, self.models)
        yield from _unknown("rates_from", [f for f in [self.rates_from] if f], self.fractions)

    def _circles(self) -> Iterator[str]:
        for name in self.starts:
            seen, here = {name}, self._earlier(name)
            while here and here not in seen:
                seen.add(here)
                here = self._earlier(here)
            if here == name:
                yield f'the start "{name}" comes before itself'

    def _earlier(self, name: str) -> str:
        before = self.starts[name].before if name in self.starts else None
        return before.start if before else ""


def _unknown(where: str, names: Iterable[Any], known: Collection[Any]) -> Iterator[str]:
    for name in names:
        if name not in known:
            yield f'{where}: there is no "{name}".{nearest(str(name), map(str, known))} There are {one_of(known)}'
