"""Tables of predictions: read back from CSV as they were written, or as another program wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from slivit.data.table import as_numbers, missing_columns, read_table, with_numbers
from slivit.errors import ManifestError, gather, one_of
from slivit.targets.cases import in_order
from slivit.targets.decision import RAW
from slivit.targets.task import Task, class_name

TEXT = ("path", "patient", "split", "notes", "error")
LARGEST = 1e100
"""Of a prediction or an answer: the squares of much larger ones are no numbers."""


def read_predictions(path: str | Path, task: Task | None = None) -> tuple[pd.DataFrame, Task]:
    """Read a table of predictions.

    Args:
        path: a CSV with `target_<name>` and `prob_<name>` (or `pred_<name>`) columns; `path`, `patient` and `split` are
            used where they are there.
        task: what is predicted; read off the columns where None (see `task_of`).

    Returns:
        The table and its task. A table without patients counts every row as a patient of its own; one without a split
        is all "test", and one without paths is put into the order of its values.

    Raises:
        ManifestError: no such file, no table, or columns that are missing.
    """
    path = Path(path)
    raw = read_table(path)
    task = task or task_of(list(raw.columns), str(path))
    gather(missing_columns(raw, [*task.target_columns, *task.prediction_columns]), str(path), ManifestError)
    text = {*TEXT, *(task.target_columns if task.exclusive else ())}
    numbers = {*task.target_columns, *task.prediction_columns, *(RAW + c for c in task.prediction_columns)} - text
    columns = {
        c: raw[c] if c in text else _numbers(raw[c], path) if c in numbers else with_numbers(raw[c]) for c in raw
    }
    return _completed(pd.DataFrame(columns).reset_index(drop=True)), task


def read_baseline(path: str | Path, task: Task) -> pd.DataFrame:
    """Read the table that a run has of what size and grey levels alone predict.

    Raises:
        ManifestError: no such file, no table, or columns that are missing.
    """
    path, outputs = Path(path), set(task.prediction_columns)
    raw = read_table(path)
    gather(missing_columns(raw, ["path", "split", *task.prediction_columns]), str(path), ManifestError)
    columns = {c: _numbers(raw[c], path) if c in outputs else raw[c] for c in raw}
    return pd.DataFrame(columns).reset_index(drop=True)


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    values, bad = as_numbers(column)
    problems = [f'row {row}: {column.name} is "{column[row]}", which is not a number' for row in column.index[bad]]
    large = values.abs().gt(LARGEST) & np.isfinite(values)
    problems += [
        f"row {row}: {column.name} is {values[row]:g}; up to {LARGEST:g} is allowed" for row in values.index[large]
    ]
    gather(problems, str(path), ManifestError)
    return values


def _completed(table: pd.DataFrame) -> pd.DataFrame:
    if "path" not in table:
        table = in_order(table).reset_index(drop=True)
    rows = [str(i) for i in range(len(table))]
    defaults = {"path": rows, "patient": rows, "split": "test"}
    return table.assign(**{c: v for c, v in defaults.items() if c not in table})


def task_of(columns: Sequence[str], where: str = "the table") -> Task:
    """Read the task off the columns of a table of predictions.

    `pred_<name>` columns are quantities. `prob_<name>` columns are one 0/1 target or several, where they bear the names
    of the targets; otherwise they are the classes of one target.

    Raises:
        ManifestError: the columns are those of no task.
    """
    targets = _after("target_", columns)
    if quantities := _after("pred_", columns):
        return Task(kind="regression", targets=tuple(quantities))
    names = _after("prob_", columns)
    if not targets or not names:
        raise ManifestError(
            f"{where}: a table of predictions has target_NAME columns, and prob_NAME or pred_NAME columns beside them; "
            f"found {one_of(columns)}"
        )
    if set(names) <= set(targets):
        return Task(kind="binary" if len(names) == 1 else "multilabel", targets=tuple(names))
    if len(targets) == 1:
        return Task(kind="multiclass", targets=(targets[0],), classes=tuple(class_name(n) for n in names))
    raise ManifestError(f"{where}: the targets {one_of(targets)} and the probabilities of {one_of(names)} do not match")


def _after(prefix: str, columns: Sequence[str]) -> list[str]:
    return [c.removeprefix(prefix) for c in columns if c.startswith(prefix)]
