"""Which windows the scans of a manifest are cut into, and what each of them is an example of."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slivit.data.covariates import read_geometry
from slivit.data.manifest import Manifest
from slivit.data.preprocessing import Preprocessing
from slivit.data.slice_labels import LabelledSlices
from slivit.errors import ManifestError, SlivitError
from slivit.targets.covariates import SLICES_COLUMN

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanWindows:
    """One scan and its windows.

    Args:
        row: of the manifest.
        depth: the number of slices of the scan.
        windows: one row a window: those of the scan, with the window's own target where slices are labelled, and with
            `start`, its first slice, and `depth`.
    """

    row: Mapping[str, Any]
    depth: int
    windows: tuple[Mapping[str, Any], ...]


def plan_windows(
    manifest: Manifest,
    settings: Preprocessing,
    depths: Mapping[str, int] | None = None,
    labels: LabelledSlices | None = None,
    *,
    workers: int = 0,
) -> list[ScanWindows]:
    """Cut the training and validation scans of a manifest into windows.

    Args:
        manifest: checked rows.
        settings: the preprocessing, with its size and its windows set.
        depths: the number of slices of each scan; they are counted where None.
        labels: which slices are positive. Without them every window has the targets of its scan.
        workers: threads that count slices.

    Raises:
        ManifestError: labels after which no window of the training scans, or each of them, is positive.
        SlivitError: a stride that would leave slices out.
    """
    target = manifest.task.targets[0]
    rows = used_rows(manifest)
    if depths is None:
        depths = count_slices([r["path"] for r in rows], settings.reader, workers=workers)
    plan = []
    for row in rows:
        depth = depths[row["path"]]
        windows = [{**row, "start": s, "depth": depth} for s in _starts(settings, depth)]
        if labels:
            for window in windows:
                count = labels.count(row["path"], window["start"], window["start"] + _length(settings))
                window[target] = int(count >= labels.minimum)
        plan.append(ScanWindows(row, depth, tuple(windows)))
    if labels:
        _check_classes(plan, target, labels, manifest)
    return plan


def used_rows(manifest: Manifest) -> list[Mapping[str, Any]]:
    """The rows that train and validate."""
    return [row for split in ("train", "val") if split in manifest.splits for row in manifest.rows(split)]


def _length(settings: Preprocessing) -> int:
    return settings.stored.size[0]  # type: ignore[index]


def _starts(settings: Preprocessing, depth: int) -> list[int]:
    if settings.windows is None:
        raise SlivitError("preprocessing.windows is not set, so scans are not cut into windows")
    return settings.windows.starts(depth, _length(settings))


def _check_classes(plan: Sequence[ScanWindows], target: str, labels: LabelledSlices, manifest: Manifest) -> None:
    """Labels after which there is nothing to learn are an error; positive scans without a positive window are named."""
    train = [int(w[target]) for scan in plan if scan.row["split"] == "train" for w in scan.windows]
    if len(set(train)) < 2:
        which = "positive" if all(train) else "negative"
        raise ManifestError(
            f"{manifest.source}: all {len(train)} windows of the training scans are {which}; a window is positive "
            f"from {labels.minimum} positive slices on (data.slice_labels.min_positive_slices)"
        )
    lost = [s.row["path"] for s in plan if int(s.row[target]) == 1 and not any(int(w[target]) for w in s.windows)]
    if lost:
        log.warning(
            "%d positive scans have no window with %d positive slices, so all of their windows are negative, such as "
            "those of %s",
            len(lost),
            labels.minimum,
            lost[0],
        )


def count_slices(paths: Iterable[str], reader: Mapping[str, Any] | None = None, *, workers: int = 0) -> dict[str, int]:
    """The number of slices of every scan, of which one is decoded at most.

    Args:
        paths: anything that `read_volume` takes.
        reader: options for `read_volume`.
        workers: threads that read.

    Raises:
        ReadError: the scans that cannot be read.
    """
    measured = read_geometry(paths, reader, workers=workers)
    return {path: int(geometry[SLICES_COLUMN]) for path, geometry in measured.items()}


def summary(plan: Sequence[ScanWindows], target: str | None = None) -> list[dict[str, Any]]:
    """One row a scan for a table: path, split, its number of slices and of windows, and how many are positive.

    Args:
        plan: from `plan_windows`.
        target: of a binary task; None leaves out the number of positive windows.
    """
    rows = []
    for scan in plan:
        row = {"path": scan.row["path"], "split": scan.row["split"], "slices": scan.depth}
        row |= {"windows": len(scan.windows)}
        rows.append(row | ({"positive": sum(w[target] == 1 for w in scan.windows)} if target else {}))
    return rows
