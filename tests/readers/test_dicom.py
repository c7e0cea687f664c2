"""DICOM series: order, orientation, scaling, choice of a series, and what is reported."""

from __future__ import annotations

import itertools
import shutil

import nibabel
import numpy as np
import pytest

from slivit.data.readers import describe, read_volume
from slivit.errors import ReadError


@pytest.mark.real_data
@pytest.mark.parametrize("modality", ["CT", "MR_T1", "PET"])
def test_a_series_equals_its_nifti_twin_also_when_renamed(real_data, tmp_path, modality):
    folder = real_data / "ibsi_sts_008" / "dicom" / modality
    twin = read_volume(real_data / "ibsi_sts_008" / "nifti" / f"{modality}_image.nii.gz")
    files = sorted(folder.glob("*.dcm"))
    order = np.random.default_rng(1).permutation(len(files))
    for number, file in zip(order, files, strict=True):
        shutil.copy(file, tmp_path / f"slice_{number}")
    for scan in (read_volume(folder), read_volume(tmp_path)):
        np.testing.assert_array_equal(scan.array, twin.array)
        np.testing.assert_allclose(scan.affine, twin.affine, atol=2e-5)
        np.testing.assert_allclose(scan.spacing, twin.spacing, rtol=1e-6)
        assert scan.notes == ()
    assert read_volume(folder).array.dtype == (np.float32 if modality == "PET" else np.int16)


def test_slices_follow_position_not_name_or_number(tmp_path, dicom_series, voxels):
    dicom_series(tmp_path, voxels, name=lambda i: f"{9 - i}.dcm", InstanceNumber=lambda i: 100 - i)
    scan = read_volume(tmp_path)
    np.testing.assert_array_equal(scan.array, voxels)
    assert scan.spacing == pytest.approx((2.5, 0.5, 0.75))


def _orientations():
    """Every way in which rows and columns can lie along the patient's axes."""
    for row, column in itertools.permutations(range(3), 2):
        for signs in itertools.product((1, -1), repeat=2):
            cosines = np.zeros(6)
            cosines[row], cosines[3 + column] = signs
            yield tuple(cosines)


@pytest.mark.parametrize("orientation", list(_orientations()))
def test_any_orientation_agrees_with_nifti(tmp_path, dicom_series, voxels, orientation):
    """The same scan, written as NIfTI from the DICOM geometry by the standard's formula, reads the same."""
    dicom_series(tmp_path / "series", voxels, orientation=orientation)
    to_lps = np.eye(4)
    to_lps[:3, 0] = np.multiply(orientation[:3], 0.75)
    to_lps[:3, 1] = np.multiply(orientation[3:], 0.5)
    to_lps[:3, 2] = np.cross(orientation[:3], orientation[3:]) * 2.5
    to_lps[:3, 3] = (-10.0, -20.0, 30.0)
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ to_lps)
    nibabel.save(image, tmp_path / "twin.nii")
    for axis in ("axial", "coronal", "sagittal"):
        scan = read_volume(tmp_path / "series", axis=axis)
        twin = read_volume(tmp_path / "twin.nii", axis=axis)
        np.testing.assert_array_equal(scan.array, twin.array)
        np.testing.assert_allclose(scan.affine, twin.affine, atol=1e-5)


def test_acquired_plane_is_kept_and_viewed_upright(tmp_path, dicom_series, voxels):
    """A sagittal series stays sagittal; one stored upside down is turned."""
    upright = read_volume(dicom_series(tmp_path / "a", voxels, orientation=(0, 1, 0, 0, 0, -1)))
    np.testing.assert_array_equal(upright.array, voxels)
    flipped = read_volume(dicom_series(tmp_path / "b", voxels, orientation=(0, -1, 0, 0, 0, 1)))
    np.testing.assert_array_equal(flipped.array, voxels[:, ::-1, ::-1])


