"""MetaImage and NRRD, against the NIfTI reader."""

from __future__ import annotations

import itertools
import os
import sys

import numpy as np
import pytest

from slivit.data.readers import describe, itk, read_volume
from slivit.errors import ReadError

sitk = pytest.importorskip("SimpleITK")


def _image(array, direction=None):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 3.0, 4.0)[: image.GetDimension()] + (1.0,) * (image.GetDimension() - 3))
    if direction is not None:
        image.SetDirection(direction)
    return image


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_volume_equals_its_nifti_twin(tmp_path, voxels, name, compressed):
    for order in itertools.permutations(range(3)):
        direction = np.eye(3)[list(order)]
        direction[:, 1] *= -1
        image = _image(voxels, direction.ravel())
        sitk.WriteImage(image, str(tmp_path / name), useCompression=compressed)
        sitk.WriteImage(image, str(tmp_path / "twin.nii"))
        for axis in ("axial", "coronal", "sagittal"):
            scan = read_volume(tmp_path / name, axis=axis)
            twin = read_volume(tmp_path / "twin.nii", axis=axis)
            assert scan.array.dtype == twin.array.dtype
            np.testing.assert_array_equal(scan.array, twin.array)
            np.testing.assert_allclose(scan.affine, twin.affine, atol=1e-5)
            wanted = [2, 0, 2]
            part = read_volume(tmp_path / name, axis=axis, select=lambda depth, w=wanted: w)
            np.testing.assert_array_equal(part.array, twin.array[wanted])


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
def test_values_keep_their_type(tmp_path, voxels, dtype):
    sitk.WriteImage(_image(voxels.astype(dtype)), str(tmp_path / "a.nrrd"))
    scan = read_volume(tmp_path / "a.nrrd")
    assert str(scan.array.dtype) == describe(tmp_path / "a.nrrd").dtype == np.dtype(dtype).name
    assert scan.array.sum() == voxels.astype(dtype).sum()


def test_a_4d_series_asks_for_a_frame(tmp_path, rng):
    array = rng.integers(0, 99, (3, 4, 5, 6), dtype=np.int16)
    image = sitk.JoinSeries([_image(volume) for volume in array])
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    with pytest.raises(ReadError, match="frame=0 to 2"):
        read_volume(tmp_path / "a.mha")
    sitk.WriteImage(_image(array[1]), str(tmp_path / "one.mha"))
    np.testing.assert_array_equal(
        read_volume(tmp_path / "a.mha", frame=1).array, read_volume(tmp_path / "one.mha").array
    )


def test_2d_and_colour(tmp_path, rng):
    grey = rng.integers(0, 255, (8, 9), dtype=np.uint8)
    sitk.WriteImage(_image(grey), str(tmp_path / "a.mha"))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mha").array[0], grey)
    colour = sitk.GetImageFromArray(np.repeat(grey[None, ..., None], 3, axis=-1), isVector=True)
    sitk.WriteImage(colour, str(tmp_path / "b.mha"))
    scan = read_volume(tmp_path / "b.mha")
    np.testing.assert_array_equal(scan.array[0], grey)
    assert "luminance" in scan.notes[0]


def test_broken_files_are_named(tmp_path, voxels):
    for name in ("a.mha", "a.nrrd"):
        sitk.WriteImage(_image(voxels), str(tmp_path / name))
        whole = (tmp_path / name).read_bytes()
        for kept in (len(whole) - 50, 60):
            (tmp_path / name).write_bytes(whole[:kept])
            with pytest.raises(ReadError, match=name):
                read_volume(tmp_path / name)


def test_complex_and_vector_values_are_refused(tmp_path, voxels):
    fields = sitk.GetImageFromArray(np.zeros((3, 4, 5, 2), np.float32), isVector=True)
    sitk.WriteImage(fields, str(tmp_path / "a.mha"))
    with pytest.raises(ReadError, match="2 components"):
        read_volume(tmp_path / "a.mha")


def test_without_simpleitk_the_way_to_get_it_is_told(tmp_path, voxels, monkeypatch):
    sitk.WriteImage(_image(voxels), str(tmp_path / "a.mha"))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ReadError, match=r"pip install .*\[formats\]"):
        read_volume(tmp_path / "a.mha")


HEADER = """ObjectType = Image
NDims = 3
DimSize = 4 3 2
ElementType = MET_UCHAR
ElementSpacing = 1 1 1
ElementDataFile = {}
"""


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../other.raw", "a/../../other.raw", "pipe", "absent.raw", "/dev/zero"]
)
def test_values_outside_the_folder_are_refused(tmp_path, name):
    (tmp_path / "other.raw").write_bytes(bytes(24))
    folder = tmp_path / "scan"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "a.mhd").write_text(HEADER.format(name))
    (folder / "a.nhdr").write_text(
        f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 3 2\nencoding: raw\ndata file: {name}\n"
    )
    (folder / "list.mhd").write_text(HEADER.format("LIST") + name + "\n")
    for file in ("a.mhd", "a.nhdr", "list.mhd"):
        with pytest.raises(ReadError, match=f"{file}.*(own folder|no regular file|is missing)"):
            read_volume(folder / file)


def test_values_in_several_files_are_read(tmp_path, rng):
    values = rng.integers(0, 255, (2, 3, 4), dtype=np.uint8)
    for index, plane in enumerate(values, start=1):
        (tmp_path / f"s{index:02d}.raw").write_bytes(plane.tobytes())
    (tmp_path / "list.mhd").write_text(HEADER.format("LIST") + "s01.raw\ns02.raw\n")
    (tmp_path / "pattern.mhd").write_text(HEADER.format("s%02d.raw 1 2 1"))
    for name in ("list.mhd", "pattern.mhd"):
        assert itk.data_files(tmp_path / name) == ["s01.raw", "s02.raw"]
        # LPS indices turn to the radiologist's view without a flip: x runs to the left, y to the back
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, values)


def test_slices_are_those_that_were_acquired(tmp_path, rng):
    image = sitk.GetImageFromArray(rng.integers(0, 255, (12, 11, 4), dtype=np.uint8))
    image.SetSpacing((6.0, 1.0, 1.0))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    scan = read_volume(tmp_path / "a.nrrd")
    assert (scan.shape, scan.spacing) == ((4, 12, 11), (6.0, 1.0, 1.0))
    assert "read as sagittal slices" in scan.notes[0]
    assert read_volume(tmp_path / "a.nrrd", axis="axial").shape == (12, 11, 4)
