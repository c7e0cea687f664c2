"""From a table of predictions to metrics with intervals, and both to files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.data.manifest_checks import split_place
from slivit.data.table import write_table
from slivit.errors import RecipeError, nearest, one_of
from slivit.evaluate.details import details_of
from slivit.evaluate.recipe import Testing
from slivit.files import write_json
from slivit.folder import METRICS, PREDICTIONS
from slivit.settings import changed
from slivit.targets.cases import Cases, arrays_of, cases_of, counts_of
from slivit.targets.decision import Decision
from slivit.targets.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from slivit.evaluate.recipe import Testing

__all__ = ["arrays_of", "check_testing", "headline", "measure", "write_results"]

log = logging.getLogger(__name__)
SCHEMA = {"schema": "slivit.metrics", "version": 1}
"""See docs/metrics-schema.md."""


def measure(
    table: pd.DataFrame,
    task: Task,
    testing: Testing,
    *,
    decision: Decision | None = None,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Every metric of every split of a table of predictions, with intervals, as plain values for JSON.

    Args:
        table: one row a scan, with its `split`; probabilities as the model gave them, or already under `decision`.
        task: what is predicted.
        testing: the recipe's section.
        decision: how probabilities become calls; a threshold of 0.5 if None.
        data: where the scans come from, to be kept beside the metrics.

    Returns:
        What `docs/metrics-schema.md` describes. The validation rows, on which decisions were made, have metrics only.
        The order of the rows changes nothing.
    """
    task = task.only(testing.targets)
    if task.makes_calls:
        decision = decision or Decision()
        table = decision.apply(table, task)
    parts = {str(split): part for split, part in table.groupby("split")}
    splits = {}
    for split in sorted(parts, key=split_place):
        part = parts[split]
        cases = drawn_cases(part, task, testing, decision)
        details = details_of(cases, testing) if split != "val" or len(parts) == 1 else {}
        splits[split] = {**_described(part, task), "metrics": metrics_of(cases, testing), **details}
    _warn_of_patients(splits, testing)
    return {
        **SCHEMA,
        "task": task.model_dump(mode="json"),
        "settings": testing.model_dump(mode="json"),
        "operating_point": decision.model_dump(mode="json") if decision and task.makes_calls else None,
        "data": dict(data or {}),
        "splits": splits,
    }


def _warn_of_patients(splits: Mapping[str, Mapping[str, Any]], testing: Testing) -> None:
    several = [name for name, split in splits.items() if split["scans"] > split["patients"]]
    if several and not testing.by_patient:
        log.warning(
            "patients have several scans in %s, which are drawn as if they were independent, so the intervals are too "
            "narrow: set testing.by_patient=true",
            " and ".join(several),
        )


def drawn_cases(table: pd.DataFrame, task: Task, testing: Testing, decision: Decision | None = None) -> Cases:
    """The labelled rows of a table, drawn as the recipe says."""
    options = testing.model_dump(include={"level", "draws", "by_patient", "stratified"})
    return cases_of(table, task, decision, **options)


def metrics_of(cases: Cases, testing: Testing) -> dict[str, Any]:
    """Every metric of the cases as plain values."""
    from slivit.statistics import summarise

    estimates = summarise(
        cases.task.kind,
        cases.y,
        cases.p,
        groups=cases.plan.groups,
        names=cases.names,
        level=testing.level,
        draws=testing.draws,
        stratified=testing.stratified,
        threshold=cases.threshold,
    )
    return {name: estimate.to_dict() for name, estimate in estimates.items()}


def _described(part: pd.DataFrame, task: Task) -> dict[str, Any]:
    return {"scans": len(part), "patients": int(part["patient"].nunique()), "counts": counts_of(part, task)}


def check_testing(testing: Testing, task: Task) -> None:
    """Check that the options of a test fit the task, before anything long is run.

    Raises:
        RecipeError: an option that belongs to another kind of task, or a table of readers that is not there.
    """
    if unknown := [name for name in testing.targets if name not in task.targets]:
        hint = nearest(unknown[0], task.targets)
        raise RecipeError(f'testing.targets: no target is "{unknown[0]}".{hint} There are {one_of(task.targets)}')
    if testing.targets and len(task.targets) == 1:
        raise RecipeError(f"testing.targets chooses among several targets; the {task.kind} task has one")
    if testing.operating_point and not task.thresholded:
        how = "calls its most probable class" if task.exclusive else "makes no calls"
        raise RecipeError(f"testing.operating_point is for binary and multilabel tasks; a {task.kind} one {how}")
    if testing.stratified and not task.one_class:
        raise RecipeError(f"testing.stratified is for binary and multiclass tasks, not for a {task.kind} one")
    for option in ("temperature", "readers"):
        if getattr(testing, option) and not task.makes_calls:
            raise RecipeError(f"testing.{option} is for classification, not for a {task.kind} task")
    for option in ("bands", "reference"):
        grouped = {*testing.subgroups, testing.site}
        if idle := [column for column in getattr(testing, option) if column not in grouped]:
            raise RecipeError(f"testing.{option} names {idle[0]}, which testing.subgroups and testing.site do not name")
    for option in ("tolerance_mm", "penalty_mm"):
        if not task.dense and changed(testing, option):
            raise RecipeError(f"testing.{option} is for a segmentation, not for a {task.kind} task")
    if testing.readers and not Path(testing.readers).is_file():
        raise RecipeError(f"testing.readers: {testing.readers}: there is no such file")


def write_results(folder: Path, table: pd.DataFrame, task: Task, metrics: dict[str, Any]) -> None:
    """Write `predictions.csv` and `metrics.json`, and log the main figures of every split."""
    write_table(folder / PREDICTIONS, table)
    write_json(folder / METRICS, metrics)
    log_headlines(metrics, task)


def log_headlines(metrics: dict[str, Any], task: Task) -> None:
    """Log the main figures of every split."""
    for split, part in metrics["splits"].items():
        log.info("%s, %d scans: %s", split, part["scans"], headline(part["metrics"], task))
    baseline = metrics.get("baseline")
    if baseline:
        from slivit.report.summary import no_better

        for sentence in no_better(baseline, metrics["splits"][baseline["split"]], task):
            log.info("%s", sentence)


def headline(metrics: dict[str, Any], task: Task) -> str:
    """The main metrics of a split in one line, with their intervals."""
    return ", ".join(_estimate(name, metrics[name]) for name in task.measures.logged if name in metrics)


def _estimate(name: str, estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return f"{name} not defined ({estimate['why']})"
    if estimate["low"] is None:
        return f"{name} {estimate['value']:.3f}"
    return f"{name} {estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def chooses(testing: Testing) -> bool:
    """Whether the options ask for a decision to be made on validation rows and kept."""
    return bool(testing.operating_point or testing.temperature)
