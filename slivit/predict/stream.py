"""Scans in, rows out, as they are done: reading processes ahead of the model, batches as large as they should be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from slivit.checkpoint import Checkpoint
from slivit.data.pool import spread
from slivit.data.scan_reading import ReadScan, ScanRef, died, read_scan
from slivit.data.training_range import TrainingRange, range_of, warnings_for
from slivit.predict.batching import Batcher, Memory
from slivit.predict.engine import Item, Runner, choose_device
from slivit.targets.loss import TaskLoss

Row = dict[str, Any]
Done = tuple[int, Row]


@dataclass
class Stream:
    """Predicts scans one batch after the other.

    Args:
        checkpoint: the model, its task and its preprocessing.
        device: "auto", "cpu", "cuda", ...
        batch_size: scans a batch (windows, where scans are cut into windows); 0 finds out.
        workers: processes that read scans; 0 reads in this one.
    """

    checkpoint: Checkpoint
    device: str = "auto"
    batch_size: int = 0
    workers: int = 0
    batcher: Batcher = field(init=False)

    def __post_init__(self) -> None:
        where = choose_device(self.device)
        task, settings = self.checkpoint.task, self.checkpoint.preprocessing
        self.batcher = Batcher(Memory(where), size=self.batch_size or 1, fixed=self.batch_size > 0)
        self._known: TrainingRange | None = range_of(self.checkpoint.training)
        model = self.checkpoint.model.to(where).eval()
        at_once = self.batch_size or 8
        self._runner = Runner(model, TaskLoss(task).to(where), where, settings.flips, settings.windows, at_once)

    def rows(self, refs: Sequence[ScanRef]) -> Iterator[Done]:
        """Predict scans.

        Args:
            refs: the scans.

        Yields:
            The index of a scan and its row, in the order in which they are done: the prediction columns (None where
            there is no prediction), `warnings`, `notes` and `error`.
        """
        waiting: dict[int, ReadScan] = {}
        settings = self.checkpoint.preprocessing
        read = spread(partial(read_scan, settings=settings), refs, self.workers, died=died, chunk=1)
        for index, scan in read:
            if scan.stack is None:
                yield index, self._row(scan, None)
                continue
            waiting[index] = scan
            if len(waiting) >= (1 if settings.windows else self.batcher.size):
                yield from self._batch(waiting, refs)
                waiting = {}
        yield from self._batch(waiting, refs)

    def _batch(self, scans: dict[int, ReadScan], refs: Sequence[ScanRef]) -> Iterator[Done]:
        items = [Item(i, torch.from_numpy(scan.stack)) for i, scan in scans.items() if scan.stack is not None]
        if self.checkpoint.preprocessing.windows:
            found, failed = self._windows(items)
        else:
            failed = set()
            found = self._run(self._runner, items, lambda item: failed.add(item.index)) if items else {}
        for i, scan in scans.items():
            why = f"{refs[i].name}: there is not enough memory for the model to see it" if i in failed else ""
            yield i, self._row(replace(scan, error=why), found.get(i))

    def _run(
        self, function: Callable[[Sequence[Item]], dict[int, list[float]]], items: Sequence[Item], too_large: Any
    ) -> dict[int, list[float]]:
        return self.batcher.run(function, items, too_large)

    def _windows(self, items: Sequence[Item]) -> tuple[dict[int, list[float]], set[int]]:
        """A scan of many windows: fewer of them at once where memory does not do."""
        failed: set[int] = set()
        runner = self._runner
        while True:
            found = self._run(runner, items, lambda item: failed.add(item.index))
            if not failed or runner.at_once == 1:
                self._runner = runner
                return found, failed
            failed.clear()
            runner = replace(runner, at_once=max(runner.at_once // 2, 1))

    def _row(self, scan: ReadScan, predicted: Sequence[float] | None) -> Row:
        columns = self.checkpoint.task.prediction_columns
        told = warnings_for(scan.look, self.checkpoint.preprocessing, self._known) if scan.look else ()
        error = scan.error
        if predicted is not None and not all(map(math.isfinite, predicted)):
            predicted, error = None, "the model's output is not a number for this scan"
        row: Row = dict(zip(columns, predicted, strict=True)) if predicted else dict.fromkeys(columns)
        return row | {"warnings": "; ".join(told), "notes": "; ".join(scan.notes), "error": error}
