"""A table of labels that is joined to the series of an archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from slivit.data.table import MISSING, as_numbers, missing_columns, read_table
from slivit.errors import ManifestError, gather, one_of
from slivit.targets.task import Kind, Task

_NAMES = {
    "accession": ("accession", "accession_number", "accessionnumber"),
    "patient": ("patient", "patient_id", "patientid"),
}
_NO_TARGETS = ("split", "path", "series")


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels by patient or accession number.

    Args:
        frame: its columns of targets, and `split` where there is one; the index is the patient or accession number.
        by: "patient" or "accession".
        task: what the targets suggest.
        csv: where they are from.
    """

    frame: pd.DataFrame
    by: str
    task: Task
    csv: str


def read_labels(csv: str, by: str, key: str, targets: Sequence[str]) -> Labels:
    """Read a table of labels.

    Args:
        csv: the table.
        by: "patient", "accession", or "" to find out by its columns.
        key: what the table calls that column, or "".
        targets: the columns to predict; all others that are left where empty.

    Raises:
        ManifestError: no such table or column, a patient with different labels, or no label at all.
    """
    table = read_table(Path(csv).expanduser())
    by, key = _key(table, by, key, csv)
    others = [str(c) for c in table if c != key and c not in _NO_TARGETS and str(c).casefold() not in _known()]
    wanted = tuple(targets) or tuple(others)
    gather(missing_columns(table, wanted), csv, ManifestError)
    if not wanted:
        raise ManifestError(f'{csv}: has no column to predict beside "{key}"')
    columns = [*wanted, *(c for c in ("split",) if c in table)]
    unique = table[[key, *columns]].drop_duplicates()
    twice = sorted(set(unique.loc[unique[key].duplicated(), key]))
    gather([f'{by} "{name}" has several rows that differ' for name in twice], csv, ManifestError)
    frame = unique.set_index(key)[columns]
    empty = frame[list(wanted)].apply(lambda c: c.str.lower().isin(MISSING)).all(axis=1)
    if empty.all():
        raise ManifestError(f"{csv}: not one row has a label in {one_of(wanted)}")
    return Labels(frame[~empty], by, _task(frame[~empty], wanted, csv), csv)


def _known() -> set[str]:
    return {name for names in _NAMES.values() for name in names}


def _key(table: pd.DataFrame, by: str, key: str, csv: str) -> tuple[str, str]:
    """Return by what the labels are joined, and what the table calls it."""
    if key:
        gather(missing_columns(table, [key]), csv, ManifestError)
        return by or "patient", key
    folded = {str(c).casefold().replace(" ", "_"): str(c) for c in table}
    for kind, names in _NAMES.items():
        column = next((folded[name] for name in names if name in folded), None)
        if column is not None and by in ("", kind):
            return kind, column
    raise ManifestError(
        f"{csv}: has no column patient or accession to join it by; the columns are {one_of(map(str, table))}. Name it "
        "with key=COLUMN, and by=accession where it holds accession numbers"
    )


def _task(frame: pd.DataFrame, targets: Sequence[str], csv: str) -> Task:
    """Return the task that the values suggest: 0 and 1 are labels, other numbers are measured, words are classes."""
    read = {name: as_numbers(frame[name]) for name in targets}
    words = [name for name, (_, bad) in read.items() if bad.any()]
    kind: Kind
    if words:
        if len(targets) > 1:
            raise ManifestError(f"{csv}: {one_of(words)} hold words; choose one column to predict with target=COLUMN")
        kind = "multiclass"
    elif all(numbers.dropna().isin((0, 1)).all() for numbers, _ in read.values()):
        kind = "binary" if len(targets) == 1 else "multilabel"
    else:
        kind = "regression"
    return Task(kind=kind, targets=tuple(targets))
