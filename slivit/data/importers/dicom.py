"""Any archive of DICOM files: one row a series, from the headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from slivit.data.importers.common import Source, finished
from slivit.data.importers.dicom_channels import parse_channels, side_by_side
from slivit.data.importers.dicom_labels import Labels, read_labels
from slivit.data.importers.dicom_where import meets, parse_conditions
from slivit.data.importers.registry import importer
from slivit.data.readers.dicom_archive import FoundSeries, Header, find_series, header_of
from slivit.data.readers.dicom_headers import Frame, read_dataset
from slivit.data.readers.dicom_values import text
from slivit.data.readers.entries import FileEntry, folder_entries
from slivit.data.readers.geometry import view
from slivit.data.workers import in_processes
from slivit.errors import ManifestError, ReadError, SlivitError, gather, one_of

Choose = Literal["error", "all", "most_slices", "first", "latest"]
_SOURCE = Source("A DICOM archive", "", "DICOM files of any name, in folders of any kind below the one that is given")
_STUDY = {0x0020000D: "study", 0x00080020: "study_date", 0x00080050: "accession"}
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_SCOUTS = ("localizer", "localiser", "scout", "survey", "topogram", "3-plane", "3 plane", "3plane")
_PROJECTIONS = {"MIP", "MINIP", "MPR", "PROJECTION IMAGE", "REFORMATTED", "CSA MPR", "CSA MIP"}
_KINDS = ("original", "derived", "localizer", "secondary")
_CHUNK = 64  # files that a process is given at once


@importer("dicom", "Any archive of DICOM files: one row a series, filtered, one a patient, joined with labels")
def dicom(
    root: Path,
    *,
    where: tuple[str, ...] = (),
    channels: tuple[str, ...] = (),
    labels: str = "",
    by: Literal["", "patient", "accession"] = "",
    key: str = "",
    target: tuple[str, ...] = (),
    choose: Literal["", "error", "all", "most_slices", "first", "latest"] = "",
    keep: tuple[str, ...] = (),
    frame: int | None = None,
    workers: int = 2,
) -> pd.DataFrame:
    """List every DICOM series below a folder. Only headers are read; nothing is copied.

    Without labels the table is an inventory: all series, also those that would not be read, with the reason in
    `problem`. With labels (or with choose) it is a table to train on: series with a problem, localizers, derived images
    and secondary captures are left out, and each patient has one series, by the rule that `choose` names.

    `kind` says what a series is. "localizer": LOCALIZER is in ImageType, or scout, survey, topogram or the like in the
    description. "secondary": the class is Secondary Capture. "derived": ImageType begins with DERIVED or names a
    projection (MIP, MPR). All others are "original".

    Args:
        root: the folder.
        where: conditions on the columns: `modality=MR description~T1 slices>=20`. `=` and `~` (contains) leave case
            out of account, `modality=CT|MR` takes either, `!=` and `!~` mean not.
        channels: series of one study that are the channels of one scan, by a part of their description or by
            conditions: `t1=T1 t2=T2`. The table then has a row for each study and a column of paths for each channel,
            which `data.channels` names; studies that lack one are left out, and several series for one are an error.
        labels: a CSV with a column of patients or accession numbers and the columns to predict.
        by: "patient" or "accession": by which of them the labels are joined; found by the columns where empty.
        key: what the CSV calls that column, where it is not patient or accession.
        target: which of its columns to predict; all others that are left where empty.
        choose: of several series of one patient (or accession): "most_slices", "first" or "latest" (by study date,
            then by number), "all", or "error", which lists them.
        keep: kinds to keep in a table to train on besides original: derived, localizer, secondary.
        frame: of series with several images at a place (echoes, time points), which of them, from 0; it is written to a
            column that every later step honours. Without it, such series would not be read.
        workers: processes that read headers; 0 reads here.
    """
    _SOURCE.folder(root)
    conditions, wanted = parse_conditions(where), parse_channels(channels)
    _check_kinds(keep)
    table, notes = _inventory(root, workers, frame)
    kept = meets(table, conditions)
    if not kept.any():
        raise ManifestError(f"{root}: none of {len(table)} series meets where {one_of(where)}")
    notes += [f"{(~kept).sum()} of {len(table)} series do not meet where: left out"] if not kept.all() else []
    table = table[kept]
    if not labels and not choose and not wanted:
        return finished(table, None, [*notes, *_inventory_notes(table)], _SOURCE, root)
    table = _trainable(table, ("original", *keep), notes)
    table = side_by_side(table, wanted, notes) if wanted else table
    if not labels:
        return finished(_one_each(table, "patient", choose or "error", notes), None, notes, _SOURCE, root)
    given = read_labels(labels, by, key, target)
    table = _labelled(table, given, notes)
    return finished(_one_each(table, given.by, choose or "error", notes), given.task, notes, _SOURCE, root)


def _check_kinds(keep: Sequence[str]) -> None:
    gather(
        [f'there is no kind "{k}"; there are {one_of(_KINDS)}' for k in keep if k not in _KINDS], "keep", ManifestError
    )


def _inventory(root: Path, workers: int, frame: int | None) -> tuple[pd.DataFrame, list[str]]:
    """Return one row a series of all files below a folder, and notes on what was passed over."""
    entries = [e for e in folder_entries(root) if isinstance(e, FileEntry)]
    rows = [_row(series, frame) for series in find_series(_headers(entries, workers))]
    if not rows:
        raise _SOURCE.error(f"{root}: no DICOM file was found")
    table = pd.DataFrame(rows)
    zips = sum(entry.name.casefold().endswith(".zip") for entry in entries)
    notes = [f"{zips} zip archives were not looked into: unpack them, or name them in the table"] if zips else []
    return table if frame is not None else table.drop(columns="frame"), notes


def _headers(entries: Sequence[FileEntry], workers: int) -> list[Header]:
    """Read the headers of all files, in parallel where there are many, with a bar where someone looks."""
    from tqdm import tqdm

    headers: list[Header] = [Header(entry.path) for entry in entries]
    with tqdm(total=len(entries), desc="headers", unit="file", disable=None) as bar:
        several = workers if len(entries) > 10 * _CHUNK else 0
        for index, header in in_processes(header_of, entries, several, _died, chunk=_CHUNK):
            headers[index] = header
            bar.update()
    return headers


def _died(entry: FileEntry) -> Header:
    return Header(entry.path, problem=f"{entry.path}: the process that read it was killed; the file may be hostile.")


def _row(series: FoundSeries, frame: int | None) -> dict[str, Any]:
    """Return what the table says of a series."""
    first = series.frames[0] if series.frames else None
    row: dict[str, Any] = {
        "path": str(series.path),
        "patient": first.series.patient if first else "",
        "series": series.series,
        "frame": "",
        **_study(first),
        "modality": first.series.modality if first else "",
        "number": first.series.number if first else "",
        "description": first.series.description if first else "",
        "kind": _kind(first) if first else "",
        "slices": len(series.frames),
        "spacing": "",
        "orientation": "",
        "size": f"{first.shape[0]} x {first.shape[1]}" if first else "",
        "problem": series.problem.partition("\n")[0],
    }
    return row | (_geometry(series, frame) if first else {})


def _geometry(series: FoundSeries, frame: int | None) -> dict[str, Any]:
    """Return slices, spacing and orientation as they will be read, or why they will not."""
    row: dict[str, Any] = {}
    try:
        try:
            stack = series.stack()
        except ReadError:
            if frame is None:
                raise
            stack, row = series.stack(frame), {"frame": str(frame)}
        row["slices"] = len(stack.frames)
        spacing = stack.spacing
        if stack.affine is not None:
            seen = view((len(stack.frames), *stack.frames[0].shape), stack.affine, str(series.path))
            row["orientation"], spacing = seen.axis, seen.spacing if stack.in_mm else None
    except ReadError as error:
        return {"problem": str(error).partition("\n")[0].rstrip(":")}
    return row | ({"spacing": " x ".join(f"{s:.4g}" for s in spacing)} if spacing else {})


def _study(first: Frame | None) -> dict[str, str]:
    """Return UID, date and accession number of the study, from one file of the series; one without is a study alone."""
    dataset = read_dataset(first.entry, first.entry.name, pixels=False, tags=tuple(_STUDY)) if first else None
    cells = {name: text(dataset[tag].value) if dataset and tag in dataset else "" for tag, name in _STUDY.items()}
    cells["study"] = cells["study"] or (f"{first.series.patient} {first.series.uid}" if first else "")
    date = cells["study_date"]
    if len(date) == 8 and date.isdecimal():
        cells["study_date"] = f"{date[:4]}-{date[4:6]}-{date[6:]}"
    return cells


def _kind(first: Frame) -> str:
    """Return what kind of series this is, by the rule that the importer's help states."""
    types = first.marks.image_type.upper().split("\\")
    description = first.series.description.casefold()
    if "LOCALIZER" in types or any(word in description for word in _SCOUTS):
        return "localizer"
    if first.sop_class.startswith(_SECONDARY_CAPTURE) and first.sop_class[len(_SECONDARY_CAPTURE) :][:1] in ("", "."):
        return "secondary"
    return "derived" if types[0] == "DERIVED" or _PROJECTIONS & set(types) else "original"


