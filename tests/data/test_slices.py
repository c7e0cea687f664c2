import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slivit.data.slices import (
    BLANK,
    intensity_range,
    resample_positions,
    sample_slices,
    to_uint8,
    window_intensity,
)
from slivit.errors import ReadError


@given(depth=st.integers(1, 300), slices=st.integers(1, 64))
def test_even_sampling_is_ascending_inside_and_symmetric(depth, slices):
    indices = sample_slices(depth, slices)
    assert len(indices) == slices
    assert indices.min() >= 0
    assert indices.max() < depth
    assert (np.diff(indices) >= 0).all()
    if depth >= slices:
        assert len(set(indices.tolist())) == slices
    mirrored = (depth - 1 - indices)[::-1]
    assert np.abs(mirrored - indices).max() <= 1


@given(depth=st.integers(1, 64))
def test_as_many_slices_as_there_are_takes_each_once(depth):
    for sampling in ("even", "middle", "all", "resample"):
        assert sample_slices(depth, depth, sampling).tolist() == list(range(depth))


def test_the_released_ways_to_choose_slices():
    # The released "eq" goes from the first to the last slice, "mid" spans one place more than it has slices.
    assert sample_slices(10, 4, "linspace").tolist() == [0, 3, 6, 9]
    assert sample_slices(97, 5, "linspace").tolist() == [0, 24, 48, 72, 96]
    assert sample_slices(100, 5, "linspace_middle").tolist() == [48, 49, 50, 51, 52]
    assert sample_slices(100, 4, "linspace_middle").tolist() == [48, 49, 50, 52]
    assert sample_slices(4, 4, "linspace_middle").tolist() == [0, 1, 2, 3]
    assert sample_slices(2, 4, "linspace_middle").tolist() == [0, 0, 0, 1]


@given(depth=st.integers(1, 300), slices=st.integers(1, 64))
def test_resampled_slices_lie_evenly_between_those_that_are_read(depth, slices):
    lower, weight = resample_positions(depth, slices)
    assert ((weight >= 0) & (weight < 1)).all()
    read = set(sample_slices(depth, slices, "resample").tolist())
    assert read == set(lower.tolist()) | {i + 1 for i, w in zip(lower.tolist(), weight, strict=True) if w}
    assert max(read) < depth
    positions = lower + weight
    np.testing.assert_allclose(positions, (depth - 1 - positions)[::-1], atol=1e-9)
    inside = positions[(positions > 0) & (positions < depth - 1)]
    np.testing.assert_allclose(np.diff(inside), depth / slices)


def test_middle_is_centred():
    assert sample_slices(9, 3, "middle").tolist() == [3, 4, 5]
    assert sample_slices(1, 1, "middle").tolist() == [0]


def test_short_volumes():
    assert sample_slices(2, 5, short="repeat").tolist() == [0, 0, 1, 1, 1]
    assert sample_slices(2, 4, short="pad").tolist() == [0, 1, BLANK, BLANK]
    assert sample_slices(2, 4, "middle", short="repeat").tolist() == [0, 0, 1, 1]
    with pytest.raises(ReadError, match="has 2 slices, 4 are asked for"):
        sample_slices(2, 4, short="error")
    with pytest.raises(ReadError, match="at least 1"):
        sample_slices(0, 4)


def test_window_maps_its_ends_to_0_and_1():
    hu = np.array([-2000, -1000, 0, 1000, 3000], np.int16)
    np.testing.assert_allclose(window_intensity(hu, -1000, 1000), [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_histogram_percentiles_equal_numpys(dtype, rng):
    low, high = (0, 200) if dtype == np.uint8 else (-300 if dtype == np.int16 else 0, 4000)
    array = rng.integers(low, high, (5, 17, 13)).astype(dtype)
    for pair in [(2, 98), (0, 100), (0.05, 99.95), (10, 50)]:
        np.testing.assert_allclose(intensity_range(array, *pair), np.percentile(array, pair))


def test_a_nearly_empty_mask_is_not_erased():
    mask = np.zeros((4, 32, 32), np.uint8)
    mask[1, 3, 3] = 1
    assert intensity_range(mask, 2, 98) == (0.0, 1.0)
    assert to_uint8(mask, 0, 1).max() == 255


def test_not_a_number_is_left_out_and_becomes_black():
    array = np.array([[[np.nan, 0.0, 1.0, 2.0]]], np.float32)
    assert intensity_range(array, 0, 100) == (0.0, 2.0)
    assert to_uint8(array, 0, 2).tolist() == [[[0, 0, 128, 255]]]
    with pytest.raises(ReadError, match="no finite value"):
        intensity_range(np.full((1, 2, 2), np.nan), 2, 98)


def test_table_for_bytes_equals_arithmetic(rng):
    array = rng.integers(0, 256, (2, 9, 9)).astype(np.uint8)
    np.testing.assert_array_equal(to_uint8(array, 13, 201), to_uint8(array.astype(np.float32), 13, 201))


def test_a_flat_volume_gives_black():
    assert not to_uint8(np.full((2, 3, 3), 7, np.int16), 7, 7).any()
