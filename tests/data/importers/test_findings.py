"""The same five findings from every set of chest radiographs; MIMIC-CXR and COVIDx CT."""

from __future__ import annotations

import pandas as pd
import pytest

from slivit.data.importers import make_manifest
from slivit.data.importers.findings import CHEXPERT5, five_within
from slivit.errors import ManifestError
from tests.data.importers.test_radiographs import chexpert, nih

FIVE = ["atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion"]


def test_nih_and_chexpert_have_the_same_five_columns(tree):
    root = nih(tree)
    made = make_manifest("nih", root, findings="chexpert5")
    assert list(made.task.targets) == FIVE
    first = made.frame.iloc[0]
    assert (first["cardiomegaly"], first["pleural_effusion"], first["edema"]) == (1, 1, 0)
    names = (root / "train_val_list.txt").read_text().split()
    (root / "train_list.txt").write_text("\n".join(names[:5]))
    (root / "val_list.txt").write_text("\n".join(names[5:]))
    assert make_manifest("nih", root).frame["split"].value_counts().to_dict() == {"train": 5, "test": 4, "val": 3}
    made = make_manifest("chexpert", chexpert(tree), findings="chexpert5", uncertain_of={"Cardiomegaly": "ones"})
    assert list(made.task.targets) == FIVE
    train = made.frame[made.frame["split"] != "test"]
    assert (train["cardiomegaly"] == 1).all()
    with pytest.raises(ManifestError, match='label "Edemas" is unknown'):
        make_manifest("chexpert", chexpert(tree), uncertain_of={"Edemas": "ones"})


def test_padchest_takes_any_label_that_contains_the_finding(tree):
    root = tree(*[f"{i}.png" for i in range(5)])
    labels = ["['laminar atelectasis']", "['pleural effusion', 'cardiomegaly']", "['unchanged', 'cardiomegaly']",
              "['pulmonary edema']", "['normal']"]  # fmt: skip
    rows = [f'{i}.png,S{i},P{i},PA,"{text}"\n' for i, text in enumerate(labels)]
    (root / "PADCHEST.csv").write_text("ImageID,StudyID,PatientID,Projection,Labels\n" + "".join(rows))
    made = make_manifest("padchest", root, findings="chexpert5")
    assert made.frame[FIVE].to_numpy().tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 1, 0], [0] * 5]
    notes = " ".join(made.notes)
    assert "1 images labelled" in notes
    assert "no image has consolidation" in notes
    assert five_within(pd.Series([["Edema"]]))[0]["edema"].tolist() == [1]
    assert list(CHEXPERT5) == FIVE


@pytest.fixture
def mimic(tree):
    rows = [("d0", "10000032", "1", "PA", "train"), ("d1", "10000032", "1", "LATERAL", "train"),
            ("d2", "10000764", "2", "AP", "validate"), ("d3", "11000764", "3", "AP", "test"),
            ("d4", "12000000", "9", "AP", "test")]  # fmt: skip
    root = tree(*[f"files/p{p[:2]}/p{p}/s{s}/{d}.jpg" for d, p, s, _, _ in rows])
    meta = "".join(f"{d},{p},{s},{view}\n" for d, p, s, view, _ in rows)
    (root / "mimic-cxr-2.0.0-metadata.csv").write_text("dicom_id,subject_id,study_id,ViewPosition\n" + meta)
    split = "".join(f"{d},{s},{p},{part}\n" for d, p, s, _, part in rows)
    (root / "mimic-cxr-2.0.0-split.csv").write_text("dicom_id,study_id,subject_id,split\n" + split)
    names = "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    names += "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
    labels = [f"{p},{s},,,1.0,,,-1.0,,,,,0.0,,,\n" for p, s in (("10000032", 1), ("10000764", 2), ("11000764", 3))]
    (root / "mimic-cxr-2.0.0-chexpert.csv").write_text(f"subject_id,study_id,{names}\n" + "".join(labels))
    (root / "patients.csv").write_text("subject_id,gender,anchor_age,race\n10000032,F,52,WHITE\n")
    return root


def test_mimic_cxr(mimic):
    made = make_manifest("mimic_cxr", mimic, uncertain="zeros", patients=str(mimic / "patients.csv"))
    assert list(made.task.targets) == FIVE
    assert made.frame["split"].tolist() == ["train", "val", "test"]
    assert made.frame["path"].iloc[0].endswith("files/p10/p10000032/s1/d0.jpg")
    assert made.frame[FIVE].iloc[0].tolist() == [0, 1, 0, 0, 0]
    assert made.frame["race"].fillna("").tolist() == ["WHITE", "", ""]
    assert "1 images of other views" in " ".join(made.notes)
    assert "1 images of studies without labels" in " ".join(made.notes)
    own = make_manifest("mimic_cxr", mimic, findings="own", uncertain="ones")
    assert len(own.task.targets) == 14
    assert own.frame["Edema"].tolist() == [1, 1, 1]


def test_covidx_ct(tree):
    names = {"train": ["NCP_96_1328_0032.png 2 10 20 300 400", "Normal_1_2_0001.png 0 0 0 9 9"],
             "val": ["volume-covid19-A-0123_0045.png 2 1 2 3 4"], "test": ["CP_7_8_0009.png 1 1 2 3 4"]}  # fmt: skip
    root = tree(*[f"3A_images/{line.split()[0]}" for lines in names.values() for line in lines])
    for split, lines in names.items():
        (root / f"{split}_COVIDx_CT-3A.txt").write_text("\n".join(lines) + "\n")
    made = make_manifest("covidx_ct", root)
    assert made.frame["patient"].tolist() == ["NCP_96", "Normal_1", "volume-covid19-A-0123", "CP_7"]
    assert made.frame["label"].tolist() == ["covid19", "normal", "covid19", "pneumonia"]
    (root / "val_COVIDx_CT-3A.txt").write_text("a.png 5\n")
    with pytest.raises(ManifestError, match="line 1"):
        make_manifest("covidx_ct", root)


def test_chexpert_takes_race_from_the_table_of_demographics(tree):
    root = chexpert(tree)
    (root / "demo.csv").write_text("PATIENT,PRIMARY_RACE,ETHNICITY\npatient00001,Asian,Non-Hispanic\n")
    frame = make_manifest("chexpert", root, patients=str(root / "demo.csv")).frame
    assert set(frame.loc[frame["patient"] == "patient00001", "race"]) == {"Asian"}
    assert frame.loc[frame["patient"] != "patient00001", "race"].isna().all()
