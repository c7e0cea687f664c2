"""Crops of images: how large they are, and that none is stretched without need."""

import pytest
import torch

from slivit.ssl.views import random_crop


def extents(images):
    """(N,) widths and heights of crops of an image whose two channels are its columns and rows, from 0 to 1."""
    columns, rows = images[:, 0], images[:, 1]
    width = (columns[:, :, -1] - columns[:, :, 0]).mean(1).abs()
    height = (rows[:, -1] - rows[:, 0]).mean(1).abs()
    side = images.shape[-1]
    return width * side / (side - 1), height * side / (side - 1)


def ramps(count, side=64):
    line = (torch.arange(side) + 0.5) / side
    return torch.stack([line.expand(side, side), line[:, None].expand(side, side)]).expand(count, 2, side, side)


@pytest.mark.parametrize("area", [0.2, 0.8, 0.95, 1.0])
def test_a_crop_has_the_area_that_was_asked_for(area):
    width, height = extents(random_crop(ramps(64), 64, scale=(area, area)))
    torch.testing.assert_close(width * height, torch.full((64,), area), rtol=0.03, atol=0)
    assert (width <= 1.01).all()
    assert (height <= 1.01).all()
    aspect = width / height
    assert 0.73 <= aspect.min() <= aspect.max() <= 1.37
    assert area == 1 or aspect.std() > 0.01


def test_the_whole_image_stays_as_it_is():
    images = torch.rand(16, 1, 32, 32)
    torch.testing.assert_close(random_crop(images, 32, scale=(1.0, 1.0), flip=0), images)
    torch.testing.assert_close(random_crop(images, 32, scale=(1.0, 1.0), flip=1), images.flip(3))
