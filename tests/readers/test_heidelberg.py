"""Heidelberg .vol and .e2e exports, made here byte by byte from the published layouts."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest

from slivit.data.readers import describe, read_volume
from slivit.errors import ReadError

pytest.importorskip("eyepy")
EMPTY = np.finfo(np.float32).max  # how a .vol marks pixels outside the scan


def _shown(stored: np.ndarray) -> np.ndarray:
    """HEYEX's picture of stored reflectance."""
    return np.clip((np.log(stored + 2.44e-4) + 8.3) / 8.285, 0, 1) * 255


@pytest.fixture
def reflectance(rng) -> np.ndarray:
    """(4, 6, 8) float32 in [0, 1]."""
    return rng.random((4, 6, 8), dtype=np.float32)


def _vol_file(scans: np.ndarray, pattern: int = 3) -> bytes:
    depth, height, width = scans.shape
    header_size = 256 + 4 * width
    head = struct.pack("<12s3I3d", b"HSF-OCT-103", width, depth, height, 0.0113, 0.12, 0.0039)
    head += struct.pack("<2I2dId4sQiI", 5, 4, 0.01, 0.01, 30, 0.5, b"OD", 131_000_000_000_000_000, pattern, header_size)
    head = head.ljust(2048, b"\0")
    body = bytes(5 * 4)  # the infrared picture
    for index, scan in enumerate(scans):
        start = struct.pack("<12sI4d2If", b"HSF-BS-103", header_size, 0, 0.12 * index, 0.09, 0.12 * index, 1, 256, 30.0)
        body += start.ljust(256, b"\0") + np.zeros(width, "<f4").tobytes() + scan.astype("<f4").tobytes()
    return head + body


def test_vol_is_read_as_heyex_shows_it(tmp_path, reflectance):
    reflectance[:, 0, 0] = EMPTY
    (tmp_path / "a.vol").write_bytes(_vol_file(reflectance))
    scan = read_volume(tmp_path / "a.vol")
    expected = _shown(np.where(reflectance == EMPTY, 0, reflectance))
    expected[:, 0, 0] = 0
    assert scan.array.dtype == np.uint8
    np.testing.assert_allclose(scan.array, expected, atol=1)
    assert scan.spacing == pytest.approx((0.12, 0.0039, 0.0113))
    part = read_volume(tmp_path / "a.vol", select=lambda depth: [3, 0])
    np.testing.assert_array_equal(part.array, scan.array[[3, 0]])


def test_circles_have_no_spacing(tmp_path, reflectance):
    (tmp_path / "a.vol").write_bytes(_vol_file(reflectance[:1], pattern=2))
    scan = read_volume(tmp_path / "a.vol")
    assert scan.spacing is None
    assert "circle" in scan.notes[0]


@pytest.fixture
def powers(rng) -> np.ndarray:
    """(4, 6, 8) powers of two up to 1, which the 16-bit floats of .e2e hold exactly."""
    return np.exp2(-rng.integers(0, 11, (4, 6, 8)).astype(np.float32))


def _e2e_float(values: np.ndarray) -> np.ndarray:
    """Powers of two as .e2e stores them: 6 bits of exponent, then 10 of mantissa (none), no sign."""
    return ((np.log2(values).astype(int) + 63) << 10).astype("<u2")


def _e2e(series: dict[int, np.ndarray]) -> bytes:
    """One patient and study; each series a stack of B-scans, stored last slice first."""
    items = []
    for number, scans in series.items():
        items.append((number, -1, 11, bytes(14) + b"R" + bytes(12)))
        depth, height, width = scans.shape
        for index in reversed(range(depth)):
            meta = struct.pack(
                "<3I4fI3fI2fI", 0, height, width, 0, 1.0 * index, 20, 1.0 * index, 0, 0, 0.0039, 0, 0, 0, 0, 0
            )
            meta += struct.pack("<4I2fIQI2f", width, depth, index, 3, 0, 0, 0, 10**17, 1, 1, 1)
            items.append((number, 2 * index, 10004, meta.ljust(428, b"\0")))
            pixels = _e2e_float(scans[index]).tobytes()
            image = struct.pack("<5I", len(pixels), 35652097, height * width, height, width) + pixels
            items.append((number, 2 * index, 1073741824, image))
    return _chunked(items)


