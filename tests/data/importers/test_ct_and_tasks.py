"""RSNA pulmonary embolism, LIDC-IDRI, COVID-CT-MD and the Medical Segmentation Decathlon."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from slivit.data.importers import list_importers, make_manifest
from slivit.errors import ManifestError

PE = (
    "StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,pe_present_on_image,negative_exam_for_pe,qa_motion,qa_contrast,"
    "flow_artifact,rv_lv_ratio_gte_1,rv_lv_ratio_lt_1,leftsided_pe,chronic_pe,true_filling_defect_not_pe,rightsided_pe,"
    "acute_and_chronic_pe,central_pe,indeterminate\n"
)


def test_rsna_pe(tree):
    exams = {"s1": (0, 1, 0), "s2": (1, 0, 0), "s3": (0, 0, 1)}
    root = tree(*[f"train/{s}/x{s}/i{j}.dcm" for s in exams for j in range(3)])
    rows = [
        f"{s},x{s},i{j},{int(s == 's2' and j < 2)},{neg},0,0,0,0,{left},{left},0,0,0,0,0,{unsure}\n"
        for s, (left, neg, unsure) in exams.items()
        for j in range(3)
    ]
    (root / "train.csv").write_text(PE + "".join(rows))
    made = make_manifest("rsna_pe", root)
    assert made.frame[["patient", "pe", "slices", "n_pe_slices", "leftsided_pe"]].to_numpy().tolist() == [
        ["s1", 0, 3, 0, 0],
        ["s2", 1, 3, 2, 1],
    ]
    assert made.frame["path"].tolist()[0] == str(root / "train" / "s1" / "xs1")
    assert made.notes == ("1 indeterminate studies: left out",)
    make_manifest("rsna_pe", root, slices=str(root / "slices.csv"))
    shown = pd.read_csv(root / "slices.csv")
    assert shown.to_numpy().tolist() == [[made.frame["path"].iloc[1], "i0"], [made.frame["path"].iloc[1], "i1"]]
    slices = make_manifest("rsna_pe", root, level="slice")
    assert slices.frame["pe_present_on_image"].sum() == 2
    assert len(slices.frame) == 9
    with pytest.raises(ManifestError, match="option level"):
        make_manifest("rsna_pe", root, level="patient")


def reading(uid, *readers):
    sessions = "".join(
        "<readingSession>"
        + "".join(
            f"<unblindedReadNodule><noduleID>{n}</noduleID><characteristics><malignancy>{m}</malignancy></characteristics>"
            f"<roi><inclusion>TRUE</inclusion><imageSOP_UID>{uid}.{n}</imageSOP_UID></roi></unblindedReadNodule>"
            for n, m in enumerate(nodules)
        )
        + f"<unblindedReadNodule><noduleID>small</noduleID><roi><imageSOP_UID>{uid}.0</imageSOP_UID></roi>"
        "</unblindedReadNodule></readingSession>"
        for nodules in readers
    )
    header = f"<ResponseHeader><SeriesInstanceUid>{uid}</SeriesInstanceUid></ResponseHeader>"
    return f'<?xml version="1.0"?><LidcReadMessage xmlns="http://www.nih.gov">{header}{sessions}</LidcReadMessage>'


READINGS = {"0001": ((5, 2), (4,), (5,), ()), "0002": ((1,), (2,)), "0003": ((3,), (3,)), "0004": ((), ())}


@pytest.mark.parametrize("beside", [True, False])
def test_lidc(tree, tmp_path, beside):
    root = tree(
        *[f"LIDC-IDRI-{p}/study/uid{p}/1-{i}.dcm" for p in READINGS for i in (1, 2)], "LIDC-IDRI-0001/s/dx/1.dcm"
    )
    for patient, readers in READINGS.items():
        folder = root / f"LIDC-IDRI-{patient}/study/uid{patient}" if beside else tmp_path / "xml" / "157"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{patient}.xml").write_text(reading(f"uid{patient}", *readers))
    xml = "" if beside else str(tmp_path / "xml")
    made = make_manifest("lidc", root, xml=xml)
    assert made.frame[["patient", "malignant", "malignancy", "nodules"]].fillna(0).to_numpy().tolist() == [
        ["LIDC-IDRI-0001", 1, 5, 2],
        ["LIDC-IDRI-0002", 0, 1.5, 1],
        ["LIDC-IDRI-0004", 0, 0, 0],
    ]
    assert "1 series without a CT reading" in made.notes[0]
    assert "1 scans without malignant" in made.notes[1]
    assert len(make_manifest("lidc", root, xml=xml, target="nodules").frame) == 4
    for least in (1, 2, 3):
        expected = {p: sum(bool(r) for r in readers) >= least for p, readers in READINGS.items()}
        options = {"readers": least, "slices": str(tmp_path / "slices.csv")}
        frame = make_manifest("lidc", root, xml=xml, target="nodule", **options).frame
        assert {p[-4:]: bool(n) for p, n in zip(frame["patient"], frame["nodule"], strict=True)} == expected
        shown = pd.read_csv(tmp_path / "slices.csv")
        assert set(shown["path"]) == set(frame["path"][frame["nodule"] == 1])


def test_lidc_broken(tree):
    root = tree("LIDC-IDRI-0001/a/b/1.dcm")
    with pytest.raises(ManifestError, match="no XML with a CT reading"):
        make_manifest("lidc", root)
    (root / "x.xml").write_text("<a>")
    with pytest.raises(ManifestError, match="this is not XML"):
        make_manifest("lidc", root)


@pytest.mark.parametrize("word", ["subjects", "Cases"])
def test_covid_ct_md(tree, word):
    root = tree(*[f"{c} {word}/{p}/IM{i}.dcm" for c, p in COVID for i in range(3)])
    np.save(root / "Slice-level-labels.npy", np.array([[1, 1, 0], [0, 1, 0], [1, 1, 1]]))
    (root / "Index.csv").write_text(
        "Label Index,Diagnosis,Relative Path,Folder/ID\n42,COVID-19,./COVID-19/,P001\n44,COVID-19,./COVID-19/,P002\n"
        "55,CAP,./CAP/,cap001\n"
    )
    made = make_manifest("covid_ct_md", root)
    assert made.frame["label"].tolist() == ["COVID-19", "COVID-19", "CAP", "Normal"]
    assert made.frame["infected_slices"].fillna(-1).tolist() == [2, 1, 3, -1]


COVID = [("COVID-19", "P001"), ("COVID-19", "P002"), ("Cap", "cap001"), ("Normal", "normal001")]


def test_covid_ct_md_incomplete(tree):
    with pytest.raises(ManifestError, match=r'folder "CAP subjects" or .* is missing.*figshare'):
        make_manifest("covid_ct_md", tree("COVID-19 subjects/P001/1.dcm"))


def test_msd(tree):
    nib = pytest.importorskip("nibabel")
    root = tree("imagesTr/liver_0.nii.gz", "imagesTr/liver_1.nii.gz", "imagesTs/liver_2.nii.gz")
    (root / "labelsTr").mkdir()
    for i, tumour in enumerate((4, 0)):
        mask = np.zeros((5, 5, 5), np.uint8)
        mask[0] = 1
        mask[1].flat[:tumour] = 2
        nib.save(nib.Nifti1Image(mask, np.diag([2.0, 2.0, 2.5, 1])), root / "labelsTr" / f"liver_{i}.nii.gz")
    spec = {
        "name": "Liver",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "training": [
            {"image": f"./imagesTr/liver_{i}.nii.gz", "label": f"./labelsTr/liver_{i}.nii.gz"} for i in (0, 1)
        ],
        "test": ["./imagesTs/liver_2.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(spec))
    made = make_manifest("msd", root)
    assert made.task.targets == ("ml_cancer",)
    assert made.frame["ml_liver"].tolist() == pytest.approx([0.25, 0.25])
    assert made.frame["ml_cancer"].tolist() == pytest.approx([0.04, 0])
    assert make_manifest("msd", root, presence=True).task.targets == ("has_cancer",)
    with pytest.raises(ManifestError, match=r'no label "livr"\. Did you mean "liver"\?'):
        make_manifest("msd", root, label="livr")
    (root / "labelsTr" / "liver_1.nii.gz").write_bytes(b"broken")
    with pytest.raises(ManifestError, match=r"liver_1\.nii\.gz: cannot be read"):
        make_manifest("msd", root)


def test_every_importer_is_described_and_refuses_a_missing_folder(tmp_path):
    specs = list_importers()
    assert len(specs) == 25
    for spec in specs:
        assert 20 < len(spec.description) <= 100
        assert "Args:" in spec.help or not spec.options
        with pytest.raises(ManifestError, match=r"there is no such.* has "):
            make_manifest(spec.name, tmp_path / "nowhere")


def test_radimagenet(tree):
    names = {"train": [("CT/abd/normal/a.png", "abd-normal"), ("MR/knee/acl/b.png", "acl"),
                       ("MR/knee/normal/e.png", "knee-normal")],
             "val": [("US/gb/gb_normal/c.png", "gb-normal")], "test": [("MR/knee/acl/d.png", "acl")]}  # fmt: skip
    root = tree(*[f"radiology_ai/{name}" for rows in names.values() for name, _ in rows])
    for split, rows in names.items():
        lines = "".join(f"radiology_ai/{name},{label}\n" for name, label in rows)
        (root / f"RadiologyAI_{split}.csv").write_text("filename,label\n" + lines)
    made = make_manifest("radimagenet", root)
    assert made.frame["modality"].tolist() == ["CT", "MR", "MR", "US", "MR"]
    assert made.frame["split"].value_counts().to_dict() == {"train": 3, "val": 1, "test": 1}
    assert len(made.task.classes) == 4
    knee = make_manifest("radimagenet", root, anatomies="knee", modalities="MR", val=0)
    assert knee.task.classes == ("acl", "knee-normal")
    with pytest.raises(ManifestError, match=r'no anatomy "kne".*knee'):
        make_manifest("radimagenet", root, anatomies="kne")
    (root / "RadiologyAI_val.csv").write_text("filename,label\nradiology_ai/x.png,acl\n")
    with pytest.raises(ManifestError, match="lies in no folder CT, MR or US"):
        make_manifest("radimagenet", root)


def test_mrnet(tree):
    root = tree(*[f"train/{plane}/{i:04}.npy" for i in range(20) for plane in ("sagittal", "axial")],
                "valid/axial/0020.npy", "valid/sagittal/0020.npy")  # fmt: skip
    for name in ("abnormal", "acl", "meniscus"):
        (root / f"train-{name}.csv").write_text("".join(f"{i:04},{i % 2}\n" for i in range(20)))
        (root / f"valid-{name}.csv").write_text("0020,1\n")
    made = make_manifest("mrnet", root, plane="axial")
    assert made.task.targets == ("abnormal", "acl", "meniscus")
    assert made.frame["path"].iloc[0].endswith("train/axial/0000.npy")
    assert set(made.frame["split"]) == {"train", "val", "test"}
    assert made.frame.loc[made.frame["split"] == "test", "patient"].tolist() == ["0020"]
    (root / "valid-acl.csv").write_text("0021,1\n")
    with pytest.raises(ManifestError, match="exam 0020 is not in all three tables of valid"):
        make_manifest("mrnet", root)