def test_only_selected_slices_are_decoded(tmp_path, dicom_series, voxels):
    dicom_series(tmp_path, voxels, orientation=(-1, 0, 0, 0, 1, 0))  # stored from head to foot
    whole = read_volume(tmp_path).array
    scan = read_volume(tmp_path, select=lambda depth: [4, 0, 4])
    np.testing.assert_array_equal(scan.array, whole[[4, 0, 4]])
    assert (scan.indices, scan.depth) == ((4, 0, 4), 5)
    unread = tmp_path / "002.dcm"
    unread.write_bytes(unread.read_bytes()[:-50])
    read_volume(tmp_path, select=lambda depth: [0, 4])
    with pytest.raises(ReadError, match=r"002\.dcm.*cut short"):
        read_volume(tmp_path)


def test_rescaling_keeps_whole_numbers_and_is_done_slice_by_slice(tmp_path, dicom_series, voxels):
    stored = voxels.astype(np.uint16)
    hu = read_volume(dicom_series(tmp_path / "ct", stored, RescaleSlope=2, RescaleIntercept=-1024)).array
    assert hu.dtype == np.int16
    np.testing.assert_array_equal(hu, voxels * 2 - 1024)
    slopes = [0.5, 1.25, 2.0, 0.125, 3.0]
    pet = read_volume(dicom_series(tmp_path / "pt", stored, RescaleSlope=slopes.__getitem__, RescaleIntercept=1.5))
    assert pet.array.dtype == np.float32
    np.testing.assert_array_equal(pet.array, voxels * np.float32(slopes)[:, None, None] + np.float32(1.5))
    part = read_volume(tmp_path / "pt", select=lambda depth: [2])
    assert part.array.dtype == np.float32


def test_rescaling_widens_rather_than_wraps(tmp_path, dicom_series):
    stored = np.full((2, 4, 4), 65000, np.uint16)
    scan = read_volume(dicom_series(tmp_path, stored, RescaleSlope=1, RescaleIntercept=-1024))
    assert scan.array.dtype == np.int32
    assert (scan.array == 65000 - 1024).all()


def test_two_series_are_never_mixed(tmp_path, dicom_series, voxels):
    dicom_series(tmp_path / "1", voxels, uid="1.2.3.5", SeriesNumber=1, SeriesDescription="T1 axial")
    dicom_series(tmp_path / "2", voxels[:3] + 1, uid="1.2.3.6", SeriesNumber=2, SeriesDescription="T2 axial")
    with pytest.raises(ReadError, match="2 DICOM series") as caught:
        read_volume(tmp_path)
    for words in ('1: CT "T1 axial", 5 slices', '2: CT "T2 axial", 3 slices', "1.2.3.6"):
        assert words in str(caught.value)
    for name in (2, "2", "t2 axial", "1.2.3.6"):
        np.testing.assert_array_equal(read_volume(tmp_path, series=name).array, voxels[:3] + 1)
    with pytest.raises(ReadError, match='Did you mean "T2 axial"'):
        read_volume(tmp_path, series="T2 axal")


def test_a_localizer_inside_a_series_is_told_apart(tmp_path, dicom_series, voxels):
    dicom_series(tmp_path, voxels, SeriesNumber=3)
    dicom_series(tmp_path, voxels[:1], SeriesNumber=3, orientation=(0, 1, 0, 0, 0, -1), name=lambda i: "scout.dcm")
    with pytest.raises(ReadError, match=r"3\.1: CT.*5 slices"):
        read_volume(tmp_path)
    np.testing.assert_array_equal(read_volume(tmp_path, series="3.1").array, voxels)


def test_missing_and_uneven_slices_are_reported_and_never_filled(tmp_path, dicom_series, voxels):
    gap = read_volume(dicom_series(tmp_path / "gap", voxels, positions=[0, 2, 4, 10, 12]))
    assert gap.shape == (5, 6, 7)
    assert gap.spacing[0] == pytest.approx(2)
    assert "2 missing slices in 1 gap of the series" in gap.notes[0]
    uneven = read_volume(dicom_series(tmp_path / "uneven", voxels, positions=[0, 2, 4.7, 6, 8.9]))
    assert "unevenly spaced, 1.3 to 2.9 mm" in uneven.notes[0]


