"""Slices of several planes in one stack."""

from __future__ import annotations

import numpy as np
import pytest

from slivit.data.physical import in_plane
from slivit.data.preprocessing import Preprocessing, load_slices, preprocess
from slivit.data.readers import read_volume
from slivit.errors import ReadError, SlivitError
from slivit.explanation.scan import see_scan
from slivit.recipe import check_recipe
from slivit.sharing.texts import described_preprocessing
from slivit.train.recipe import FinetuneRecipe
from slivit.train.run import build_model, fitted_preprocessing
from slivit.volume import Volume

THREE = ("axial", "coronal", "sagittal")


def made_up(affine=None):
    array = np.random.default_rng(0).integers(0, 200, (6, 8, 10)).astype(np.uint8)
    return Volume(array, (3.0, 1.0, 1.5), "made up", affine)


def plain(size, **options):
    return Preprocessing(size=size, stretch=False, **options)


def test_each_part_of_the_stack_is_its_plane_alone():
    volume = made_up()
    stack = preprocess(volume, plain((6, 8, 8), planes=THREE))
    for number, axis in enumerate((0, 1, 2)):
        one = Volume(np.moveaxis(volume.array, axis, 0), None, "turned")
        np.testing.assert_array_equal(stack[2 * number : 2 * number + 2], preprocess(one, plain((2, 8, 8))))


def test_a_scan_with_an_orientation_is_turned_as_its_reader_turns_it(tmp_path):
    import nibabel as nib

    affine = np.array([[0, 0, -2.0, 5], [1.5, 0, 0, -3], [0, -1.0, 0, 9], [0, 0, 0, 1]])  # no axis where it is usual
    array = np.random.default_rng(1).integers(0, 200, (7, 9, 5)).astype(np.uint8)
    nib.save(nib.Nifti1Image(array, affine), path := str(tmp_path / "scan.nii.gz"))
    stack = load_slices(path, plain((6, 8, 8), planes=THREE))
    for number, plane in enumerate(THREE):
        wanted = load_slices(path, plain((2, 8, 8), reader={"axis": plane}))
        np.testing.assert_array_equal(stack[2 * number : 2 * number + 2], wanted)
        turned, _ = in_plane(read_volume(path), plane)
        same = read_volume(path, axis=plane)
        assert turned.spacing == same.spacing
        np.testing.assert_allclose(turned.affine, same.affine)


def test_black_and_white_are_the_same_in_all_planes():
    array = np.zeros((4, 4, 4), np.float32)
    array[0] = 1000  # in one axial slice, which every other plane cuts
    stack = preprocess(Volume(array, None, "bright"), Preprocessing(size=(12, 4, 4), stretch=(0, 100), planes=THREE))
    assert [int(part.max()) for part in np.split(stack, 3)] == [255, 255, 255]
    assert int(stack[1:4].max()) == 0


def test_spacing_is_along_the_axes_of_the_patient():
    settings = plain((9, 16, 16), planes=THREE, spacing=(1.0, 1.0, 1.0))
    volume = Volume(np.full((4, 6, 8), 200, np.uint8), (3.0, 1.0, 1.0), "box")
    axial, coronal, sagittal = np.split(preprocess(volume, settings), 3)
    assert int((axial[1] > 0).sum()) == 6 * 8
    assert int((coronal[1] > 0).sum()) == 12 * 8
    assert int((sagittal[1] > 0).sum()) == 12 * 6


def test_spacing_within_slices_alone_is_the_same_in_every_plane():
    volume = Volume(np.full((4, 6, 8), 200, np.uint8), (3.0, 1.0, 1.0), "box")
    stack = preprocess(volume, plain((6, 16, 16), planes=THREE, spacing=(0, 1.0, 1.0)))
    assert [int((part[0] > 0).sum()) for part in np.split(stack, 3)] == [6 * 8, 12 * 8, 12 * 6]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"planes": ("axial",)}, "two or three different ones"),
        ({"planes": THREE, "flips": ("slices",)}, "flips"),
        ({"planes": THREE, "reader": {"axis": "axial"}}, "reader.axis"),
        ({"planes": THREE, "windows": {}}, "windows"),
        ({"planes": THREE, "spacing": (0, 1, 2)}, "for s mm in each"),
    ],
)
def test_what_does_not_go_with_planes_is_told(options, told):
    with pytest.raises(ValueError, match=told):
        Preprocessing(size=(6, 8, 8), **options)


def test_a_recipe_tells_its_network_in_how_many_planes_the_slices_lie():
    tiny = {"patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}
    values = {
        "out": "x",
        "data": {"manifest": "scans.csv"},
        "task": {"kind": "binary", "targets": ["y"]},
        "model": {"name": "slice_vit", "slices": 6, "image_size": 16, "backbone_args": tiny},
        "preprocessing": {"planes": THREE},
    }
    recipe = check_recipe(FinetuneRecipe, values, "a test")
    assert build_model(recipe, 1).planes.shape == (3, 8)
    assert "axial, coronal, sagittal slices" in described_preprocessing(
        fitted_preprocessing(recipe).model_dump(mode="json")
    )
    mixed = check_recipe(FinetuneRecipe, values | {"augmentation": {"flip_slices": True}}, "a test")
    with pytest.raises(SlivitError, match=r"would mix preprocessing\.planes"):
        mixed.check()


def test_what_needs_the_whole_volume_or_one_plane_says_so():
    with pytest.raises(ReadError, match="not as many in each of 3 planes"):
        preprocess(made_up(), plain((4, 8, 8), planes=THREE))
    part = Volume(made_up().array[:2], None, "part", indices=(0, 1), depth=6)
    with pytest.raises(ReadError, match="need the whole volume"):
        preprocess(part, plain((6, 8, 8), planes=THREE))
    with pytest.raises(SlivitError, match="slices of 3 planes at once"):
        see_scan(made_up(), plain((6, 8, 8), planes=THREE))
