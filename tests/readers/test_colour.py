"""Colour images become grey by luminance, or keep one channel or all three where these are asked for."""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

import slivit
from slivit.errors import ReadError

COLOURS = ("red", "green", "blue")


@pytest.fixture
def picture(rng):
    return rng.integers(0, 256, (3, 20, 24, 3)).astype(np.uint8)


@pytest.fixture(params=["png", "tiff", "npz", "folder", "jpeg"])
def scan(request, picture, tmp_path):
    """An address, its pixels (n, H, W, 3), and how far off they may be."""
    name = tmp_path / f"scan.{request.param}"
    smooth = cv2.GaussianBlur(picture[0], (0, 0), 4)
    if request.param == "npz":
        np.savez(name, train_images=picture, train_labels=np.zeros((3, 1), np.uint8))
        return f"{name}#train/0", picture[:1], 0
    if request.param == "folder":
        name.mkdir()
        for i, one in enumerate(picture):
            Image.fromarray(one).save(name / f"{i}.png")
        return str(name), picture, 0
    if request.param == "tiff":
        tifffile.imwrite(name, picture, photometric="rgb")
        return str(name), picture, 0
    Image.fromarray(smooth if request.param == "jpeg" else picture[0]).save(name)
    return str(name), (smooth if request.param == "jpeg" else picture[0])[None], 12 * (request.param == "jpeg")


def test_all_channels_and_each_of_them(scan):
    address, pixels, off = scan
    volume = slivit.read_volume(address, channel="all")
    assert volume.array.shape == (3, *pixels.shape[:3])
    assert np.abs(volume.array.astype(int) - np.moveaxis(pixels, -1, 0)).max() <= off
    assert not any("grey" in note for note in volume.notes)
    for number, name in enumerate(COLOURS):
        np.testing.assert_array_equal(slivit.read_volume(address, channel=name).array, volume.array[number])
    grey = slivit.read_volume(address)
    assert grey.array.shape == pixels.shape[:3]
    assert any("grey" in note for note in grey.notes)


def test_an_address_names_the_channel(scan):
    address, pixels, off = scan
    behind = "&" if "#" in address else "#"
    address = address.replace("#train/0", "#item=train/0") + f"{behind}channel=blue"
    assert np.abs(slivit.read_volume(address).array.astype(int) - pixels[..., 2]).max() <= off


def test_what_is_grey_has_no_channels_of_colour(tmp_path, picture):
    Image.fromarray(picture[0, ..., 0]).save(tmp_path / "grey.png")
    with pytest.raises(ReadError, match="it is grey"):
        slivit.read_volume(tmp_path / "grey.png", channel="red")
    assert slivit.read_volume(tmp_path / "grey.png", channel="all").channels == 1
    np.savez(tmp_path / "grey.npz", train_images=picture[..., 0], train_labels=np.zeros((3, 1), np.uint8))
    with pytest.raises(ReadError, match="channel"):
        slivit.read_volume(f"{tmp_path / 'grey.npz'}#train/0", channel="all")


def test_the_frames_of_a_video_keep_their_colours(tmp_path):
    shape = (32, 32)
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, shape)
    frames = [np.full((*shape, 3), (10 + i, 60 + i, 200), np.uint8) for i in range(0, 50, 10)]  # blue, green, red
    for frame in frames:
        writer.write(frame)
    writer.release()
    volume = slivit.read_volume(tmp_path / "v.avi", channel="all")
    expected = np.stack([[f[0, 0, 2 - c] for f in frames] for c in range(3)])
    assert volume.array.shape == (3, 5, *shape)
    assert np.abs(volume.array.mean((2, 3)) - expected).max() < 8
