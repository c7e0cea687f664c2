"""MRNet: MRI of the knee in three planes, with three findings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

from slivit.data.importers.common import Source, finished
from slivit.data.importers.registry import importer
from slivit.targets.task import Task

FINDINGS = ("abnormal", "acl", "meniscus")
_SOURCE = Source(
    "MRNet",
    "https://stanfordmlgroup.github.io/competitions/mrnet",
    "train-abnormal.csv, train-acl.csv, train-meniscus.csv, the same of valid, and train/axial/0000.npy and so on",
)


@importer("mrnet", "MRNet: knee MRI, abnormal, ACL tear and meniscal tear, one plane by option")
def mrnet(root: Path, *, plane: Literal["axial", "coronal", "sagittal"] = "sagittal") -> pd.DataFrame:
    """List one plane of MRNet with its three findings, one row an exam.

    The released set has no labels of its test exams: train becomes train, of which `make_manifest` draws val, and valid
    is the test set. It names no patients: each exam counts as one.

    Args:
        root: the folder MRNet-v1.0.
        plane: which of the three series of an exam.

    Source: Bien et al. 2018, PLoS Med 15:e1002699, "Dataset"; each table holds an exam and a label, without a header.
    """
    frame = pd.concat([_rows(root, given, plane) for given in ("train", "valid")], ignore_index=True)
    notes = [
        "the rows of valid are the test set, as the labels of test are not released",
        "the set names no patients: each exam counts as one",
    ]
    return finished(frame, Task(kind="multilabel", targets=FINDINGS), notes, _SOURCE, root)


def _rows(root: Path, given: str, plane: str) -> pd.DataFrame:
    columns = {name: _labels(_SOURCE.file(root, f"{given}-{name}.csv"), name) for name in FINDINGS}
    table = pd.DataFrame(columns)
    if table.isna().any(axis=None):
        exam = table.index[table.isna().any(axis=1)][0]
        raise _SOURCE.error(f"{root}: exam {exam} is not in all three tables of {given}")
    folder = _SOURCE.folder(_SOURCE.folder(root, given), plane)
    exams = table.index.to_series()
    front = pd.DataFrame({"path": str(folder) + "/" + exams + ".npy", "patient": exams})
    front["split"] = "train" if given == "train" else "test"
    return front.join(table.astype("int64")).reset_index(drop=True)


def _labels(path: Path, name: str) -> pd.Series:
    """The labels of one finding by exam, "0000" and so on."""
    labels = {}
    for number, line in enumerate(path.read_text("utf-8").split(), 1):
        exam, _, label = line.partition(",")
        if label not in ("0", "1"):
            raise _SOURCE.error(f"{path}, line {number}: expected an exam and 0 or 1, got {line!r}")
        labels[exam.zfill(4)] = int(label)
    return pd.Series(labels, name=name)
