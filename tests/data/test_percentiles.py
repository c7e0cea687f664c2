import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slivit.data.slices import order_statistics, percentiles

DTYPES = [np.bool_, np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float16, np.float32, np.float64]
PERCENTS = (0, 0.05, 2, 50, 98, 100)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_order_statistics_are_those_of_sorting(dtype, data):
    finite = {} if np.dtype(dtype).kind != "f" else {"allow_nan": False, "allow_infinity": False}
    elements = arrays.from_dtype(np.dtype(dtype), **finite)
    values = data.draw(arrays.arrays(dtype, arrays.array_shapes(max_dims=3, max_side=9), elements=elements))
    ranks = np.arange(values.size)[::-1]
    np.testing.assert_array_equal(order_statistics(values, ranks), np.sort(values.ravel())[ranks].astype(np.float64))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_percentiles_are_numpys(dtype, rng):
    low, high = (0, 255) if dtype == np.uint8 else (0 if dtype == np.uint16 else -900, 4000)
    values = rng.normal(100, 900, (6, 40, 30)).clip(low, high).astype(dtype)
    expected = np.percentile(values.astype(np.float64), PERCENTS)
    np.testing.assert_allclose(percentiles(values, PERCENTS), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_percentiles_within_limits_are_those_of_clipped_values(dtype, rng):
    values = rng.normal(0, 900, (3, 30, 30)).astype(dtype)
    expected = np.percentile(np.clip(values.astype(np.float64), -500, 300), PERCENTS)
    np.testing.assert_allclose(percentiles(values, PERCENTS, limits=(-500, 300)), expected)


def test_a_view_that_is_not_contiguous(rng):
    values = rng.integers(-900, 900, (8, 9, 10)).astype(np.int16)[::2, :, ::-3]
    np.testing.assert_allclose(percentiles(values, PERCENTS), np.percentile(values, PERCENTS))


def test_the_byte_order_of_the_array_does_not_matter(rng):
    values = rng.integers(-900, 900, (4, 5)).astype(">i2")
    np.testing.assert_allclose(percentiles(values, PERCENTS), np.percentile(values, PERCENTS))


def test_more_values_than_are_counted_at_once(monkeypatch, rng):
    monkeypatch.setattr("slivit.data.slices._CHUNK", 64)
    for dtype in (np.uint8, np.int16, np.float32):
        values = rng.integers(0, 120, (5, 7, 11)).astype(dtype)
        np.testing.assert_allclose(percentiles(values, PERCENTS), np.percentile(values, PERCENTS))
