"""Scans of several channels: files beside each other, and all channels of one file."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import tifffile

from slivit import read_volume
from slivit.data.readers import describe
from slivit.errors import ReadError

AFFINE = np.array([[0, -2.0, 0, 31], [1.5, 0, 0, -12], [0, 0, 3.0, 7], [0, 0, 0, 1]])


def write(path, array, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return str(path)


@pytest.fixture
def pair(tmp_path, rng):
    arrays = rng.integers(0, 1000, (2, 7, 6, 5)).astype(np.int16)
    return [write(tmp_path / f"t{i}.nii.gz", array) for i, array in enumerate(arrays)]


def test_files_beside_each_other_are_read_as_each_alone(pair):
    volume = read_volume(" | ".join(pair), select=lambda depth: [3, 0, 3])
    alone = [read_volume(path, select=lambda depth: [3, 0, 3]) for path in pair]
    assert volume.array.shape == (2, 3, *alone[0].shape[1:])
    assert volume.channels == 2
    assert volume.shape == alone[0].shape
    np.testing.assert_array_equal(volume.array, [a.array for a in alone])
    np.testing.assert_allclose(volume.affine, alone[0].affine)
    assert [v.array.tolist() for v in volume.by_channel()] == [a.array.tolist() for a in alone]


def test_types_are_brought_together_without_loss(tmp_path):
    low = write(tmp_path / "low.nii", np.full((4, 4, 4), -1000, np.int16))
    high = write(tmp_path / "high.nii", np.full((4, 4, 4), 60000, np.uint16))
    info = describe(f"{low} | {high}")
    volume = read_volume(f"{low} | {high}")
    assert info.channels == 2
    assert info.dtype == str(volume.array.dtype) == "int32"
    assert volume.array[:, 0, 0, 0].tolist() == [-1000, 60000]


@pytest.mark.parametrize("moved", [0.002, 1.0])
def test_another_grid_is_an_error_that_names_the_file(tmp_path, pair, moved):
    affine = AFFINE.copy()
    affine[2, 3] += moved
    other = write(tmp_path / "other.nii", np.zeros((7, 6, 5), np.int16), affine)
    with pytest.raises(ReadError, match=r'other\.nii: does not lie on the grid.*mm away.*align = "resample"'):
        read_volume(f"{pair[0]} | {other}")
    smaller = write(tmp_path / "smaller.nii", np.zeros((7, 6, 4), np.int16))
    with pytest.raises(ReadError, match="voxels instead of"):
        read_volume(f"{pair[0]} | {smaller}")


def test_rounded_directions_are_the_same_grid(tmp_path):
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(2e-5), -np.sin(2e-5)], [np.sin(2e-5), np.cos(2e-5)]]
    first = write(tmp_path / "a.nii", np.zeros((200, 200, 4), np.int16), np.diag([1.0, 1, 3, 1]))
    second = write(tmp_path / "b.nii", np.zeros((200, 200, 4), np.int16), np.diag([1.0, 1, 3, 1]) @ turn)
    assert read_volume(f"{first} | {second}").channels == 2


def test_resampling_brings_a_channel_to_the_grid_of_the_first(tmp_path):
    x, y, z = np.mgrid[:12, :14, :10]
    coarse, fine = np.diag([2.0, 2, 2, 1]), np.diag([1.0, 1, 1, 1])
    fine[:3, 3] = (1, 3, 2)
    first = write(tmp_path / "first.nii", (2 * x + 4 * y + 6 * z).astype(np.float32), coarse)
    second = write(tmp_path / "second.nii", ((x + 1) + 2 * (y + 3) + 3 * (z + 2)).astype(np.float32), fine)
    volume = read_volume(f"{first} | {second}", align="resample")
    assert any("resampled" in note for note in volume.notes)
    points = np.stack(np.meshgrid(*(np.arange(n) for n in volume.shape), indexing="ij"), -1)
    places = points @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    own = places - (1, 3, 2)
    inside = ((own >= 0) & (own <= (11, 13, 9))).all(-1)
    assert inside.sum() > 50
    np.testing.assert_allclose(volume.array[1][inside], volume.array[0][inside], atol=1e-3)
    assert (volume.array[1][~inside] == 13).all()
    part = read_volume(f"{first} | {second}", align="resample", select=lambda depth: [2, 5])
    np.testing.assert_array_equal(part.array, volume.array[:, [2, 5]])


def test_all_channels_of_a_nifti_file(tmp_path, rng):
    array = rng.integers(0, 99, (7, 6, 5, 3)).astype(np.int16)
    path = write(tmp_path / "four.nii.gz", array)
    volume = read_volume(path, channel="all")
    each = [read_volume(path, frame=i).array for i in range(3)]
    np.testing.assert_array_equal(volume.array, each)
    np.testing.assert_array_equal(read_volume(path, channel=1).array, each[1])
    with pytest.raises(ReadError, match=r'channel="all"'):
        read_volume(path)
    with pytest.raises(ReadError, match="channel=3 was asked for, and it has 3 channels"):
        read_volume(path, channel=3)
    with pytest.raises(ReadError, match="give one of them"):
        read_volume(path, channel=1, frame=1)
    with pytest.raises(ReadError, match="has several itself"):
        read_volume(f"{path} | {path}", channel="all")


@pytest.mark.parametrize("suffix", ["mha", "nrrd"])
@pytest.mark.parametrize("components", [2, 3, 4])
def test_all_components_of_an_itk_file(tmp_path, rng, suffix, components):
    SimpleITK = pytest.importorskip("SimpleITK")
    array = rng.integers(0, 99, (5, 6, 7, components)).astype(np.int16)
    path = tmp_path / f"vector.{suffix}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=True), str(path))
    volume = read_volume(path, channel="all", axis="axial")
    grey = [SimpleITK.GetImageFromArray(np.ascontiguousarray(array[..., c])) for c in range(components)]
    for number, image in enumerate(grey):
        SimpleITK.WriteImage(image, str(tmp_path / "one.mha"))
        alone = read_volume(tmp_path / "one.mha", axis="axial")
        np.testing.assert_array_equal(volume.array[number], alone.array)
        np.testing.assert_array_equal(read_volume(path, channel=number, axis="axial").array, alone.array)


def test_all_channels_of_an_ome_tiff(tmp_path, rng):
    array = rng.integers(0, 99, (5, 3, 8, 9)).astype(np.uint8)
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, array, metadata={"axes": "ZCYX"}, photometric="minisblack")
    volume = read_volume(path, channel="all")
    np.testing.assert_array_equal(volume.array, array.swapaxes(0, 1))
    assert describe(path, channel="all").channels == 3


def test_align_is_for_several_channels(pair):
    with pytest.raises(ReadError, match="align is for scans of several channels"):
        read_volume(pair[0], align="resample")
    with pytest.raises(ReadError, match="align must be 'resample'"):
        read_volume(" | ".join(pair), align="resampled")


def test_channels_of_several_formats_lie_on_one_grid(tmp_path, rng, dicom_series):
    SimpleITK = pytest.importorskip("SimpleITK")
    array = rng.integers(0, 999, (7, 6, 5)).astype(np.int16)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * (1.1, 0.9, 3.0), (10, -20, 30)
    nifti = write(tmp_path / "a.nii.gz", array, affine)
    in_lps = np.diag([-1.0, -1, 1, 1]) @ affine
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray((array + 1).T))
    image.SetSpacing((1.1, 0.9, 3.0))
    image.SetDirection((in_lps[:3, :3] / (1.1, 0.9, 3.0)).ravel().tolist())
    image.SetOrigin(in_lps[:3, 3].tolist())
    for suffix in ("mha", "nrrd"):
        SimpleITK.WriteImage(image, str(tmp_path / f"b.{suffix}"))
        volume = read_volume(f"{nifti} | {tmp_path}/b.{suffix}")
        np.testing.assert_array_equal(volume.array[1], volume.array[0] + 1)
    folder = dicom_series(tmp_path / "series", rng.integers(0, 99, (5, 6, 7)).astype(np.uint16))
    scan = read_volume(folder)
    turned = scan.array.transpose(2, 1, 0).astype(np.int16) + 1
    both = read_volume(f"{folder} | {write(tmp_path / 'c.nii', turned, scan.affine[:, [2, 1, 0, 3]])}")
    np.testing.assert_array_equal(both.array[1], scan.array + 1)


def test_vectors_and_lists_are_channels(tmp_path, rng):
    pytest.importorskip("SimpleITK")
    array = rng.integers(0, 99, (7, 6, 5)).astype(np.int16)
    vectors = write(tmp_path / "five.nii", np.stack([array, array + 1], -1)[:, :, :, None, :])
    alone = read_volume(write(tmp_path / "one.nii", array)).array
    np.testing.assert_array_equal(read_volume(vectors, channel="all").array, [alone, alone + 1])
    head = (
        "NRRD0004\ntype: int16\ndimension: 4\nspace: left-posterior-superior\nsizes: 7 6 5 2\n"
        "space directions: (1,0,0) (0,1,0) (0,0,2) none\nkinds: domain domain domain list\nendian: little\n"
        "encoding: raw\nspace origin: (0,0,0)\n\n"
    )
    values = np.stack([array, array + 1], -1).astype("<i2").tobytes("F")
    (tmp_path / "list.nrrd").write_bytes(head.encode() + values)
    volume = read_volume(tmp_path / "list.nrrd", channel="all")
    np.testing.assert_array_equal(volume.array[1], volume.array[0] + 1)


def test_a_name_with_a_bar_or_a_hash_is_a_file(tmp_path, rng):
    array = rng.integers(0, 99, (7, 6, 5)).astype(np.int16)
    (tmp_path / "c#1").mkdir()
    alone = read_volume(write(tmp_path / "one.nii", array)).array
    for name in ("x | y.nii", "c#1/y.nii"):
        np.testing.assert_array_equal(read_volume(write(tmp_path / name, array)).array, alone)
