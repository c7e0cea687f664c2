"""Scans inside zip archives, honest and hostile."""

from __future__ import annotations

import gzip
import zipfile

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from slivit.data.readers import describe, read_volume
from slivit.errors import ReadError


def _zip(path, folder, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, prefix + file.name)
    return path


def test_a_series_in_a_zip_equals_the_folder(tmp_path, dicom_series, voxels):
    folder = dicom_series(tmp_path / "series", voxels)
    (folder / "manifest.csv").write_text("words")
    path = _zip(tmp_path / "scan.zip", folder, prefix="a/b/")
    np.testing.assert_array_equal(read_volume(path).array, voxels)
    assert describe(path).spacing == describe(folder).spacing
    part = read_volume(path, select=lambda depth: [4, 1])
    np.testing.assert_array_equal(part.array, voxels[[4, 1]])


def test_nothing_is_unpacked_to_disk(tmp_path, dicom_series, voxels):
    folder = dicom_series(tmp_path / "in" / "series", voxels)
    path = tmp_path / "in" / "scan.zip"
    _zip(path, folder, prefix="../../evil/")
    before = sorted(tmp_path.rglob("*"))
    np.testing.assert_array_equal(read_volume(path).array, voxels)
    assert sorted(tmp_path.rglob("*")) == before


def test_several_series_in_a_zip_ask_for_one(tmp_path, dicom_series, voxels):
    dicom_series(tmp_path / "all", voxels, uid="1.2.3.5", SeriesNumber=1, name="a{}".format)
    dicom_series(tmp_path / "all", voxels[:2], uid="1.2.3.6", SeriesNumber=2, name="b{}".format)
    path = _zip(tmp_path / "scan.zip", tmp_path / "all")
    with pytest.raises(ReadError, match="2 DICOM series"):
        read_volume(path)
    assert read_volume(path, series=2).shape == (2, 6, 7)


def test_frames_and_single_files_in_a_zip(tmp_path, rng, voxels):
    frames = rng.integers(0, 255, (12, 8, 9), dtype=np.uint8)
    (tmp_path / "frames").mkdir()
    for index, pixels in enumerate(frames):
        Image.fromarray(pixels).save(tmp_path / "frames" / f"{index}.png")
    np.testing.assert_array_equal(read_volume(_zip(tmp_path / "f.zip", tmp_path / "frames")).array, frames)
    for name in ("a.nii", "a.nii.gz", "a.tif"):
        folder = tmp_path / f"only_{name}"
        folder.mkdir()
        if name == "a.tif":
            tifffile.imwrite(folder / name, frames, photometric="minisblack")
        else:
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / name)
        zipped = read_volume(_zip(tmp_path / f"{name}.zip", folder))
        np.testing.assert_array_equal(zipped.array, read_volume(folder / name).array)


def test_other_formats_ask_to_be_unpacked(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "clip.avi").write_bytes(b"RIFF\0\0\0\0AVI ")
    with pytest.raises(ReadError, match="Unpack it"):
        read_volume(_zip(tmp_path / "a.zip", tmp_path / "in"))


def test_a_zip_bomb_is_left_alone(tmp_path):
    """A small archive that promises 4 GB."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(1 << 16))
    forged = bytearray((tmp_path / "a.zip").read_bytes())
    at = forged.index(b"PK\x01\x02") + 24  # where the directory tells the unpacked size
    forged[at : at + 4] = (0xF0000000).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(bytes(forged))
    with pytest.raises(ReadError, match="too much to be scans"):
        read_volume(tmp_path / "a.zip")


def test_a_gzip_bomb_in_a_zip_is_left_alone(tmp_path, voxels, monkeypatch):
    monkeypatch.setenv("SLIVIT_MAX_SCAN_GB", "0.001")
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii")
    bomb = gzip.compress((tmp_path / "a.nii").read_bytes() + bytes(1 << 23))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.nii.gz", bomb)
    with pytest.raises(ReadError, match="unpacks to"):
        read_volume(tmp_path / "a.zip")


def test_broken_archives_are_named(tmp_path, dicom_series, voxels):
    path = _zip(tmp_path / "scan.zip", dicom_series(tmp_path / "series", voxels))
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(ReadError, match=r"scan\.zip.*zip archive"):
        read_volume(path)
    flipped = bytearray(content)
    at = content.index(b"000.dcm") + 200
    flipped[at : at + 20] = bytes(20)
    path.write_bytes(bytes(flipped))
    with pytest.raises(ReadError, match=r"scan\.zip/000\.dcm"):
        read_volume(path)


def test_empty_and_encrypted_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("__MACOSX/._x", b"clutter")
    with pytest.raises(ReadError, match="zip archive is empty"):
        read_volume(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.dcm", b"secret")
    locked = bytearray((tmp_path / "b.zip").read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(bytes(locked))
    with pytest.raises(ReadError, match="encrypted"):
        read_volume(tmp_path / "b.zip")


def test_an_archive_of_very_many_files_is_refused_before_its_list_is_read(tmp_path, monkeypatch, voxels):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(200):
            archive.writestr(f"{number}.txt", b"x")
    monkeypatch.setenv("SLIVIT_MAX_FILES", "199")
    with pytest.raises(ReadError, match=r"holds 200 files, more than 199.*SLIVIT_MAX_FILES"):
        read_volume(tmp_path / "a.zip")
    monkeypatch.setenv("SLIVIT_MAX_FILES", "200")
    with pytest.raises(ReadError, match="no file of a known format"):
        read_volume(tmp_path / "a.zip")
    monkeypatch.setenv("SLIVIT_MAX_FILES", "many")
    with pytest.raises(ReadError, match="must be a positive number"):
        read_volume(tmp_path / "a.zip")
