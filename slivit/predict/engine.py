"""The one engine that runs a loaded model: scans in, predictions, features or whatever else a network gives out.

Everything that predicts or looks into a frozen network goes through here: batches, windows, mirrored views, precision,
memory format, smaller batches where memory runs out, and processes that read scans.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, combinations
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from slivit.checkpoint import Checkpoint
from slivit.data.covariates import covariate_rows
from slivit.data.layout import dense_logits, normalised, to_input
from slivit.data.preprocessing import Preprocessing
from slivit.data.scan_reading import ReadScan
from slivit.device import Memory, autocast, choose_precision, out_of_memory
from slivit.device import choose_device as choose_device
from slivit.errors import ReadError
from slivit.models._covariates import held
from slivit.models._steady import steady
from slivit.models.registry import spec_of
from slivit.predict.batching import Batcher
from slivit.predict.features import features, head_input
from slivit.settings import Precision
from slivit.targets.covariates import doubts, encoded, extents
from slivit.targets.loss import TaskLoss
from slivit.targets.task import Task

if TYPE_CHECKING:
    import pandas as pd

Result = TypeVar("Result")
Numbered = tuple[int, ReadScan]
Rows = Mapping[int, Mapping[str, Any]]
FLIP_AXES = {"slices": -3, "vertical": -2, "horizontal": -1}
_AT_ONCE = 8  # windows, where the batch size is to be found out


class Engine:
    """A loaded model on a device, ready to run.

    Args:
        checkpoint: the model with its task and its preprocessing.
        device: "auto", "cpu", "cuda", ...
        batch_size: scans a batch, windows where scans are cut into windows; 0 finds out what is fastest.
        workers: processes that read scans; 0 reads in this one.
        precision: in which the network computes; "auto" takes the fastest that the device has.
        cache: where preprocessed slices are kept.

    `seconds` tells how long it waited for scans, and for the network.

    Raises:
        SlivitError: a device or precision that this machine lacks.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        *,
        batch_size: int = 8,
        workers: int = 0,
        precision: Precision = "float32",
        cache: Any = None,
    ) -> None:
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.checkpoint, self.workers, self.cache = checkpoint, workers, cache
        self.model: nn.Module = checkpoint.model.to(self.device).eval()
        self.spec = spec_of(self.model)
        steady(self.model)
        if self.spec.input == "tiled":  # 2D convolutions run faster so
            self.model.to(memory_format=torch.channels_last)
        windows = checkpoint.preprocessing.windows
        size = 1 if windows else batch_size or 1
        self.batcher = Batcher(Memory(self.device), size=size, fixed=bool(windows or batch_size))
        self.at_once = batch_size or _AT_ONCE
        self.seconds = {"waiting": 0.0, "network": 0.0}
        self.inputs = checkpoint.trained_for.inputs if checkpoint.trained_for else ()
        self.covariates: Tensor | None = None

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.checkpoint.task

    @property
    def settings(self) -> Preprocessing:
        """How scans become slices."""
        return self.checkpoint.preprocessing

    @cached_property
    def loss(self) -> TaskLoss:
        """Whose activation makes predictions of logits."""
        return TaskLoss(self.task).to(self.device)

    @cached_property
    def views(self) -> list[tuple[int, ...]]:
        """The axes of (..., S, H, W) to flip for each view that a prediction averages, none of them first."""
        return mirror_axes(self.settings.flips)

    def input_of(self, stacks: Tensor) -> Tensor:
        """(B, S, H, W) grey slices, or (B, C, S, H, W), 0 to 255 -> the model's input, on its device."""
        return to_input(stacks.to(self.device), self.spec.input, self.spec.mean, self.spec.std)

    def call(self, function: Callable[[Tensor], Result], stacks: Tensor) -> Result:
        """Run a network, or a part of it, on stacks of slices.

        Args:
            function: of the model's input.
            stacks: (B, S, H, W) or (B, C, S, H, W), 0 to 255.
        """
        return self.compute(function, self.input_of(stacks))

    def compute(self, function: Callable[[Tensor], Result], x: Tensor) -> Result:
        """Run a network, or a part of it, on its input, in the engine's precision: the one place where that is done."""
        with torch.inference_mode(), autocast(self.precision, self.device):
            return function(x)

    @contextmanager
    def holding(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[None]:
        """Have a model that reads covariates read those of scans, whatever is done with their slices in the block.

        Args:
            rows: of the scans of a batch, or of the one whose slices are looked at; with the columns of the covariates.

        Raises:
            ManifestError: columns that are missing.
        """
        if not self.inputs:
            yield
            return
        before, self.covariates = self.covariates, self._encoded(rows)
        try:
            with held(self.model, self.covariates):
                yield
        finally:
            self.covariates = before

    def _encoded(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        return torch.from_numpy(np.stack([encoded(self.inputs, row) for row in rows])).to(self.device)

    def logits(self, stacks: Tensor) -> Tensor:
        """(B, S, H, W) -> (views, B, outputs) float32, of every mirrored view."""
        views = (stacks.flip(axes) if axes else stacks for axes in self.views)
        return torch.stack([self.call(self.model, view) for view in views]).float()

    def predict(self, stacks: Tensor) -> Tensor:
        """What the model says of stacks of slices.

        Args:
            stacks: (B, S, H, W) or (B, C, S, H, W), 0 to 255.

        Returns:
            (B, outputs) float32 on the CPU: probabilities or values in the target's unit, the mean of all views.
        """
        return self.loss.activation(self.logits(stacks)).mean(0).reshape(len(stacks), -1).cpu()

    def predict_patch(self, stacks: Tensor) -> Tensor:
        """What a model that segments says of patches.

        Args:
            stacks: (B, S, H, W) or (B, C, S, H, W), 0 to 255.

        Returns:
            (B, n) float32 on the CPU: the probabilities of all outputs and voxels.
        """
        patches = (stacks if stacks.ndim == 5 else stacks[:, None]).to(self.device) / 255
        x = normalised(patches, self.spec.mean, self.spec.std)
        logits = self.compute(lambda x: dense_logits(self.model, x, self.spec.input), x)
        return self.loss.activation(logits).flatten(1).cpu()

    def predict_whole(self, scans: Tensor) -> Tensor:
        """As `predict`; with windows, of (B, D, H, W) scans, each by all of its windows."""
        if self.settings.windows is None:
            return self.predict(scans)
        if self.covariates is None:
            return torch.stack([self._by_windows(scan) for scan in scans])
        outputs = []
        for scan, own in zip(scans, self.covariates, strict=True):
            with held(self.model, own[None]):
                outputs.append(self._by_windows(scan))
        return torch.stack(outputs)

    def _by_windows(self, scan: Tensor) -> Tensor:
        """(D, H, W) -> (outputs,); fewer windows at once where memory does not do."""
        windows, length = self.settings.windows, self.spec.size[0]
        if windows is None:
            raise ValueError("this preprocessing cuts no windows")
        while True:
            try:
                return windows.aggregate(torch.cat([self.predict(w) for w in windows.cut(scan, length, self.at_once)]))
            except (RuntimeError, MemoryError) as error:
                if self.at_once == 1 or not out_of_memory(error):
                    raise
            self.batcher.memory.empty()
            self.at_once = max(self.at_once // 2, 1)

    def features(self, stacks: Tensor) -> dict[str, Tensor]:
        """(B, S, H, W) -> (B, d) float32 by part, on the CPU; see `slivit.predict.features`."""
        parts = self.call(partial(features, self.model), stacks)
        return {name: part.cpu() for name, part in parts.items()}

    def head_input(self, stacks: Tensor) -> Tensor:
        """(B, S, H, W) -> (B, n) float32 on the CPU: what the model's head reads."""
        return self.call(partial(head_input, self.model), stacks).flatten(1).float().cpu()

    def over(
        self, scans: Iterable[Numbered], function: Callable[[Tensor], Sequence[Result]], rows: Rows | None = None
    ) -> Iterator[tuple[int, ReadScan, Result | None]]:
        """Run scans in batches, as they are read.

        Args:
            scans: with their numbers; one that could not be read goes through as it is.
            function: of (B, S, H, W) uint8; one result a scan.
            rows: the columns of each scan's covariates, by its number, where the model reads such; its geometry may be
                left to the scan.

        Yields:
            Number, scan and result, in the order in which they are done; no result where the scan has an `error`,
            which it also has where memory does not do for it even alone.
        """
        waiting: dict[int, ReadScan] = {}
        for number, scan in self._waited(scans):
            if scan.stack is None:
                yield number, scan, None
                continue
            waiting[number] = scan
            if len(waiting) >= self.batcher.size:
                yield from self._batch(waiting, function, rows or {})
                waiting = {}
        if waiting:
            yield from self._batch(waiting, function, rows or {})

    def _waited(self, scans: Iterable[Numbered]) -> Iterator[Numbered]:
        """The scans as they come; how long each took to come is added up."""
        coming = iter(scans)
        while True:
            begun = time.perf_counter()
            item = next(coming, None)
            self.seconds["waiting"] += time.perf_counter() - begun
            if item is None:
                return
            yield item

    def _batch(
        self, scans: Mapping[int, ReadScan], function: Callable[[Tensor], Sequence[Result]], rows: Rows
    ) -> Iterator[tuple[int, ReadScan, Result | None]]:
        too_large: set[int] = set()
        known = {number: measured(rows[number], scan) for number, scan in scans.items()} if rows else {}

        def run(numbers: Sequence[int]) -> dict[int, Result]:
            stacks = torch.stack([torch.from_numpy(scans[number].stack) for number in numbers])
            with self.holding([known[number] for number in numbers] if known else []):
                return dict(zip(numbers, function(stacks), strict=True))

        begun = time.perf_counter()
        results = self.batcher.run(run, list(scans), too_large.add)
        self.seconds["network"] += time.perf_counter() - begun
        for number, scan in scans.items():
            why = "there is not enough memory for the model to see it" if number in too_large else scan.error
            unlike = tuple(doubts(self.inputs, known[number])) if known else ()
            yield number, replace(scan, error=why, doubts=unlike), results.get(number)

    def predicted(
        self, scans: Iterable[Numbered], rows: Rows | None = None
    ) -> Iterator[tuple[int, ReadScan, list[float] | None]]:
        """As `over`, with predictions."""
        return self.over(scans, lambda stacks: self.predict_whole(stacks).tolist(), rows if self.inputs else None)

    def read(self, paths: Sequence[str]) -> Iterator[Numbered]:
        """Read scans in this order, from the cache where there is one."""
        from slivit.predict.batching import read_batches

        batches = read_batches(paths, self.settings, self.cache, self.workers, self.batcher.size)
        return chain.from_iterable(batches)

    def table(
        self, rows: Sequence[Mapping[str, Any]], *, on_error: str = "raise", progress: bool = False
    ) -> pd.DataFrame:
        """Predict every row of a manifest once; see `predict_table`."""
        from slivit.predict.table import prediction_table

        predictions: dict[int, list[float]] = {}
        scans: dict[int, ReadScan] = {}
        paths = [str(row["path"]) for row in rows]
        known = covariate_rows(rows, self.task, self.settings.reader, self.workers) if self.inputs else rows
        scanned = self.predicted(self.read(paths), dict(enumerate(known)))
        for number, scan, values in _shown(scanned, len(rows), progress):
            notes = (*scan.notes, *scan.doubts)
            scans[number] = ReadScan(None, notes=notes, error=error_of(paths[number], scan))
            if scan.error and on_error == "raise":
                raise ReadError(scans[number].error)
            if values is not None:
                predictions[number] = values
        return prediction_table(rows, self.task, predictions, scans, with_errors=on_error == "record")

    def called(self, predictions: Tensor) -> pd.DataFrame:
        """(n, outputs) predictions as a table, under the checkpoint's decision: scaled, and with calls."""
        import pandas as pd

        table = pd.DataFrame(predictions.double().numpy(), columns=list(self.task.prediction_columns))
        decision = self.checkpoint.operating_point
        return decision.apply(table, self.task) if decision and self.task.makes_calls else table


def measured(row: Mapping[str, Any], scan: ReadScan) -> Mapping[str, Any]:
    """The columns of a scan, with the geometry that was seen as it was read."""
    return {**row, **extents(scan.look.shape, scan.look.spacing)} if scan.look else row


def error_of(name: str, scan: ReadScan) -> str:
    """Why a scan has no prediction, with its name; "" where it has one."""
    return f"{name}: {scan.error}" if scan.error and scan.stack is not None else scan.error


def mirror_axes(flips: Sequence[str]) -> list[tuple[int, ...]]:
    """The axes of (..., S, H, W) to flip for each view: every combination of `flips`, none of them first."""
    axes = [FLIP_AXES[f] for f in flips]
    return [chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count)]


def _shown(results: Iterable[Result], total: int, progress: bool) -> Iterator[Result]:
    from tqdm import tqdm

    return iter(
        tqdm(results, desc="predict", unit="scan", total=total, disable=None if progress else True, leave=False)
    )


def predict_table(
    model: nn.Module,
    rows: Sequence[Mapping[str, Any]],
    task: Task,
    settings: Preprocessing,
    *,
    device: str = "auto",
    batch_size: int = 8,
    workers: int = 0,
    precision: Precision = "float32",
    on_error: str = "raise",
    cache: Any = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Predict every row of a manifest once.

    Args:
        model: with a `.spec`, trained.
        rows: with `path`; other columns are carried over, and targets where they are there are put beside the
            predictions as `target_<name>`.
        task: the fitted task.
        settings: the preprocessing, with its size set; predictions are averaged over its `flips`, and those of its
            `windows` become one for each scan, which is read once.
        device: "auto", "cpu", "cuda", ...
        batch_size: scans a batch; windows a batch where scans are cut into windows.
        workers: processes that read scans.
        precision: in which the network computes; "auto" takes the fastest that the device has.
        on_error: "raise" where a scan cannot be predicted, or "record" it in the column `error` and go on.
        cache: where preprocessed slices are kept.
        progress: show a progress bar.

    Returns:
        One row a scan, in the order given: the rows' columns, `target_*`, then `prob_*` (probabilities) or `pred_*`
        (in the target's unit), `notes` of the reader and, where recorded, `error`.

    Raises:
        ReadError: a scan that cannot be predicted, where `on_error` is "raise".

    Example:
        >>> checkpoint = slivit.load_checkpoint("runs/mine")
        >>> rows = slivit.read_manifest("scans.csv", checkpoint.task).rows("test")
        >>> settings = checkpoint.preprocessing
        >>> table = slivit.predict_table(checkpoint.model, rows, checkpoint.task, settings, device="cpu")
        >>> len(table), bool(table["prob_bright"].between(0, 1).all())
        (8, True)
    """
    options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "precision": precision, "cache": cache}
    engine = Engine(Checkpoint(model, task, settings), device, **options)
    return engine.table(rows, on_error=on_error, progress=progress)
