"""The covariates of scans: columns of their table, and the geometry, which is read from the scans themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from slivit.data.manifest import Manifest
from slivit.errors import ReadError, gather
from slivit.targets.covariates import GEOMETRY, GEOMETRY_COLUMNS, check_cells, check_columns, extents
from slivit.targets.task import Task

Row = Mapping[str, Any]


def with_covariates(manifest: Manifest, reader: Mapping[str, Any] | None = None, workers: int = 0) -> Manifest:
    """A manifest that has every covariate of its task as a column.

    Args:
        manifest: checked rows.
        reader: options for `read_volume`.
        workers: threads that read the geometry of scans, where the task asks for it and the table has it not.

    Raises:
        ManifestError: columns that are missing.
        ReadError: scans that cannot be read.
    """
    frame, task = manifest.frame, manifest.task
    check_columns(task.covariates, frame.columns, manifest.source)
    if not needs_geometry(task, frame.columns):
        return manifest
    geometry = read_geometry(frame["path"].astype(str), reader, workers=workers)
    for column in GEOMETRY_COLUMNS:
        frame[column] = [geometry[str(path)][column] for path in frame["path"]]
    return Manifest(frame, task, manifest.source, manifest.warnings)


def covariate_rows(
    rows: Sequence[Row], task: Task, reader: Mapping[str, Any] | None = None, workers: int = 0
) -> list[Row]:
    """As `with_covariates`, of rows."""
    check_cells(task.inputs, rows)
    if not any(needs_geometry(task, row) for row in rows):
        return list(rows)
    geometry = read_geometry([str(row["path"]) for row in rows], reader, workers=workers)
    return [{**row, **geometry[str(row["path"])]} for row in rows]


def needs_geometry(task: Task, there: Iterable[str]) -> bool:
    """Whether a task reads the geometry of scans, and a table has it not."""
    return GEOMETRY in task.covariates and not set(GEOMETRY_COLUMNS) <= set(there)


def read_geometry(
    paths: Iterable[str], reader: Mapping[str, Any] | None = None, *, workers: int = 0
) -> dict[str, dict[str, float]]:
    """The extents in mm and the number of slices of scans, of which one slice is decoded at most.

    Args:
        paths: anything that `read_volume` takes.
        reader: options for `read_volume`.
        workers: threads that read.

    Raises:
        ReadError: the scans that cannot be read.
    """
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(max(1, workers)) as pool:
        extents = dict(zip(paths, pool.map(partial(_extents, reader=dict(reader or {})), paths), strict=True))
    gather([text for text in extents.values() if isinstance(text, str)], "scans that cannot be read", ReadError)
    return {path: measured for path, measured in extents.items() if not isinstance(measured, str)}


def _extents(path: str, reader: dict[str, Any]) -> dict[str, float] | str:
    """The columns of a scan's geometry, or why they cannot be had."""
    from slivit.data.readers import read_volume

    try:
        volume = read_volume(path, select=lambda depth: [depth // 2], **reader)
    except ReadError as error:
        return str(error)
    return extents((volume.depth, *volume.shape[1:]), volume.spacing)
