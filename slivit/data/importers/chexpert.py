"""CheXpert: chest radiographs with 14 observations, some of them uncertain."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pandas as pd

from slivit.data.importers.common import Source, finished, numbers
from slivit.data.importers.findings import Findings, five_of
from slivit.data.importers.registry import importer
from slivit.errors import ManifestError, nearest
from slivit.targets.task import Task

OBSERVATIONS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
_SOURCE = Source(
    "CheXpert",
    "https://stanfordmlgroup.github.io/competitions/chexpert",
    "train.csv, valid.csv and folders train and valid with patient00001/study1/view1_frontal.jpg",
)
_PATIENT = re.compile(r"(?:^|/)(patient\d+)/")
FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
Uncertain = Literal["missing", "zeros", "ones"]
Unmentioned = Literal["zeros", "missing"]


@importer("chexpert", "CheXpert: 14 observations, policy for uncertain labels, frontal views by option")
def chexpert(
    root: Path,
    *,
    uncertain: Uncertain = "missing",
    unmentioned: Unmentioned = "zeros",
    frontal_only: bool = True,
    labels: tuple[str, ...] = OBSERVATIONS,
    findings: Findings = "own",
    uncertain_of: dict[str, Uncertain] | None = None,
    patients: str = "",
) -> pd.DataFrame:
    """List CheXpert (also CheXpert-small) with its observations, patient, sex, age and view.

    train.csv becomes train. Where a test table is there (test.csv or test_labels.csv), valid.csv is val; otherwise
    valid.csv, which radiologists read, is the test set, and `make_manifest` draws val from train by patient.

    Args:
        root: the folder with train.csv and valid.csv.
        uncertain: what -1 becomes: a missing label (masked in training), 0 (U-Zeros) or 1 (U-Ones).
        unmentioned: what an empty cell becomes: 0, as usual, or a missing label.
        frontal_only: whether lateral views are left out.
        labels: the observations to take.
        findings: "chexpert5" takes the five of the competition, under the names that all importers of chest radiographs
            give them.
        uncertain_of: `uncertain` for single observations, such as {"Edema": "ones"}.
        patients: a CSV with PATIENT and any of PRIMARY_RACE and ETHNICITY, which become the columns race and ethnicity:
            the table of demographics (CHEXPERT DEMO.xlsx) that Stanford AIMI gives beside the set, saved as CSV.

    Source: Irvin et al. 2019, AAAI, sections "Dataset" and "Training Procedure" (U-Ignore, U-Zeros, U-Ones).
    """
    labels = FIVE if findings == "chexpert5" else labels
    for name in (*labels, *(uncertain_of or {})):
        if name not in OBSERVATIONS:
            raise ManifestError(f'chexpert: label "{name}" is unknown.{nearest(name, OBSERVATIONS)}')
    files = {"train": _SOURCE.file(root, "train.csv"), "valid": _SOURCE.file(root, "valid.csv")}
    test = next((root / n for n in ("test.csv", "test_labels.csv") if (root / n).is_file()), None)
    names = {"train": "train", "valid": "val" if test else "test"}
    parts = [_rows(path, root, labels).assign(split=names[key]) for key, path in files.items()]
    if test is not None:
        parts.append(_rows(test, root, labels).assign(split="test"))
    frame = pd.concat(parts, ignore_index=True)
    notes = [] if test else ["there is no test.csv: the rows of valid.csv are the test set"]
    if frontal_only:
        lateral = frame["view"] == "Lateral"
        notes += [f"{lateral.sum()} lateral views: left out"] if lateral.any() else []
        frame = frame[~lateral]
    values = with_policies(frame[list(labels)], uncertain, unmentioned, uncertain_of or {})
    if findings == "chexpert5":
        values, _ = five_of(values, labels)
    frame = with_patients(frame[["path", "patient", "split", "view", "sex", "age"]].join(values), patients)
    return finished(frame, Task(kind="multilabel", targets=tuple(values.columns)), notes, _SOURCE, root)


def with_patients(frame: pd.DataFrame, patients: str) -> pd.DataFrame:
    """A frame with race and ethnicity by patient, where a table of them is given."""
    if not patients:
        return frame
    known = {"PATIENT": "patient", "PRIMARY_RACE": "race", "ETHNICITY": "ethnicity"}
    table = _SOURCE.table(Path(patients).expanduser(), ["PATIENT"], list(known)[1:])
    return frame.merge(table.drop_duplicates("PATIENT").rename(columns=known), on="patient", how="left")


def with_policies(
    table: pd.DataFrame, uncertain: Uncertain, unmentioned: Unmentioned, uncertain_of: Mapping[str, Uncertain]
) -> pd.DataFrame:
    """Labels of 1, 0, -1 (uncertain) and nothing (not mentioned) as numbers, under a policy for each column."""
    values = table.apply(numbers).fillna(0.0 if unmentioned == "zeros" else float("nan"))
    become = {"missing": float("nan"), "zeros": 0.0, "ones": 1.0}
    return values.apply(lambda column: column.replace(-1.0, become[uncertain_of.get(str(column.name), uncertain)]))


def _rows(path: Path, root: Path, labels: tuple[str, ...]) -> pd.DataFrame:
    table = _SOURCE.table(path, ["Path", *labels], ["Sex", "Age", "Frontal/Lateral"])
    patient = table["Path"].str.extract(_PATIENT)[0]
    if patient.isna().any():
        raise _SOURCE.error(f'{path}: "{table["Path"][patient.isna()].iloc[0]}" names no patient')
    # The table's paths start with the name of the release, whatever the folder is called now.
    inner = table["Path"].str.replace(r"^CheXpert-v1\.0[^/]*/", "", regex=True)
    view = table["Frontal/Lateral"] if "Frontal/Lateral" in table else _view(inner)
    frame = pd.DataFrame({"path": str(root) + "/" + inner, "patient": patient, "view": view})
    frame["sex"] = table.get("Sex", "")
    frame["age"] = numbers(table["Age"]) if "Age" in table else float("nan")
    return frame.join(table[list(labels)])


def _view(paths: pd.Series) -> pd.Series:
    return paths.str.contains("lateral").map({True: "Lateral", False: "Frontal"})
