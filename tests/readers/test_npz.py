"""Items of MedMNIST archives."""

from __future__ import annotations

import numpy as np
import pytest

from slivit.data.readers import describe, read_volume
from slivit.errors import ReadError


@pytest.fixture
def archive(tmp_path, rng):
    """A small archive laid out as MedMNIST's, with 2D, colour and 3D items under made-up splits."""
    path = tmp_path / "mine.npz"
    np.savez_compressed(
        path,
        train_images=rng.integers(0, 256, (5, 8, 9), dtype=np.uint8),
        val_images=rng.integers(0, 256, (4, 8, 9, 3), dtype=np.uint8),
        test_images=rng.integers(0, 256, (3, 6, 7, 8), dtype=np.uint8),
        train_labels=np.zeros((5, 1)),
    )
    return path


def test_items_of_each_kind(archive):
    stored = np.load(archive)
    np.testing.assert_array_equal(read_volume(f"{archive}#train/3").array, stored["train_images"][3:4])
    np.testing.assert_array_equal(read_volume(f"{archive}#test/2").array, stored["test_images"][2])
    colour = read_volume(f"{archive}#val/0")
    assert colour.shape == (1, 8, 9)
    np.testing.assert_allclose(colour.array[0], stored["val_images"][0] @ [0.299, 0.587, 0.114], atol=1)
    assert describe(f"{archive}#test/0").shape == (6, 7, 8)


def test_selected_slices(archive):
    scan = read_volume(f"{archive}#test/1", select=lambda depth: [depth - 1, 0])
    np.testing.assert_array_equal(scan.array, np.load(archive)["test_images"][1, [5, 0]])


def test_what_is_returned_belongs_to_the_caller(archive):
    scan = read_volume(f"{archive}#test/1")
    scan.array[:] = 0
    assert read_volume(f"{archive}#test/1").array.any()


def test_a_changed_file_is_read_anew(archive):
    read_volume(f"{archive}#train/0")
    np.savez(archive, train_images=np.full((1, 3, 3), 7, np.uint8))
    assert (read_volume(f"{archive}#train/0").array == 7).all()


@pytest.mark.parametrize("item", ["", "#train", "#train/-1", "#train/x", "#trian/0"])
def test_a_wrong_item_says_what_there_is(archive, item):
    with pytest.raises(ReadError, match=r"train/0 to train/4, val/0 to val/3, test/0 to test/2"):
        read_volume(f"{archive}{item}")
    with pytest.raises(ReadError, match="allowed are 0 to 4"):
        read_volume(f"{archive}#train/5")


def test_pickled_arrays_are_never_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=np.array([{}], dtype=object))
    with pytest.raises(ReadError):
        read_volume(f"{tmp_path}/a.npz#train/0")


def test_other_archives_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(ReadError, match="no MedMNIST archive"):
        read_volume(f"{tmp_path}/a.npz#train/0")


def test_an_official_name_needs_the_official_content(archive):
    claimed = archive.rename(archive.with_name("adrenalmnist3d_64.npz"))
    with pytest.raises(ReadError, match="17721accfe9fb005146a47d33bc54b2f"):
        read_volume(f"{claimed}#train/0")
    assert read_volume(f"{claimed}#train/0", check_md5=False).shape == (1, 8, 9)


@pytest.mark.real_data
def test_official_files_pass(real_data):
    path = real_data / "medmnist" / "adrenalmnist3d.npz"
    assert read_volume(f"{path}#test/297").shape == (28, 28, 28)
    rebuilt = real_data / "pneumoniamnist" / "pneumoniamnist_rebuilt.npz"
    assert read_volume(f"{rebuilt}#train/4707").shape == (1, 28, 28)


def test_a_small_archive_does_not_fill_the_memory(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", train_images=np.zeros((200, 400, 400), np.uint8))  # 32 MB from 31 KB
    monkeypatch.setenv("SLIVIT_MAX_SCAN_GB", "0.03")
    with pytest.raises(ReadError, match=r"200 x 400 x 400.*SLIVIT_MAX_SCAN_GB"):
        read_volume(tmp_path / "a.npz#train/0")
    monkeypatch.setenv("SLIVIT_MAX_SCAN_GB", "0.04")
    assert read_volume(tmp_path / "a.npz#train/0").shape == (1, 400, 400)


def test_an_array_is_a_scan_of_which_slices_are_read(tmp_path, rng):
    voxels = rng.integers(0, 4000, (5, 6, 7)).astype(np.int16)
    np.save(tmp_path / "scan.npy", voxels)
    np.save(tmp_path / "image.npy", voxels[0].astype(np.float32))
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.npy", select=lambda n: [n - 1, 0]).array, voxels[[4, 0]])
    assert read_volume(tmp_path / "image.npy").shape == (1, 6, 7)
    assert describe(tmp_path / "scan.npy").format == "npy"
    for name, array in {
        "wide": np.zeros((2, 3, 4, 5)),
        "words": np.array([["a"]]),
        "none": np.zeros((0, 4, 4)),
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(ReadError, match="is an array"):
            read_volume(tmp_path / f"{name}.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "scan.npy").read_bytes()[:200])
    with pytest.raises(ReadError, match="NumPy array"):
        read_volume(tmp_path / "cut.npy")


def test_an_array_larger_than_a_scan_may_be_is_refused(tmp_path, monkeypatch):
    np.save(tmp_path / "scan.npy", np.zeros((20, 100, 100), np.uint8))
    monkeypatch.setenv("SLIVIT_MAX_SCAN_GB", "0.0001")
    assert read_volume(tmp_path / "scan.npy", select=lambda n: [0, 9]).array.shape == (2, 100, 100)
    with pytest.raises(ReadError, match=r"promises 20 x 100 x 100 values"):
        read_volume(tmp_path / "scan.npy")
