"""The list that a reviewer works through: a row for each scan, with what was predicted, and what is known of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from slivit.data.readers.address import short_name
from slivit.data.reviews import scan_key
from slivit.targets.task import Task, class_name, is_missing
from slivit.viewer.bench import Bench, Row
from slivit.viewer.opinions import Judgement, Other, judged

FEW, MOST_GROUPS = 20, 8
"""Different values up to which a column of texts counts as subgroups, and columns that are shown at most."""


def verdict(task: Task, call: str, truth: str) -> str:
    """Whether a call is "right", "wrong", "missed" or a "false alarm"; "" where either is not known."""
    if not call or not truth:
        return ""
    if call == truth:
        return "right"
    if task.exclusive:
        return "wrong"
    return "missed" if call == "0" else "false alarm"


def worklist(bench: Bench, target: str, others: Sequence[Other] = ()) -> dict[str, Any]:
    """The whole list for one target, as plain values for JSON.

    Args:
        bench: the run.
        target: an output of the task; for classes that exclude each other it is the task's one target.
        others: further runs, ensemble members or readers that are compared.

    Returns:
        `rows` with a value for each of `columns`, and `groups`, the columns of the manifest that are shown.
    """
    groups = _group_columns(bench)
    rows = [_row(bench, target, number, others, groups) for number in range(len(bench.rows))]
    _mark_far(rows)
    return {
        "target": target,
        "unit": bench.checkpoint.task.unit,
        "groups": groups,
        "runs": [bench.name, *(other.name for other in others)],
        "rows": rows,
    }


def _row(bench: Bench, target: str, number: int, others: Sequence[Other], groups: Sequence[str]) -> dict[str, Any]:
    row, task = bench.rows[number], bench.checkpoint.task
    key = scan_key(row)
    known = bench.known.get(key)
    own = judged(task, bench.checkpoint.operating_point, target, known)
    truth = row.get(task.targets[0] if task.exclusive else target)
    answer = "" if task.dense or is_missing(truth) else class_name(truth)
    match = bench.record.like(target, own.value) if own.value is not None and not task.exclusive else None
    observed = match["observed"] if match else {}
    error = abs(own.value - float(answer)) if answer and own.value is not None and not task.makes_calls else None
    error = 1 - own.value if task.dense and own.value is not None else error
    return {
        "n": number,
        "key": key,
        "name": short_name(str(row["path"])),
        "patient": "" if row["patient"] == row["path"] else str(row["patient"]),
        "split": row["split"],
        "value": _rounded(own.value),
        "call": own.call,
        "truth": answer,
        "observed": [_rounded(observed.get(k)) for k in ("value", "low", "high")] if observed else None,
        "error": _rounded(error),
        "flag": verdict(task, own.call, answer),
        "unsure": _rounded(own.unsure),
        "notes": _notes(known),
        "groups": [_cell(row.get(name)) for name in groups],
        "hd95": _rounded((known or {}).get("hd95")),
        "parts": [_part(known or {}, name) for name in task.parts] if task.dense else [],
        **_compared(task, target, key, own, others),
    }


def _part(known: Row, structure: str) -> list[float | None]:
    """Dice, predicted and true mL, and HD95 in mm of a structure, as far as they are known."""
    values = [known.get(f"{metric}/{structure}") for metric in ("dice", "predicted_ml", "true_ml", "hd95")]
    numbers = [None if value is None or is_missing(value) else float(value) for value in values]
    return [_rounded(value) if value is not None and math.isfinite(value) else None for value in numbers]


def _compared(task: Task, target: str, key: str, own: Judgement, others: Sequence[Other]) -> dict[str, Any]:
    """What others say, how far all differ, and whether calls do."""
    if not others:
        return {}
    said = [judged(task, other.decision, target, other.rows.get(key)) for other in others]
    values = [j.value for j in (own, *said) if j.value is not None]
    calls = {j.call for j in (own, *said) if j.call}
    mean = math.fsum(values) / len(values) if values else 0.0
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values)) if len(values) > 1 else None
    others_said = [[_rounded(j.value), j.call] for j in said]
    return {"others": others_said, "spread": _rounded(spread), "differ": len(calls) > 1}


def _mark_far(rows: Sequence[dict[str, Any]]) -> None:
    """Flag the largest tenth of the errors of values, where there are no calls."""
    errors = sorted(row["error"] for row in rows if row["error"] is not None)
    if errors:
        limit = errors[int(0.9 * (len(errors) - 1))]
        for row in rows:
            if row["error"] is not None:
                row["flag"] = "far off" if row["error"] >= limit and row["error"] > 0 else "near"


def _notes(known: Row | None) -> list[str]:
    """What makes a prediction doubtful, and what the reader noticed, from a table of predictions."""
    texts = [known.get(name) or None for name in ("error", "warnings", "notes")] if known else []
    return [str(text) for text in texts if not is_missing(text)]


def _group_columns(bench: Bench) -> list[str]:
    """The columns of the manifest that say something about groups of scans: few different values, or numbers."""
    taken = {"path", "patient", "split", "series", "notes", "error", *bench.checkpoint.task.targets}
    columns = [name for name in (bench.rows[0] if bench.rows else {}) if name not in taken]
    chosen = []
    for name in columns:
        values = {row[name] for row in bench.rows if not is_missing(row[name])}
        numeric = all(isinstance(v, int | float) for v in values)
        if len(values) > 1 and (numeric or len(values) <= FEW):
            chosen.append(name)
    return chosen[:MOST_GROUPS]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _cell(value: Any) -> str | float | int:
    if is_missing(value):
        return ""
    return value if isinstance(value, int | float) and math.isfinite(value) else str(value)
