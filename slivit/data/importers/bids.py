"""BIDS: images in folders of subjects and sessions, by what they show, with tables of what is known of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from slivit.data.importers.common import Source, files_below, finished
from slivit.data.importers.registry import importer
from slivit.data.readers.address import of_parts
from slivit.data.table import read_table
from slivit.errors import ManifestError, nearest, one_of

PARTICIPANTS = "participants.tsv"
_SOURCE = Source(
    "A BIDS data set",
    "",
    "a folder for each subject, sub-01, with images such as sub-01/anat/sub-01_T1w.nii.gz, and participants.tsv",
)
_WORD = "[A-Za-z0-9]+"
_FILE = re.compile(rf"(sub-{_WORD})(?:_(ses-{_WORD}))?(?:_[A-Za-z]+-{_WORD})*_({_WORD})\.nii(?:\.gz)?")


def is_bids(root: Path) -> bool:
    """Whether a folder is laid out so: subjects in folders of their own, beside a table or a description of them."""
    described = any((root / name).is_file() for name in (PARTICIPANTS, "dataset_description.json"))
    return described and any(path.is_dir() for path in root.glob("sub-*"))


def suffixes_of(paths: Iterable[str]) -> list[str]:
    """What images show, by the names of those that are named as BIDS has it; sorted."""
    return sorted({match[3] for path in paths if (match := _FILE.fullmatch(Path(path).name))})


@importer("bids", "BIDS: images of one suffix (T1w, FLAIR, ...) or several, with the columns of participants.tsv")
def bids(root: Path, *, suffix: tuple[str, ...] = (), session: str = "", labels: Path | None = None) -> pd.DataFrame:
    """List the NIfTI images of a BIDS data set, those of a subject as one patient's; derivatives are left aside.

    Args:
        root: the folder with sub-01, sub-02, ...
        suffix: what images show, as their names end: T1w, FLAIR, bold, ... Several are the channels of a scan, in
            columns of their own. Without it, the one that most subjects have.
        session: that of ses-01 alone; without it, all of them.
        labels: a table with `participant_id`, and `session_id` where it tells sessions apart; participants.tsv, and
            each subject's own table of sessions, without it.

    Source: Gorgolewski et al. 2016, Sci Data 3:160044; the specification, version 1.10, "Participants file",
        "Sessions file" and "Magnetic Resonance Imaging".
    """
    images, odd = _images(root, session)
    wanted, notes = (suffix, []) if suffix else _commonest(images, root)
    for name in wanted:
        if name not in set(images["suffix"]):
            raise _SOURCE.error(f'{root}: no image is of "{name}"; there are {one_of(sorted(set(images["suffix"])))}')
    frame, more = _scans(images, wanted)
    notes += [f"set data.channels = {list(wanted)}"] if len(wanted) > 1 else []
    notes += [*more, *([f"{odd} images whose names are not those of BIDS were left out"] if odd else [])]
    known, frame = _known(root, labels), frame.rename(columns={"subject": "patient"})
    if known is not None:
        keys = [key for key in ("patient", "session") if key in known]
        there = frame[keys].apply(tuple, axis=1).isin(known[keys].apply(tuple, axis=1))
        notes += [f"{(~there).sum()} scans of whom the table says nothing were left out"] if not there.all() else []
        frame = frame[there].merge(known, on=keys, how="left", suffixes=("", "_of_table"))
    if (frame["session"] == "").all():
        frame = frame.drop(columns="session")
    return finished(frame, None, notes, _SOURCE, root)


def _images(root: Path, session: str) -> tuple[pd.DataFrame, int]:
    """The images below the folders of subjects: path, subject, session, suffix; and how many names are odd."""
    _SOURCE.folder(root)
    rows, odd, wanted = [], 0, f"ses-{session.removeprefix('ses-')}" if session else ""
    for subject in sorted(path for path in root.glob("sub-*") if path.is_dir()):
        for file in files_below(subject, (".nii", ".nii.gz")):
            match = _FILE.fullmatch(file.name)
            odd += match is None
            if match and wanted in ("", match[2]):
                rows.append((str(file), match[1], match[2] or "", match[3]))
    if not rows:
        raise _SOURCE.error(f"{root}: no image{f' of {wanted}' if wanted else ''} was found")
    return pd.DataFrame(rows, columns=["path", "subject", "session", "suffix"]), odd


def _commonest(images: pd.DataFrame, root: Path) -> tuple[tuple[str, ...], list[str]]:
    """The suffix that most subjects have, and what was passed over.

    Raises:
        ManifestError: as many subjects have another one.
    """
    counts = images.groupby("suffix")["subject"].nunique().sort_values(ascending=False)
    each = ", ".join(f"{name} ({n} subjects)" for name, n in counts.items())
    if len(counts) > 1 and counts.iloc[0] == counts.iloc[1]:
        raise ManifestError(f"{root}: there are images of {each}: name one, suffix={counts.index[0]}, or several")
    others = [f"images of {each}: {counts.index[0]} was taken, others with suffix=NAME"] if len(counts) > 1 else []
    return (str(counts.index[0]),), others


def _scans(images: pd.DataFrame, wanted: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """One row an image of one suffix; of several, one row a session that has exactly one image of each."""
    images = images[images["suffix"].isin(wanted)]
    keys = ["subject", "session"]
    if len(wanted) == 1:
        again = int(images.duplicated(keys).sum())
        notes = [f"{again} scans are further ones of a subject and session (runs, acquisitions); all are listed"]
        return images.drop(columns="suffix").reset_index(drop=True), notes if again else []
    rows, left = [], 0
    for key, group in images.groupby(keys):
        paths = {name: group.loc[group["suffix"] == name, "path"].tolist() for name in wanted}
        left += not all(len(found) == 1 for found in paths.values())
        if all(len(found) == 1 for found in paths.values()):
            each = {name: found[0] for name, found in paths.items()}
            rows.append({"path": of_parts(list(each.values())), **dict(zip(keys, key, strict=True)), **each})
    notes = [f"{left} sessions without exactly one image of {' and '.join(wanted)} were left out"] if left else []
    return pd.DataFrame(rows, columns=["path", *keys, *wanted]), notes


def _known(root: Path, labels: Path | None) -> pd.DataFrame | None:
    """What tables say of subjects (`patient`) and, where they tell them apart, of their sessions (`session`).

    Raises:
        ManifestError: a table without `participant_id`, or one that says something twice.
    """
    file = labels or root / PARTICIPANTS
    if not labels and not file.is_file():
        return None
    table = read_table(file)
    if "participant_id" not in table:
        raise ManifestError(
            f'{file}: has no column "participant_id".{nearest("participant_id", table.columns)} There are '
            f"{one_of(list(table.columns))}."
        )
    table = table.rename(columns={"participant_id": "patient", "session_id": "session"})
    table["patient"] = "sub-" + table["patient"].str.removeprefix("sub-")
    if "session" in table:
        table["session"] = "ses-" + table["session"].str.removeprefix("ses-")
    elif not labels and len(sessions := _sessions(root)):
        table = table.merge(sessions, on="patient", suffixes=("", "_of_session"))
    keys = [key for key in ("patient", "session") if key in table]
    twice = table[table.duplicated(keys)]
    if len(twice):
        raise ManifestError(f"{file}: {' '.join(twice[keys].iloc[0])} has two rows; sessions are told by session_id")
    return table


def _sessions(root: Path) -> pd.DataFrame:
    """The tables of subjects' own sessions, put together."""
    tables = []
    for file in sorted(root.glob("sub-*/sub-*_sessions.tsv")):
        table = read_table(file).rename(columns={"session_id": "session"})
        if "session" in table:
            table["session"] = "ses-" + table["session"].str.removeprefix("ses-")
            tables.append(table.assign(patient=file.parent.name))
    return pd.concat(tables, ignore_index=True).fillna("") if tables else pd.DataFrame()
