"""Kermany OCT, EchoNet-Dynamic, UK Biobank liver MRI, MedMNIST and plain class folders."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from slivit.data.importers import make_manifest
from slivit.data.importers.medmnist import CHEST_NAMES, medmnist_manifest
from slivit.data.inspection import Columns
from slivit.data.manifest import read_manifest
from slivit.errors import ManifestError


def kermany_files():
    train = [f"train/{c}/{c}-{100 + 10 * i + j}-1.jpeg" for i, c in enumerate(("CNV", "DME", "DRUSEN", "NORMAL")) for j in range(6)]  # fmt: skip  # noqa: E501
    test = [f"test/{c}/{c}-{200 + i}-1.jpeg" for i, c in enumerate(("CNV", "DME", "DRUSEN", "NORMAL"))]
    return train + test


def test_kermany(tree, tmp_path):
    root = tree(*kermany_files(), "train/CNV/CNV-100-2.jpeg", "train/CNV/CNV-200-2.jpeg", "train/CNV/notes.jpeg")
    made = make_manifest("kermany", root, tmp_path / "oct.csv", val=0.25)
    assert made.task.classes == ("CNV", "DME", "DRUSEN", "NORMAL")
    assert made.frame["split"].value_counts().to_dict() == {"train": 19, "val": 6, "test": 4}
    assert made.frame.loc[made.frame["path"].str.endswith("CNV-100-2.jpeg"), "patient"].item() == "100"
    text = " ".join(made.notes)
    assert "notes.jpeg" in text
    assert "1 rows of 1 patients were left out of train" in text
    assert "has no val: 6 rows" in text
    manifest = read_manifest(tmp_path / "oct.csv", made.task)
    assert len(manifest) == 29


def test_kermany_shared_patients_are_refused_where_kept(tree, tmp_path):
    root = tree(*kermany_files(), "train/CNV/CNV-200-2.jpeg")
    made = make_manifest("kermany", root, tmp_path / "oct.csv", shared="keep")
    with pytest.raises(ManifestError, match='patient "200" is in'):
        read_manifest(tmp_path / "oct.csv", made.task)


def test_kermany_without_split(tree):
    assert "split" not in make_manifest("kermany", tree(*kermany_files()), split="false").frame


def echonet(tree, *videos):
    root = tree(*[f"Videos/{v}.avi" for v in videos])
    (root / "FileList.csv").write_text(
        "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split\n"
        "0X1A,78.5,14.9,69.2,112,112,50,174,TRAIN\n0X2B,49.9,1,2,112,112,50,100,VAL\n0X3C,50.0,1,2,112,112,50,90,TEST\n"
    )
    return root


def test_echonet(tree, tmp_path):
    made = make_manifest("echonet", echonet(tree, "0X1A", "0X2B", "0X3C"), tmp_path / "echo.csv")
    assert made.frame["split"].tolist() == ["train", "val", "test"]
    assert made.frame["EF"].tolist() == [78.5, 49.9, 50.0]
    assert made.frame["ef_below_50"].tolist() == [0, 1, 0]
    assert made.frame["patient"].tolist() == ["0X1A", "0X2B", "0X3C"]
    assert made.task.unit == "%"
    assert make_manifest("echonet", tmp_path / "set", target="ef_below_50").task.kind == "binary"


def test_echonet_partial_download(tree, tmp_path):
    root = echonet(tree, "0X1A", "0X3C")
    with pytest.raises(ManifestError, match=r"1 of 3 scans are missing on disk.*0X2B.*missing=skip"):
        make_manifest("echonet", root, tmp_path / "echo.csv")
    assert not (tmp_path / "echo.csv").exists()
    made = make_manifest("echonet", root, missing="skip", val=0)
    assert made.frame["patient"].tolist() == ["0X1A", "0X3C"]


def test_echonet_missing_parts(tree, tmp_path):
    with pytest.raises(ManifestError, match=r'"FileList.csv" is missing.*echonet.github.io'):
        make_manifest("echonet", tree("Videos/a.avi"))
    (tmp_path / "set" / "FileList.csv").write_text("FileName,EFF,Split\na,1,TRAIN\n")
    with pytest.raises(ManifestError, match=r'column "EF" is missing\. Did you mean "EFF"\?'):
        make_manifest("echonet", tmp_path / "set")
    with pytest.raises(ManifestError, match="there is no such folder"):
        make_manifest("echonet", tmp_path / "elsewhere")


@pytest.mark.parametrize("column", ["p40061_i{}", "40061-{}.0", "f.40061.{}.0"])
def test_ukbiobank(tree, column):
    root = tree("1000001_20204_2_0.zip", "1000001_20204_3_0.zip", "b/1000002_20204_2_0/x.dcm", "1000003_20204_2_0.zip")
    eid = "f.eid" if column.startswith("f.") else "eid"
    header = f"{eid},{column.format(2)},{column.format(3)}\n"
    (root / "ukb.csv").write_text(header + "1000001,3.5,4.5\n1000002,12.25,\n1000003,,\n")
    made = make_manifest("ukbiobank_liver", root)
    assert made.frame[["patient", "instance", "pdff"]].to_numpy().tolist() == [
        ["1000001", "2", 3.5],
        ["1000001", "3", 4.5],
        ["1000002", "2", 12.25],
    ]
    assert "1 of 4 scans without a fat fraction" in made.notes[0]


def test_ukbiobank_questions(tree, tmp_path):
    root = tree("1_20203_2_0.zip", "1_20254_2_0.zip")
    (root / "ukb.csv").write_text("eid,fat,p31\n1,5,0\n")
    with pytest.raises(ManifestError, match='"20203", "20254"; give field='):
        make_manifest("ukbiobank_liver", root)
    with pytest.raises(ManifestError, match="no column of the fat fraction"):
        make_manifest("ukbiobank_liver", root, field="20254")
    assert make_manifest("ukbiobank_liver", root, field="20254", pdff="fat").frame["pdff"].tolist() == [5.0]


def medmnist_file(path, counts=(6, 2, 4), labels=1):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in zip(("train", "val", "test"), counts, strict=True):
        arrays[f"{split}_images"] = rng.integers(0, 255, (n, 4, 4, 4), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n * labels).reshape(n, labels) % 2).astype(np.uint8)
    np.savez_compressed(path, **arrays)
    return path


def test_medmnist_multilabel_and_errors(tmp_path):
    frame = medmnist_manifest(medmnist_file(tmp_path / "chestmnist.npz", labels=14))
    assert tuple(frame.columns[3:]) == CHEST_NAMES
    other = medmnist_file(tmp_path / "mine.npz", labels=3)
    assert list(medmnist_manifest(other).columns[3:]) == ["label_0", "label_1", "label_2"]
    assert list(medmnist_manifest(other, names=("a", "b", "c")).columns[3:]) == ["a", "b", "c"]
    with pytest.raises(ManifestError, match="name one as dataset="):
        make_manifest("medmnist", tmp_path)
    assert len(make_manifest("medmnist", tmp_path, dataset="mine").frame) == 12
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(ManifestError, match="lacks train_images"):
        medmnist_manifest(tmp_path / "other.npz")
    (tmp_path / "cut.npz").write_bytes(other.read_bytes()[:200])
    with pytest.raises(ManifestError, match="cannot be read"):
        medmnist_manifest(tmp_path / "cut.npz")


@pytest.mark.parametrize("form", ["csv", "json"])
def test_nodulemnist_scan_disjoint(tmp_path, form):
    npz = medmnist_file(tmp_path / "nodulemnist3d.npz", (60, 10, 30))
    assert "shares LIDC scans" in make_manifest("medmnist", npz).notes[0]
    scans = {"train": range(60), "val": range(100, 110), "test": range(45, 75)}
    path = tmp_path / f"scans.{form}"
    if form == "json":
        path.write_text(json.dumps({s: [f"LIDC-IDRI-{n:04d}" for n in v] for s, v in scans.items()}))
    else:
        rows = [(s, i, f"{n:04d}_nodule") for s, v in scans.items() for i, n in enumerate(v)]
        pd.DataFrame(rows, columns=["split", "index", "scan"]).to_csv(path, index=False)
    made = make_manifest("medmnist", npz, tmp_path / "out.csv", scans=str(path))
    assert "15 of 30 test items share a scan" in made.notes[0]
    assert made.frame["split"].value_counts().to_dict() == pytest.approx({"train": 60, "test": 30, "val": 10}, abs=2)
    assert made.frame["split_official"].value_counts().to_dict() == {"train": 60, "test": 30, "val": 10}
    read_manifest(tmp_path / "out.csv", made.task)
    with pytest.raises(ManifestError, match="splits must not share patients"):
        read_manifest(tmp_path / "out.csv", made.task, columns=Columns(split="split_official"))


def test_scans_must_be_told_for_every_item(tmp_path):
    npz = medmnist_file(tmp_path / "nodulemnist3d.npz")
    (tmp_path / "scans.csv").write_text("split,index,scan\ntrain,0,78\n")
    with pytest.raises(ManifestError, match='tells no scan for 11 of 12 items, such as "train/1"'):
        make_manifest("medmnist", npz, scans=str(tmp_path / "scans.csv"))


def test_class_folders(tree):
    root = tree("healthy/P1_a.png", "healthy/P1_b.png", "ill/P2/1.dcm", "ill/P2/2.dcm", "ill/readme.txt", ".git/x")
    made = make_manifest("folders", root, patient_pattern="(P[0-9]+)")
    assert made.frame["label"].tolist() == ["healthy", "healthy", "ill"]
    assert made.frame["patient"].tolist() == ["P1", "P1", "P2"]
    assert made.frame["path"].tolist()[2] == str(root / "ill" / "P2")
    assert "counts as a patient of its own" in make_manifest("folders", root).notes[0]
    with pytest.raises(ManifestError, match="finds no patient"):
        make_manifest("folders", root, patient_pattern="(Q[0-9]+)")
    with pytest.raises(ManifestError, match="has no group"):
        make_manifest("folders", root, patient_pattern="P[0-9]+")


def test_patients_of_class_folders_by_the_names_of_scans(tree):
    root = tree(*[f"{'ab'[i % 2]}/P{i // 2}_{i}.png" for i in range(40)])
    made = make_manifest("folders", root)
    assert made.frame["patient"].nunique() == 20
    assert made.notes[0].startswith("20 patients by the names of scans, such as P")


def test_numbers_of_classes_are_no_patients(tree):
    root = tree(*[f"organ{i % 11}/{i % 11}_{i:03d}.png" for i in range(66)])
    assert make_manifest("folders", root).frame["patient"].nunique() == 66


def test_class_folders_with_splits(tree):
    root = tree("train/a/1.png", "train/b/2.png", "valid/a/3.png", "valid/b/4.png", "test/a/5.png")
    assert make_manifest("folders", root).frame["split"].tolist() == ["test", "train", "train", "val", "val"]


def test_one_class_is_none(tree):
    with pytest.raises(ManifestError, match="there is one class only"):
        make_manifest("folders", tree("a/1.png"))


def test_class_folders_list_whole_files_and_folders_of_slices(tree):
    root = tree(
        "sick/P1/scan.nii.gz", "sick/P1/preview.png", "sick/P2/clip.avi", "well/P3/1.png", "well/P3/2.png",
        "well/P4/st/se/1.dcm", "well/P4/st/se/2.dcm",
    )  # fmt: skip
    paths = [path.removeprefix(f"{root}/") for path in make_manifest("folders", root).frame["path"]]
    assert paths == ["sick/P1/scan.nii.gz", "sick/P2/clip.avi", "well/P3", "well/P4/st/se"]
