"""The way in: what is recognised, what is refused, and how selections are recorded."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from slivit.data.content import files_of
from slivit.data.readers import READERS, describe, read_volume, supported_formats
from slivit.data.readers.address import with_options
from slivit.data.readers.base import decoding
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
    with pytest.raises(ReadError, match=r"Addresses of stores .* mount the store"):
        read_volume("s3://bucket/scan.png")


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
    dataset.PixelData += b"\0" * 6  # more than the header needs
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume = read_volume(tmp_path / "a.dcm")
    assert volume.array.shape == (1, 4, 4)
    assert any("38 bytes" in note for note in volume.notes), volume.notes


def test_importing_the_readers_imports_no_decoder():
    heavy = ["torch", "fastai", "pydicom", "nibabel", "cv2", "medmnist", "PIL", "tifffile", "SimpleITK", "eyepy"]
    code = f"import sys, slivit.data.readers; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pictures_beside_a_scan_are_previews(tmp_path, png, voxels):
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "scan.nii.gz")
    scan = read_volume(tmp_path)
    np.testing.assert_array_equal(scan.array, read_volume(tmp_path / "scan.nii.gz").array)
    assert scan.notes == ("1 picture beside scan.nii.gz ignored",)
    tifffile.imwrite(png.with_name("stack.tif"), np.zeros((4, 8, 9), np.uint8), photometric="minisblack")
    (tmp_path / "scan.nii.gz").unlink()
    assert read_volume(tmp_path).shape == (4, 8, 9)


def test_several_scans_in_a_folder_are_listed(tmp_path, voxels, dicom_series):
    for name in ("a.nii", "b.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / name)
    with pytest.raises(ReadError, match=r"more than one scan: 'a\.nii', 'b\.nii\.gz'\. Give the path"):
        read_volume(tmp_path)
    (tmp_path / "b.nii.gz").unlink()
    dicom_series(tmp_path / "dicom", voxels)
    with pytest.raises(ReadError, match=r"'a\.nii' beside DICOM files"):
        read_volume(tmp_path)


def test_links_to_folders_are_followed_and_circles_refused(tmp_path, voxels, dicom_series):
    real = dicom_series(tmp_path / "real", voxels)
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "slices").symlink_to(real)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan").array, voxels)
    before = files_of(str(tmp_path / "scan")).state
    (real / "000.dcm").touch()
    assert files_of(str(tmp_path / "scan")).state != before
    (real / "back").symlink_to(tmp_path / "scan")
    with pytest.raises(ReadError, match="leads back to"):
        read_volume(tmp_path / "scan")


def test_a_missing_decoder_is_not_called_damage():
    for text in ("<COMPRESSION.LERC: 34887> requires the 'imagecodecs' package", "decoder libtiff not available"):
        with pytest.raises(ReadError, match=r"not supported.*Convert the file"), decoding("a.tif", "image"):
            raise ValueError(text)
    with pytest.raises(ReadError, match="damaged or cut short"), decoding("a.tif", "image"):
        raise ValueError("unexpected end of data")


def test_an_address_says_what_of_a_file_is_read(tmp_path, rng):
    series = rng.integers(0, 99, (6, 5, 4, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(series, np.eye(4)), tmp_path / "a.nii")
    address = f"{tmp_path / 'a.nii'}#frame=1&axis=coronal"
    expected = read_volume(tmp_path / "a.nii", frame=1, axis="coronal")
    np.testing.assert_array_equal(read_volume(address).array, expected.array)
    np.testing.assert_array_equal(read_volume(address, frame=2, axis="axial").array, expected.array)
    assert files_of(address).state == files_of(str(tmp_path / "a.nii")).state
    with pytest.raises(ReadError, match="frame must be a whole number"):
        read_volume(f"{tmp_path / 'a.nii'}#frame=one")
    with pytest.raises(ReadError, match="no option 'series'"):
        read_volume(with_options(address, {"series": "4"}))
    assert with_options("a.npz#train/3", {"axis": ""}) == "a.npz#train/3"


def test_warnings_for_programmers_are_no_notes(tmp_path):
    import warnings

    from slivit.data.readers import ScanInfo
    from slivit.data.readers.base import Scan
    from slivit.data.readers.dispatch import READERS, Reader

    def open_warning(found):
        def load(indices):
            warnings.warn("unclosed file", ResourceWarning, stacklevel=1)
            warnings.warn("the header is odd", UserWarning, stacklevel=1)
            return np.zeros((len(indices), 2, 2), np.uint8)

        return Scan(ScanInfo("warning", (3, 2, 2), "uint8", None, found.source), load)

    (tmp_path / "a.warning").write_bytes(b"content")
    READERS["warning"] = Reader("warning", "a test", (".warning",), (), open_warning)
    try:
        assert read_volume(tmp_path / "a.warning").notes == ("the header is odd",)
    finally:
        del READERS["warning"]
