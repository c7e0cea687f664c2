"""Predictions as tables: of a manifest's rows, and of the scans of a collaborator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slivit.checkpoint import Checkpoint
from slivit.data.scan_reading import ReadScan, ScanRef
from slivit.targets.task import Task

if TYPE_CHECKING:
    import pandas as pd

LAST = ("warnings", "notes", "error")


def prediction_table(
    rows: Sequence[Mapping[str, Any]],
    task: Task,
    predictions: Mapping[int, Sequence[float]],
    scans: Mapping[int, ReadScan] | None = None,
    *,
    with_errors: bool = False,
) -> pd.DataFrame:
    """Put predictions beside what is known of each scan, as `predict_table` does.

    Args:
        rows: of a manifest.
        task: the fitted task.
        predictions: by the number of the row; empty cells where there are none.
        scans: whose notes and errors go into the table, by the number of the row.
        with_errors: give the column `error`.
    """
    import pandas as pd

    missing = [float("nan")] * task.out_dim
    records = []
    for number, row in enumerate(rows):
        record = {k: v for k, v in row.items() if k not in task.targets}
        record |= {f"target_{t}": row[t] for t in task.targets if t in row}
        record |= dict(zip(task.prediction_columns, predictions.get(number, missing), strict=True))
        scan = (scans or {}).get(number, ReadScan(None))
        record["notes"] = "; ".join(scan.notes)
        if with_errors:
            record["error"] = scan.error
        records.append(record)
    return pd.DataFrame(records)


def table_of(checkpoint: Checkpoint, refs: Sequence[ScanRef], rows: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Put the rows in the order of the scans, with calls at the operating point.

    Args:
        checkpoint: its task, and its operating point.
        refs: the scans as they were asked for; one that was asked for twice has two rows.
        rows: by `ScanRef.key`.

    Returns:
        `path` (and `series`), the columns of the manifest (known answers as `target_*`), `prob_*` or `pred_*` and
        `unit`, `call_*` where there is an operating point, `warnings`, `notes`, `error`.
    """
    import pandas as pd

    task = checkpoint.task
    table = pd.DataFrame([_row(ref, rows[ref.key], task) for ref in refs])
    columns = list(task.prediction_columns)
    table[columns] = table[columns].astype("float64")
    if checkpoint.operating_point and task.makes_calls:
        table = checkpoint.operating_point.apply(table, task)
    return table[[*(c for c in table if c not in LAST), *LAST]]


def _row(ref: ScanRef, row: Mapping[str, Any], task: Task) -> dict[str, Any]:
    own = {*task.prediction_columns, *LAST, "unit"}
    series = {"series": ref.options["series"]} if "series" in ref.options else {}
    given = {f"target_{k}" if k in task.targets else k: v for k, v in ref.columns.items() if k not in own}
    unit = {"unit": task.unit} if task.unit else {}
    return {"path": ref.name, **series, **given, **{c: row[c] for c in task.prediction_columns}, **unit} | {
        name: row[name] for name in LAST
    }
