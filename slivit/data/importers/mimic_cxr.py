"""MIMIC-CXR-JPG: chest radiographs with the observations of CheXpert's labeller, and an official split."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from slivit.data.importers.chexpert import FIVE, OBSERVATIONS, Uncertain, Unmentioned, with_policies
from slivit.data.importers.common import Source, finished, numbers
from slivit.data.importers.findings import Findings, five_of
from slivit.data.importers.registry import importer
from slivit.errors import ManifestError, nearest
from slivit.targets.task import Task

_SOURCE = Source(
    "MIMIC-CXR-JPG",
    "https://physionet.org/content/mimic-cxr-jpg",
    "mimic-cxr-2.0.0-chexpert.csv.gz, -metadata.csv.gz and -split.csv.gz, and files/p10/p10000032/s50414267/ID.jpg",
)
_SPLITS = {"train": "train", "validate": "val", "test": "test"}


@importer("mimic_cxr", "MIMIC-CXR-JPG: observations of CheXpert's labeller, official split, views by option")
def mimic_cxr(
    root: Path,
    *,
    uncertain: Uncertain = "missing",
    unmentioned: Unmentioned = "zeros",
    views: tuple[str, ...] = ("PA", "AP"),
    findings: Findings = "chexpert5",
    labels: tuple[str, ...] = OBSERVATIONS,
    uncertain_of: dict[str, Uncertain] | None = None,
    patients: str = "",
) -> pd.DataFrame:
    """List MIMIC-CXR-JPG with the labels of each image's study, patient, view and official split.

    Args:
        root: the folder with the three tables and `files`.
        uncertain: what -1 becomes: a missing label, 0 or 1.
        unmentioned: what an empty cell becomes: 0 or a missing label.
        views: the view positions to take.
        findings: "chexpert5" takes five findings, under the names that all importers of chest radiographs give them;
            "own" those of `labels`.
        labels: the observations to take where `findings` is "own".
        uncertain_of: `uncertain` for single observations, such as {"Edema": "ones"}.
        patients: a CSV with subject_id and any of gender, anchor_age and race (from MIMIC-IV), which become the columns
            sex, age and race.

    Source: Johnson et al. 2019, arXiv:1901.07042; the files' description at PhysioNet.
    """
    labels = FIVE if findings == "chexpert5" else labels
    for name in (*labels, *(uncertain_of or {})):
        if name not in OBSERVATIONS:
            raise ManifestError(f'mimic_cxr: label "{name}" is unknown.{nearest(name, OBSERVATIONS)}')
    study = ["subject_id", "study_id"]
    given = _table(root, "chexpert", [*study, *labels])
    images = _table(root, "metadata", ["dicom_id", *study, "ViewPosition"])
    images = images.merge(_table(root, "split", ["dicom_id", "split"]), on="dicom_id")
    kept = images["ViewPosition"].isin(views)
    notes = [f"{(~kept).sum()} images of other views: left out"] if not kept.all() else []
    frame = images[kept].merge(given, on=study, how="left", indicator="known")
    unknown = frame["known"] != "both"
    notes += [f"{unknown.sum()} images of studies without labels: left out"] if unknown.any() else []
    frame = frame[~unknown].reset_index(drop=True)
    values = with_policies(frame[list(labels)], uncertain, unmentioned, uncertain_of or {})
    values = five_of(values, labels)[0] if findings == "chexpert5" else values
    made = pd.DataFrame({"path": _paths(frame, root), "patient": frame["subject_id"]})
    made["split"], made["study"], made["view"] = frame["split"].map(_SPLITS), frame["study_id"], frame["ViewPosition"]
    made = _with_patients(made, patients).join(values)
    return finished(made, Task(kind="multilabel", targets=tuple(values.columns)), notes, _SOURCE, root)


def _table(root: Path, name: str, columns: list[str]) -> pd.DataFrame:
    return _SOURCE.table(_SOURCE.file(root, f"mimic-cxr-2.*-{name}.csv.gz", f"mimic-cxr-2.*-{name}.csv"), columns)


def _paths(frame: pd.DataFrame, root: Path) -> pd.Series:
    """files/p10/p10000032/s50414267/ID.jpg: the first folder is the patient's first two digits."""
    patient = "p" + frame["subject_id"]
    inner = patient.str[:3] + "/" + patient + "/s" + frame["study_id"] + "/" + frame["dicom_id"] + ".jpg"
    return str(root / "files") + "/" + inner


def _with_patients(made: pd.DataFrame, patients: str) -> pd.DataFrame:
    if not patients:
        return made
    table = _SOURCE.table(Path(patients).expanduser(), ["subject_id"], ["gender", "anchor_age", "race"])
    table = table.drop_duplicates("subject_id").rename(columns={"gender": "sex", "anchor_age": "age"})
    if "age" in table:
        table["age"] = numbers(table["age"])
    return made.merge(table.rename(columns={"subject_id": "patient"}), on="patient", how="left")
