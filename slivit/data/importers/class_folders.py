"""A plain folder with one folder for each class."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from slivit.data.importers.common import IMAGES, SLICES, VIDEOS, VOLUMES, Source, finished, walk
from slivit.data.importers.registry import importer
from slivit.data.manifest_checks import patients_in_names
from slivit.errors import ManifestError
from slivit.targets.task import Task

_SOURCE = Source(
    "A folder of classes",
    "",
    "one folder for each class with files or folders of slices in it, and above them, if you like, train, val and test",
)
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SCANS = (*IMAGES, *VIDEOS, *VOLUMES)
_STACKS = (".tif", ".tiff")
_WHOLE = tuple(suffix for suffix in (*VIDEOS, *VOLUMES) if suffix not in SLICES)
"""Files that are a scan each, also beside others; images and DICOM files are the slices of one."""


@importer("folders", "Any folder of class folders, with or without train, val and test above them")
def class_folders(root: Path, *, patient_pattern: str = "") -> pd.DataFrame:
    """List ROOT/CLASS/SCAN or ROOT/train/CLASS/SCAN, where a scan is a file, or a folder of slices.

    Args:
        root: the folder of the classes, or of train, val and test.
        patient_pattern: a regular expression whose first group is the patient in a scan's path below its class
            (`(P[0-9]+)`); without it, patients are those that names tell of (P07_1.png, or folders of several scans),
            or each scan counts as a patient of its own. Beside official splits names count for nothing.

    Raises:
        ManifestError: one class alone, or a pattern that finds no patient.
    """
    _SOURCE.folder(root)
    tops = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    in_splits = bool(tops) and all(p.name.lower() in _SPLITS for p in tops)
    parents = [(p, _SPLITS[p.name.lower()]) for p in tops] if in_splits else [(root, "")]
    rows, pattern = [], _pattern(patient_pattern)
    for parent, split in parents:
        for folder in (p for p in sorted(parent.iterdir()) if p.is_dir() and not p.name.startswith(".")):
            for scan in scans_below(folder):
                below = scan.relative_to(folder).as_posix()
                rows.append((str(scan), _patient(scan, folder, pattern, root), split, folder.name, below))
    frame = pd.DataFrame(rows, columns=["path", "patient", "split", "label", "below"])
    places, frame = frame["below"], frame.drop(columns=["below"] if in_splits else ["below", "split"])
    classes = tuple(sorted(set(frame["label"])))
    named = None if pattern or in_splits else patients_in_names(places, len(classes))
    frame = frame if named is None else frame.assign(patient=named)
    notes = [] if pattern else [_whose(named)]
    if not frame.empty and len(classes) < 2:
        raise _SOURCE.error(f'{root}: there is one class only ("{classes[0]}")')
    return finished(frame, Task(kind="multiclass", targets=("label",), classes=classes), notes, _SOURCE, root)


def _whose(patients: pd.Series | None) -> str:
    """How patients were found, for the user."""
    wrong = "give patient_pattern where that is wrong"
    if patients is None:
        return f"each scan counts as a patient of its own: {wrong}"
    return f"{patients.nunique()} patients by the names of scans, such as {patients.value_counts().index[0]}: {wrong}"


def _pattern(text: str) -> re.Pattern[str] | None:
    try:
        pattern = re.compile(text) if text else None
    except re.error as err:
        raise ManifestError(f"patient_pattern {text!r} is not a regular expression: {err}") from None
    if pattern is not None and pattern.groups < 1:
        raise ManifestError(f"patient_pattern {text!r} has no group; put the patient in brackets: (P[0-9]+)")
    return pattern


def _patient(scan: Path, folder: Path, pattern: re.Pattern[str] | None, root: Path) -> str:
    if pattern is None:
        return scan.relative_to(root).as_posix()
    match = pattern.search(scan.relative_to(folder).as_posix())
    if match is None or not match[1]:
        raise ManifestError(f'{scan}: patient_pattern "{pattern.pattern}" finds no patient in it')
    return match[1]


def scans_below(folder: Path) -> Iterator[Path]:
    """The files that lie in a folder itself; below it every file that is a scan, and every folder of slices."""
    for place, _, files in walk(folder):
        whole = [name for name in files if name.lower().endswith(_SCANS if place == folder else _WHOLE)]
        whole = whole or [name for name in files if len(files) == 1 and name.lower().endswith(_STACKS)]
        if whole or place == folder:
            yield from (place / name for name in whole)
        elif files:
            yield place
