"""The runs of a study: every combination of its axes as a recipe of its own, and the runs that these start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from slivit.checkpoint import CONFIG, read_config
from slivit.errors import RecipeError, gather, nearest, one_of
from slivit.evaluate.measure import check_testing
from slivit.evaluate.recipe import EvaluateRecipe
from slivit.experiments.recipe_study import Before, StudyRecipe
from slivit.folder import CHECKPOINT, SPLIT
from slivit.recipe import Stage, check_recipe, find_recipe, read_values, recipe_kind
from slivit.train.recipe import TrainingRecipe

RUNS, STARTS, FEATURES, SHUFFLED = "runs", "starts", "features", "shuffled"
AS_GIVEN = "as_given"
"""The name of the only initialisation of a study without any: what the fine-tuning recipe says."""
ORIGIN = ("weights", "pretrained")
Values = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Job:
    """One run of a study.

    Args:
        stage: of the run.
        recipe: of the run; its `out` is the folder.
        model: the name in the study; empty for a run that several models start from.
        start: the initialisation, or the one that the run makes the weights of.
        fraction: of the training patients; None for a run that others start from.
        seed: of the training; None for a run that others start from.
        needs: the folder of the run that it starts from, or that it tests.
        rate_of: the folder of the run whose learning rate it takes.
        test: the name of the labelled set on which the run in `needs` is tested; empty for a run itself.
    """

    stage: Stage
    recipe: Any
    model: str
    start: str
    fraction: float | None = None
    seed: int | None = None
    needs: Path | None = None
    rate_of: Path | None = None
    test: str = ""

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return Path(self.recipe.out)

    @property
    def after(self) -> list[Path]:
        """The folders of the runs that come first."""
        return [folder for folder in (self.needs, self.rate_of) if folder]

    @property
    def ready(self) -> Any:
        """The recipe as it is run: with the learning rate of another run, once that is known."""
        file = (self.rate_of or Path()) / CHECKPOINT / CONFIG
        if self.rate_of is None or not file.is_file():
            return self.recipe
        rate = read_config(file.parent)["training"]["lr"]
        return self.recipe.model_copy(update={"fit": self.recipe.fit.model_copy(update={"lr": rate})})

    @property
    def name(self) -> str:
        """The run in words."""
        if self.fraction is None:
            return f"{self.stage} for the start {self.start}" + (f" of {self.model}" if self.model else "")
        what = f"{self.model}, start {self.start}, {self.fraction:.4g} of the labels, seed {self.seed}"
        return f"test {self.test} of {what}" if self.test else what


@dataclass(frozen=True, eq=False)
class Grid:
    """All runs of a study.

    Args:
        recipe: of the study.
    """

    recipe: StudyRecipe

    @property
    def starts(self) -> list[str]:
        """The names of the initialisations."""
        return list(self.recipe.starts) or [AS_GIVEN]

    @cached_property
    def base(self) -> Values:
        """The fine-tuning recipe as plain values; none for probes."""
        return read_values(find_recipe("finetune", self.recipe.recipe)) if self.recipe.recipe else {}

    @cached_property
    def jobs(self) -> list[Job]:
        """The runs that are compared: the first seed of everything first.

        Raises:
            RecipeError: every problem of every recipe at once.
        """
        problems: list[str] = []
        jobs = [job for combination in self._combinations() for job in self._checked(combination, problems)]
        gather(list(dict.fromkeys(problems)), "the recipes of the study", RecipeError)
        if not jobs:
            raise RecipeError("the study has no runs: everything is excluded")
        return jobs

    @cached_property
    def tests(self) -> list[Job]:
        """The tests of the runs on further sets.

        Raises:
            RecipeError: every problem of every test at once.
        """
        problems: list[str] = []
        tests = [self._test(job, name) for name in self.recipe.tests for job in self.jobs]
        for job in tests[:: len(self.jobs)]:
            try:
                job.recipe.data.check()
                check_testing(job.recipe.testing, self.jobs[0].recipe.task)
            except RecipeError as error:
                problems.append(f"tests.{job.test}: {error}")
        gather(problems, "the tests of the study", RecipeError)
        return tests

    @cached_property
    def shuffles(self) -> list[Job]:
        """The copies of the runs with their slices in other orders."""
        orders = range(1, 1 + self.recipe.shuffles.copies) if self.recipe.shuffles else ()
        return [self._shuffle(job, order) for order in orders for job in self.jobs]

    def _shuffle(self, job: Job, order: int) -> Job:
        axes: dict[str, Any] = {"model": job.model, "start": job.start, "fraction": job.fraction, "seed": job.seed}
        name = f"{SHUFFLED}_{order:03}"
        if self.recipe.shuffles and self.recipe.shuffles.when == "tested":
            values = self._evaluation(job, name) | {
                "data": {"manifest": str(job.folder / SPLIT), "workers": job.recipe.data.workers},
                "shuffle_slices": order,
            }
            recipe = check_recipe(EvaluateRecipe, values, "shuffles")
            return Job("evaluate", recipe, **axes, needs=job.folder, test=SHUFFLED)
        values = job.recipe.model_dump(mode="json", exclude_none=True)
        values["preprocessing"]["shuffle_slices"] = order
        values["out"] = str(job.folder.parent / f"{job.folder.name}_{name}")
        return Job(job.stage, _checked(job.stage, values, "shuffles"), **axes, needs=job.needs, test=SHUFFLED)

    def _evaluation(self, job: Job, name: str) -> Values:
        """What the tests of a run have in common."""
        return {
            "checkpoint": str(job.folder),
            "out": str(job.folder / name),
            "device": job.recipe.fit.device,
            "testing": job.recipe.testing.model_dump(exclude={"pictures"}),
            "page": False,
        }

    @property
    def beside(self) -> list[Job]:
        """What is made beside the runs that are compared: tests on further sets, and copies with shuffled slices."""
        return [*self.tests, *self.shuffles]

    def _test(self, job: Job, name: str) -> Job:
        test = self.recipe.tests[name]
        own = {"title", "targets", "split"}
        values = self._evaluation(job, f"test_{name}")
        values |= {"data": test.model_dump(exclude=own, exclude_unset=True), "split": test.split}
        values["testing"] |= {"targets": test.targets}
        recipe = check_recipe(EvaluateRecipe, values, f"tests.{name}")
        return Job("evaluate", recipe, job.model, job.start, job.fraction, job.seed, job.folder, test=name)

    @cached_property
    def before(self) -> dict[Path, Job]:
        """The runs that others start from, by their folders; those that are needed first stand first.

        Raises:
            RecipeError: every problem of every recipe at once.
        """
        before: dict[Path, Job] = {}
        problems: list[str] = []
        for job in self.jobs:
            try:
                self._add_before(job.model, job.start, before)
            except RecipeError as error:
                problems.append(str(error))
        gather(list(dict.fromkeys(problems)), "the runs that others start from", RecipeError)
        return before

    @cached_property
    def excluded(self) -> list[dict[str, Any]]:
        """The combinations that are left out, with the reason."""
        left_out = []
        for model, start, fraction, seed in self._all():
            if why := self._why_not(model, start, fraction, seed):
                left_out.append({"model": model, "start": start, "fraction": fraction, "seed": seed, "why": why})
        return left_out

    def _all(self) -> Iterator[tuple[str, str, float, int]]:
        fractions = sorted(self.recipe.fractions, reverse=True)
        for seed in self.recipe.seeds:
            for fraction in fractions:
                for model in self.recipe.models:
                    for start in self.starts:
                        yield model, start, fraction, seed

    def _why_not(self, *combination: Any) -> str:
        return next((e.why for e in self.recipe.exclude if e.covers(*combination)), "")

    def _combinations(self) -> Iterator[tuple[str, str, float, int]]:
        return (c for c in self._all() if not self._why_not(*c))

    def _checked(self, combination: tuple[str, str, float, int], problems: list[str]) -> list[Job]:
        try:
            return [self._job(*combination)]
        except RecipeError as error:
            problems.append(str(error))
            return []

    def _job(self, model: str, start: str, fraction: float, seed: int) -> Job:
        needs, stage = self._needs(model, start), self.recipe.stage
        own = {"out": str(self._folder(model, start, fraction, seed)), "seed": seed}
        drawn = {"fraction_seed": seed} if self.recipe.redraw and fraction < 1 else {}
        own["data"] = {"train_fraction": fraction, **drawn}
        values = layered(self.base_for(model), self.recipe.set, self.changes(model, start), _origin(needs), own)
        if stage == "probe":
            values = _probing(values, str(Path(self.recipe.out) / FEATURES))
        recipe = _checked(stage, values, f"{model}, {start}")
        rate_of = None
        if self.recipe.rates_from not in (0, fraction):
            rate_of = self._folder(model, start, self.recipe.rates_from, seed)
            if isinstance(recipe.fit.lr, float):
                raise RecipeError('rates_from would do nothing: fit.lr is one rate; give several, or "find"')
        return Job(stage, recipe, model, start, fraction, seed, needs, rate_of)

    def _folder(self, model: str, start: str, fraction: float, seed: int) -> Path:
        return Path(self.recipe.out) / RUNS / model / start / f"fraction_{fraction:.4g}" / f"seed_{seed}"

    def base_for(self, model: str) -> Values:
        """The fine-tuning recipe for a model, without what it says of another model or of weights to start from."""
        given = self.base.get("model", {})
        wanted = self.recipe.models[model].set.get("model", {}).get("name", model)
        kept = given if given.get("name", "slivit") == wanted else {}
        if self.recipe.starts:
            kept = {key: value for key, value in kept.items() if key not in ORIGIN}
        return {**self.base, "model": {**kept, "name": wanted}}

    def changes(self, model: str, start: str) -> Values:
        """What a model and an initialisation change in the recipe."""
        initial = self.recipe.starts.get(start)
        parts = (initial.set, initial.models.get(model, {})) if initial else ()
        return layered(self.recipe.models[model].set, *parts)

    def _needs(self, model: str, start: str) -> Path | None:
        """The folder of the run whose backbone a model starts from."""
        initial = self.recipe.starts.get(start)
        before = initial.before_of(model) if initial else None
        if not initial or not before:
            return None
        folder = Path(self.recipe.starts_in or Path(self.recipe.out) / STARTS) / start
        return folder if before is initial.before and before.shared else folder / model

    def _add_before(self, model: str, start: str, jobs: dict[Path, Job]) -> None:
        folder = self._needs(model, start)
        if folder is None or folder in jobs:
            return
        before: Before = self.recipe.starts[start].before_of(model)  # type: ignore[assignment]
        if before.start:
            self._add_before(model, before.start, jobs)
        jobs[folder] = self._before_job(before, model, start, folder)

    def _before_job(self, before: Before, model: str, start: str, folder: Path) -> Job:
        values = read_values(find_recipe(before.stage, before.recipe))
        needs = self._needs(model, before.start) if before.start else None
        own = {"out": str(folder)}
        if before.shared:
            values = layered(values, before.set, own)
        else:
            network = {"model": self.network(model, before.start)}
            alike = issubclass(recipe_kind(before.stage, values), TrainingRecipe)
            arguments = self.recipe.models[model].set if alike else {}
            values = layered({**values, "model": {}}, arguments, network, before.set, _origin(needs), own)
        name = f"{before.stage} for the start {start}"
        checked = _checked(before.stage, values, name)
        return Job(before.stage, checked, "" if before.shared else model, start, needs=needs)

    def network(self, model: str, start: str) -> Values:
        """The model section of a model under an initialisation; at random where `start` is empty."""
        values = layered(self.base_for(model), self.recipe.set, self.changes(model, start))["model"]
        return values if start else {key: value for key, value in values.items() if key not in ORIGIN}


def layered(*tables: Mapping[str, Any]) -> Values:
    """Plain values of recipes upon each other: sections are merged, and what stands in them is replaced as a whole."""
    merged_values: Values = {}
    for table in tables:
        for key, value in table.items():
            old = merged_values.get(key)
            merged = isinstance(value, Mapping) and isinstance(old, Mapping)
            merged_values[key] = {**old, **value} if merged else value  # type: ignore[dict-item]
    return merged_values


def _probing(values: Values, features: str) -> Values:
    """The values of a probe: a network without weights is one at random; features are kept for the whole study."""
    network = values["model"]
    if not any(network.get(key) for key in ORIGIN):
        values = {**values, "random_init": True}
    return layered({"features": {"folder": features}, "page": False}, values)


def _origin(needs: Path | None) -> Values:
    return {"model": {"weights": str(needs)}} if needs else {}


def _checked(stage: Stage, values: Values, where: str) -> Any:
    return check_recipe(recipe_kind(stage, values), values, where)


AXES = ("model", "start", "fraction", "seed")


def chosen(jobs: Sequence[Job], only: Sequence[str]) -> list[Job]:
    """The runs that `only` names.

    Args:
        jobs: of the study.
        only: "model=A,B", "start=A", "fraction=0.1" or "seed=0"; a run must meet all of them.

    Raises:
        RecipeError: no such axis, or a value that no run has.
    """
    kept = list(jobs)
    for text in only:
        axis, equals, listed = text.partition("=")
        if not equals or axis not in AXES:
            hint = nearest(axis, AXES)
            raise RecipeError(f'"{text}": write AXIS=VALUE[,VALUE], with an axis of {one_of(AXES)}.{hint}')
        known = dict.fromkeys(_value(job, axis) for job in jobs)
        wanted = [_number(value) if axis == "fraction" else value for value in listed.split(",")]
        if unknown := [value for value in wanted if value not in known]:
            hint = nearest(unknown[0], known)
            raise RecipeError(f'no run has the {axis} "{unknown[0]}".{hint} There are {one_of(known)}')
        kept = [job for job in kept if _value(job, axis) in wanted]
    return kept


def _value(job: Job, axis: str) -> str:
    value = getattr(job, axis)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(text: str) -> str:
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text
