"""NIH ChestX-ray14: frontal chest radiographs with 14 findings mined from reports."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from slivit.data.importers.common import IMAGES, Source, by_name, finished, located, multi_hot, numbers
from slivit.data.importers.findings import CHEXPERT5, Findings, five_of
from slivit.data.importers.registry import importer
from slivit.errors import one_of
from slivit.targets.task import Task

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
_SOURCE = Source(
    "NIH ChestX-ray14",
    "https://nihcc.app.box.com/v/ChestXray-NIHCC",
    "Data_Entry_2017_v2020.csv, train_val_list.txt, test_list.txt and folders images or images_001 to images_012",
)


@importer("nih", "NIH ChestX-ray14: 14 findings, patient, official train_val and test lists")
def nih(root: Path, *, split: bool = True, findings: Findings = "own") -> pd.DataFrame:
    """List NIH ChestX-ray14 with its 14 findings, patient, age, sex, view and official split.

    The official lists name train+val and test; `make_manifest` draws val from train by patient. The table tells neither
    race nor ethnicity.

    Args:
        root: the folder with the table and the images (in one folder or in several).
        split: whether to keep the official split (train_val_list.txt and test_list.txt); without it, the manifest is
            split by patient when read. Where train_list.txt and val_list.txt are there, val is theirs.
        findings: "chexpert5" takes five findings, under the names that all importers of chest radiographs give them.

    Source: Wang et al. 2017, CVPR, ChestX-ray8; the README and FAQ beside the download.
    """
    needed = ["Image Index", "Finding Labels", "Patient ID"]
    path = _SOURCE.file(root, "Data_Entry_2017*.csv")
    table = _SOURCE.table(path, needed, ["Patient Age", "Patient Gender", "Patient Sex", "View Position"])
    names = table["Image Index"]
    frame = pd.DataFrame({"path": located(names, by_name(root, IMAGES), root), "patient": table["Patient ID"]})
    lists = table["Finding Labels"].str.split("|")
    unknown = {name for labels in lists for name in labels} - {*FINDINGS, "No Finding", ""}
    notes = [f"findings that are not among the 14 were not taken: {one_of(sorted(unknown))}"] if unknown else []
    frame = pd.concat([frame, multi_hot(lists, FINDINGS)], axis=1)
    frame["age"] = numbers(table["Patient Age"].str.rstrip("YMD")) if "Patient Age" in table else float("nan")
    for name, column in (("sex", "Patient Gender"), ("sex", "Patient Sex"), ("view", "View Position")):
        if column in table:
            frame[name] = table[column]
    if split:
        frame, more = _with_split(frame, names, root)
        notes += more
    targets: tuple[str, ...] = FINDINGS
    if findings == "chexpert5":
        five, more = five_of(frame, FINDINGS)
        frame, targets = frame.drop(columns=list(FINDINGS)).join(five), CHEXPERT5
        notes += more
    return finished(frame, Task(kind="multilabel", targets=targets), notes, _SOURCE, root)


def _with_split(frame: pd.DataFrame, names: pd.Series, root: Path) -> tuple[pd.DataFrame, list[str]]:
    of = {}
    drawn = [("train", "train_list.txt"), ("val", "val_list.txt")]
    lists = drawn if all((root / name).is_file() for _, name in drawn) else [("train", "train_val_list.txt")]
    for split, file in (*lists, ("test", "test_list.txt")):
        of.update(dict.fromkeys(_SOURCE.file(root, file).read_text("utf-8").split(), split))
    split_column = names.map(of)
    unlisted = split_column.isna()
    notes = [f"{unlisted.sum()} images are in neither official list: left out"] if unlisted.any() else []
    frame.insert(2, "split", split_column)
    return frame[~unlisted], notes
