import warnings

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from slivit.data.preprocessing import Preprocessing, load_slices, preprocess
from slivit.errors import ReadError
from slivit.volume import Volume


def volume(array, **fields):
    return Volume(np.asarray(array), None, "made.nii", **fields)


def test_shape_and_type(rng):
    stack = preprocess(volume(rng.integers(0, 4000, (9, 40, 30)).astype(np.int16)), Preprocessing(size=(4, 16, 24)))
    assert stack.shape == (4, 16, 24)
    assert stack.dtype == np.uint8
    assert 90 < stack.mean() < 165


def test_a_partly_read_volume_gives_the_same(rng):
    whole = rng.integers(0, 4000, (9, 20, 20)).astype(np.int16)
    settings = Preprocessing(size=(4, 16, 16))
    indices = settings.select(9)
    part = volume(whole[indices], indices=tuple(indices), depth=9)
    np.testing.assert_array_equal(preprocess(part, settings), preprocess(volume(whole), settings))


def test_unrounded_slices_are_those_of_8_bits_before_rounding(rng):
    array = Volume(rng.normal(0, 300, (12, 30, 20)), (2.0, 1.0, 1.0), "made.nii")
    same = {"size": (12, 30, 20), "foreground": {"threshold": 50, "unit": "percent"}}
    stack = preprocess(array, Preprocessing(rounded=False, **same))
    assert stack.dtype == np.float32
    assert ((stack > 0) & (stack < 255) & (stack % 1 > 0)).mean() > 0.9
    np.testing.assert_array_equal(np.rint(stack), preprocess(array, Preprocessing(**same)))
    for changed in ({"sampling": "resample"}, {"spacing": (1.0, 0.8, 0.8)}, {"fit": "pad"}, {"shuffle_slices": 1}):
        settings = {"size": (9, 24, 24), **changed}
        stack = preprocess(array, Preprocessing(rounded=False, **settings))
        assert stack.dtype == np.float32
        if "shuffle_slices" not in changed:  # whose order is decided by the values
            assert np.abs(stack - preprocess(array, Preprocessing(**settings))).max() < 1.6
    with pytest.raises(ValidationError, match="leave out rounded = false"):
        Preprocessing(rounded=False, interpolation="bilinear")


def test_window_alone_maps_hounsfield_units():
    hu = np.linspace(-2000, 3000, 6).reshape(1, 2, 3)
    stack = preprocess(volume(hu), Preprocessing(size=(1, 2, 3), window=(-1000, 1000), stretch=None))
    np.testing.assert_array_equal(stack.ravel(), [0, 0, 128, 255, 255, 255])


def test_bytes_without_stretch_stay_as_they_are(rng):
    array = rng.integers(50, 90, (3, 8, 8)).astype(np.uint8)
    settings = Preprocessing(size=(3, 8, 8), stretch=None)
    np.testing.assert_array_equal(preprocess(volume(array), settings), array)


def test_stretch_is_over_the_whole_volume_not_the_slice(rng):
    array = np.stack([rng.integers(0, 100, (16, 16)), rng.integers(900, 1000, (16, 16))]).astype(np.int16)
    stack = preprocess(volume(array), Preprocessing(size=(2, 16, 16)))
    assert stack[0].max() < 64
    assert stack[1].min() > 192


def test_a_short_volume_is_repeated_or_padded_and_told(rng):
    array = rng.integers(0, 255, (2, 8, 8)).astype(np.uint8)
    with pytest.warns(UserWarning, match="has 2 slices, 4 are used: repeated"):
        repeated = preprocess(volume(array), Preprocessing(size=(4, 8, 8), stretch=None))
    np.testing.assert_array_equal(repeated, array[[0, 0, 1, 1]])
    with pytest.warns(UserWarning, match="blank ones"):
        padded = preprocess(volume(array), Preprocessing(size=(4, 8, 8), stretch=None, short="pad"))
    np.testing.assert_array_equal(padded[:2], array)
    assert not padded[2:].any()
    with pytest.raises(ReadError, match="has 2 slices, 4 are asked for"):
        preprocess(volume(array), Preprocessing(size=(4, 8, 8), short="error"))


