"""Scans in, a table of predictions out: every scan exactly once, in probabilities or in the target's unit."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from slivit.data.blocks import to_input
from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.windows import Windows
from slivit.errors import ReadError, SlivitError
from slivit.models.registry import spec_of
from slivit.targets.loss import TaskLoss
from slivit.targets.task import Task

FLIP_AXES = {"slices": 1, "vertical": 2, "horizontal": 3}


@dataclass(frozen=True)
class Item:
    """One scan as it comes out of a reading process: its slices, or why there are none."""

    index: int
    stack: Tensor | None
    notes: tuple[str, ...] = ()
    error: str = ""


class ScanDataset(Dataset):
    """Preprocessed scans by their position in a table; a scan that cannot be read carries its error."""

    def __init__(self, paths: Sequence[str], settings: Preprocessing, cache: Any = None) -> None:
        self.paths, self.settings, self.cache = list(paths), settings, cache

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        load = self.cache.load if self.cache else load_slices
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                stack = torch.from_numpy(load(self.paths[index], self.settings))
            except ReadError as error:
                return Item(index, None, error=str(error))
        return Item(index, stack, tuple(str(w.message) for w in caught))


def choose_device(device: str = "auto") -> torch.device:
    """The device by name; "auto" takes a GPU where there is one.

    Raises:
        SlivitError: an unknown device, or one that this machine lacks.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SlivitError(f'device "{device}" cannot be used: {error}') from error
    return chosen


def predict_table(
    model: nn.Module,
    rows: Sequence[Mapping[str, Any]],
    task: Task,
    settings: Preprocessing,
    *,
    device: str = "auto",
    batch_size: int = 8,
    workers: int = 0,
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
        on_error: "raise" where a scan cannot be read, or "record" it in the column `error` and go on.
        cache: where preprocessed slices are kept.
        progress: show a progress bar.

    Returns:
        One row a scan, in the order given: the rows' columns, `target_*`, then `prob_*` (probabilities) or `pred_*`
        (in the target's unit), `notes` of the reader and, where recorded, `error`.

    Raises:
        ReadError: a scan that cannot be read, where `on_error` is "raise".

    Example:
        >>> checkpoint = slivit.load_checkpoint("runs/mine")
        >>> rows = slivit.read_manifest("scans.csv", checkpoint.task).rows("test")
        >>> settings = checkpoint.preprocessing
        >>> table = slivit.predict_table(checkpoint.model, rows, checkpoint.task, settings, device="cpu")
        >>> len(table), bool(table["prob_bright"].between(0, 1).all())
        (8, True)
    """
    where = choose_device(device)
    dataset = ScanDataset([str(r["path"]) for r in rows], settings, cache)
    scans = 1 if settings.windows else batch_size
    loader = DataLoader(dataset, batch_size=scans, num_workers=workers, collate_fn=list)
    run = Runner(model.to(where).eval(), TaskLoss(task).to(where), where, settings.flips, settings.windows, batch_size)
    found: dict[int, list[float]] = {}
    items: dict[int, Item] = {}
    for batch in _shown(loader, progress):
        if on_error == "raise" and (bad := [i for i in batch if i.error]):
            raise ReadError(bad[0].error)
        found |= run(batch)
        items |= {i.index: Item(i.index, None, i.notes, i.error) for i in batch}
    return prediction_table(rows, task, found, items, with_errors=on_error == "record")


def mirror_axes(flips: Sequence[str]) -> list[tuple[int, ...]]:
    """The axes of (B, S, H, W) to flip for each view: every combination of `flips`, none of them first."""
    axes = [FLIP_AXES[f] for f in flips]
    return [chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count)]


@dataclass(frozen=True)
class Runner:
    """Batches of items to predictions by index: probabilities, or values in the unit of the target.

    Args:
        model: in evaluation mode, on `device`.
        loss: whose activation makes predictions of outputs.
        device: where it computes.
        flips: the mirrorings over which predictions are averaged.
    """

    model: nn.Module
    loss: TaskLoss
    device: torch.device
    flips: tuple[str, ...]
    windows: Windows | None
    at_once: int

    def __call__(self, batch: Sequence[Item]) -> dict[int, list[float]]:
        readable = [i for i in batch if i.stack is not None]
        if not readable:
            return {}
        stacks = torch.stack([i.stack for i in readable]).to(self.device)  # type: ignore[misc]
        with torch.inference_mode():
            predicted = self._scans(stacks, self.windows) if self.windows else self._views(stacks)
        return {i.index: p for i, p in zip(readable, predicted.cpu().tolist(), strict=True)}

    def _scans(self, stacks: Tensor, windows: Windows) -> Tensor:
        """(B, D, H, W) scans to (B, outputs), from the predictions of all windows of each."""
        slices = spec_of(self.model).size[0]
        batches = ([self._views(part) for part in windows.cut(scan, slices, self.at_once)] for scan in stacks)
        return torch.stack([windows.aggregate(torch.cat(parts)) for parts in batches])

    def _views(self, stacks: Tensor) -> Tensor:
        """(B, S, H, W) to (B, outputs), the mean over all mirror images."""
        views = [self._view(stacks.flip(axes)) for axes in mirror_axes(self.flips)]
        return torch.stack(views).mean(0).reshape(len(stacks), -1)

    def _view(self, stacks: Tensor) -> Tensor:
        spec = spec_of(self.model)
        return self.loss.activation(self.model(to_input(stacks, spec.input, spec.mean, spec.std)))


def _shown(loader: Iterable[list[Item]], progress: bool) -> Iterator[list[Item]]:
    from tqdm import tqdm

    return iter(tqdm(loader, desc="predict", unit="batch", disable=not progress, leave=False))


def prediction_table(
    rows: Sequence[Mapping[str, Any]],
    task: Task,
    found: Mapping[int, Sequence[float]],
    items: Mapping[int, Item] | None = None,
    *,
    with_errors: bool = False,
) -> pd.DataFrame:
    """Put predictions beside what is known of each scan, as `predict_table` does.

    Args:
        rows: of a manifest.
        task: the fitted task.
        found: predictions by the number of the row; empty cells where there are none.
        items: what reading told of each row: notes and errors.
        with_errors: give the column `error`.
    """
    missing = [float("nan")] * task.out_dim
    records = []
    for index, row in enumerate(rows):
        record = {k: v for k, v in row.items() if k not in task.targets}
        record |= {f"target_{t}": row[t] for t in task.targets if t in row}
        record |= dict(zip(task.prediction_columns, found.get(index, missing), strict=True))
        item = (items or {}).get(index, Item(index, None))
        record["notes"] = "; ".join(item.notes)
        if with_errors:
            record["error"] = item.error
        records.append(record)
    return pd.DataFrame(records)
