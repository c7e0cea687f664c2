"""What is checked of scans and masks before a network is trained on them: all that is wrong in one error."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slivit.data.case import Align, read_mask
from slivit.data.manifest import Manifest
from slivit.data.preprocessing import Preprocessing
from slivit.data.readers import describe
from slivit.errors import ManifestError, SlivitError, gather, one_of
from slivit.targets.segmentation import IGNORED, Segmentation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaskLook:
    """What one mask holds.

    Args:
        path: of the scan.
        split: of the scan.
        voxels: of each label, by its name.
        error: what is wrong, "" where nothing is.
    """

    path: str
    split: str
    voxels: Mapping[str, int]
    error: str = ""


def look_at_masks(
    rows: Sequence[Mapping[str, Any]], task: Segmentation, settings: Preprocessing, align: Align, workers: int = 0
) -> list[MaskLook]:
    """Read every mask, and compare it with the header of its scan.

    Args:
        rows: of a manifest.
        task: which values are labels.
        settings: whose reader options count.
        align: see `slivit.data.case.read_mask`.
        workers: processes that read.
    """
    from torch.utils.data import DataLoader

    looks: Any = _Looks(rows, task, settings, align)
    loader: Any = DataLoader(looks, batch_size=4, num_workers=workers, collate_fn=list)
    return [look for batch in loader for look in batch]


class _Looks:
    """One look a row."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], *options: Any) -> None:
        self.rows, self.options = list(rows), options

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> MaskLook:
        return _look(self.rows[number], *self.options)


def _look(row: Mapping[str, Any], task: Segmentation, settings: Preprocessing, align: Align) -> MaskLook:
    path, split = str(row["path"]), str(row.get("split", ""))
    try:
        numbers = read_mask(row, describe(path, **settings.reader), task, settings, align)
    except SlivitError as error:
        return MaskLook(path, split, {}, str(error))
    counts = np.bincount(numbers.ravel(), minlength=IGNORED + 1)
    return MaskLook(path, split, {name: int(counts[n]) for n, name in enumerate(task.labels, 1)})


def check_masks(looks: Sequence[MaskLook], task: Segmentation, source: str) -> None:
    """Raise a ManifestError that tells all that is wrong with the masks of a table.

    Args:
        looks: at every row.
        task: which values are labels.
        source: the table, for the message.
    """
    gather(mask_problems(looks, task), source, ManifestError)


def mask_problems(looks: Sequence[MaskLook], task: Segmentation) -> list[str]:
    """All that is wrong with masks, one sentence each."""
    return [*_of_masks(looks, task), *_of_labels(looks, task)]


def _of_masks(looks: Sequence[MaskLook], task: Segmentation) -> Iterator[str]:
    for look in looks:
        if look.error:
            yield look.error
        elif not task.empty and not any(look.voxels.values()):
            yield (
                f"{look.path}: its mask is empty; a mask that was not drawn teaches that there is nothing. Where "
                "scans without any structure are meant, set task.empty = true"
            )


def _of_labels(looks: Sequence[MaskLook], task: Segmentation) -> Iterator[str]:
    trained = [look for look in looks if look.split == "train" and not look.error]
    if not trained:
        return
    if missing := [name for name in task.labels if not any(look.voxels[name] for look in trained)]:
        yield f"no training mask holds {one_of(missing)}; take out labels that there is nothing to learn of"


def log_masks(looks: Sequence[MaskLook], task: Segmentation) -> None:
    """Log in how many masks of each split each label is."""
    for split in dict.fromkeys(look.split for look in looks):
        part = [look for look in looks if look.split == split]
        counts = ", ".join(f"{name} in {sum(look.voxels[name] > 0 for look in part)}" for name in task.labels)
        log.info("%s: %d masks: %s", split or "no split", len(part), counts)


def checked_masks(
    manifest: Manifest, task: Segmentation, settings: Preprocessing, align: Align, workers: int = 0
) -> list[MaskLook]:
    """Look at all masks of a manifest, log what they hold, and raise one error for all that is wrong."""
    looks = look_at_masks(manifest.rows(), task, settings, align, workers)
    check_masks(looks, task, manifest.source)
    log_masks(looks, task)
    return looks
