"""Images, multi-page TIFF and folders of frames."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from slivit.data.readers import describe, read_volume
from slivit.data.readers.base import natural_order
from slivit.errors import ReadError


@pytest.fixture
def frames(rng) -> np.ndarray:
    """(12, 20, 30) uint8."""
    return rng.integers(0, 256, (12, 20, 30), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["tif", "tiff", "png", "bmp", "PNG"])
def test_frames_come_in_natural_order(tmp_path, frames, suffix):
    for index, pixels in enumerate(frames):
        Image.fromarray(pixels).save(tmp_path / f"slice{index}.{suffix}")
    scan = read_volume(tmp_path)
    np.testing.assert_array_equal(scan.array, frames)
    part = read_volume(tmp_path, select=lambda depth: [10, 2, 2])
    np.testing.assert_array_equal(part.array, frames[[10, 2, 2]])
    assert (scan.spacing, scan.notes, describe(tmp_path).shape) == (None, (), (12, 20, 30))


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i1", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"compression": "zlib"}])
def test_multi_page_tiff_keeps_every_value(tmp_path, rng, dtype, options):
    kind = np.dtype(dtype)
    low, high = (-1e6, 1e6) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    pages = rng.uniform(low, high, (4, 9, 11)).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", **options)
    scan = read_volume(tmp_path / "a.tif")
    assert scan.array.dtype == kind.newbyteorder("=")
    np.testing.assert_array_equal(scan.array, pages)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif", select=lambda depth: [3, 1]).array, pages[[3, 1]])
    assert describe(tmp_path / "a.tif").dtype == str(scan.array.dtype)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_deflate"])
def test_compressed_tiff(tmp_path, frames, compression):
    pages = [Image.fromarray(page) for page in frames]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression=compression)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, frames)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_tiff_becomes_grey_by_luminance(tmp_path, rng, dtype, planar):
    rgb = rng.integers(0, np.iinfo(dtype).max, (2, 8, 9, 3), dtype=dtype)
    stored = rgb if planar == "contig" else rgb.transpose(0, 3, 1, 2)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
    scan = read_volume(tmp_path / "a.tif")
    assert scan.array.dtype == dtype
    np.testing.assert_allclose(scan.array, rgb @ [0.299, 0.587, 0.114], atol=1 if dtype == "u1" else 2)
    assert "luminance" in scan.notes[0]


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_white_as_zero_is_inverted(tmp_path, rng, dtype):
    pixels = rng.integers(0, np.iinfo(dtype).max, (2, 8, 9), dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, np.iinfo(dtype).max - pixels)


def test_a_2d_image_is_one_slice(tmp_path, frames):
    Image.fromarray(frames[0]).save(tmp_path / "a.png")
    scan = read_volume(tmp_path / "a.png")
    np.testing.assert_array_equal(scan.array, frames[:1])


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_of_any_depth(tmp_path, rng, depth, channels):
    grey = rng.integers(0, 1 << depth, (8, 9), dtype=f"u{depth // 8}")
    cv2.imwrite(str(tmp_path / "a.png"), grey if channels == 1 else np.repeat(grey[..., None], channels, axis=-1))
    scan = read_volume(tmp_path / "a.png")
    assert describe(tmp_path / "a.png").dtype == str(scan.array.dtype) == f"uint{depth}"
    np.testing.assert_array_equal(scan.array[0], grey)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGB", "RGBA"])
def test_grey_in_any_png_mode_reads_as_grey(tmp_path, frames, mode):
    grey = Image.fromarray(frames[0] // 255 * 255 if mode == "1" else frames[0])
    grey.convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array[0], np.asarray(grey))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_its_luminance(tmp_path, rng, mode):
    smooth = cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), (40, 32))
    image = Image.fromarray(smooth).convert(mode)
    image.save(tmp_path / "a.jpg", quality=95)
    scan = read_volume(tmp_path / "a.jpg")
    np.testing.assert_allclose(scan.array[0], np.asarray(image.convert("L")), atol=8)
    assert bool(scan.notes) == (mode == "RGB")


def test_camera_orientation_is_applied(tmp_path, frames):
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees to see it upright
    Image.fromarray(frames[0]).save(tmp_path / "a.png", exif=exif)
    assert describe(tmp_path / "a.png").shape == (1, 30, 20)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array[0], np.rot90(frames[0], -1))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_truncated_images_are_named(tmp_path, frames, suffix):
    Image.fromarray(frames[0]).save(tmp_path / f"whole.{suffix}")
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    for cut in (len(content) // 2, 20):
        (tmp_path / f"cut.{suffix}").write_bytes(content[:cut])
        with pytest.raises(ReadError, match=rf"cut\.{suffix}"):
            read_volume(tmp_path / f"cut.{suffix}")


def test_a_truncated_multi_page_tiff_is_named(tmp_path, frames):
    tifffile.imwrite(tmp_path / "a.tif", frames, photometric="minisblack")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-700])
    with pytest.raises(ReadError, match=r"a\.tif"):
        read_volume(tmp_path / "a.tif")


def test_odd_frames_are_refused(tmp_path, frames):
    for index in range(3):
        Image.fromarray(frames[index]).save(tmp_path / f"{index}.png")
    Image.fromarray(frames[0, :10]).save(tmp_path / "3.png")
    with pytest.raises(ReadError, match=r"3\.png is \(10, 30\) uint8, but the first slice is \(20, 30\)"):
        read_volume(tmp_path)
    Image.fromarray(frames[0]).save(tmp_path / "3.tif")
    with pytest.raises(ReadError, match=r"4 \.png, 1 \.tif"):
        read_volume(tmp_path)


def test_a_stack_among_frames_is_refused(tmp_path, frames):
    tifffile.imwrite(tmp_path / "a.tif", frames, photometric="minisblack")
    with pytest.raises(ReadError, match="12 pages"):
        read_volume(tmp_path)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize(
    "options", [{"compression": "zlib", "tile": (16, 16)}, {"tile": (16, 16)}, {"compression": "zlib"}]
)
def test_floats_of_either_byte_order(tmp_path, rng, bigtiff, options):
    values = rng.normal(0, 100, (2, 20, 30)).astype(np.float32)
    for order in "<>":
        options = {"bigtiff": bigtiff, "metadata": None, "photometric": "minisblack"} | options
        tifffile.imwrite(tmp_path / "a.tif", values, byteorder=order, **options)
        np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array, values)


def _with_one_directory(path, order):
    """Cut the chain of directories after the first, as ImageJ writes stacks of more than 4 GB."""
    with tifffile.TiffFile(path) as file:
        start = file.pages[0].offset
    raw = bytearray(path.read_bytes())
    entries = int.from_bytes(raw[start : start + 2], order)
    at = start + 2 + 12 * entries
    path.write_bytes(raw[:at] + bytes(4) + raw[at + 4 :])


def test_a_stack_with_the_directory_of_its_first_image_alone_is_read_whole(tmp_path, rng):
    values = rng.integers(0, 60000, (5, 8, 9), dtype=np.uint16)
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, values, imagej=True, byteorder="<")
    _with_one_directory(file, "little")
    np.testing.assert_array_equal(read_volume(file).array, values)
    np.testing.assert_array_equal(read_volume(file, select=lambda depth: [depth - 1]).array, values[-1:])
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ReadError, match="ends before the last of its 5 images"):
        read_volume(file)
    tifffile.imwrite(file, values, metadata={"axes": "ZYX"}, truncate=True)
    with pytest.raises(ReadError, match="the first of its images alone"):
        read_volume(file)


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_the_channel_and_time_point_of_a_stack_are_chosen(tmp_path, rng, kind):
    values = rng.integers(0, 60000, (2, 4, 3, 8, 9), dtype=np.uint16)  # T, Z, C
    file = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif")
    names = {"Channel": {"Name": ["DAPI", "FITC", "Cy5"]}} if kind == "ome" else {}
    stored = values.transpose(2, 0, 1, 3, 4) if kind == "ome" else values
    axes = "CTZYX" if kind == "ome" else "TZCYX"
    tifffile.imwrite(file, stored, **{kind: True}, photometric="minisblack", metadata={"axes": axes, **names})
    with pytest.raises(ReadError, match=r"holds 3 channels.*channel=0 to 2"):
        read_volume(file)
    with pytest.raises(ReadError, match=r"2 time points of 4 slices.*frame=0 to 1"):
        read_volume(file, channel=1)
    with pytest.raises(ReadError, match="outside"):
        read_volume(file, channel=3)
    scan = read_volume(file, channel=2, frame=1, select=lambda depth: [3, 0])
    assert scan.depth == 4
    np.testing.assert_array_equal(scan.array, values[1, [3, 0], 2])
    if kind == "ome":
        np.testing.assert_array_equal(read_volume(file, channel="FITC", frame=0).array, values[0, :, 1])
        with pytest.raises(ReadError, match="FITC"):
            read_volume(file, channel="FITX", frame=0)


def test_stacks_of_slices_alone_or_frames_alone_need_no_choice(tmp_path, rng):
    values = rng.integers(0, 60000, (4, 8, 9), dtype=np.uint16)
    for name, axes, kind in (("z.ome.tif", "ZYX", "ome"), ("t.ome.tif", "TYX", "ome"), ("z.tif", "ZYX", "imagej")):
        tifffile.imwrite(tmp_path / name, values, **{kind: True}, metadata={"axes": axes})
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, values)
    tifffile.imwrite(tmp_path / "c.tif", values, imagej=True, metadata={"axes": "CYX"})  # as slices are often written
    scan = read_volume(tmp_path / "c.tif")
    np.testing.assert_array_equal(scan.array, values)
    assert "4 channels without slices" in scan.notes[0]
    np.testing.assert_array_equal(read_volume(tmp_path / "c.tif", channel=2).array, values[2:3])
    tifffile.imwrite(tmp_path / "plain.tif", values, photometric="minisblack")
    with pytest.raises(ReadError, match="one channel only"):
        read_volume(tmp_path / "plain.tif", channel=1)


def test_spellings_of_a_suffix_are_one_kind(tmp_path, frames):
    for index, image in enumerate(frames):
        Image.fromarray(image).save(tmp_path / f"{index}.{('tif', 'tiff')[index % 2]}")
    np.testing.assert_array_equal(read_volume(tmp_path).array, frames)


def test_frames_of_several_folders_are_never_joined(tmp_path, frames):
    for side in ("OD", "OS"):
        (tmp_path / side).mkdir()
        for index, image in enumerate(frames):
            Image.fromarray(image).save(tmp_path / side / f"{index}.png")
    with pytest.raises(ReadError, match=rf"2 folders: OD \({len(frames)}\), OS"):
        read_volume(tmp_path)
    np.testing.assert_array_equal(read_volume(tmp_path / "OS").array, frames)


@pytest.mark.parametrize(
    "order",
    [
        ["z-10", "z-5", "z-1.5", "z0", "z+2", "z7"],
        ["img-1", "img-2", "img-10"],
        ["sub-01_z-2", "sub-01_z1", "sub-02_z-9", "sub-02_z0"],
        ["0.5", "1.05", "1.25", "1.5", "10"],
        ["1.9", "1.10", "1.11", "2.1"],
        ["1.2.9", "1.2.10", "1.10.1"],
        ["slice2", "slice10", "Slice11"],
        ["1-2", "1-3", "12-1"],
    ],
)
def test_numbers_in_names_order_them(order):
    key = natural_order(order)
    backwards = order[::-1]
    assert sorted(backwards, key=key) == order
