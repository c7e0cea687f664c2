"""Runs that segment, on the page: true and predicted masks on the scan's own voxels, their difference, and Dice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from slivit.checkpoint import Checkpoint, load_checkpoint
from slivit.data.case import mask_options, read_mask, read_scan
from slivit.data.readers import read_volume
from slivit.data.reviews import scan_key
from slivit.display import nifti_bytes, percentiles
from slivit.errors import ReadError
from slivit.evaluate.masks import read_cases
from slivit.explanation import SeenScan
from slivit.folder import CASES, MASKS
from slivit.predict.masks import MM3_PER_ML, segment
from slivit.report.style import number
from slivit.statistics.segmentation import mask_dice
from slivit.targets.segmentation import IGNORED, Segmentation
from slivit.targets.task import is_missing
from slivit.viewer.bench import Bench, Opened, Recent, Row
from slivit.viewer.opinions import rows_of_readers
from slivit.viewer.panels import scan_facts
from slivit.viewer.record import PLACES
from slivit.volume import Volume

if TYPE_CHECKING:
    import pandas as pd

Numbers = npt.NDArray[np.uint8]
KEPT = 4
"""Cases whose masks are kept in memory at most."""
DIFFERENCE = ("missed", "added", "another structure")
"""What the values 1 to 3 of a difference mean: true alone, predicted alone, both but of two structures."""


@dataclass(frozen=True, eq=False)
class CaseMasks:
    """The masks of one scan.

    Args:
        layers: by name ("true", "predicted", "difference") (D, H, W), the place of a structure from 1, or what
            `DIFFERENCE` says; what is not known is left out.
        structures: for each structure its `name`, `dice`, `true_ml` and `predicted_ml`; None where not known.
        notes: where the predicted mask comes from, and what could not be read.
    """

    layers: Mapping[str, Numbers]
    structures: Sequence[Mapping[str, Any]]
    notes: Sequence[str]


def open_bench(checkpoint: str | Path, manifest: str | Path | None = None, **options: Any) -> Bench:
    """The bench of a run, of one that segments too; see `Bench`."""
    loaded = load_checkpoint(checkpoint)
    kind = MaskBench if loaded.task.dense else Bench
    return kind(loaded, manifest, **options)


class MaskBench(Bench):
    """The bench of a run that segments: scans are shown at stored resolution, with their masks."""

    def __init__(self, checkpoint: str | Path | Checkpoint, manifest: str | Path | None = None, **options: Any) -> None:
        super().__init__(checkpoint, manifest, **options)
        self.known = dict(self._cases())
        self._masks = Recent[CaseMasks](KEPT)

    @cached_property
    def task(self) -> Segmentation:
        """The structures."""
        task: Any = self.checkpoint.task
        return task

    def _cases(self) -> Iterator[tuple[str, Row]]:
        """What the run's tables of cases say of each scan, the evaluation's last."""
        for place in reversed(PLACES):
            file = self.run / place / CASES
            if file.is_file():
                cases = read_cases(file)
                for path, own in cases.groupby("path", sort=False):
                    yield scan_key({"path": path}), case_row(own, self.run / place / MASKS)

    def slices_of(self, row: Row) -> npt.NDArray[np.uint8]:
        first = read_scan(row, self.settings).by_channel()[0].array
        return grey(first[[len(first) // 2]], *percentiles(first))

    def look(self, row: Row, stacks: torch.Tensor) -> None:
        """Nothing is predicted on the way: a scan takes many windows."""

    def _open(self, path: str, name: str, row: Row) -> Opened:
        volume = read_scan(row or {"path": path}, self.settings)
        array = volume.array
        channels = [grey(part.array, *percentiles(part.array)) for part in volume.by_channel()]
        stack = np.stack(channels) if array.ndim == 4 else channels[0]
        numbers = np.arange(volume.shape[0])
        scan = SeenScan(path, stack, numbers, volume.shape, volume.spacing, volume.affine, volume.notes)
        opened = Opened(name, scan, {}, np.zeros(0), row)
        if not row:
            with self._lock:
                opened.masks = segment(self.engine, {"path": path}).masks
        return opened

    def _read_volume(self, row: Row) -> Volume:
        return read_scan(row, self.settings)

    def _whole(self, path: str) -> Volume:
        return read_scan({"path": path}, self.settings)

    def masks(self, opened: Opened) -> CaseMasks:
        """The masks of an opened scan: the predicted one from the run's folder, or predicted now.

        Raises:
            SlivitError: a scan or a predicted mask that cannot be read.
        """
        return self._masks.get(opened, lambda: self._compared(opened))

    def has_masks(self, opened: Opened) -> bool:
        """Whether the masks of an opened scan are at hand."""
        return opened in self._masks

    def _compared(self, opened: Opened) -> CaseMasks:
        volume = self.volume(opened)
        predicted, came = self._predicted(opened, volume)
        true, ignored, why = self._true(opened.row, volume)
        if ignored is not None:
            predicted = predicted & ~ignored
        layers = {"predicted": painted(predicted, self.task)}
        if true is not None:
            layers["true"] = painted(true, self.task)
            layers["difference"] = difference(layers["true"], layers["predicted"])
        voxel = float(np.prod(volume.spacing)) / MM3_PER_ML if volume.spacing else None
        structures = [
            {
                "name": name,
                "dice": mask_dice(true[place], predicted[place]) if true is not None else None,
                "true_ml": int(true[place].sum()) * voxel if true is not None and voxel else None,
                "predicted_ml": int(predicted[place].sum()) * voxel if voxel else None,
            }
            for place, name in enumerate(self.task.structures)
        ]
        return CaseMasks(layers, structures, [came, *why])

    def _predicted(self, opened: Opened, volume: Volume) -> tuple[npt.NDArray[np.bool_], str]:
        """(structures, D, H, W) of the predicted mask, and where it comes from."""
        if opened.masks is not None:
            return opened.masks, "The mask was predicted when the scan was dropped."
        known = self.known.get(scan_key(opened.row), {})
        files = stored_files(known, self.task)
        if not files:
            with self._lock:
                return segment(
                    self.engine, opened.row
                ).masks, "The run holds no mask of this scan; it was predicted now."
        options = mask_options(volume, opened.row, self.settings)
        arrays = [read_volume(str(file), **options).array for file in files]
        if arrays[0].shape != volume.shape:
            raise ReadError(f"{files[0]}: this mask has {arrays[0].shape} voxels, and its scan {volume.shape}")
        if len(arrays) > 1:
            return np.stack([array != 0 for array in arrays]), f"Predicted masks: {files[0].parent}."
        return structures_of(self.task.numbered(arrays[0]), self.task), f"Predicted mask: {files[0]}."

    def _true(
        self, row: Row, volume: Volume
    ) -> tuple[npt.NDArray[np.bool_] | None, npt.NDArray[np.bool_] | None, list[str]]:
        """(structures, D, H, W) of the true mask, the voxels that count nowhere, and why there is none."""
        if not row or is_missing(row.get(self.task.targets[0])):
            return None, None, ["The true mask is not known."]
        numbers = read_mask(row, volume, self.task, self.settings, "resample")
        ignored = numbers == IGNORED if self.task.ignore is not None else None
        return structures_of(numbers, self.task), ignored, []

    def layer(self, opened: Opened, name: str) -> bytes | None:
        """A layer as NIfTI over the scan; None where there is none of that name."""
        voxels = self.masks(opened).layers.get(name)
        return None if voxels is None else nifti_bytes(voxels, opened.scan.affine, opened.scan.spacing)


class ReaderMasks(MaskBench):
    """The masks that one person drew, looked at like a run's predictions.

    Args:
        bench: of the run that they are compared with.
        name: of the person.
        cells: what names the mask, by the scan's path.
    """

    def __init__(self, bench: MaskBench, name: str, cells: Mapping[str, Any]) -> None:
        self.checkpoint, self.engine, self.run, self.rows = bench.checkpoint, bench.engine, bench.run, bench.rows
        self.known, self.members, self.dropped = {}, {}, bench.dropped
        self.name, self._cells, self._whole_bench = name, cells, bench
        self._masks = Recent[CaseMasks](KEPT)

    def open(self, key: str, row: Row | None = None) -> Opened:
        """See `Bench.open`."""
        return self._whole_bench.open(key, row)

    def volume(self, opened: Opened) -> Volume:
        """See `Bench.volume`."""
        return self._whole_bench.volume(opened)

    def _predicted(self, opened: Opened, volume: Volume) -> tuple[npt.NDArray[np.bool_], str]:
        cell = self._cells.get(scan_key(opened.row)) if opened.row else None
        if is_missing(cell):
            raise ReadError("no mask of this scan was drawn")
        row = {**opened.row, self.task.targets[0]: cell}
        return structures_of(read_mask(row, volume, self.task, self.settings, "resample"), self.task), f"Drawn: {cell}."


def reader_masks(csv: str | Path, bench: MaskBench) -> list[ReaderMasks]:
    """The masks that people drew, by person.

    Args:
        csv: with `path` and the mask's column as in the manifest, and perhaps `reader` (else the file's name is one).
        bench: of the run that they are compared with.

    Raises:
        ManifestError: a file that cannot be read, or without such columns.
    """
    target, place = bench.task.targets[0], Path(csv).parent
    by_reader: dict[str, dict[str, Any]] = {}
    for name, key, row in rows_of_readers(csv, [target]):
        cell = row[target]
        by_reader.setdefault(name, {})[key] = cell if is_missing(cell) else str((place / str(cell)).absolute())
    return [ReaderMasks(bench, name, cells) for name, cells in by_reader.items()]


def case_facts(bench: MaskBench, opened: Opened) -> dict[str, Any]:
    """Everything about an opened scan but its pictures and masks."""
    known = bench.known.get(scan_key(opened.row)) if opened.row else None
    mean = None if known is None else known["dice"]
    split = opened.row.get("split") or ""
    lines = [f"The model was trained on this scan (split {split})."] if split == "train" else []
    if lines and known and known.get("split") == "test":  # of a run by folds
        lines = ["The mask is by the network of its fold, which never saw this patient; the model that is kept did."]
    if known and known["hd95"] is not None:
        lines.insert(0, f"95% Hausdorff distance {number(known['hd95'], 1)} mm, the mean of what is there and found.")
    return {
        **scan_facts(bench, opened),
        "target": "",
        "shown": "\u2013" if mean is None else number(mean),
        "what": "mean Dice of the structures"
        + (", as the run measured it" if known else "; the run has not measured it"),
        "outputs": [],
        "sentences": lines,
        "masks": [],
    }


def masks_facts(masks: CaseMasks) -> dict[str, Any]:
    """The masks of a case but their voxels."""
    return {"layers": list(masks.layers), "structures": list(masks.structures), "notes": list(masks.notes)}


def case_row(cases: pd.DataFrame, masks: Path) -> Row:
    """What a table of cases says of one scan: means over structures, and each structure's values as NAME/STRUCTURE."""
    row: dict[str, Any] = {"case": str(cases["case"].iloc[0]), "masks": masks}
    for metric in ("dice", "hd95"):
        values = [float(v) for v in cases[metric] if not is_missing(v) and math.isfinite(float(v))]
        row[metric] = math.fsum(values) / len(values) if values else None
    for own in cases.to_dict("records"):
        for metric in ("dice", "hd95", "true_ml", "predicted_ml"):
            row[f"{metric}/{own['structure']}"] = own[metric]
    for name in ("error", "notes", "split"):
        row[name] = str(cases[name].iloc[0])
    return row


