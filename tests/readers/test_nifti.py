"""NIfTI: orientation, scaling, 4D series, and broken files."""

from __future__ import annotations

import gzip
import itertools

import nibabel
import numpy as np
import pytest

from slivit.data.readers import describe, read_volume
from slivit.errors import ReadError

AFFINE = np.array([[2.0, 0, 0, -3], [0, 3.0, 0, 5], [0, 0, 4.0, 7], [0, 0, 0, 1]])


def _save(path, array, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slices_are_seen_as_radiologists_see_them(tmp_path, voxels, suffix):
    """From RAS+ data: axial slices rise to the head, rows run to the back, columns to the patient's left."""
    path = _save(tmp_path / f"a{suffix}", voxels)
    scan = read_volume(path)
    np.testing.assert_array_equal(scan.array, voxels.transpose(2, 1, 0)[:, ::-1, ::-1])
    assert scan.spacing == (4, 3, 2)
    coronal = read_volume(path, axis="coronal")
    np.testing.assert_array_equal(coronal.array, voxels.transpose(1, 2, 0)[::-1, ::-1, ::-1])
    sagittal = read_volume(path, axis="sagittal")
    np.testing.assert_array_equal(sagittal.array, voxels.transpose(0, 2, 1)[:, ::-1, ::-1])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_stored_orientation_reads_the_same(tmp_path, voxels, order):
    image = nibabel.Nifti1Image(voxels, AFFINE)
    expected = read_volume(_save(tmp_path / "a.nii", voxels))
    for signs in itertools.product((1, -1), repeat=3):
        turned = image.as_reoriented(np.column_stack([order, signs]))
        nibabel.save(turned, tmp_path / "b.nii")
        scan = read_volume(tmp_path / "b.nii")
        np.testing.assert_array_equal(scan.array, expected.array)
        np.testing.assert_allclose(scan.affine, expected.affine, atol=1e-5)


def test_the_affine_sends_every_voxel_to_its_place(tmp_path, voxels):
    scan = read_volume(_save(tmp_path / "a.nii", voxels), axis="coronal")
    d, h, w = np.argwhere(scan.array == voxels[1, 2, 3])[0]
    np.testing.assert_allclose(scan.affine @ (d, h, w, 1), AFFINE @ (1, 2, 3, 1))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64", ">i2", ">f4"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_values_keep_their_type(tmp_path, voxels, dtype, suffix):
    array = voxels.astype(dtype)
    image = nibabel.Nifti1Image(array, AFFINE, header=nibabel.Nifti1Header(endianness=">" if dtype[0] == ">" else "<"))
    image.set_data_dtype(array.dtype)
    nibabel.save(image, tmp_path / f"a{suffix}")
    scan = read_volume(tmp_path / f"a{suffix}", select=lambda depth: [2, 0])
    assert scan.array.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(scan.array, array.transpose(2, 1, 0)[[2, 0], ::-1, ::-1])
    assert describe(tmp_path / f"a{suffix}").dtype == str(scan.array.dtype)


@pytest.mark.parametrize(("slope", "inter", "kind"), [(2, -1024, "int16"), (0.5, 1, "float32"), (1, 0, "int16")])
def test_scaling_is_applied(tmp_path, voxels, slope, inter, kind):
    raw = bytearray(_save(tmp_path / "a.nii", voxels).read_bytes())
    raw[112:120] = np.array([slope, inter], "<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "a.nii").write_bytes(bytes(raw))
    scan = read_volume(tmp_path / "a.nii")
    assert scan.array.dtype == kind
    np.testing.assert_allclose(scan.array, voxels.transpose(2, 1, 0)[:, ::-1, ::-1] * slope + inter)


def test_a_4d_series_asks_for_a_frame(tmp_path, rng):
    array = rng.integers(0, 99, (4, 5, 6, 3), dtype=np.int16)
    path = _save(tmp_path / "a.nii.gz", array)
    with pytest.raises(ReadError, match="frame=0 to 2"):
        read_volume(path)
    with pytest.raises(ReadError, match="outside the series"):
        read_volume(path, frame=3)
    np.testing.assert_array_equal(read_volume(path, frame=1).array, array[..., 1].transpose(2, 1, 0)[:, ::-1, ::-1])


def test_trailing_axes_of_one_and_2d_images(tmp_path, rng):
    array = rng.integers(0, 99, (4, 5), dtype=np.int16)
    assert read_volume(_save(tmp_path / "a.nii", array)).shape == (1, 5, 4)
    assert read_volume(_save(tmp_path / "b.nii", array[..., None, None])).shape == (1, 5, 4)


def test_rgb_becomes_grey(tmp_path, rng):
    rgb = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    grey = rng.integers(0, 255, rgb.shape, dtype=np.uint8)
    for channel in "RGB":
        rgb[channel] = grey
    scan = read_volume(_save(tmp_path / "a.nii", rgb))
    np.testing.assert_array_equal(scan.array, grey.transpose(2, 1, 0)[:, ::-1, ::-1])
    assert "luminance" in scan.notes[0]


def test_spacing_in_other_units_becomes_mm(tmp_path, voxels):
    image = nibabel.Nifti1Image(voxels, AFFINE)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").spacing == pytest.approx((0.004, 0.003, 0.002))


def test_broken_files_are_named(tmp_path, voxels):
    whole = _save(tmp_path / "whole.nii", voxels).read_bytes()
    for name, content in {
        "short.nii": whole[:-20],
        "header.nii": whole[:200],
        "short.nii.gz": gzip.compress(whole)[:-40],
        "text.nii": b"no scan " * 100,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ReadError, match=name):
            read_volume(tmp_path / name)


def test_a_header_that_promises_too_much_is_refused(tmp_path, voxels):
    raw = bytearray(_save(tmp_path / "a.nii", voxels).read_bytes())
    raw[42:48] = np.array([32000, 32000, 32000], "<i2").tobytes()
    (tmp_path / "a.nii").write_bytes(bytes(raw))
    with pytest.raises(ReadError, match="header"):
        read_volume(tmp_path / "a.nii")


def test_complex_values_are_refused(tmp_path, voxels):
    with pytest.raises(ReadError, match="complex"):
        read_volume(_save(tmp_path / "a.nii", voxels.astype(np.complex64)))


def test_content_counts_more_than_the_name(tmp_path, voxels):
    plain = _save(tmp_path / "a.nii", voxels).read_bytes()
    zipped = gzip.compress(plain)
    expected = read_volume(tmp_path / "a.nii").array
    for name, content in {
        "plain.nii.gz": plain,
        "zipped.nii": zipped,
        "no_suffix": plain,
        "no_suffix_zipped": zipped,
        "trailing.nii.gz": zipped + b"rubbish" * 50,
        "parts.nii.gz": gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]),
    }.items():
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, expected)


