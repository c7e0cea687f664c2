"""Runs to compare: found, grouped into methods (one run, several seeds, or folds), and brought to the same scans."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slivit.checkpoint import CONFIG
from slivit.errors import ManifestError, RecipeError, one_of
from slivit.evaluate.tables import read_predictions
from slivit.files import read_mapping
from slivit.folder import CASES, METRICS, PREDICTIONS, RECIPE, read_metrics
from slivit.recipe import read_values
from slivit.targets.decision import Decision
from slivit.targets.segmentation import Segmentation
from slivit.targets.task import Task

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["single", "seeds", "folds"]
NEUTRAL = ("out", "seed", "logging", "testing")
NEUTRAL_DATA = ("workers", "cache", "cache_gb", "download")
PER_FOLD = ("manifest", "split_seed")
_COUNTER = re.compile(r"[-_. ]*(seed|fold|run|split)?[-_. \d]*$")


@dataclass(frozen=True, eq=False)
class Run:
    """The test rows of one run.

    Args:
        label: the name of the method that the user gave; empty where none was given.
        folder: the run or evaluation folder, or the table itself.
        table: its test rows, in the order of their paths.
        task: what is predicted.
        recipe: that of the run; None where there is none.
        decision: how its probabilities become calls; None for regression.
    """

    label: str
    folder: Path
    table: pd.DataFrame
    task: Task
    recipe: Mapping[str, Any] | None
    decision: Decision | None

    @property
    def name(self) -> str:
        """What the run is called, by its folder."""
        folder = self.folder.resolve()
        return folder.parent.name if folder.name == "evaluation" else folder.stem if folder.is_file() else folder.name

    @property
    def seed(self) -> int | None:
        """The seed of its training."""
        return None if self.recipe is None else self.recipe.get("seed")


@dataclass(frozen=True, eq=False)
class Method:
    """One way to train a model, with the runs that tried it.

    Args:
        name: of the method.
        runs: at least one; all on the same scans, or each on a fold of them.
        kind: "single", "seeds" or "folds".
    """

    name: str
    runs: tuple[Run, ...]
    kind: Kind

    @property
    def decisions(self) -> list[Decision | None]:
        """How probabilities become calls in each of `tables`; folds with different thresholds are called at 0.5."""
        decisions = [run.decision for run in self.runs]
        if self.kind != "folds":
            return decisions
        first = decisions[0]
        same = all(d == first or (d and first and d.thresholds == first.thresholds) for d in decisions)
        return decisions[:1] if same else [Decision()]

    def tables(self) -> list[pd.DataFrame]:
        """Tables that each hold every scan: one a run, or the folds put together (with a column `fold`)."""
        import pandas as pd

        if self.kind != "folds":
            return [run.table for run in self.runs]
        parts = [run.table.assign(fold=run.name) for run in self.runs]
        return [pd.concat(parts).sort_values("path", kind="stable").reset_index(drop=True)]


def find_methods(given: Sequence[str]) -> list[Method]:
    """Read runs, group them into methods, and check that all methods were tested on the same scans.

    Args:
        given: run folders, evaluation folders or tables of predictions, each alone or as NAME=PATH. Runs of one NAME
            are one method; without names, runs whose recipes differ in nothing but the seed are.

    Raises:
        RecipeError: fewer than two methods and no repeated runs, or names that are given to some runs alone.
        ManifestError: tables that cannot be read, or were made on different scans, tasks or answers.
    """
    if len(given) < 2:
        raise RecipeError("give two runs at least: slivit compare RUN RUN ..., each a folder or a table of predictions")
    runs = [read_run(text) for text in given]
    labelled = [r.label for r in runs if r.label]
    if labelled and len(labelled) < len(runs):
        raise RecipeError("name all runs or none: slivit compare NAME=RUN NAME=RUN ...")
    _check_tasks(runs)
    groups = _by_label(runs) if labelled else _by_recipe(runs)
    methods = [_method(name, members) for name, members in groups.items()]
    check_scans(methods)
    return methods


def read_run(text: str) -> Run:
    """Read the test rows of a run, with what its folder knows of them.

    Args:
        text: a run or evaluation folder, or a table of predictions; alone or as NAME=PATH.
    """
    label, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        label, path = "", text
    place = Path(path)
    folder = place if place.is_dir() else place.parent
    known = read_metrics(folder / METRICS)
    stated = _task(known, folder / METRICS)
    file = place if place.is_file() else place / (CASES if stated and stated.dense else PREDICTIONS)
    if not file.is_file():
        raise ManifestError(f"{path}: there is no {file.name} there; give a run, an evaluation, or a table")
    task: Task
    if isinstance(stated, Segmentation):
        from slivit.evaluate.masks import by_case, read_cases

        table, task = by_case(read_cases(file), stated, known["settings"]["penalty_mm"]), stated
    else:
        table, task = read_predictions(file, stated)
    test = table[table["split"] == "test"] if "test" in set(table["split"]) else table
    if twice := list(test["path"][test["path"].duplicated()]):
        raise ManifestError(f'{file}: has the scan "{twice[0]}" twice')
    decision = None if not task.makes_calls else decision_at(folder, known)
    test = (decision.apply(test, task) if decision else test).sort_values("path", kind="stable").reset_index(drop=True)
    return Run(label, place, test, task, _recipe(folder), decision)


def decision_at(folder: Path, metrics: Mapping[str, Any]) -> Decision:
    """How the probabilities of a folder become calls: by its checkpoint, else by its metrics, else at 0.5."""
    stored = read_mapping(folder / "checkpoint" / CONFIG).get("operating_point") or metrics.get("operating_point")
    try:
        return Decision(**stored) if stored else Decision()
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{folder}: its operating point is damaged: {error}") from error


def _task(metrics: Mapping[str, Any], file: Path) -> Task | None:
    try:
        return Task(**metrics["task"]) if metrics else None
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{file}: is damaged: its task is none ({str(error).splitlines()[0]})") from error


def _recipe(folder: Path) -> dict[str, Any] | None:
    """The recipe of training; that of an evaluation says nothing of the model."""
    for place in (folder, folder.parent):
        file = place / RECIPE
        recipe = read_values(file) if file.is_file() else {}
        if "fit" in recipe:
            return recipe
    return None


def _check_tasks(runs: Sequence[Run]) -> None:
    def words(task: Task) -> str:
        parts = task.measured if task.dense else task.classes
        return f"{task.kind} of {', '.join(task.targets)}" + (f" ({', '.join(parts)})" if parts else "")

    first = runs[0]
    for run in runs[1:]:
        if words(run.task) != words(first.task):
            raise ManifestError(
                f"{first.folder} predicts {words(first.task)}, {run.folder} predicts {words(run.task)}; "
                "only models of the same task can be compared"
            )


def _by_label(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    return groups


def _by_recipe(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs whose recipes differ in the seed alone, or in the table of a fold; a run without a recipe is alone."""
    groups: list[list[Run]] = []
    for members in _alike(runs, PER_FOLD):
        groups += [members] if _disjoint(members) else _alike(members, ())
    return _named(groups)


