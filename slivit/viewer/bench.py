"""What the page works on: a model, scans to choose from, and what is known of the model's run. No page in here."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch

from slivit.checkpoint import Checkpoint, load_checkpoint
from slivit.data.case import on_grid
from slivit.data.covariates import covariate_rows
from slivit.data.foreground import to_foreground
from slivit.data.manifest import read_manifest
from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.readers import read_volume
from slivit.data.readers.address import short_name
from slivit.data.reviews import scan_key
from slivit.data.sources import columns_of
from slivit.data.table import read_table
from slivit.errors import SlivitError
from slivit.explanation import Explanation, SeenScan, explain_seen, seen_by
from slivit.folder import SPLIT
from slivit.models.ensemble import Ensemble
from slivit.predict.engine import Engine
from slivit.targets.task import is_missing
from slivit.viewer.neighbours import Neighbours
from slivit.viewer.nifti import read_mask
from slivit.viewer.record import Record, stored_members, stored_predictions
from slivit.volume import Volume

if TYPE_CHECKING:
    import numpy.typing as npt

Row = Mapping[str, Any]
Value = TypeVar("Value")
OPENED, VOLUMES = 12, 2
"""Scans, and whole volumes at stored resolution, that are kept in memory at most."""


class Stopped(Exception):
    """A computation whose result nobody waits for any more."""


class Recent(Generic[Value]):
    """The values that were used last, made where they are not there.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most, self._kept, self._lock = most, OrderedDict[Hashable, Value](), threading.RLock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key; only one thread makes values at a time."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return self._kept[key]


@dataclass(eq=False)
class Opened:
    """A scan that is looked at.

    Args:
        name: as the page shows it.
        scan: what the model saw.
        predictions: by column, as `slivit predict` writes them.
        features: (n,) what the model's head read.
        row: the manifest's row; empty for a dropped file.
        volume: the scan itself, where it cannot be read again.
        explanations: explanations by (target, method).
        masks: (structures, D, H, W) of a run that segments, where the scan cannot be read again.
    """

    name: str
    scan: SeenScan
    predictions: Mapping[str, Any]
    features: npt.NDArray[Any]
    row: Row = field(default_factory=dict)
    volume: Volume | None = None
    explanations: dict[tuple[str, str], Explanation] = field(default_factory=dict)
    masks: npt.NDArray[np.bool_] | None = None


