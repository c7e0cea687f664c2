"""Human readers' calls beside the model's: from a CSV to their points on its plots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slivit.data.table import MISSING, read_table
from slivit.errors import ManifestError, one_of
from slivit.targets.cases import Cases

if TYPE_CHECKING:
    import pandas as pd

TARGET, SECONDS = "target", " seconds"


def readers_of(csv: str | Path, cases: Cases) -> dict[str, Any]:
    """The points of human readers for each target that they called, and the mean of their rates.

    The first column names the scan, by a column of the table of predictions (`path`, `patient`, ...). Every other
    column is a reader: 0, 1 or empty, or the name of a class. Where there are several targets, a column `target` says
    which of them a row is about. A column "NAME seconds" tells how long the reader NAME took for each scan.

    Args:
        csv: the table of calls.
        cases: the labelled rows.

    Raises:
        ManifestError: scans that are not in the table of predictions, or calls that are neither 0 nor 1 nor a class.
    """
    from slivit.statistics import reader_points

    calls = read_table(csv)
    key, others = str(calls.columns[0]), [str(c) for c in calls.columns[1:] if c != TARGET]
    timed = {c.removesuffix(SECONDS): c for c in others if c.endswith(SECONDS) and c.removesuffix(SECONDS) in others}
    readers = [c for c in others if c not in timed.values()]
    if not readers:
        raise ManifestError(f"{csv}: has no reader; its first column names the scan, every other one is a reader")
    place = _places(calls[key], key, cases.table, Path(csv))
    points = {}
    for column in cases.columns():
        about = calls[TARGET] == column.name if TARGET in calls and not cases.task.exclusive else None
        given = {r: _aligned(calls[r], place, about, column.name, cases, Path(csv)) for r in readers}
        if any((~np.isnan(v)).any() for v in given.values()):
            result = reader_points(column.y, given, plan=cases.plan).to_dict()
            spent = {r: _seconds(calls[c], place, about, Path(csv)) for r, c in timed.items()}
            for point in result["points"]:
                point["seconds"] = spent.get(point["name"])
            result["average"]["seconds"] = sum(spent.values()) / len(spent) if spent else None
            points[column.name] = result
    return points


def _seconds(column: pd.Series, place: pd.Series, about: pd.Series | None, csv: Path) -> float:
    """How long a reader took for the scans that are evaluated."""
    from slivit.data.table import as_numbers

    read = (place >= 0) & (about if about is not None else True)
    values, bad = as_numbers(column[read])
    wrong = values[~bad & (values < 0)]
    if bad.any() or len(wrong):
        row = bad.index[bad][0] if bad.any() else wrong.index[0]
        raise ManifestError(f'{csv} row {row}: {column.name} is "{column[row]}"; give seconds, 0 or more, or nothing')
    return float(values.sum())


def _places(keys: pd.Series, key: str, table: pd.DataFrame, csv: Path) -> pd.Series:
    """The position in the table of predictions of every row of calls, -1 for a scan that has no label there."""
    if key not in table:
        raise ManifestError(
            f'{csv}: the first column, "{key}", must be a column of the predictions: {one_of(map(str, table))}'
        )
    known = table[key].astype(str)
    if known.duplicated().any():
        raise ManifestError(f'{csv}: "{key}" does not name one scan each; name the scans by their path')
    position = {name: i for i, name in enumerate(known)}
    if key == "path":
        keys = keys.map(lambda p: p if p in position else str((csv.parent / Path(p).expanduser()).absolute()))
    place = keys.map(position)
    if place.isna().all():
        raise ManifestError(f'{csv}: not one of its scans ("{keys.iloc[0]}", ...) is among the predictions')
    return place.fillna(-1).astype(int)


def _aligned(
    calls: pd.Series, place: pd.Series, about: pd.Series | None, name: str, cases: Cases, csv: Path
) -> np.ndarray:
    """(n,) the calls of a reader for one target, 0, 1 or NaN, in the order of the cases."""
    aligned = np.full(len(cases.y), np.nan)
    for row, text, where in zip(calls.index, calls, place, strict=True):
        if where < 0 or text.lower() in MISSING or (about is not None and not about[row]):
            continue
        aligned[where] = _call(text, name, cases, f"{csv} row {row}, reader {calls.name}")
    return aligned


def _call(text: str, name: str, cases: Cases, where: str) -> float:
    if cases.task.exclusive:
        if text not in cases.task.classes:
            raise ManifestError(f'{where}: "{text}" is not a class; there are {one_of(cases.task.classes)}')
        return float(text == name)
    if text not in ("0", "1", "0.0", "1.0"):
        raise ManifestError(f'{where}: "{text}"; a call is 0, 1 or empty')
    return float(text)
