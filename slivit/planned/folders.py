"""From a folder of scans, as it lies on a disk, to a table of them, with what a table of labels says beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from slivit.data.importers import importer_spec, make_manifest
from slivit.data.importers.bids import is_bids
from slivit.data.importers.class_folders import scans_below
from slivit.data.importers.common import walk
from slivit.data.inspection import addresses
from slivit.data.readers.address import parts_of, short_name
from slivit.data.readers.sniff import holds_dicom
from slivit.data.recipe import Data
from slivit.data.sources import named_source
from slivit.data.table import is_table, read_table
from slivit.errors import ManifestError, nearest, one_of
from slivit.targets.task import Task

DICOM = "dicom"
_ROW = "\0row"  # of the labels, as no column of theirs is called
_MANY = 10  # classes, above which they are patients where a third as many scans is there


@dataclass(frozen=True, eq=False)
class Listed:
    """The scans of a folder.

    Args:
        frame: `path` and what else is known of each.
        source: the folder or file.
        task: that the data set suggests; None where its user has to say.
        notes: what was left out or guessed.
    """

    frame: pd.DataFrame
    source: str
    task: Task | None = None
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        """The columns whose scans are the channels that `path` names, where it names several."""
        names = {cell: str(name) for name, cell in self.frame.iloc[0].items()}
        parts = parts_of(str(self.frame["path"].iloc[0]))
        return tuple(names[part] for part in parts if part in names) if len(parts) > 1 else ()


def listed_folder(scans: str, labels: str, importer: str, options: Mapping[str, Any]) -> Listed | None:
    """List a data set, a folder of class folders, or a folder whose scans a table of labels names.

    Args:
        scans: the folder or file; "medmnist:NAME".
        labels: a table of labels, or "".
        importer: that lists it; of MedMNIST files, class folders, BIDS and archives of DICOM that need not be said.
        options: of the importer.

    Returns:
        What was found; None where `scans` is a table itself.

    Raises:
        ManifestError: nothing there, or labels that name nothing of it.
    """
    path = Path(scans)
    if is_table(scans):
        if importer or options or labels:
            raise ManifestError(f"{scans}: is a table, which is read without labels and importer beside it")
        return None
    if not path.exists() and not scans.startswith("medmnist:"):
        beside = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ManifestError(f"{scans}: there is no such file or folder.{nearest(scans, beside)}")
    if labels and importer in ("", DICOM) and not is_bids(path):
        return _labelled(path, read_table(labels), importer, options)
    place, name = named_source(Data(manifest=scans, importer=importer))
    takes = "labels" in importer_spec(name).options
    if labels and not takes:
        raise ManifestError(f"{scans}: {name} reads a data set with its own labels; leave --labels out")
    made = make_manifest(name, place, **{**options, **({"labels": labels} if labels else {})})
    if made.task is not None:
        _refuse_patients(made.frame, made.task, scans)
    notes = tuple(note for note in made.notes if not note.startswith("set data."))  # which is for a recipe
    return Listed(made.frame, str(place), made.task, notes)


def _refuse_patients(frame: pd.DataFrame, task: Task, source: str) -> None:
    """Refuse folders of patients, which look like classes that hardly have a scan each."""
    if task.exclusive and len(task.classes) >= _MANY and len(task.classes) > len(frame) / 3:
        names = ", ".join(task.classes[:3])
        raise ManifestError(
            f"{source}: {len(task.classes)} folders ({names}, ...) with {len(frame)} scans look like patients, not "
            "like classes; say what is to be predicted in a table: --labels LABELS.csv"
        )


def _labelled(folder: Path, labels: pd.DataFrame, importer: str, options: Mapping[str, Any]) -> Listed:
    """The scans that the rows of a table name: what lies in the folder, what lies deeper, or the series of an archive.

    Raises:
        ManifestError: no column of the labels names any of them.
    """
    if importer or options:  # of archives alone
        return _archive(folder, labels, options)
    rows = _joined(_entries(folder), labels)
    if _scans_of(rows) < len(labels) / 2:  # such as the folders of two classes
        rows = max(rows, _joined(_deeper(folder), labels), key=_scans_of)
    first = Path(rows[0]["path"]) if rows else folder
    if first.is_dir() and _has_dicom(first) and (not rows or len(make_manifest(DICOM, first).frame) > 1):
        return _archive(folder, labels, options)
    if not rows:
        inside = next((entry.name for entry in sorted(folder.iterdir())), "nothing")
        raise ManifestError(
            f"{folder}: no column of the labels names what lies in it (such as {inside}); name files, files without "
            f"their ending, or folders. The columns are {one_of(map(str, labels))}."
        )
    return _listed(rows, labels, folder)


def _entries(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """What lies in a folder, by its name with and without its ending."""
    for entry in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        for name in {entry.name, entry.name.partition(".")[0]}:
            yield name, {"path": str(entry)}


def _deeper(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Every scan below a folder, by its name and by those of the folders above it."""
    for scan in scans_below(folder):
        below = scan.relative_to(folder)
        for name in {scan.name.partition(".")[0], *below.parts, below.as_posix()}:
            yield name, {"path": str(scan)}


