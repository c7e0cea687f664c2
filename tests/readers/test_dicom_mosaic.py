"""Mosaics: pictures of all slices side by side, cut and placed; against a real Siemens file that ships with nibabel."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from slivit.data.readers import read_volume
from slivit.errors import ReadError

NICOM = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"


@pytest.fixture
def siemens(tmp_path):
    """The real diffusion mosaic of 48 slices, as a dataset that can be changed."""
    if not NICOM.is_dir():
        pytest.skip("nibabel was installed without its test data")
    content = gzip.decompress((NICOM / "siemens_dwi_1000.dcm.gz").read_bytes())
    (tmp_path / "mosaic.dcm").write_bytes(content)
    return pydicom.dcmread(tmp_path / "mosaic.dcm")


def _centre(scan, index):
    """RAS mm of the middle of the first pixel after the middle of a slice, where Siemens has a slice's centre."""
    return (scan.affine @ [index, *(n / 2 for n in scan.array.shape[1:]), 1])[:3]


def test_a_real_mosaic_equals_nibabel_and_its_own_protocol(siemens, tmp_path):
    from nibabel.nicom.dicomwrappers import wrapper_from_data

    scan = read_volume(tmp_path / "mosaic.dcm")
    wrapped = wrapper_from_data(siemens)
    assert scan.array.shape == (48, 128, 128)
    np.testing.assert_array_equal(scan.array, np.asarray(wrapped.get_data()).transpose(2, 0, 1))
    to_ras = np.diag([-1, -1, 1, 1]) @ wrapped.affine[:, [2, 0, 1, 3]]
    np.testing.assert_allclose(scan.affine, to_ras, atol=2e-4)
    assert scan.spacing == pytest.approx((3.0, 1.796875, 1.796875))
    # sSliceArray.asSlice[0] and [47] of the protocol in the file, from LPS to RAS
    np.testing.assert_allclose(_centre(scan, 0), [0, 20.03015269, -79.31259361], atol=1e-3)
    np.testing.assert_allclose(_centre(scan, 47), [0, 19.29188179, 61.68547359], atol=1e-3)


def test_the_order_comes_from_the_protocol_where_the_image_header_is_gone(siemens, tmp_path):
    whole = read_volume(tmp_path / "mosaic.dcm")
    del siemens[0x0029, 0x1010]
    siemens.save_as(tmp_path / "mosaic.dcm")
    scan = read_volume(tmp_path / "mosaic.dcm")
    np.testing.assert_array_equal(scan.array, whole.array)
    np.testing.assert_allclose(scan.affine, whole.affine)


def test_slices_stored_from_head_to_foot_are_turned(siemens, tmp_path):
    """With the normal of the private header reversed, the first tile is the topmost slice."""
    whole = read_volume(tmp_path / "mosaic.dcm")
    header = siemens[0x0029, 0x1010].value
    reversed_ = header.replace(b"0.00523632", b"-0.0052363").replace(b"0.99998629", b"-0.9999863")
    assert reversed_ != header
    siemens[0x0029, 0x1010].value = reversed_
    siemens.save_as(tmp_path / "mosaic.dcm")
    scan = read_volume(tmp_path / "mosaic.dcm")
    np.testing.assert_array_equal(scan.array, whole.array[::-1])
    assert scan.affine[2, 3] == pytest.approx(whole.affine[2, 3] - 47 * 3 * 0.9999863, abs=1e-3)


def test_a_mosaic_that_does_not_say_enough_is_refused(siemens, tmp_path):
    for tags, words in {
        ((0x0029, 0x1010), (0x0029, 0x1020)): "is a mosaic, and its header does not say how its slices are ordered",
        ((0x0019, 0x100A),): "is a mosaic, and its header does not say of how many slices",
    }.items():
        for tag in tags:
            del siemens[tag]
        siemens.save_as(tmp_path / "mosaic.dcm")
        with pytest.raises(ReadError, match=words):
            read_volume(tmp_path / "mosaic.dcm")


def test_time_points_of_mosaics_are_chosen_by_frame(siemens, tmp_path):
    siemens.SOPInstanceUID, siemens.file_meta.MediaStorageSOPInstanceUID = "1.2.3", "1.2.3"
    siemens.InstanceNumber, siemens.AcquisitionNumber, siemens.AcquisitionTime = 1, 1, "000001"
    siemens.PixelData = (siemens.pixel_array + 1).tobytes()
    siemens.save_as(tmp_path / "earlier.dcm")
    with pytest.raises(ReadError, match="each of 48 places holds 2 images"):
        read_volume(tmp_path)
    early, late = (read_volume(tmp_path, frame=frame).array for frame in (0, 1))
    np.testing.assert_array_equal(early, late + 1)


def test_a_grid_of_uih_is_cut_by_the_positions_of_its_slices(tmp_path, dicom_file, rng):
    slices = rng.integers(0, 900, (5, 4, 6), dtype=np.uint16)
    grid = np.zeros((12, 18), np.uint16)
    for k, pixels in enumerate(slices):
        grid[k // 3 * 4 : k // 3 * 4 + 4, k % 3 * 6 : k % 3 * 6 + 6] = pixels
    geometry = {"ImagePositionPatient": [1.0, 2, 3], "ImageOrientationPatient": [1.0, 0, 0, 0, 1, 0]}
    dataset = dicom_file(grid, Modality="MR", PixelSpacing=[2.0, 1.5], SliceThickness=4.0, **geometry)
    block = dataset.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x50, "DS", "5")
    items = []
    for k in range(5):
        item = Dataset()
        item.ImagePositionPatient = [1.0, 2.0, 30.0 - 4 * k]  # from head to foot
        items.append(item)
    block.add_new(0x51, "SQ", Sequence(items))
    dataset.save_as(tmp_path / "grid.dcm", enforce_file_format=True)
    scan = read_volume(tmp_path / "grid.dcm")
    np.testing.assert_array_equal(scan.array, slices[::-1])
    assert scan.spacing == pytest.approx((4.0, 2.0, 1.5))
    np.testing.assert_allclose(scan.affine[:3, 3], [-1, -2, 14])
    part = read_volume(tmp_path / "grid.dcm", select=lambda depth: [3, 1])
    np.testing.assert_array_equal(part.array, slices[::-1][[3, 1]])
