"""PadChest: chest radiographs with labels from Spanish reports."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pandas as pd

from slivit.data.importers.common import IMAGES, Source, by_name, finished, located, multi_hot, numbers
from slivit.data.importers.findings import CHEXPERT5, Findings, five_within
from slivit.data.importers.registry import importer
from slivit.errors import nearest, one_of
from slivit.targets.task import Task

_SOURCE = Source(
    "PadChest",
    "https://bimcv.cipf.es/bimcv-projects/padchest",
    "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv (or .csv.gz) and folders of PNG images",
)
UNFIT = {"unchanged", "exclude", "suboptimal study"}
"""Labels that say nothing of what is to be seen."""
_OPTIONAL = ["PatientSex_DICOM", "PatientBirth", "StudyDate_DICOM", "MethodLabel"]


@importer("padchest", "PadChest: labels of the reports as targets, views and reader by option")
def padchest(
    root: Path,
    *,
    labels: tuple[str, ...] = (),
    top: int = 20,
    views: tuple[str, ...] = ("PA", "AP", "AP_horizontal"),
    physician_only: bool = False,
    findings: Findings = "own",
) -> pd.DataFrame:
    """List PadChest with one 0/1 column for each chosen label, patient, study, view, sex and age.

    The set has no official split: the manifest is split by patient when read. Images without labels are left out. Its
    table tells neither race nor ethnicity.

    Args:
        root: the folder with the table and the images, in whatever folders they lie.
        labels: the labels to take ("pleural effusion"); by default the `top` most frequent ones.
        top: how many, where `labels` is empty.
        views: the projections to take; "L" for lateral views.
        findings: "chexpert5" takes five findings, each where any label contains its name ("laminar atelectasis"; of
            edema "pulmonary edema"), under the names that all importers of chest radiographs give them. Images that are
            labelled "unchanged", "exclude" or "suboptimal study" are left out.
        physician_only: whether to take only images whose report a physician labelled (27%), not the network.

    Source: Bustos et al. 2020, Med Image Anal 66:101797, table of the fields; Labels is a Python list as text.
    """
    path = _SOURCE.file(root, "PADCHEST*.csv", "PADCHEST*.csv.gz", "*160K*.csv")
    table = _SOURCE.table(path, ["ImageID", "PatientID", "StudyID", "Projection", "Labels"], _OPTIONAL)
    lists = table["Labels"].map(_label_list)
    keep = table["Projection"].isin(views) & (lists.map(len) > 0)
    if physician_only and "MethodLabel" in table:
        keep &= table["MethodLabel"] == "Physician"
    notes = [] if keep.all() else [f"{(~keep).sum()} of {len(keep)} images of other views or without labels: left out"]
    table, lists = table[keep], lists[keep]
    if findings == "chexpert5":
        unfit = lists.map(lambda one: bool(UNFIT & set(one)))
        notes += [f"{unfit.sum()} images labelled {one_of(sorted(UNFIT))}: left out"] if unfit.any() else []
        table, lists = table[~unfit], lists[~unfit]
    frame = pd.DataFrame(
        {
            "path": located(table["ImageID"], by_name(root, IMAGES), root),
            "patient": table["PatientID"],
            "study": table["StudyID"],
            "view": table["Projection"],
        }
    )
    if "PatientSex_DICOM" in table:
        frame["sex"] = table["PatientSex_DICOM"]
    if "PatientBirth" in table and "StudyDate_DICOM" in table:
        frame["age"] = numbers(table["StudyDate_DICOM"].str[:4]) - numbers(table["PatientBirth"].str[:4])
    if findings == "chexpert5":
        columns, more = five_within(lists, {"edema": "pulmonary edema"})
        notes, names = [*notes, *more], tuple(CHEXPERT5)
    else:
        names = _chosen(lists, labels, top, path)
        columns = multi_hot(lists, names)
    frame = frame.join(columns)
    return finished(frame, Task(kind="multilabel", targets=names), notes, _SOURCE, root)


def _label_list(text: str) -> list[str]:
    """The labels of one image; the table writes them as a Python list, with stray blanks and empty names."""
    try:
        labels = ast.literal_eval(text) if text else []
    except (SyntaxError, ValueError):
        return []
    return sorted({str(label).strip() for label in labels if str(label).strip()}) if isinstance(labels, list) else []


def _chosen(lists: pd.Series, labels: tuple[str, ...], top: int, path: Path) -> tuple[str, ...]:
    counts = Counter(label for names in lists for label in names)
    for label in labels:
        if label not in counts:
            raise _SOURCE.error(f'{path}: no image has the label "{label}"', nearest(label, counts))
    frequent = sorted(counts, key=lambda label: (-counts[label], label))
    return labels or tuple(frequent[:top])