def _inventory_notes(table: pd.DataFrame) -> list[str]:
    unread = table.loc[table["problem"] != "", "problem"]
    notes = []
    if len(unread):
        notes.append(_unread_note(unread, "are listed with the reason; leave them out with: --where problem="))
    without = int((table["patient"] == "").sum())
    if without:
        notes.append(f"{without} series have no patient: fill the column before training")
    return notes


def _unread_note(problems: pd.Series, what: str) -> str:
    return f"{len(problems)} series would not be read and {what}. The first: {problems.iloc[0]}"


def _trainable(table: pd.DataFrame, kinds: Sequence[str], notes: list[str]) -> pd.DataFrame:
    """Leave out what cannot be read, and the kinds of series that are not asked for."""
    for kind in [k for k in _KINDS if k not in kinds]:
        number = int((table["kind"] == kind).sum())
        if number:
            notes.append(f"{number} {kind} series left out; keep them with keep={kind}")
    table = table[table["kind"].isin((*kinds, ""))]
    unread = table.loc[table["problem"] != "", "problem"]
    if len(unread):
        notes.append(_unread_note(unread, "were left out"))
    table = table[table["problem"] == ""]
    if table.empty:
        raise ManifestError(f"no series is left to train on: {'; '.join(notes)}")
    return table.drop(columns="problem")


