"""From a table of predictions to metrics with intervals, and both to files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slivit.files import whole_file, write_json
from slivit.recipe import Testing
from slivit.stages.runs import METRICS, PREDICTIONS
from slivit.task import Task

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
SCHEMA = {"schema": "slivit.metrics", "version": 1}


def arrays_of(table: pd.DataFrame, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The known answers and the predictions of a table as arrays for `slivit.statistics`.

    Returns:
        y and p: (n,) and (n,) for binary; (n,) class indices and (n, C) for multiclass; (n, k) and (n, k) otherwise,
        with NaN for a missing label.
    """
    p = table[list(task.prediction_columns)].to_numpy(float)
    if task.kind == "multiclass":
        names = table[task.target_columns[0]]
        return np.array([int(task.encode({task.targets[0]: n})) for n in names]), p
    y = table[list(task.target_columns)].to_numpy(float)
    return (y[:, 0], p[:, 0]) if task.kind == "binary" else (y, p)


def measure(table: pd.DataFrame, task: Task, testing: Testing) -> dict[str, Any]:
    """Every metric of every split of a table of predictions, with intervals, as plain values for JSON."""
    from slivit.statistics import summarise

    splits: dict[str, Any] = {}
    for split, part in table.groupby("split", sort=False):
        y, p = arrays_of(part, task)
        names = task.classes if task.kind == "multiclass" else task.targets
        found = summarise(
            task.kind,
            y,
            p,
            groups=part["patient"].to_numpy() if testing.by_patient else None,
            names=list(names) if task.kind != "binary" else None,
            level=testing.level,
            draws=testing.draws,
        )
        metrics = {name: estimate.to_dict() for name, estimate in found.items()}
        splits[str(split)] = {"scans": len(part), "patients": part["patient"].nunique(), "metrics": metrics}
    return {**SCHEMA, "task": task.model_dump(mode="json"), "splits": splits}


def write_results(folder: Path, table: pd.DataFrame, task: Task, metrics: dict[str, Any]) -> None:
    """Write `predictions.csv` and `metrics.json`, and log the main figures of every split."""
    with whole_file(folder / PREDICTIONS) as partial:
        table.to_csv(partial, index=False)
    write_json(folder / METRICS, metrics)
    for split, found in metrics["splits"].items():
        log.info("%s, %d scans: %s", split, found["scans"], headline(found["metrics"], task))


def headline(metrics: dict[str, Any], task: Task) -> str:
    """The main metrics of a split in one line, with their intervals."""
    names = ("r2", "mae", "pearson") if task.kind == "regression" else ("roc_auc", "average_precision")
    return ", ".join(_told(name, metrics[name]) for name in names if name in metrics)


def _told(name: str, estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return f"{name} not defined ({estimate['why']})"
    if estimate["low"] is None:
        return f"{name} {estimate['value']:.3f}"
    return f"{name} {estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