@pytest.mark.parametrize(
    ("steps", "axis"),
    [
        ((6, 1, 1), "sagittal"),
        ((1, 5, 1), "coronal"),
        ((1, 1, 4), "axial"),
        ((1.2, 1, 1), "axial"),
        ((3, 3, 1), "axial"),
    ],
)
def test_slices_are_those_that_were_acquired(tmp_path, voxels, steps, axis):
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*steps, 1.0])), path)
    scan, asked = read_volume(path), read_volume(path, axis=axis)
    np.testing.assert_array_equal(scan.array, asked.array)
    assert scan.spacing == asked.spacing
    assert any(f"read as {axis} slices" in note for note in scan.notes) == (axis != "axial")
    np.testing.assert_array_equal(read_volume(path, axis="axial").array, voxels[::-1, ::-1].T)
    assert not read_volume(path, axis="axial").notes


def test_a_single_plane_is_one_slice(tmp_path, rng):
    sagittal = rng.integers(0, 99, (1, 12, 9)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(sagittal, np.eye(4)), tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").shape == (1, 9, 12)


def test_disagreeing_orientations_are_said_and_chosen(tmp_path, voxels):
    image = nibabel.Nifti1Image(voxels, np.diag([2, 3, 4, 1.0]))
    image.set_qform(np.diag([-2, 3, 4, 1.0]), code=1)
    image.set_sform(np.diag([2, 3, 4, 1.0]), code=2)
    nibabel.save(image, tmp_path / "a.nii")
    scan = read_volume(tmp_path / "a.nii")
    assert "sform and qform" in scan.notes[0]
    np.testing.assert_array_equal(scan.array, voxels[::-1, ::-1].T)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii", affine="qform").array, voxels[:, ::-1].T)
    with pytest.raises(ReadError, match=r"Did you mean \"qform\""):
        read_volume(tmp_path / "a.nii", affine="quform")
    image.set_qform(np.diag([2, 3, 4, 1.0]) + 1e-4, code=1)  # as rounding leaves them
    nibabel.save(image, tmp_path / "b.nii")
    assert not read_volume(tmp_path / "b.nii").notes


def test_a_small_file_does_not_fill_the_memory(tmp_path, monkeypatch):
    bomb = nibabel.Nifti1Image(np.zeros((512, 512, 64), np.int16), np.eye(4))  # 34 MB from 35 KB
    nibabel.save(bomb, tmp_path / "a.nii.gz")
    monkeypatch.setenv("SLIVIT_MAX_SCAN_GB", "0.03")
    with pytest.raises(ReadError, match=r"512 x 512 x 64.*SLIVIT_MAX_SCAN_GB"):
        read_volume(tmp_path / "a.nii.gz")
    monkeypatch.setenv("SLIVIT_MAX_SCAN_GB", "0.04")
    assert read_volume(tmp_path / "a.nii.gz", select=lambda depth: [0]).shape == (1, 512, 512)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_broken_sform_gives_way_to_the_qform(tmp_path, rng, value):
    affine = np.array([[0, -2.0, 0, 31], [1.5, 0, 0, -12], [0, 0, 3.0, 7], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(rng.integers(0, 99, (5, 6, 7)).astype(np.int16), affine)
    image.set_qform(affine, 1)
    nibabel.save(image, tmp_path / "right.nii")
    content = bytearray((tmp_path / "right.nii").read_bytes())
    content[280:328] = np.full(12, value, "<f4").tobytes()  # srow_x, srow_y, srow_z
    (tmp_path / "broken.nii").write_bytes(content)
    right, broken = (read_volume(tmp_path / f"{name}.nii") for name in ("right", "broken"))
    np.testing.assert_array_equal(broken.array, right.array)
    np.testing.assert_allclose(broken.affine, right.affine, atol=1e-5)
    assert any("the qform was used" in note for note in broken.notes)