def _labelled(table: pd.DataFrame, given: Labels, notes: list[str]) -> pd.DataFrame:
    """Join the series with their labels; say what has no partner."""
    known = table[given.by].isin(given.frame.index)
    if not known.any():
        raise ManifestError(
            f"{given.csv}: not one {given.by} of the labels is in the archive; the labels have "
            f"{one_of(given.frame.index[:3])}, the archive has {one_of(sorted(set(table[given.by]))[:3])}"
        )
    held = set(table[given.by])
    missing = [name for name in given.frame.index if name not in held]
    if not known.all():
        notes.append(f"{(~known).sum()} series without a label left out")
    if missing:
        notes.append(f"{len(missing)} labels without a series, such as {given.by} {missing[0]}")
    clash = {name: f"{name}_dicom" for name in given.frame.columns if name in table}
    return table[known].rename(columns=clash).join(given.frame, on=given.by)


def _one_each(table: pd.DataFrame, by: str, choose: str, notes: list[str]) -> pd.DataFrame:
    """Return one series for each patient (or accession), by a rule, or raise with those that have several."""
    counts = table[by].value_counts()
    several = sorted(counts[counts > 1].index)
    if choose == "all" or not several:
        return table
    if choose == "error":
        shown = [f"{by} {name}: {_listed(table[table[by] == name])}" for name in several]
        raise _several(shown, by)
    order = table.assign(_number=pd.to_numeric(table["number"], errors="coerce").fillna(0))
    first = {"most_slices": ("slices", False), "first": ("study_date", True), "latest": ("study_date", False)}[choose]
    by_name = ["_number", "path", *(["series"] if "series" in table else [])]
    order = order.sort_values([first[0], "study_date", *by_name], ascending=[first[1]] * 2 + [True] * len(by_name))
    kept = order.drop_duplicates(by).index
    notes.append(f"{len(several)} of {len(counts)} {by}s have several series; one each was taken by choose={choose}")
    return table.loc[sorted(kept)]


def _listed(rows: pd.DataFrame, limit: int = 5) -> str:
    listed = [
        f'{r["number"] or "?"} {r["modality"]} "{r["description"]}" {r["study_date"]} ({r["slices"]} slices)'
        for _, r in rows.head(limit).iterrows()
    ]
    return ", ".join(listed) + (f" and {len(rows) - limit} more" if len(rows) > limit else "")


def _several(shown: list[str], by: str) -> SlivitError:
    try:
        gather(
            shown,
            f"several series of one {by}; narrow them down with where (where=description~T1), or choose with "
            "choose=most_slices, first, latest or all",
            ManifestError,
            limit=20,
        )
    except SlivitError as error:
        return error
    raise ValueError("no patient has several series")
