"""Check a manifest: read every scan, write one table and one page, and say whether training would be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slivit.data.checking.check import TIME_LIMIT, CheckResult, Progress, check_manifest
from slivit.data.inspection import Columns
from slivit.data.preprocessing import Preprocessing
from slivit.data.table import as_shown
from slivit.files import whole_file
from slivit.machines import Machines
from slivit.report.check_page import write_check_page
from slivit.report.mask_sheet import write_mask_sheet
from slivit.targets.segmentation import Segmentation
from slivit.targets.task import Task

TABLE, PAGE, SHEET = "scans.csv", "check.html", "masks.png"


def run_check(
    csv: Path | str,
    out: Path | str,
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
    pictures: int = 1000,
    progress: Progress | None = None,
) -> CheckResult:
    """Read every scan of a manifest and write `scans.csv` and `check.html` into a folder, of masks `masks.png` too.

    Args:
        csv: the manifest.
        out: the folder; made where it is not there.
        task: what is predicted; without it, targets are not checked.
        columns, root, patient_from_path, reader, where, channels, workers, time_limit, reviews, progress: as
            `check_manifest` takes them.
        pictures: how many middle slices the page shows.

    Returns:
        The findings; `.summary` has the three most important in words, `.exit_status` is 1 where training would be
        wrong.

    Raises:
        ManifestError: the file is no table at all, or has no column of paths.
    """
    result = check_manifest(
        csv,
        task,
        columns=columns,
        root=root,
        patient_from_path=patient_from_path,
        reader=reader,
        where=where,
        channels=channels,
        workers=workers,
        time_limit=time_limit,
        reviews=reviews,
        progress=progress,
    )
    with whole_file(Path(out) / TABLE) as part:
        as_shown(result.table).to_csv(part, index_label="row")
    write_check_page(result, Path(out) / PAGE, pictures=pictures)
    if isinstance(task, Segmentation):
        rows = [{str(k): v for k, v in row.items()} for row in result.table.to_dict("records")]
        write_mask_sheet(Path(out) / SHEET, rows, task, Preprocessing(reader=dict(reader or {})))
    return result