def _has_dicom(folder: Path) -> bool:
    """Whether one of the first files below a folder is DICOM."""
    files = islice((Path(place) / name for place, _, names in walk(folder) for name in names), 20)
    return any(holds_dicom(file) for file in files)


def _archive(folder: Path, labels: pd.DataFrame, options: Mapping[str, Any]) -> Listed:
    """The series of an archive of DICOM files, one of each patient, by patient or accession number.

    Raises:
        ManifestError: several series of a patient; or no column names patients.
    """
    made = make_manifest(DICOM, folder, **{"choose": "error", **options})
    frame = made.frame.assign(path=addresses(made.frame["path"], made.frame, ())[0]).astype(str)
    keys = [key for key in ("patient", "accession") if key in frame]
    rows = _joined(
        (
            (row[key], {"path": row["path"], "patient": row["patient"]})
            for row in frame.to_dict("records")
            for key in keys
        ),
        labels,
    )
    if not rows:
        raise ManifestError(
            f"{folder}: no column of the labels names patients or accession numbers of the archive, such as "
            f"{one_of(frame[keys].iloc[0])}; the columns are {one_of(map(str, labels))}."
        )
    left = len(frame) - len(rows)
    notes = [f"{left} series of whom the labels say nothing were left out"] if left else []
    return _listed(rows, labels, folder, (*made.notes, *notes))


def _joined(scans: Iterator[tuple[str, dict[str, str]]], labels: pd.DataFrame) -> list[dict[str, str]]:
    """The rows of the labels with the scans that they name, by the column with most names; empty where none has any.

    Where a name stands for several scans, it is that of their patient. `_ROW` holds the place in the labels.

    Args:
        scans: what each is called, and its own columns.
        labels: the table.
    """
    places: dict[str, dict[str, dict[str, str]]] = {}
    for name, columns in scans:
        places.setdefault(name, {})[columns["path"]] = columns
    named = {
        column: [cell if cell in places else Path(cell.replace("\\", "/")).name for cell in labels[column]]
        for column in labels
    }
    column = max(named, key=lambda c: len(places.keys() & set(named[c])))
    several = any(len(places.get(cell, ())) > 1 for cell in named[column])
    return [
        {**({"patient": name} if several else {}), **{str(k): v for k, v in row.items()}, **columns, _ROW: str(number)}
        for number, (name, row) in enumerate(zip(named[column], labels.to_dict("records"), strict=True))
        for columns in places.get(name, {}).values()
    ]


def _scans_of(rows: list[dict[str, str]]) -> int:
    """How many scans rows name, each counted once."""
    return len({row["path"] for row in rows})


def _listed(rows: list[dict[str, str]], labels: pd.DataFrame, folder: Path, notes: tuple[str, ...] = ()) -> Listed:
    """Rows as a table, with a note on labels that name no scan."""
    frame = pd.DataFrame(rows)
    without = len(labels) - frame[_ROW].nunique()
    more = [f"{without} of {len(labels)} rows of the labels name no scan that is here"] if without else []
    counts = frame[_ROW].value_counts()
    if counts.max() > 1:
        names = [short_name(path) for path in frame.loc[frame[_ROW] == counts.index[0], "path"]]
        each = f"{(counts > 1).sum()} rows of the labels stand for several scans each, which are all taken"
        more.append(f"{each}, such as {one_of(names[:4])}: name files where some are not meant (masks, previews)")
    return Listed(frame.drop(columns=_ROW), str(folder), None, (*notes, *more))