def _alike(runs: Sequence[Run], neutral: Sequence[str]) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for i, run in enumerate(runs):
        key = str(i) if run.recipe is None else json.dumps(_essence(run.recipe, neutral), sort_keys=True, default=str)
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _essence(recipe: Mapping[str, Any], more: Sequence[str]) -> dict[str, Any]:
    """A recipe without what does not make another method of it."""
    kept = {k: v for k, v in recipe.items() if k not in NEUTRAL}
    kept["data"] = {k: v for k, v in recipe.get("data", {}).items() if k not in (*NEUTRAL_DATA, *more)}
    kept["fit"] = {k: v for k, v in recipe.get("fit", {}).items() if k != "device"}
    return kept


def _disjoint(runs: Sequence[Run]) -> bool:
    return all(not set(a.table["path"]) & set(b.table["path"]) for a, b in combinations(runs, 2))


def _named(groups: Sequence[list[Run]]) -> dict[str, list[Run]]:
    """Groups by a name: that of the run, or what the names of several runs have in common."""
    named: dict[str, list[Run]] = {}
    for members in groups:
        name = members[0].name
        if len(members) > 1:
            name = _COUNTER.sub("", _common(name, members[-1].name)) or members[0].folder.resolve().parent.name
        twin = sum(known == name or known.startswith(f"{name} (") for known in named)
        named[f"{name} ({twin + 1})" if twin else name] = members
    return named


def _common(first: str, second: str) -> str:
    """What two names begin with."""
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _method(name: str, runs: Sequence[Run]) -> Method:
    runs = sorted(runs, key=lambda r: (r.seed if r.seed is not None else -1, str(r.folder)))
    if len(runs) == 1:
        return Method(name, tuple(runs), "single")
    if _disjoint(runs):
        return Method(name, tuple(runs), "folds")
    for run in runs[1:]:
        _same_scans(runs[0].table, run.table, str(runs[0].folder), str(run.folder))
    return Method(name, tuple(runs), "seeds")


def check_scans(methods: Sequence[Method]) -> None:
    """Raise a ManifestError unless all methods were tested on the same scans with the same answers."""
    first = methods[0]
    for method in methods[1:]:
        _same_scans(first.tables()[0], method.tables()[0], first.name, method.name)


def _same_scans(first: pd.DataFrame, second: pd.DataFrame, name: str, other: str) -> None:
    """Raise unless two tables hold the same scans with the same answers."""
    a, b = set(first["path"]), set(second["path"])
    if a != b:
        parts = [
            f"{len(rest)} of {len(whole)} scans of {one} are not in {two} (such as {one_of(sorted(rest)[:1])})"
            for rest, whole, one, two in ((a - b, a, name, other), (b - a, b, other, name))
            if rest
        ]
        raise ManifestError(
            f"{name} and {other} were tested on different scans: {'; '.join(parts)}. Test all on the same table: "
            "slivit evaluate RUN --manifest CSV"
        )
    for column in (c for c in first if str(c).startswith("target_") and c in second):
        differ = (first[column] != second[column]) & ~(first[column].isna() & second[column].isna())
        if differ.any():
            scan = first["path"][differ].iloc[0]
            raise ManifestError(
                f"{name} and {other} have different answers for {int(differ.sum())} scans: {column} of {scan} is "
                f"{first[column][differ].iloc[0]} and {second[column][differ].iloc[0]}"
            )
