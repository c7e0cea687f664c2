"""Crops of images: how large they are, and that none is stretched without need."""

import numpy as np
import pytest
import tifffile
import torch

import slivit
from slivit.data.images import LoadImage, for_crops, slice_items
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


def stripes(side, period):
    """(side, side) from 0 to 1, dark and bright in turn along the columns."""
    return (0.5 + 0.5 * torch.cos(2 * torch.pi * torch.arange(side) / period)).expand(side, side)


@pytest.mark.parametrize(("resize", "kept"), [(None, 0.3), ((1024, 1024), 0.7)])
def test_crops_are_cut_from_slices_that_are_larger_than_the_input(tmp_path, resize, kept):
    """A pattern of 6 pixels in 1024."""
    fine = stripes(1024, 6)
    tifffile.imwrite(tmp_path / "fine.tif", (255 * fine).byte().numpy(), photometric="minisblack")
    item = slice_items([{"path": str(tmp_path / "fine.tif"), "split": "val"}], 1)
    settings = slivit.Preprocessing(size=(1, 224, 224), stretch=False, resize=resize)
    larger = for_crops(settings, [item[0]["path"]])
    assert larger.size == ((1, 336, 336) if resize is None else (1, 1024, 1024))

    def contrast(settings):
        image = torch.from_numpy(LoadImage(settings).reader.load(item[0]))[None].float() / 255
        torch.manual_seed(0)
        return float(random_crop(image.expand(8, -1, -1, -1), 224, scale=(0.2, 0.2)).std() / fine.std())

    assert contrast(settings.model_copy(update={"resize": None})) < 0.25  # of which most is a false, coarse one
    assert contrast(larger) > kept


def test_what_is_too_fine_for_a_crop_fades_and_makes_no_false_pattern():
    images = stripes(336, 2.4).expand(4, 1, 336, 336)
    assert random_crop(images, 224, scale=(1.0, 1.0)).std() < 0.4 * images.std()  # 0.55 if it is not averaged
    coarse = stripes(336, 48).expand(4, 1, 336, 336)
    assert random_crop(coarse, 224, scale=(1.0, 1.0)).std() > 0.97 * coarse.std()


def test_no_slice_is_enlarged_and_pixels_keep_their_place(tmp_path):
    tifffile.imwrite(tmp_path / "small.tif", np.zeros((40, 30), np.uint8), photometric="minisblack")
    paths = [str(tmp_path / "small.tif")]
    sizes = {16: 24, 32: 40, 64: 64}
    assert {side: for_crops(slivit.Preprocessing(size=(1, side, side)), paths).size[1] for side in sizes} == sizes
    spaced = for_crops(slivit.Preprocessing(size=(1, 16, 16), spacing=(0, 3, 3)), paths)
    assert spaced.spacing == (0, 2, 2)
