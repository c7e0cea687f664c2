import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slivit.data.tiling import tile_slices, untile_slices
from slivit.errors import SlivitError

sizes = st.integers(1, 6)


@given(batch=st.lists(sizes, max_size=2), slices=sizes, height=sizes, width=sizes)
def test_untile_is_the_inverse_of_tile(batch, slices, height, width):
    stack = np.arange(np.prod([*batch, slices, height, width])).reshape(*batch, slices, height, width)
    image = tile_slices(stack)
    assert image.shape == (*batch, slices * height, width)
    np.testing.assert_array_equal(untile_slices(image, slices), stack)
    np.testing.assert_array_equal(tile_slices(torch.from_numpy(stack)).numpy(), image)


def test_slice_s_is_at_its_rows():
    stack = np.stack([np.full((4, 3), s) for s in range(5)])
    image = tile_slices(stack)
    for s in range(5):
        assert (image[4 * s : 4 * s + 4] == s).all()


def test_bad_shapes_are_told():
    with pytest.raises(SlivitError, match=r"needs \(..., S, H, W\), got shape \(4, 4\)"):
        tile_slices(np.zeros((4, 4)))
    with pytest.raises(SlivitError, match="cannot be cut into 3 slices"):
        untile_slices(np.zeros((10, 4)), 3)
