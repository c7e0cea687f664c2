"""Where the evaluated scans come from: counts, splits, what was left out, and what training had seen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.data.manifest import Manifest, read_manifest
from slivit.data.manifest_checks import split_place
from slivit.evaluate.details import subgroup_columns
from slivit.folder import SPLIT
from slivit.targets.cases import describe_rows
from slivit.targets.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from slivit.evaluate.recipe import Testing


def describe_data(
    evaluated: Manifest, everything: Manifest, checkpoint: Path, task: Task, testing: Testing
) -> dict[str, Any]:
    """What the page tells of the data, as plain values for `metrics.json`.

    Args:
        evaluated: the rows that are evaluated.
        everything: the table that they were taken from.
        checkpoint: the checkpoint's folder; the run round it knows the rows of training.
        task: the checkpoint's task.
        testing: whose columns of subgroups are looked up in the training rows too.
    """
    left = everything.frame.drop(index=evaluated.frame.index, errors="ignore")
    excluded = [{"why": f'in the split "{s}"' if s else "without a split", "scans": int(n)} for s, n in _sizes(left)]
    data = {"source": everything.source, "rows": len(everything), "excluded": excluded}
    run = run_manifest(checkpoint, task)
    return data | (_against(evaluated.frame, run.frame, task, testing) if run else {"external": None})


def describe_table(table: pd.DataFrame, source: str, checkpoint: Path, task: Task, testing: Testing) -> dict[str, Any]:
    """The same for a table of predictions, beside the run that it may lie in; rows of validation are not evaluated."""
    run = run_manifest(checkpoint, task)
    tested = table[table["split"] != "val"]
    return {"source": source, "rows": len(table)} | (_against(tested, run.frame, task, testing) if run else {})


def run_manifest(checkpoint: Path, task: Task) -> Manifest | None:
    """The scans of the run that a checkpoint came out of, in their splits; None where they are not beside it."""
    file = checkpoint.parent / SPLIT
    if not file.is_file():
        return None
    return read_manifest(file, task, check_files=False, need_splits=())


def _sizes(frame: pd.DataFrame) -> Iterable[tuple[str, int]]:
    sizes = {str(split): len(part) for split, part in frame.groupby("split")}
    return [(split, sizes[split]) for split in sorted(sizes, key=split_place)]


def _against(evaluated: pd.DataFrame, run: pd.DataFrame, task: Task, testing: Testing) -> dict[str, Any]:
    """The evaluated rows beside those of the run: splits, shared patients, and the groups of its training rows."""
    seen = run[run["split"].isin(("train", "val"))]
    columns = [c for c in subgroup_columns(testing) if c in run]
    return {
        "external": not set(evaluated["path"]) <= set(run["path"]),
        "shared_patients": len(set(evaluated["patient"]) & set(seen["patient"])),
        "run": {s: describe_rows(run[run["split"] == s], task) for s in sorted(set(run["split"]), key=split_place)},
        "trained_on": {c: sorted({_text(v) for v in seen.loc[seen["split"] == "train", c].dropna()}) for c in columns},
    }


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