class Bench:
    """A checkpoint, and the scans of a manifest.

    Args:
        checkpoint: a run or checkpoint folder, or what `load_checkpoint` made of it.
        manifest: a CSV of scans to choose from; the split that the run used where None, if there is one.
        device: "auto", "cpu", "cuda", ...
        batch_size: scans that are predicted at a time.

    Raises:
        SlivitError: no checkpoint there, or a manifest that cannot be read.
    """

    def __init__(
        self,
        checkpoint: str | Path | Checkpoint,
        manifest: str | Path | None = None,
        *,
        device: str = "auto",
        batch_size: int = 8,
    ) -> None:
        self.checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
        self.run = self.checkpoint.path.parent if self.checkpoint.path.name == "checkpoint" else self.checkpoint.path
        self.name = self.run.name  # what the page calls it
        self.engine = Engine(self.checkpoint, device, batch_size=batch_size)
        chosen = manifest or (self.run / SPLIT if (self.run / SPLIT).is_file() else None)
        self.rows: list[Row] = self._read(chosen) if chosen else []
        self.known: dict[str, Row] = dict(stored_predictions(self.run))
        self.members = stored_members(self.run, _member_names(self.checkpoint.model))
        self.dropped: dict[str, Opened] = {}
        self._opened, self._volumes = Recent[Opened](OPENED), Recent[Volume](VOLUMES)
        self._lock = threading.Lock()  # one computation at a time: visitors share the model

    def _read(self, csv: str | Path) -> list[Row]:
        options: dict[str, Any] = {"require_targets": False, "check_files": False, "patient_from_path": True}
        options["channels"] = columns_of(read_table(csv), self.settings.channels)
        return list(read_manifest(csv, self.checkpoint.task, need_splits=(), **options).rows())

    @property
    def settings(self) -> Preprocessing:
        """How scans become slices."""
        return self.checkpoint.preprocessing

    @cached_property
    def record(self) -> Record:
        """What the run's files tell of the model."""
        return Record.of(self.run, self.checkpoint.task, self.checkpoint.operating_point)

    @cached_property
    def neighbours(self) -> Neighbours:
        """The training scans to compare with."""
        split = self.run / SPLIT
        rows = self._read(split) if split.is_file() else self.rows
        # `slivit auto` fits its ensemble on the scans whose predictions out of fold chose it.
        learned = ("train", "val") if self.members else ("train",)
        training = [row for row in rows if row["split"] in learned]
        return Neighbours(self.engine, training, self.checkpoint.path, self.run / "neighbours.npz", self._lock)

    def open(self, key: str, row: Row | None = None) -> Opened:
        """An opened scan, read and predicted where it is not at hand.

        Args:
            key: the number of a row, or what `drop` gave.
            row: to open in place of the row of that number, such as one of another run's manifest.

        Raises:
            ReadError: the scan cannot be read.
            SlivitError: no scan of that name.
        """
        if key in self.dropped:
            return self.dropped[key]
        if row is None and not (key.isdecimal() and int(key) < len(self.rows)):
            raise SlivitError(f"there is no scan {key!r} here; dropped scans are gone when the page is started anew")
        chosen = self.rows[int(key)] if row is None else row
        return self._opened.get(scan_key(chosen), lambda: self.open_row(chosen))

    def open_row(self, row: Row | int) -> Opened:
        """Read and predict a scan of the manifest.

        Raises:
            ReadError: the scan cannot be read.
        """
        row = self.rows[row] if isinstance(row, int) else row
        opened = self._open(str(row["path"]), short_name(str(row["path"])), row)
        if opened.predictions:
            self.known.setdefault(scan_key(row), opened.predictions)
        self.keep_members(row, opened.features)
        return opened

    def slices_of(self, row: Row) -> npt.NDArray[np.uint8]:
        """What the model sees of a row, of which the middle slice stands for it in the list.

        Raises:
            ReadError: the scan cannot be read.
        """
        return load_slices(str(row["path"]), self.settings)

    def look(self, row: Row, stacks: torch.Tensor) -> None:
        """Keep what the model, and an ensemble's members, say of a row's (1, S, H, W) slices, where it is not known."""
        if scan_key(row) not in self.known and row["split"] != "train":
            self.known[scan_key(row)] = self.predict(stacks, self.with_geometry(row))
        if not self.has_members(row):
            self.keep_members(row, self.head_input(stacks, self.with_geometry(row)))

    def with_geometry(self, row: Row) -> Row:
        """A row with all that the model reads of it."""
        return covariate_rows([row], self.checkpoint.task, self.settings.reader)[0]

    def has_members(self, row: Row) -> bool:
        """Whether it is known what an ensemble's members say of a row; every other model has none to be asked."""
        return all(scan_key(row) in rows for rows in self.members.values())

    def keep_members(self, row: Row, features: npt.NDArray[Any]) -> None:
        """Keep what an ensemble's members say of a row, which is what its head reads."""
        for rows, said in zip(self.members.values(), self.members_say(features), strict=True):
            rows.setdefault(scan_key(row), said)

    def members_say(self, features: npt.NDArray[Any]) -> list[Row]:
        """What an ensemble's members predict, by column: that is what its head reads; none of another model."""
        task = self.checkpoint.task
        if not self.members:
            return []
        parts = features.reshape(len(self.members), task.out_dim)
        if not task.makes_calls and task.spread:
            parts = parts * np.array(task.spread) + np.array(task.center)
        return [dict(zip(task.prediction_columns, part.tolist(), strict=True)) for part in parts]

    def open_files(self, folder: Path) -> Opened:
        """Read and predict what was dropped into a folder: its one file, or the folder as a series.

        Raises:
            ReadError: the scan cannot be read.
        """
        files = sorted(folder.iterdir())
        name = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
        path = str(files[0] if len(files) == 1 else folder)
        opened = self._open(path, name, {})
        opened.volume = self._whole(path)
        return opened

    def drop(self, folder: Path) -> str:
        """Open what lies in a folder, keep it in memory until two more were dropped, and name it."""
        opened = self.open_files(folder)
        key = f"dropped{len(self.dropped)}"
        self.dropped[key] = opened
        for old in list(self.dropped.values())[:-2]:
            old.volume = None
        return key

    def _open(self, path: str, name: str, row: Row) -> Opened:
        scan = seen_by(self.engine, path, columns=row)
        stacks = torch.from_numpy(scan.stack)[None]
        known = scan.columns
        return Opened(name, scan, self.predict(stacks, known), self.head_input(stacks, known), row)

    def head_input(self, stacks: torch.Tensor, row: Row) -> npt.NDArray[Any]:
        """(n,) what the model's head reads of (1, S, H, W) slices, and of its covariates in an ensemble."""
        with self._lock, self.engine.holding([row]):
            return np.asarray(self.engine.head_input(stacks)[0].numpy())

    def predict(self, stacks: torch.Tensor, row: Row) -> dict[str, Any]:
        """The prediction of one scan by column, with calls; of (1, S, H, W) slices, 0 to 255, and its covariates."""
        with self._lock, self.engine.holding([row]):
            predictions = self.engine.predict_whole(stacks)
        return dict(self.engine.called(predictions).iloc[0])

    def volume(self, opened: Opened) -> Volume:
        """An opened scan at stored resolution.

        Raises:
            SlivitError: it was dropped too long ago.
        """
        if opened.volume is not None:
            return opened.volume
        if not opened.row:
            raise SlivitError(f"{opened.name}: is no longer in memory; drop it again")
        return self._volumes.get(scan_key(opened.row), lambda: self._read_volume(opened.row))

    def _read_volume(self, row: Row) -> Volume:
        return self._whole(str(row["path"]))

    def _whole(self, path: str) -> Volume:
        """A scan at stored resolution, cropped as the model's is."""
        return to_foreground(read_volume(path, **self.settings.reader), self.settings.foreground)

    def shown(self, opened: Opened, channel: int = 0) -> Volume:
        """As `volume`, one channel of it.

        Raises:
            SlivitError: no such channel.
        """
        volume = self.volume(opened)
        if volume.array.ndim == 3:
            return volume
        if not 0 <= channel < len(volume.array):
            raise SlivitError(f"{opened.name}: there is no channel {channel}; there are 0 to {len(volume.array) - 1}")
        return replace(volume, array=volume.array[channel])

    def mask(self, opened: Opened, file: Path) -> npt.NDArray[Any]:
        """(D, H, W) whole numbers: a mask's file on the voxels of an opened scan.

        Raises:
            SlivitError: it cannot be read, or does not say where it lies.
        """

        def read() -> Volume:
            array, affine = read_mask(file)
            volume = Volume(array, None, str(file), affine)
            return replace(volume, array=on_grid(volume, self.shown(opened), "resample"))

        return self._volumes.get((scan_key(opened.row), file), read).array

    def explain(
        self, opened: Opened, target: str, method: str, progress: Callable[[int, int], None] | None = None
    ) -> Explanation:
        """One method's explanation of an opened scan, computed once.

        Raises:
            ExplainError: the method is not defined for this model.
        """
        key = (target, method)
        if key not in opened.explanations:
            options: dict[str, Any] = {"target": target, "methods": [method], "progress": progress}
            with self._lock:
                opened.explanations[key] = explain_seen(self.engine, opened.scan, **options)
        return opened.explanations[key]

    def truth(self, opened: Opened) -> dict[str, Any]:
        """The known answers of an opened scan, by target."""
        targets = self.checkpoint.task.targets
        return {t: opened.row[t] for t in targets if t in opened.row and not is_missing(opened.row[t])}


def _member_names(model: torch.nn.Module) -> list[str]:
    """What the members of an ensemble are called, each in its own way; none of another model."""
    described = model.described if isinstance(model, Ensemble) else []
    names = [str(m.get("title") or m.get("name") or f"{m['kind']} of {', '.join(m['features'])}") for m in described]
    return [f"{name} ({i + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


class DropFolder:
    """A place for one dropped scan, gone when the block ends."""

    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix="slivit-view-"))
        return self._path

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
