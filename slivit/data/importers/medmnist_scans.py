"""Which scan each item of a MedMNIST file comes from, and a split that keeps scans apart."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from slivit.data.manifest_checks import SPLITS
from slivit.data.splits import split_patients
from slivit.data.table import read_table
from slivit.errors import ManifestError
from slivit.targets.task import Task


def scan_disjoint(frame: pd.DataFrame, scans: Path, task: Task, seed: int = 0) -> tuple[pd.DataFrame, list[str]]:
    """Make the scans the patients, and the split one that keeps them apart, of the official sizes.

    Args:
        frame: path (`FILE.npz#train/17`), patient, split and targets of every item, in the order of the file.
        scans: the table of scans, see `medmnist`.
        task: what the split is stratified by.
        seed: of the split.

    Returns:
        The frame with `split_official` beside `split`, and notes on how many test items share a scan with train.

    Raises:
        ManifestError: a table that cannot be read, or that does not tell the scan of every item.
    """
    of = _scan_of_items(scans)
    item = frame["path"].str.rpartition("#")[2]
    missing = [name for name in item if name not in of]
    if missing:
        raise ManifestError(f'{scans}: tells no scan for {len(missing)} of {len(item)} items, such as "{missing[0]}"')
    frame = frame.assign(patient=item.map(of), split_official=frame["split"])
    test, train = (frame[frame["split"] == s] for s in ("test", "train"))
    shared = int(test["patient"].isin(train["patient"]).sum())
    sizes = frame["split"].value_counts(normalize=True).reindex(list(SPLITS), fill_value=0.0)
    frame["split"] = split_patients(frame, task, fractions=sizes.tolist(), seed=seed)
    note = (
        f"in the official split, {shared} of {len(test)} test items share a scan with a train item; `split` keeps "
        "scans apart, `split_official` is the official one"
    )
    return frame, [note]


def _scan_of_items(path: Path) -> dict[str, str]:
    """From "train/17" to the scan."""
    if path.suffix.lower() == ".json":
        return _from_json(path)
    table = read_table(path)
    missing = [name for name in ("split", "index", "scan") if name not in table]
    if missing:
        raise ManifestError(f"{path}: lacks the column {missing[0]}; it needs split, index and scan")
    return {f"{s}/{i}": scan_name(n) for s, i, n in zip(table["split"], table["index"], table["scan"], strict=True)}


def _from_json(path: Path) -> dict[str, str]:
    try:
        lists: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as err:
        raise ManifestError(f"{path}: cannot be read as JSON ({err})") from None
    if not isinstance(lists, dict) or not all(isinstance(lists.get(s), list) for s in SPLITS):
        raise ManifestError(f"{path}: needs a list of scans under each of train, val and test")
    return {f"{s}/{i}": scan_name(name) for s in SPLITS for i, name in enumerate(lists[s])}


def scan_name(name: object) -> str:
    """The scan in a name: the number of "LIDC-IDRI-0078", "0078_nodule_1" and 78 is 78."""
    number = re.search(r"\d+", str(name))
    return str(int(number[0])) if number else str(name)
