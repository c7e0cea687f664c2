"""Read every scan of a manifest before training, and tell what is wrong with the set."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slivit.data.case_checks import look_at_masks, mask_problems
from slivit.data.check_same import same_pixels
from slivit.data.checking.findings import Finding, find_all, outlier_texts
from slivit.data.checking.scan import ScanFacts, examine, has_colour
from slivit.data.inspection import Columns, Inspection, inspect_manifest
from slivit.data.manifest import SPLITS
from slivit.data.manifest_checks import empty_splits
from slivit.data.notes import joined_notes
from slivit.data.preprocessing import Preprocessing
from slivit.data.readers.base import COLOUR_NOTE
from slivit.data.reviews import REVIEWS, Review, read_reviews
from slivit.data.workers import in_processes
from slivit.machines import Machines
from slivit.targets.segmentation import Segmentation
from slivit.targets.task import Task

Progress = Callable[[int, int], None]
_FACTS = (
    "problem",
    "dtype",
    "channels",
    "orientation",
    "low",
    "p1",
    "median",
    "p99",
    "high",
    "invalid",
    "empty",
    "foreground",
    "content",
    "two_values",
)
_DIED = "the program that read it was killed: a broken file crashed its decoder, or memory ran out"
MASK_READERS = 2  # of this machine, where a cluster reads the scans
TIME_LIMIT = 300.0
"""Seconds; far more than a sound scan takes, also from a slow disk."""


class Pictures:
    """The middle slices, kept in a temporary file, so that memory does not grow with the number of scans."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._places: dict[Any, tuple[int, int]] = {}

    def keep(self, row: Any, picture: bytes) -> None:
        """Store the JPEG of a row."""
        if picture:
            self._places[row] = (self._file.seek(0, 2), len(picture))
            self._file.write(picture)

    def get(self, row: Any) -> bytes:
        """The JPEG of a row; empty where it has none."""
        start, length = self._places.get(row, (0, 0))
        self._file.seek(start)
        return self._file.read(length)


@dataclass(frozen=True, eq=False)
class CheckResult:
    """What a check found.

    Args:
        source: the manifest.
        table: one row a scan (the index is the line of the manifest): path, patient, split, the other columns of the
            manifest, then problem ("" where the scan could be read), depth, height, width, dtype, channels, spacing_d,
            spacing_h, spacing_w (mm), orientation, low, p1, median, p99, high, invalid, empty (slices), foreground (the
            share that a crop keeps), content (a hash), two_values, group, same_as (rows with the same pixels), outlier,
            notes.
        task: what is predicted, where it was given.
        findings: the most important first.
        pictures: the middle slices.
    """

    source: str
    table: pd.DataFrame
    task: Task | None
    findings: tuple[Finding, ...]
    pictures: Pictures

    @property
    def wrong(self) -> bool:
        """Whether training or testing on this manifest would be wrong."""
        return any(f.level == "wrong" for f in self.findings)

    @property
    def exit_status(self) -> int:
        """1 where training would be wrong, else 0."""
        return int(self.wrong)

    @property
    def summary(self) -> tuple[str, ...]:
        """The three most important problems in words, or one sentence that there are none."""
        if not self.findings:
            return (f"All {len(self.table)} scans can be read, and nothing odd was found.",)
        return tuple(f.text for f in self.findings[:3])


COLOUR_LOST = Finding(
    "look",
    "colour becomes grey",
    "The scans are of colour, and are read as grey: where colour tells something, set preprocessing.reader.channel = "
    '"all" and a model of three channels (slivit auto does so by itself).',
)


def check_manifest(
    csv: Path | str,
    task: Task | None = None,
    *,
    columns: Columns | None = None,
    root: Path | str | None = None,
    patient_from_path: bool = False,
    reader: Mapping[str, Any] | None = None,
    where: Mapping[str, Any] | None = None,
    channels: Sequence[str] = (),
    workers: int | Machines = 2,
    time_limit: float = TIME_LIMIT,
    reviews: Path | str | None = None,
    progress: Progress | None = None,
) -> CheckResult:
    """Read every scan of a manifest in parallel, one at a time in each process, and collect what is odd.

    Args:
        csv: the manifest.
        task: what is predicted; without it, targets are not checked.
        columns: what the table calls its columns of paths, patients and splits.
        root: where relative paths start; the folder of the CSV by default.
        patient_from_path: see `read_manifest`.
        reader: options for `read_volume`, such as {"axis": "coronal"}.
        where: as `read_manifest` takes it.
        channels: as `read_manifest` takes them.
        workers: how many processes read, or the machines of a cluster; 0 reads here.
        time_limit: seconds after which a scan counts as one that cannot be read; 0 sets none, and neither do 0 workers.
        reviews: what people noted who looked at the scans; `reviews.csv` beside the manifest by default.
        progress: called with the number of scans done and of all scans.

    Raises:
        ManifestError: the file is no table at all, or has no column of paths.
    """
    inspection = inspect_manifest(
        csv,
        task,
        columns=columns,
        root=root,
        patient_from_path=patient_from_path,
        where=where,
        channels=channels,
    )
    problems = list(inspection.problems)
    if "train" in set(inspection.frame["split"]):
        problems += empty_splits(inspection.frame, SPLITS)
    if isinstance(task, Segmentation) and not problems:
        problems += _mask_problems(inspection.frame, task, dict(reader or {}), workers)
    notes = read_reviews(reviews or Path(csv).with_name(REVIEWS))
    options: dict[str, Any] = {"reader": reader, "workers": workers, "time_limit": time_limit, "progress": progress}
    return examined(replace(inspection, problems=tuple(problems)), str(csv), task, reviews=notes, **options)


