"""Scans of a collaborator in, rows out, as they are done; what makes a prediction doubtful is told with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from slivit.data.scan_reading import ReadScan, ScanRef, died, read_scan
from slivit.data.training_range import TrainingRange, range_of, warnings_for
from slivit.data.workers import in_processes
from slivit.predict.engine import Engine, error_of

Row = dict[str, Any]


def rows_of(engine: Engine, refs: Sequence[ScanRef]) -> Iterator[tuple[int, Row]]:
    """Predict scans; what they are like is compared with the training scans.

    Args:
        engine: of a checkpoint with a task.
        refs: the scans.

    Yields:
        The number of a scan and its row, in the order in which they are done: the prediction columns (None where
        there is no prediction), `warnings`, `notes` and `error`.
    """
    known = range_of(engine.checkpoint.training)
    scans = in_processes(partial(read_scan, settings=engine.settings), refs, engine.workers, died=died, chunk=1)
    for number, scan, values in engine.predicted(scans, {n: ref.columns for n, ref in enumerate(refs)}):
        yield number, _row(engine, refs[number], scan, values, known)


def _row(
    engine: Engine, ref: ScanRef, scan: ReadScan, values: Sequence[float] | None, known: TrainingRange | None
) -> Row:
    doubts = (*(warnings_for(scan.look, engine.settings, known) if scan.look else ()), *scan.doubts)
    error = error_of(ref.name, scan)
    if values is not None and not all(map(math.isfinite, values)):
        values, error = None, "the model's output is not a number for this scan"
    columns = engine.task.prediction_columns
    row: Row = dict(zip(columns, values, strict=True)) if values else dict.fromkeys(columns)
    return row | {"warnings": "; ".join(doubts), "notes": "; ".join(scan.notes), "error": error}