def _chunked(items) -> bytes:
    version = struct.pack("<12sI20s", b"CMDb", 100, bytes(20))
    at = 36 + 52
    start = at + 52 + 44 * len(items)
    folders, containers = b"", b""
    for order, (number, slice_id, kind, content) in enumerate(items):
        ids = struct.pack("<4i2HI", 1, 2, number, slice_id, 1, 0, kind)
        place = start + len(containers)
        folders += struct.pack("<4I", at + 52 + 44 * order, place, len(content), 0) + ids + bytes(4)
        containers += struct.pack("<12s5I", b"MDbData", 0, 0, place, len(content), 0) + ids + bytes(4) + content
    directory = struct.pack("<12sI20s4I", b"MDbMDir", 100, bytes(20), len(items), at, 0, 0)
    chunk = struct.pack("<12sI20s4I", b"MDbDir", 100, bytes(20), len(items), at, 0, 0)
    return version + directory + chunk + folders + containers


def test_e2e_is_read_in_order_of_its_slices(tmp_path, powers):
    (tmp_path / "a.e2e").write_bytes(_e2e({5: powers}))
    scan = read_volume(tmp_path / "a.e2e")
    np.testing.assert_allclose(scan.array, _shown(powers), atol=1)
    assert scan.spacing == pytest.approx((0.2896, 0.0039, 20 / 8 * 0.2896))
    part = read_volume(tmp_path / "a.e2e", select=lambda depth: [2, 2, 0])
    np.testing.assert_array_equal(part.array, scan.array[[2, 2, 0]])
    assert describe(tmp_path / "a.e2e").shape == (4, 6, 8)


def test_e2e_with_both_eyes_asks_for_one(tmp_path, powers):
    (tmp_path / "a.e2e").write_bytes(_e2e({5: powers, 9: powers[:2]}))
    with pytest.raises(ReadError, match=r"5 \(4 B-scans\), 9 \(2 B-scans\)"):
        read_volume(tmp_path / "a.e2e")
    assert read_volume(tmp_path / "a.e2e", series=9).shape == (2, 6, 8)
    with pytest.raises(ReadError, match="has no series 7"):
        read_volume(tmp_path / "a.e2e", series=7)


@pytest.mark.parametrize("kept", [0.95, 0.5, 0.1, 0.02])
def test_files_cut_short_are_named(tmp_path, powers, kept):
    for name, whole in (("a.vol", _vol_file(powers)), ("a.e2e", _e2e({5: powers}))):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(ReadError, match=name):
            read_volume(tmp_path / name)


def test_a_directory_that_goes_round_is_refused(tmp_path, powers):
    content = bytearray(_e2e({5: powers}))
    last = 36 + 52 + 52 + 44 * (int.from_bytes(content[36 + 36 : 36 + 40], "little") - 1)
    content[last + 4 : last + 12] = struct.pack("<2I", 36 + 52 - 60, 0)  # the chunk follows itself
    (tmp_path / "a.e2e").write_bytes(bytes(content))
    with pytest.raises(ReadError, match="damaged"):
        read_volume(tmp_path / "a.e2e")


def test_without_eyepy_the_way_to_get_it_is_told(tmp_path, powers, monkeypatch):
    (tmp_path / "a.vol").write_bytes(_vol_file(powers))
    monkeypatch.setitem(sys.modules, "eyepy", None)
    with pytest.raises(ReadError, match=r"pip install 'slivit\[formats\]'"):
        read_volume(tmp_path / "a.vol")
