"""The readers that travel with an exported graph give what slivit reads, and refuse what they would guess."""

import json
import re
import subprocess
import sys

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from slivit.checkpoint import load_checkpoint, save_checkpoint
from slivit.data.preprocessing import Preprocessing
from slivit.data.readers import read_volume
from slivit.models.registry import create_model
from slivit.predict import command as predict
from slivit.sharing import reading
from slivit.sharing.export import Options, export
from slivit.sharing.texts import how_to_use
from slivit.targets.covariates import fit_covariates
from slivit.targets.task import Task

SMALL = {"slices": 4, "image_size": 32, "width": 4, "depths": [1, 1, 1, 1]}
REAL = ["hippocampus/images/hippocampus_001.nii.gz", "ibsi_sts_008/nifti/PET_image.nii.gz"]
REAL += [f"ibsi_sts_008/dicom/{kind}" for kind in ("CT", "PET", "MR_T1")]


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_scans_are_read_alike(real_data, name):
    array, spacing = reading.read_scan(str(real_data / name), {})
    known = read_volume(real_data / name)
    np.testing.assert_array_equal(array, known.array)
    np.testing.assert_allclose(spacing, known.spacing, rtol=1e-6)


def pictures(folder, kind, colour):
    folder.mkdir()
    shape = (20, 24, 3) if colour else (20, 24)
    for i in (1, 2, 10):  # 10 is the last
        Image.fromarray(np.random.default_rng(i).integers(0, 256, shape).astype(np.uint8)).save(folder / f"f{i}.{kind}")


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "bmp"])
def test_frames_are_read_alike(tmp_path, kind, colour):
    pictures(tmp_path / "frames", kind, colour)
    array, spacing = reading.read_scan(str(tmp_path / "frames"), {})
    np.testing.assert_array_equal(array, read_volume(tmp_path / "frames").array)
    assert spacing is None


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_colours_are_read_alike(tmp_path, kind):
    pictures(tmp_path / "frames", kind, colour=True)
    options = {"channel": "all"}
    for path in (tmp_path / "frames", min((tmp_path / "frames").iterdir())):
        array, _ = reading.read_scan(str(path), options)
        np.testing.assert_array_equal(array, read_volume(path, **options).array)
        assert len(array) == 3


def rotated(degrees):
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ np.diag([2.0, 1.5, 3.0, 1.0])


@pytest.mark.parametrize("axis", [None, "axial", "coronal", "sagittal"])
@pytest.mark.parametrize("affine", [np.diag([-1, 1, 2.0, 1]), np.eye(4)[[2, 0, 1, 3]], rotated(20)])
def test_grids_are_turned_alike(tmp_path, affine, axis):
    values = np.random.default_rng(0).integers(-500, 500, (6, 7, 8)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "a.nii")
    options = {"axis": axis} if axis else {}
    array, spacing = reading.read_scan(str(tmp_path / "a.nii"), options)
    known = read_volume(tmp_path / "a.nii", **options)
    np.testing.assert_array_equal(array, known.array)
    np.testing.assert_allclose(spacing, known.spacing, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "affine", "told"),
    [((6, 7, 8, 2), np.eye(4), "holds several volumes"), ((6, 7, 8), rotated(40), "more than 30 degrees askew")],
)
def test_what_would_be_guessed_is_refused_with_the_way_out(tmp_path, monkeypatch, shape, affine, told):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), affine), tmp_path / "a.nii")
    monkeypatch.setitem(sys.modules, "slivit.data.readers", None)  # as where slivit is not installed
    with pytest.raises(SystemExit, match=f"{told}.*slivit may read it: pip install here"):
        reading.read_scan(str(tmp_path / "a.nii"), {}, "pip install here")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch-export", "onnx"])
def test_an_exported_program_reads_scans_and_covariates_by_itself(tmp_path, format):
    rows = [{"age": 50.0, "sex": "F"}, {"age": 70.0, "sex": "M"}, {"age": None, "sex": "M"}]
    rows = [
        row | dict.fromkeys(("geometry_z_mm", "geometry_y_mm", "geometry_x_mm", "geometry_slices"), 9.0) for row in rows
    ]
    task = Task(kind="binary", targets=("bright",), covariates=("age", "sex", "geometry"))
    task = task.model_copy(update={"inputs": fit_covariates(task.covariates, rows)})
    model = create_model("resnet3d_18", 1, **SMALL, covariates=sum(c.width for c in task.inputs))
    next(p for n, p in model.named_parameters() if n.endswith("covariates.weight")).data.fill_(0.3)
    made = save_checkpoint(tmp_path / "checkpoint", model, task, Preprocessing(size=model.spec.size, flips=("slices",)))
    export(load_checkpoint(made), tmp_path / "out", Options(format=format))
    values = np.random.default_rng(0).integers(0, 500, (24, 20, 6)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 3.0, 1])), tmp_path / "a.nii.gz")
    pictures(tmp_path / "frames", "png", colour=False)
    paths = [str(tmp_path / "a.nii.gz"), str(tmp_path / "frames")]
    pd.DataFrame({"path": paths, "age": [61.0, 61.0], "sex": "F"}).to_csv(tmp_path / "scans.csv", index=False)
    known = predict.run(made, [str(tmp_path / "scans.csv")], precision="float32", progress=False, workers=0)
    command = [sys.executable, str(tmp_path / "out" / "predict.py"), *paths, "age=61", "sex=F"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": ""})
    told = [float(p) for p in re.findall(r"'prob_bright': ([\d.e-]+)", done.stdout)]
    np.testing.assert_allclose(told, known["prob_bright"], atol=1e-4)
    done = subprocess.run(command[:-1], capture_output=True, text=True, check=False, env={"PYTHONPATH": ""})
    assert "the model reads sex as well: give NAME=VALUE" in done.stderr
    assert "`covariates`" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "preprocessing.json").read_text())["install"].startswith("pip install")


def test_where_slivit_is_had_is_a_setting(monkeypatch):
    assert "pip install slivit" not in how_to_use("safetensors")
    monkeypatch.setenv("SLIVIT_SOURCE", "git+https://example.org/a/slivit")
    assert 'pip install "slivit @ git+https://example.org/a/slivit"' in how_to_use("safetensors")
