"""Run an importer, bring its table to a state that can be trained on, and write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from slivit.data.importers.registry import importer_spec, run_importer
from slivit.data.manifest_checks import SPLITS
from slivit.data.readers.address import files_in
from slivit.data.table import as_shown
from slivit.errors import ManifestError
from slivit.files import whole_file
from slivit.targets.task import Task


@dataclass(frozen=True, eq=False)
class Imported:
    """What an importer made.

    Args:
        frame: the table, as written.
        task: the task that its targets suggest; None without targets.
        notes: what was left out, guessed or drawn, for the user.
        csv: where it was written; None where it was not.
    """

    frame: pd.DataFrame
    task: Task | None
    notes: tuple[str, ...]
    csv: Path | None


def make_manifest(
    name: str,
    root: Path | str,
    out_csv: Path | str | None = None,
    *,
    missing: Literal["error", "skip"] = "error",
    shared: Literal["drop", "keep"] = "drop",
    val: float = 0.1,
    seed: int = 0,
    **options: Any,
) -> Imported:
    """Make a manifest of a data set from its folder.

    Args:
        name: one of `list_importers()`.
        root: the folder (for MedMNIST also the file) as it was downloaded and unpacked.
        out_csv: where the table is written, whole or not at all; None for the frame alone.
        missing: whether scans that a table of the data set lists and the folder lacks are an error, or left out.
        shared: where an official split shares patients, "drop" leaves their rows out of train (then val), so that the
            official test set stays whole; "keep" leaves the leak in, and training on the manifest is then refused.
        val: where the official split has train and no val, the fraction of the training patients drawn for it.
        seed: of that draw.
        **options: of the importer; text is converted, as the command line gives it.

    Raises:
        ManifestError: a folder, table or column that the data set should have is missing, with where to get it.
    """
    spec = importer_spec(name)
    frame = run_importer(spec, Path(root).expanduser().absolute(), options)
    task, notes = frame.attrs["task"], list(frame.attrs["notes"])
    frame = _existing(frame, missing, notes)
    _unique(frame, name)
    if "split" in frame:
        frame = _without_shared(frame, notes) if shared == "drop" else frame
        frame = _with_val(frame, task, val, seed, notes)
    if out_csv is not None:
        with whole_file(out_csv) as part:
            as_shown(frame).to_csv(part, index=False)
    return Imported(frame, task, tuple(notes), Path(out_csv) if out_csv is not None else None)


def _existing(frame: pd.DataFrame, missing: str, notes: list[str]) -> pd.DataFrame:
    files = {path: files_in(path) for path in frame["path"]}
    exists = {file: Path(file).exists() for file in set(chain.from_iterable(files.values()))}
    there = frame["path"].map(lambda path: all(exists[file] for file in files[path]))
    absent = list(frame.loc[~there, "path"])
    if not absent:
        return frame
    message = f'{len(absent)} of {len(frame)} scans are missing on disk, such as "{absent[0]}"'
    if missing == "error" or not there.any():
        raise ManifestError(f"{message}; complete the download, or leave them out with missing=skip")
    notes.append(f"{message}: left out")
    return frame[there].reset_index(drop=True)


def _unique(frame: pd.DataFrame, name: str) -> None:
    twice = frame.loc[frame.duplicated([c for c in ("path", "series") if c in frame]), "path"]
    if len(twice):
        raise ManifestError(f'{name}: {len(twice)} scans are listed more than once, such as "{twice.iloc[0]}"')


def _without_shared(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Keep a patient's rows of its last split alone (test before val before train)."""
    rank = frame["split"].map({split: i for i, split in enumerate(SPLITS)})
    kept = rank == rank.groupby(frame["patient"]).transform("max")
    if kept.all():
        return frame
    lost = frame[~kept]
    notes.append(
        f"{len(lost)} rows of {lost['patient'].nunique()} patients were left out of {_names(lost['split'])}, because "
        "the official split has them in val or test as well"
    )
    return frame[kept].reset_index(drop=True)


def _with_val(frame: pd.DataFrame, task: Task | None, val: float, seed: int, notes: list[str]) -> pd.DataFrame:
    present = set(frame["split"])
    if task is None or "train" not in present or "val" in present or val <= 0:
        return frame
    from slivit.data.splits import split_patients

    train = frame[frame["split"] == "train"]
    drawn = split_patients(train, task, fractions=(1 - val, val, 0), seed=seed)
    notes.append(f"the official split has no val: {(drawn == 'val').sum()} rows of train were drawn for it by patient")
    return frame.assign(split=drawn.reindex(frame.index).fillna(frame["split"]))


def _names(splits: Sequence[str] | pd.Series) -> str:
    present = set(splits)
    return " and ".join(s for s in SPLITS if s in present)