@pytest.mark.parametrize(("depth", "slices"), [(40, 12), (5, 12), (12, 12), (1, 3)])
def test_resampling_interpolates_linearly_between_slices(rng, depth, slices):
    array = rng.integers(0, 256, (depth, 6, 7)).astype(np.uint8)
    settings = Preprocessing(size=(slices, 6, 7), stretch=None, sampling="resample")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stack = preprocess(volume(array), settings)
    grid = torch.from_numpy(array).float()[None, None]
    expected = functional.interpolate(grid, (slices, 6, 7), mode="trilinear", align_corners=False)[0, 0].numpy()
    np.testing.assert_allclose(stack, expected, atol=0.51)
    indices = settings.select(depth)
    part = volume(array[indices], indices=tuple(indices), depth=depth)
    np.testing.assert_array_equal(preprocess(part, settings), stack)


def test_resampling_pads_or_refuses_short_volumes_where_asked(rng):
    array = rng.integers(0, 256, (2, 8, 8)).astype(np.uint8)
    settings = Preprocessing(size=(4, 8, 8), stretch=None, sampling="resample", short="pad")
    with pytest.warns(UserWarning, match="blank ones"):
        padded = preprocess(volume(array), settings)
    np.testing.assert_array_equal(padded[:2], array)
    assert not padded[2:].any()
    with pytest.raises(ReadError, match="has 2 slices, 4 are asked for"):
        preprocess(volume(array), settings.model_copy(update={"short": "error"}))


def test_settings_survive_json():
    settings = Preprocessing(size=(4, 8, 8), stretch=None, window=(-1000, 400), reader={"axis": "coronal"})
    assert Preprocessing(**settings.model_dump(mode="json")) == settings
    assert Preprocessing.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize("bad", [{"window": (5, 5)}, {"stretch": (98, 2)}, {"stretch": (-1, 98)}, {"strech": (2, 98)}])
def test_bad_settings(bad):
    with pytest.raises(ValidationError):
        Preprocessing(**bad)


def test_size_must_be_set(tmp_path):
    with pytest.raises(ReadError, match="size is not set"):
        preprocess(volume(np.zeros((2, 4, 4))), Preprocessing())


@pytest.mark.real_data
def test_a_real_ct(real_data):
    settings = Preprocessing(size=(8, 64, 64), window=(-1000, 400))
    folder = real_data / "ibsi_sts_008"
    dicom = load_slices(str(folder / "dicom" / "CT"), settings)
    nifti = load_slices(str(folder / "nifti" / "CT_image.nii.gz"), settings)
    assert dicom.shape == (8, 64, 64)
    np.testing.assert_array_equal(dicom, nifti)


