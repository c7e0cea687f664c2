"""A prediction shared out: parts of the scans, each a call that any device of this machine or of a cluster can make."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.data.scan_reading import ReadScan, ScanRef, died, read_scan
from slivit.data.training_range import TrainingRange, range_of, warnings_for
from slivit.data.workers import in_processes
from slivit.machines import Machines

if TYPE_CHECKING:
    from slivit.predict.engine import Engine

Row = dict[str, Any]
MOST = 64  # scans of a part: few enough to lose little with a machine, enough to fill batches


@dataclass(frozen=True)
class Loaded:
    """What a process keeps between parts.

    Args:
        checkpoint: as `open_checkpoint` takes it.
        backbone: of a model that holds adapters alone.
        device: "auto", "cpu", "cuda", ...
        batch_size: scans a batch; 0 finds out what is fastest.
        workers: processes that read scans beside the one that predicts; where None, some for a GPU, and none on a CPU,
            whose cores predict.
        precision: in which the network computes.
    """

    checkpoint: str
    backbone: str = ""
    device: str = "auto"
    batch_size: int = 0
    workers: int | None = None
    precision: Any = "auto"


@dataclass(frozen=True)
class Part:
    """Some of the scans.

    Args:
        loaded: the model.
        refs: the scans.
        names: of their masks' files; none for a model that predicts no masks.
        masks: the folder for masks.
    """

    loaded: Loaded
    refs: Sequence[ScanRef]
    names: Sequence[str] = field(default=())
    masks: Path | None = None


def predict_parts(
    machines: Machines,
    loaded: Loaded,
    refs: Sequence[ScanRef],
    names: Sequence[str] = (),
    masks: Path | None = None,
) -> Iterator[tuple[int, Row]]:
    """Predict scans on several devices, each exactly once.

    Args:
        machines: where.
        loaded: the model; `checkpoint` is a path that all of them see, or a name that all can fetch.
        refs: the scans, under paths that all of them see.
        names: of the masks' files, by scan; none for a model that predicts no masks.
        masks: the folder for masks.

    Yields:
        The number of a scan and its row, as `rows_of` does; of one whose process died alone,
        the error.
    """
    size = max(1, min(MOST, math.ceil(len(refs) / (4 * max(1, machines.slots)))))
    ranges = [range(start, min(start + size, len(refs))) for start in range(0, len(refs), size)]
    while ranges:
        parts = [Part(loaded, [refs[i] for i in r], [names[i] for i in r] if names else (), masks) for r in ranges]
        suspects: list[range] = []
        for number, rows in machines.map(predict_part, parts, _died):
            here = ranges[number]
            if len(rows) < len(here):  # its process died: each scan by itself tells which one it was
                suspects += [range(i, i + 1) for i in here]
            else:
                yield from zip(here, rows, strict=True)
        ranges = suspects


def predict_part(part: Part) -> list[Row]:
    """The rows of a part's scans, in their order."""
    from slivit.predict.masks import mask_rows

    engine = _engine(part.loaded)
    rows = mask_rows(engine, part.refs, part.names, part.masks) if part.masks else rows_of(engine, part.refs)
    by_number = dict(rows)
    return [by_number[i] for i in range(len(part.refs))]


def _died(part: Part, how: str) -> list[Row]:
    """No rows, or the error of the one scan of which a process died."""
    if len(part.refs) > 1:
        return []
    return [{"warnings": "", "notes": "", "error": f"{part.refs[0].name}: could not be predicted: {how}"}]


@lru_cache(maxsize=1)
def _engine(loaded: Loaded) -> Engine:
    from slivit.device import choose_device
    from slivit.predict.batching import default_workers
    from slivit.predict.engine import Engine
    from slivit.predict.opening import open_checkpoint

    checkpoint = open_checkpoint(loaded.checkpoint, backbone=loaded.backbone)
    on_gpu = choose_device(loaded.device).type == "cuda"
    workers = loaded.workers if loaded.workers is not None else default_workers(MOST) * on_gpu
    options: dict[str, Any] = {"batch_size": loaded.batch_size, "workers": workers}
    return Engine(checkpoint, loaded.device, precision=loaded.precision, **options)


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
    from slivit.predict.engine import error_of

    error = error_of(ref.name, scan)
    if values is not None and not all(map(math.isfinite, values)):
        values, error = None, "the model's output is not a number for this scan"
    columns = engine.task.prediction_columns
    row: Row = dict(zip(columns, values, strict=True)) if values else dict.fromkeys(columns)
    return row | {"warnings": "; ".join(doubts), "notes": "; ".join(scan.notes), "error": error}
