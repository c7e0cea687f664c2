"""RadImageNet: single slices of CT, MRI and ultrasound with 165 findings, and official lists."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from slivit.data.importers.common import Source, finished
from slivit.data.importers.registry import importer
from slivit.errors import ManifestError, nearest, one_of
from slivit.targets.task import Task

_SOURCE = Source(
    "RadImageNet",
    "https://www.radimagenet.com",
    "RadiologyAI_train.csv, RadiologyAI_val.csv, RadiologyAI_test.csv and a folder radiology_ai with CT, MR and US",
)


@importer("radimagenet", "RadImageNet: slices of CT, MRI and ultrasound, 165 findings, official lists")
def radimagenet(root: Path, *, modalities: tuple[str, ...] = (), anatomies: tuple[str, ...] = ()) -> pd.DataFrame:
    """List RadImageNet with its findings and official split, one row an image.

    The columns modality (CT, MR or US) and anatomy (abd, brain, knee, ...) are the folders of an image, so that they
    can be chosen later, too, by `data.where`. The set names no patients: each image counts as one, and the official
    lists alone keep them apart.

    Args:
        root: the folder with the three lists and `radiology_ai`.
        modalities: those to take, such as CT; all where empty.
        anatomies: those to take, such as knee; all where empty.

    Source: Mei et al. 2022, Radiol Artif Intell 4:e210315, Table 1 (modalities, anatomies); the lists hold the file
        (radiology_ai/MR/knee/acl/NAME.png) and the label.
    """
    parts = []
    for split in ("train", "val", "test"):
        table = _SOURCE.table(_SOURCE.file(root, f"RadiologyAI_{split}.csv"), ["filename", "label"])
        parts.append(table.assign(split=split))
    table = pd.concat(parts, ignore_index=True)
    folders = table["filename"].str.extract(r"(?:^|/)(?P<modality>CT|MR|US)/(?P<anatomy>[^/]+)/")
    if (odd := folders["modality"].isna()).any():
        raise _SOURCE.error(f'{root}: "{table["filename"][odd].iloc[0]}" lies in no folder CT, MR or US')
    frame = pd.DataFrame({"path": str(root) + "/" + table["filename"], "patient": table["filename"]})
    frame = frame.join(table[["split", "label"]]).join(folders)
    kept = _among(folders["modality"], modalities) & _among(folders["anatomy"], anatomies)
    frame = frame[kept]
    notes = ["the set names no patients: each image counts as one"]
    classes = tuple(sorted(set(frame["label"])))
    if len(classes) < 2:
        raise _SOURCE.error(f"{root}: of what was chosen there is one class only ({one_of(classes)})")
    return finished(frame, Task(kind="multiclass", targets=("label",), classes=classes), notes, _SOURCE, root)


def _among(column: pd.Series, chosen: tuple[str, ...]) -> pd.Series:
    known = sorted(set(column))
    for name in chosen:
        if name not in known:
            raise ManifestError(f'radimagenet: no {column.name} "{name}".{nearest(name, known)} There are {known}')
    return column.isin(chosen or known)