def ball(spacing, diameter=20.0, side=48.0):
    """A ball of a diameter in mm, in a cube of a side in mm, on a grid of a spacing in mm."""
    axes = [np.arange(s / 2, side, s) - side / 2 for s in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return Volume((255 * (z**2 + y**2 + x**2 <= (diameter / 2) ** 2)).astype(np.uint8), spacing, "ball")


@pytest.mark.parametrize("spacing", [(1, 1, 1), (3, 0.5, 0.5), (1, 2, 0.7), (0.5, 1.5, 3)])
def test_spacing_makes_size_visible(spacing):
    settings = Preprocessing(size=(40, 64, 64), stretch=None, spacing=(1, 1, 1))
    volumes = {d: (preprocess(ball(spacing, d), settings) / 255).sum() for d in (10, 20)}
    for diameter, volume in volumes.items():
        assert volume == pytest.approx(np.pi / 6 * diameter**3, rel=0.12)


def test_spacing_crops_round_the_centre():
    stack = preprocess(ball((1, 1, 1)), Preprocessing(size=(8, 8, 8), stretch=None, spacing=(1, 1, 1)))
    assert (stack == 255).all()


def test_spacing_of_rows_and_columns_alone_samples_slices_by_number():
    volume = ball((3, 0.5, 0.5))
    settings = Preprocessing(size=(4, 48, 48), stretch=None, spacing=(0, 1, 1))
    plain = Preprocessing(size=(4, 48, 48), stretch=None)
    np.testing.assert_array_equal(preprocess(volume, settings), preprocess(volume, plain))


def test_pad_keeps_the_aspect():
    wide = Volume(np.full((1, 10, 40), 255, np.uint8), None, "wide")
    stack = preprocess(wide, Preprocessing(size=(1, 20, 20), stretch=None, fit="pad"))
    rows = np.flatnonzero(stack[0].max(1))
    assert (rows[0], rows[-1]) == (7, 11)
    in_mm = Volume(wide.array, (1.0, 4.0, 1.0), "square in mm")
    assert (preprocess(in_mm, Preprocessing(size=(1, 20, 20), stretch=None, fit="pad")) == 255).all()


def test_spacing_needs_a_spacing():
    with pytest.raises(ReadError, match=r"has no spacing in mm.*leave that out"):
        preprocess(volume(np.zeros((2, 4, 4))), Preprocessing(size=(2, 4, 4), spacing=(1, 1, 1)))


@pytest.mark.parametrize("wrong", [{"spacing": (1, 0, 1)}, {"spacing": (1, 1, 1), "sampling": "middle"}, {"fit": "x"}])
def test_settings_that_contradict_each_other(wrong):
    with pytest.raises(ValidationError):
        Preprocessing(size=(2, 4, 4), **wrong)


def released_loader(slices: list[np.ndarray], side: int) -> np.ndarray:
    """What the released transform of a slice computes, by the same torchvision operations, times 255."""
    from torchvision import transforms

    steps = transforms.Compose([transforms.ToPILImage(), transforms.Resize((side, side)), transforms.ToTensor()])
    return np.stack([255 * steps(transforms.ToTensor()(image))[0].numpy() for image in slices])


@pytest.mark.parametrize("side", [20, 64])
def test_bilinear_resizing_is_that_of_the_released_loaders(rng, side):
    stack = rng.integers(0, 256, (3, 40, 50), dtype=np.uint8)
    settings = Preprocessing(size=(3, side, side), stretch=None, sampling="linspace", interpolation="bilinear")
    np.testing.assert_allclose(preprocess(volume(stack), settings), released_loader(list(stack), side), atol=1e-4)


def test_wrapped_intensities_are_those_of_the_released_loader_of_mri(rng):
    stack = rng.integers(0, 3000, (3, 24, 24)).astype(np.int16)
    with pytest.warns(UserWarning, match="modulo 256"):
        settings = Preprocessing(size=(3, 16, 16), stretch=None, interpolation="bilinear", wrap=True)
    released = released_loader([image.astype(np.float64) for image in stack], 16)
    np.testing.assert_allclose(preprocess(volume(stack), settings), released, atol=1e-4)
    with pytest.raises(ValueError, match="stretch = false"):
        Preprocessing(wrap=True)


def test_shuffled_slices_are_the_same_ones_in_one_fixed_order_a_scan(rng):
    first, second = (volume(rng.integers(0, 256, (9, 6, 6), dtype=np.uint8)) for _ in range(2))
    plain = Preprocessing(size=(9, 6, 6), stretch=None)
    orders = []
    for scan in (first, second):
        stack, mixed = preprocess(scan, plain), preprocess(scan, plain.model_copy(update={"shuffle_slices": 1}))
        orders.append([int(np.flatnonzero((stack == image).all((1, 2)))[0]) for image in mixed])
        assert sorted(orders[-1]) == list(range(9)) != orders[-1]
        again = preprocess(scan, plain.model_copy(update={"shuffle_slices": 1}))
        np.testing.assert_array_equal(mixed, again)
    assert orders[0] != orders[1]
    other = preprocess(first, plain.model_copy(update={"shuffle_slices": 2}))
    assert (other != preprocess(first, plain.model_copy(update={"shuffle_slices": 1}))).any()