def examined(
    inspection: Inspection,
    source: str,
    task: Task | None,
    *,
    reader: Mapping[str, Any] | None = None,
    workers: int | Machines = 2,
    time_limit: float = TIME_LIMIT,
    reviews: Sequence[Review] = (),
    progress: Progress | None = None,
) -> CheckResult:
    """Read every scan of a table that was inspected; the options are those of `check_manifest`.

    Args:
        inspection: the table, with what is wrong with it.
        source: its name.
        task: what is predicted.
        reviews: what people noted who looked at the scans.
    """
    pictures = Pictures()
    read = partial(in_processes, partial(examine, reader=dict(reader or {})), workers=workers, limit=time_limit)
    facts = _read_all(inspection.frame["path"], partial(read, died=partial(_died, time_limit)), progress, pictures)
    table = _table(inspection.frame, facts)
    findings = find_all(table, task, inspection.problems, inspection.warnings, reviews)
    good = table[table["problem"] == ""]
    if has_colour(good["path"].tolist(), [COLOUR_NOTE in notes for notes in good["notes"]], reader):
        findings += (COLOUR_LOST,)
    return CheckResult(source, table, task, findings, pictures)


def _mask_problems(
    frame: pd.DataFrame, task: Segmentation, reader: Mapping[str, Any], workers: int | Machines
) -> list[str]:
    """All that is wrong with the masks of a table, as training would tell it."""
    rows = [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]
    here = workers if isinstance(workers, int) else MASK_READERS
    looks = look_at_masks(rows, task, Preprocessing(reader=dict(reader)), "error", here)
    return mask_problems(looks, task)


def _read_all(
    paths: pd.Series,
    read: Callable[[list[str]], Iterator[tuple[int, ScanFacts]]],
    progress: Progress | None,
    pictures: Pictures,
) -> list[ScanFacts]:
    """Examine every scan; the pictures go to disk, the rest is some hundred bytes a scan."""
    facts: list[ScanFacts | None] = [None] * len(paths)
    items = paths.tolist()
    for done, (i, fact) in enumerate(read(items), start=1):
        pictures.keep(paths.index[i], fact.picture)
        facts[i] = replace(fact, picture=b"")
        if progress is not None:
            progress(done, len(items))
    return [fact for fact in facts if fact is not None]


def _died(time_limit: float, path: str) -> ScanFacts:
    return ScanFacts(path, _DIED + (f", or it took longer than {time_limit:g} seconds" if time_limit else ""))


def _table(frame: pd.DataFrame, facts: list[ScanFacts]) -> pd.DataFrame:
    """The manifest's columns beside what was found in each scan."""
    columns: dict[str, Any] = {name: [getattr(f, name) for f in facts] for name in _FACTS}
    for place, name in enumerate(("depth", "height", "width")):
        columns[name] = [f.shape[place] for f in facts]
    for place, name in enumerate(("spacing_d", "spacing_h", "spacing_w")):
        columns[name] = [f.spacing[place] if f.spacing else np.nan for f in facts]
    blank = [not f.low < f.high for f in facts]
    contents = ["" if b else f.content for b, f in zip(blank, facts, strict=True)]
    columns["group"] = same_pixels(contents, [f.signature for f in facts], [f.shape for f in facts])
    columns["notes"] = [joined_notes(f.notes) for f in facts]
    clash = {name: f"{name}_original" for name in (*columns, "same_as", "outlier") if name in frame}
    table = frame.rename(columns=clash).assign(**columns)
    table["same_as"] = _same_as(table)
    table["outlier"] = outlier_texts(table)
    return table


def _same_as(table: pd.DataFrame) -> list[str]:
    """For each scan, the other rows with the same pixels."""
    members = table[table["group"] >= 0].groupby("group").groups
    return [
        " ".join(str(r) for r in members[group] if r != row) if group >= 0 else ""
        for row, group in table["group"].items()
    ]
