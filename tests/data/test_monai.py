"""Scans to MONAI and back, with their geometry; checked against how MONAI itself reads the same file."""

import numpy as np
import pytest
import torch

import slivit
from slivit.data.monai import MonaiTransform, from_monai, monai_items, to_monai
from slivit.errors import SlivitError

pytestmark = pytest.mark.slow  # importing MONAI takes seconds
monai_transforms = pytest.importorskip("monai.transforms")


@pytest.fixture
def scan(tmp_path, rng):
    import nibabel

    affine = np.array([[-0.7, 0, 0, 10], [0, 0.9, 0.1, -5], [0, -0.1, 2.5, 7], [0, 0, 0, 1.0]])
    file = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(rng.normal(0, 100, (12, 10, 8)).astype(np.float32), affine), file)
    return file


def test_a_voxel_lies_where_monai_says_it_lies(scan):
    ours = to_monai(slivit.read_volume(scan))
    theirs = monai_transforms.LoadImage(ensure_channel_first=True)(scan)
    at = np.unravel_index(int(ours[0].argmax()), ours.shape[1:])
    there = np.unravel_index(int(theirs[0].argmax()), theirs.shape[1:])
    place = ours.affine.numpy() @ [*at, 1.0]
    expected = theirs.affine.numpy() @ [*there, 1.0]
    np.testing.assert_allclose(place, expected, atol=1e-4)


def test_there_and_back_is_the_same_volume(scan):
    volume = slivit.read_volume(scan)
    back = from_monai(to_monai(volume), axis=0)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-6)
    np.testing.assert_allclose(back.spacing, volume.spacing, rtol=1e-5)


def test_what_monai_loads_has_the_same_slices(scan):
    theirs = from_monai(monai_transforms.LoadImage(ensure_channel_first=True)(scan))
    ours = slivit.read_volume(scan)
    assert theirs.shape[0] == ours.shape[0] == 8
    np.testing.assert_allclose(theirs.spacing[0], ours.spacing[0], rtol=1e-5)
    for mine, other in zip(ours.array, theirs.array, strict=True):  # alike but for how a slice lies on the screen
        np.testing.assert_allclose(np.sort(mine.ravel()), np.sort(other.ravel()), rtol=1e-6)


def test_a_change_of_spacing_is_kept(scan):
    finer = monai_transforms.Spacing(pixdim=(1.25, 0.9, 0.7))(to_monai(slivit.read_volume(scan)))
    volume = from_monai(finer, axis=0)
    np.testing.assert_allclose(volume.spacing, (1.25, 0.9, 0.7), rtol=0.05)
    assert volume.shape[0] > 12


def test_a_scan_without_geometry_has_millimetres():
    volume = slivit.Volume(np.zeros((3, 4, 5)), None, "x")
    np.testing.assert_array_equal(to_monai(volume).affine, np.eye(4))


def test_channels_go_to_monai_and_back(rng):
    volume = slivit.Volume(rng.normal(size=(2, 5, 4, 3)).astype(np.float32), (3.0, 2.0, 1.0), "made up")
    again = from_monai(to_monai(volume), axis=0)
    np.testing.assert_array_equal(again.array, volume.array)
    assert again.spacing == volume.spacing
    with pytest.raises(SlivitError, match="channels first"):
        from_monai(torch.zeros(3, 3, 3))


def test_items_of_a_manifest(blob_scans):
    manifest = slivit.read_manifest(blob_scans, slivit.Task(kind="binary", targets=("bright",)))
    items = monai_items(manifest, "test")
    assert len(items) == 8
    assert items[1]["label"].tolist() == [float(manifest.rows("test")[1]["bright"])]


def test_a_transform_is_for_training_items_alone(blob_scans):
    from fastai.data.block import DataBlock

    add = MonaiTransform(lambda x: x * 0 + 300)
    block = slivit.VolumeBlock(slivit.Preprocessing(size=(4, 32, 32)), mean=(0.0,), std=(1.0,))
    files = [str(blob_scans.parent / f"scan{i}.nii") for i in range(4)]
    blocks = DataBlock(blocks=(block,), splitter=lambda items: [[0, 1], [2, 3]], item_tfms=[add])
    dls = blocks.dataloaders(files, bs=2, num_workers=0)
    assert (dls.train.one_batch()[0] == 1).all()  # clipped to 255, which is 1
    assert not (dls.valid.one_batch()[0] == 1).all()