def stored_files(known: Row, task: Segmentation) -> list[Path]:
    """The files of a case's predicted mask: one of all labels, or one a region; empty where they are not all there."""
    if not known:
        return []
    whole = known["masks"] / f"{known['case']}.nii.gz"
    if whole.is_file():
        return [whole]
    parts = [known["masks"] / f"{known['case']}_{name}.nii.gz" for name in task.structures]
    return parts if all(part.is_file() for part in parts) else []


def structures_of(numbers: Numbers, task: Segmentation) -> npt.NDArray[np.bool_]:
    """(structures, D, H, W) of (D, H, W) numbers of labels."""
    return np.stack([task.structure(numbers, place) for place in range(len(task.structures))])


def painted(masks: npt.NDArray[np.bool_], task: Segmentation) -> Numbers:
    """(structures, D, H, W) as (D, H, W) places of structures from 1; those of fewer labels lie over the others."""
    out = np.zeros(masks.shape[1:], np.uint8)
    for place in sorted(range(len(masks)), key=lambda place: -len(task.members[place])):
        out[masks[place]] = place + 1
    return out


def difference(true: Numbers, predicted: Numbers) -> Numbers:
    """Where two painted masks differ, by the values of `DIFFERENCE`; 0 where they agree."""
    out = np.zeros(true.shape, np.uint8)
    out[(true > 0) & (predicted == 0)] = 1
    out[(true == 0) & (predicted > 0)] = 2
    out[(true > 0) & (predicted > 0) & (true != predicted)] = 3
    return out


def grey(array: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Values as 0 to 255, between two of them."""
    part = (np.nan_to_num(array.astype(np.float32), nan=low) - low) / max(high - low, 1e-8)
    return np.rint(255 * part.clip(0, 1)).astype(np.uint8)
