"""UK Biobank liver MRI: bulk DICOM by participant, and a table with the proton density fat fraction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pandas as pd

from slivit.data.importers.common import Source, finished, numbers, walk
from slivit.data.importers.registry import importer
from slivit.errors import ManifestError, one_of
from slivit.targets.task import Task

_SOURCE = Source(
    "UK Biobank",
    "https://biobank.ndph.ox.ac.uk/showcase (bulk fields 20203, 20204, 20254; fat fraction 40061)",
    "bulk items named EID_FIELD_INSTANCE_ARRAY.zip (or folders of that name), and a table of participants",
)
_ITEM = re.compile(r"(\d+)_(\d+)_(\d+)_(\d+)(\.zip)?", re.IGNORECASE)
_FAT_FIELDS = ("40061", "22402", "21088")


@importer("ukbiobank_liver", "UK Biobank liver MRI (zips or folders) with the fat fraction (PDFF, %) of a table")
def ukbiobank_liver(
    root: Path, *, table: str = "", field: str = "", pdff: str = "", visits: Literal["all", "first"] = "all"
) -> pd.DataFrame:
    """List UK Biobank liver MRI scans with `pdff` (%), one row for each participant and imaging visit.

    Args:
        root: the folder with the bulk items; the DICOM files stay in their zips.
        table: the CSV with `eid` and the fat fraction; by default the only CSV in `root`.
        field: the bulk field of the scans (20203 gradient echo, 20204 ShMoLLI, 20254 IDEAL), where several are there.
        pdff: the column of the fat fraction; by default field 40061, 22402 or 21088 of the scan's own visit, in the
            spelling of any UK Biobank tool (`p40061_i2`, `40061-2.0`, `f.40061.2.0`).
        visits: "all", or "first": of each participant the earliest visit with a fat fraction, as in the paper.

    Source: UK Biobank Showcase, field pages 20203, 20204, 20254, 40061, 22402, 21088; Avram et al. 2024, Methods.
    """
    _SOURCE.folder(root)
    items = pd.DataFrame(_items(root), columns=["path", "patient", "field", "instance"])
    items = items[items["field"] == field] if field else items
    if items["field"].nunique() > 1:
        raise ManifestError(f"{root}: there are scans of the fields {one_of(sorted(set(items['field'])))}; give field=")
    values = _fat_fractions(_table_path(root, table), sorted(set(items["instance"])), pdff)
    frame = items.merge(values, on=["patient", "instance"], how="left")
    known = frame["pdff"].notna()
    notes = [] if known.all() else [f"{(~known).sum()} of {len(frame)} scans without a fat fraction: left out"]
    frame = frame[known]
    if visits == "first":
        later = frame.assign(visit=frame["instance"].astype(int)).sort_values("visit").duplicated("patient")
        notes += [f"{later.sum()} scans of later visits: left out"] if later.any() else []
        frame = frame[~later.reindex(frame.index)]
    return finished(frame, Task(kind="regression", targets=("pdff",), unit="%"), notes, _SOURCE, root)


def _items(root: Path) -> Iterator[tuple[str, str, str, str]]:
    for folder, folders, files in walk(root):
        inner = [name for name in folders if _ITEM.fullmatch(name)]
        folders[:] = [name for name in folders if name not in inner]
        zips = [name for name in files if (m := _ITEM.fullmatch(name)) and m[5] and name[:-4] not in inner]
        for name in sorted(inner + zips):
            match = _ITEM.fullmatch(name)
            if match is not None:
                yield str(folder / name), match[1], match[2], match[3]


def _table_path(root: Path, table: str) -> Path:
    if table:
        path = Path(table).expanduser()
        return path if path.is_absolute() or path.exists() else root / path
    return _SOURCE.file(root, "*.csv")


def _fat_fractions(path: Path, instances: list[str], pdff: str) -> pd.DataFrame:
    """Long table: patient, instance, pdff."""
    if not path.is_file():
        raise _SOURCE.error(f"{path}: there is no such table")
    header = list(pd.read_csv(path, nrows=0).columns)
    eid = next((name for name in ("eid", "f.eid", "participant.eid") if name in header), "eid")
    parts = []
    for instance in instances:
        column = pdff or _column(header, instance)
        if column is None:
            continue
        table = _SOURCE.table(path, [eid, column])
        parts.append(
            pd.DataFrame({"patient": table[eid], "instance": instance, "pdff": numbers(table[column])}).dropna()
        )
    if not parts:
        raise _SOURCE.error(
            f"{path}: no column of the fat fraction ({' or '.join(_FAT_FIELDS)}) for visit {' or '.join(instances)}; "
            f"give pdff=. The columns are {one_of(header)}"
        )
    return pd.concat(parts).drop_duplicates(["patient", "instance"])


def _column(header: list[str], instance: str) -> str | None:
    for field in _FAT_FIELDS:
        spelled = re.compile(rf"(participant\.)?(p{field}_i{instance}|(f\.|x)?{field}[-._]{instance}[._]0)(_a0)?")
        columns = [name for name in header if spelled.fullmatch(name)]
        if columns:
            return columns[0]
    return None