def test_one_of_several_slices_a_place_can_be_chosen(tmp_path, dicom_series, rng):
    echoes = rng.integers(0, 100, (6, 4, 4), dtype=np.int16)  # three places, two echoes each, in order of time
    folder = dicom_series(tmp_path, echoes, positions=[0, 0, 3, 3, 6, 6])
    with pytest.raises(ReadError, match=r"each of 3 places holds 2 images.*frame=0 to 1"):
        read_volume(folder)
    np.testing.assert_array_equal(read_volume(folder, frame=1).array, echoes[1::2])
    assert read_volume(folder, frame=1).spacing[0] == pytest.approx(3)
    with pytest.raises(ReadError, match="allowed are 0 to 1"):
        read_volume(folder, frame=2)


def test_without_positions_the_instance_number_orders(tmp_path, dicom_series, voxels):
    gone = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
    dicom_series(tmp_path, voxels, name=lambda i: f"{9 - i}.dcm", **gone)
    scan = read_volume(tmp_path)
    np.testing.assert_array_equal(scan.array, voxels)
    assert scan.affine is None
    assert scan.spacing == (2.0, 0.5, 0.75)
    assert "ordered by InstanceNumber" in scan.notes[0]
    with pytest.raises(ReadError, match="needs slices with positions"):
        read_volume(tmp_path, axis="coronal")


def test_without_positions_and_numbers_the_natural_name_orders(tmp_path, dicom_series, rng):
    array = rng.integers(0, 99, (12, 3, 3), dtype=np.int16)
    gone = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "InstanceNumber": None}
    dicom_series(tmp_path, array, name="im{}.dcm".format, **gone)
    np.testing.assert_array_equal(read_volume(tmp_path).array, array)


def test_monochrome1_is_inverted_so_that_bright_is_bright(tmp_path, dicom_file):
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    for modality, expected in (("CR", 4095 - pixels), ("CT", pixels)):
        inverted = dicom_file(
            pixels, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11, Modality=modality
        )
        inverted.save_as(tmp_path / "a.dcm", enforce_file_format=True)
        scan = read_volume(tmp_path / "a.dcm")
        np.testing.assert_array_equal(scan.array, expected[None])
        assert any("MONOCHROME1" in note for note in scan.notes) == (modality == "CR")


def test_truncated_and_foreign_files_are_named(tmp_path, dicom_series, voxels):
    folder = dicom_series(tmp_path / "series", voxels)
    whole = (folder / "003.dcm").read_bytes()
    for length in (len(whole) - 30, 200, 140):
        (folder / "003.dcm").write_bytes(whole[:length])
        with pytest.raises(ReadError, match=r"003\.dcm"):
            read_volume(folder)
    (folder / "003.dcm").write_bytes(b"this is no DICOM file")
    with pytest.raises(ReadError, match=r"003\.dcm: is not a DICOM file"):
        read_volume(folder)


def test_other_files_in_the_folder_are_ignored_and_said(tmp_path, dicom_series, voxels):
    folder = dicom_series(tmp_path, voxels, name="IM{}".format)
    (folder / "LICENSE.txt").write_text("words")
    (folder / ".DS_Store").write_bytes(b"\0" * 200)
    scan = read_volume(folder)
    np.testing.assert_array_equal(scan.array, voxels)
    assert scan.notes == ("1 file beside the DICOM files ignored",)


def test_describe_agrees_with_reading(tmp_path, dicom_series, voxels):
    folder = dicom_series(tmp_path, voxels, RescaleSlope=1, RescaleIntercept=-1024)
    info, scan = describe(folder), read_volume(folder)
    assert (info.format, info.shape, info.dtype) == ("dicom", scan.shape, str(scan.array.dtype))
    assert info.spacing == scan.spacing
    np.testing.assert_array_equal(info.affine, scan.affine)


@pytest.mark.parametrize("name", ["{}.img".format, "IM{}".format, "1.2.3.{}".format])
def test_dicom_files_may_have_any_name(tmp_path, dicom_series, voxels, name):
    np.testing.assert_array_equal(read_volume(dicom_series(tmp_path, voxels, name=name)).array, voxels)


def test_datasets_without_preamble_are_read(tmp_path, dicom_series, dicom_file, voxels):
    """As old archives wrote them: no preamble, no file meta header."""
    for file in dicom_series(tmp_path, voxels, name="IM{}".format).iterdir():
        content = file.read_bytes()
        file.write_bytes(content[content.index(b"\x08\x00\x16\x00UI") :])
    np.testing.assert_array_equal(read_volume(tmp_path).array, voxels)
