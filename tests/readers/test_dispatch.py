"""The way in: what is recognised, what is refused, and how selections are recorded."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from slivit.data.readers import READERS, describe, read_volume, supported_formats
from slivit.errors import ReadError


@pytest.fixture
def png(tmp_path, rng):
    Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)).save(tmp_path / "scan.png")
    return tmp_path / "scan.png"


def test_a_missing_path_names_its_neighbour(png):
    with pytest.raises(ReadError, match=r'no such file or folder\. Did you mean "scan\.png"'):
        read_volume(png.with_name("scn.png"))
    with pytest.raises(ReadError, match="good as far as"):
        read_volume(png.parent / "a" / "b" / "c.png")


def test_empty_things(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.dcm").touch()
    with pytest.raises(ReadError, match="folder is empty"):
        read_volume(tmp_path / "folder")
    with pytest.raises(ReadError, match="file is empty"):
        read_volume(tmp_path / "file.dcm")


def test_unknown_formats(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(ReadError, match="no known format"):
        read_volume(tmp_path / "notes.txt")
    with pytest.raises(ReadError, match="no file of a known format"):
        read_volume(tmp_path)


def test_content_counts_more_than_the_name(png):
    png.rename(png.with_suffix(".dcm"))
    assert describe(png.with_suffix(".dcm")).format == "image"
    png.with_suffix(".dcm").rename(png.with_suffix(""))
    assert describe(png.with_suffix("")).format == "image"


def test_options_are_checked(png):
    with pytest.raises(ReadError, match=r"unknown option 'axes'.*Did you mean \"axis\""):
        read_volume(png, axes="axial")
    with pytest.raises(ReadError, match="has no option 'series'"):
        read_volume(png, series=3)
    read_volume(png, series=None)


def test_options_of_the_wrong_kind_are_refused(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"any")
    with pytest.raises(ReadError, match=r"frame must be int\. Got '1'"):
        read_volume(tmp_path / "a.nii", frame="1")


@pytest.mark.parametrize("indices", [[1], [-1], []])
def test_a_selection_outside_the_scan_is_refused(png, indices):
    with pytest.raises(ReadError, match="slices 0 to 0"):
        read_volume(png, select=lambda depth: indices)


def test_a_selection_may_be_any_integers(png):
    scan = read_volume(str(png), select=lambda depth: np.zeros(3, np.int64))
    assert (scan.shape, scan.indices, scan.depth) == ((3, 20, 30), (0, 0, 0), 1)


def test_volumes_and_headers_travel_between_processes(png):
    scan = pickle.loads(pickle.dumps(read_volume(png)))
    np.testing.assert_array_equal(scan.array, read_volume(png).array)
    assert pickle.loads(pickle.dumps(describe(png))).shape == (1, 20, 30)


def test_every_format_is_described():
    assert set(supported_formats()) == set(READERS)


def test_warnings_of_libraries_become_notes(tmp_path, dicom_file):
    dataset = dicom_file(np.zeros((4, 4), np.int16))
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    content = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(content + b"\0" * 32)  # more pixels than the header needs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_volume(tmp_path / "a.dcm")


def test_importing_the_readers_imports_no_decoder():
    heavy = ["torch", "fastai", "pydicom", "nibabel", "cv2", "medmnist", "PIL", "tifffile", "SimpleITK", "eyepy"]
    code = f"import sys, slivit.data.readers; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
