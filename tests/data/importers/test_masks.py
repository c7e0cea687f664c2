"""Data sets with masks: the folders as they are published, down to the manifest that a segmentation reads."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK

from slivit import read_manifest, read_volume
from slivit.data.importers import make_manifest
from slivit.errors import ManifestError


def nifti(path, values=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((4, 4, 4), np.uint8) if values is None else np.asarray(values, np.uint8)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def nrrd(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((3, 4, 5), np.uint8)), str(path))


def checked(name, root, tmp_path, channels=(), **options):
    """What an importer makes, read back from its CSV as a recipe would."""
    made = make_manifest(name, root, tmp_path / "out.csv", **options)
    manifest = read_manifest(tmp_path / "out.csv", made.task, need_splits=(), channels=channels)
    return made, manifest.frame


def test_brats(tmp_path):
    root = tmp_path / "BraTS2021_Training_Data"
    for number in range(3):
        case = f"BraTS2021_0000{number}"
        for name in ("t1", "t1ce", "t2", "flair", "seg"):
            if (number, name) != (2, "seg"):
                nifti(root / case / f"{case}_{name}.nii.gz")
    channels = ("t1", "t1ce", "t2", "flair")
    made, frame = checked("brats", root, tmp_path, channels)
    assert frame["patient"].tolist() == ["BraTS2021_00000", "BraTS2021_00001"]
    assert made.task.labels == {"necrosis": 1, "edema": 2, "enhancing": 4}
    assert made.task.structures == ("TC", "WT", "ET")
    assert any("1 cases without a mask" in note for note in made.notes)
    assert frame["path"][2].split(" | ")[1].endswith("BraTS2021_00000_t1ce.nii.gz")
    assert frame["path"].tolist() == made.frame["path"].tolist()
    assert read_volume(frame["path"][2]).array.shape == (4, 4, 4, 4)
    (root / "BraTS2021_00001/BraTS2021_00001_t2.nii.gz").unlink()
    with pytest.raises(ManifestError, match="BraTS2021_00001: has no t2"):
        make_manifest("brats", root)


@pytest.mark.parametrize("folders", [("RawData/Training/img", "RawData/Training/label"), ("imagesTr", "labelsTr")])
def test_btcv(tmp_path, folders):
    for number in (1, 2, 21):
        nifti(tmp_path / "in" / folders[0] / f"img{number:04}.nii.gz")
        nifti(tmp_path / "in" / folders[1] / f"label{number:04}.nii.gz")
    nifti(tmp_path / "in/RawData/Testing/img/img0061.nii.gz")
    made, frame = checked("btcv", tmp_path / "in", tmp_path)
    assert frame["patient"].tolist() == ["0001", "0002", "0021"]
    assert len(made.task.labels) == 13
    assert made.task.labels["pancreas"] == 11
    assert any("1 scans without a mask" in note for note in made.notes)


def test_la_seg(tmp_path):
    for part, count in {"Training Set": 10, "Testing Set": 3}.items():
        for number in range(count):
            for name in ("lgemri", "laendo"):
                nrrd(tmp_path / "in" / part / f"{part[:2]}{number}" / f"{name}.nrrd")
    made, frame = checked("la_seg", tmp_path / "in", tmp_path, val=0.2)
    assert frame["split"].value_counts().to_dict() == {"train": 8, "val": 2, "test": 3}
    assert made.task.labels == {"left_atrium": 255}


def test_tdsc_abus(tmp_path):
    for part, numbers in {"Train": (0, 1), "Validation": (100,), "Test": (130,)}.items():
        for number in numbers:
            for name in ("DATA", "MASK"):
                nrrd(tmp_path / "in" / part / name / f"{name}_{number:03}.nrrd")
        table = pd.DataFrame({"case_id": numbers, "label": ["M", "B"][: len(numbers)]})
        table.to_csv(tmp_path / "in" / part / "labels.csv", index=False)
    _, frame = checked("tdsc_abus", tmp_path / "in", tmp_path)
    assert frame["split"].tolist() == ["train", "train", "val", "test"]
    assert frame["label"].tolist() == ["M", "B", "M", "M"]
    assert frame["mask"].iloc[2].endswith("Validation/MASK/MASK_100.nrrd")


def test_msd_with_masks_keeps_all_channels(tmp_path):
    root = tmp_path / "Task01_BrainTumour"
    nifti(root / "imagesTr/BRATS_001.nii.gz", np.zeros((4, 4, 4, 2)))
    nifti(root / "labelsTr/BRATS_001.nii.gz")
    spec = {"modality": {"0": "FLAIR", "1": "T1w"}, "labels": {"0": "background", "1": "edema", "2": "non-enhancing"}}
    item = {"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"}
    (root / "dataset.json").write_text(json.dumps({**spec, "training": [item]}))
    made, frame = checked("msd", root, tmp_path, masks=True)
    assert made.task.labels == {"edema": 1, "non_enhancing": 2}
    assert "frame" not in frame
    assert 'preprocessing.reader.channel = "all" and model.in_chans = 2' in made.notes[0]
