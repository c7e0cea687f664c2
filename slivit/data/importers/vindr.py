"""VinDr-CXR: chest radiographs, three readers an image in train, a consensus of five in test."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

from slivit.data.importers.common import Source, finished, numbers
from slivit.data.importers.findings import CHEXPERT5, Findings, five_of
from slivit.data.importers.registry import importer
from slivit.errors import ManifestError, nearest
from slivit.targets.task import Task

_SOURCE = Source(
    "VinDr-CXR",
    "https://physionet.org/content/vindr-cxr",
    "annotations/image_labels_train.csv, annotations/image_labels_test.csv and folders train and test of .dicom files",
)
Votes = Literal["majority", "any", "all"]


@importer("vindr", "VinDr-CXR: findings and diagnoses, votes of three readers joined by option")
def vindr(
    root: Path, *, votes: Votes = "majority", labels: tuple[str, ...] = (), findings: Findings = "own"
) -> pd.DataFrame:
    """List VinDr-CXR with its global labels and official split; `make_manifest` draws val from train.

    The set names no patients: each image counts as one, as the authors took one image a study. Its tables tell neither
    age, sex nor race; what the images' headers tell of age and sex is left there.

    Args:
        root: the folder with annotations, train and test.
        votes: when the three readers of a training image make a label 1: two of them, any, or all.
        labels: the labels to take; all by default.
        findings: "chexpert5" takes five findings, under the names that all importers of chest radiographs give them.

    Source: Nguyen et al. 2022, Sci Data 9:429; the files' description at PhysioNet. The last columns differ in name
        between the tables ("Other diseases" and "Other disease").
    """
    annotations = _SOURCE.folder(root, "annotations")
    parts = [_votes(annotations, root, split, votes) for split in ("train", "test")]
    known = [c for c in parts[0].columns if c in parts[1].columns and c not in ("path", "patient", "split")]
    for name in labels:
        if name not in known:
            raise ManifestError(f'vindr: label "{name}" is unknown.{nearest(name, known)}')
    names = labels or tuple(known)
    frame = pd.concat(parts, ignore_index=True)[["path", "patient", "split", *names]]
    frame, notes = frame.astype(dict.fromkeys(names, "int64")), list[str]()
    if findings == "chexpert5":
        five, notes = five_of(frame, names)
        frame, names = frame[["path", "patient", "split"]].join(five), CHEXPERT5
    return finished(frame, Task(kind="multilabel", targets=names), notes, _SOURCE, root)


def _votes(annotations: Path, root: Path, split: str, votes: Votes) -> pd.DataFrame:
    path = _SOURCE.file(annotations, f"image_labels_{split}.csv")
    header = list(pd.read_csv(path, nrows=0).columns)
    labels = [c for c in header if c.lower() not in ("image_id", "rad_id")]
    table = _SOURCE.table(path, ["image_id", *labels]).rename(columns={"Other disease": "Other diseases"})
    labels = [c for c in table.columns if c != "image_id"]
    table[labels] = table[labels].apply(numbers).fillna(0)
    images = table.groupby("image_id", sort=False)[labels]
    share = {"majority": images.mean() > 0.5, "any": images.max() > 0, "all": images.min() > 0}[votes]
    folder = _SOURCE.folder(root, split)
    names = share.index.to_series()
    front = pd.DataFrame({"path": [str(folder / f"{name}.dicom") for name in names], "patient": names, "split": split})
    return pd.concat([front.reset_index(drop=True), share.astype("int64").reset_index(drop=True)], axis=1)
