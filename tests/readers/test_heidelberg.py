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


def test_vol_is_read_as_heyex_shows_it(tmp_path, reflectance, vol_file):
    reflectance[:, 0, 0] = EMPTY
    (tmp_path / "a.vol").write_bytes(vol_file(reflectance))
    scan = read_volume(tmp_path / "a.vol")
    expected = _shown(np.where(reflectance == EMPTY, 0, reflectance))
    expected[:, 0, 0] = 0
    assert scan.array.dtype == np.uint8
    np.testing.assert_allclose(scan.array, expected, atol=1)
    assert scan.spacing == pytest.approx((0.12, 0.0039, 0.0113))
    part = read_volume(tmp_path / "a.vol", select=lambda depth: [3, 0])
    np.testing.assert_array_equal(part.array, scan.array[[3, 0]])


def test_circles_have_no_spacing(tmp_path, reflectance, vol_file):
    (tmp_path / "a.vol").write_bytes(vol_file(reflectance[:1], pattern=2))
    scan = read_volume(tmp_path / "a.vol")
    assert scan.spacing is None
    assert "circle" in scan.notes[0]


@pytest.fixture
def powers(rng) -> np.ndarray:
    """(4, 6, 8) powers of two up to 1, which the 16-bit floats of .e2e hold exactly."""
    return np.exp2(-rng.integers(0, 11, (4, 6, 8)).astype(np.float32))


def test_e2e_is_read_in_order_of_its_slices(tmp_path, powers, e2e_file):
    (tmp_path / "a.e2e").write_bytes(e2e_file({5: powers}))
    scan = read_volume(tmp_path / "a.e2e")
    np.testing.assert_allclose(scan.array, _shown(powers), atol=1)
    assert scan.spacing == pytest.approx((0.2896, 0.0039, 20 / 8 * 0.2896))
    part = read_volume(tmp_path / "a.e2e", select=lambda depth: [2, 2, 0])
    np.testing.assert_array_equal(part.array, scan.array[[2, 2, 0]])
    assert describe(tmp_path / "a.e2e").shape == (4, 6, 8)


def test_e2e_with_both_eyes_asks_for_one(tmp_path, powers, e2e_file):
    (tmp_path / "a.e2e").write_bytes(e2e_file({5: powers, 9: powers[:2]}))
    with pytest.raises(ReadError, match=r"5 \(4 B-scans\), 9 \(2 B-scans\)"):
        read_volume(tmp_path / "a.e2e")
    assert read_volume(tmp_path / "a.e2e", series=9).shape == (2, 6, 8)
    with pytest.raises(ReadError, match="has no series 7"):
        read_volume(tmp_path / "a.e2e", series=7)


@pytest.mark.parametrize("kept", [0.95, 0.5, 0.1, 0.02])
def test_files_cut_short_are_named(tmp_path, powers, kept, vol_file, e2e_file):
    for name, whole in (("a.vol", vol_file(powers)), ("a.e2e", e2e_file({5: powers}))):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(ReadError, match=name):
            read_volume(tmp_path / name)


def test_a_directory_that_goes_round_is_refused(tmp_path, powers, e2e_file):
    content = bytearray(e2e_file({5: powers}))
    last = 36 + 52 + 52 + 44 * (int.from_bytes(content[36 + 36 : 36 + 40], "little") - 1)
    content[last + 4 : last + 12] = struct.pack("<2I", 36 + 52 - 60, 0)  # the chunk follows itself
    (tmp_path / "a.e2e").write_bytes(bytes(content))
    with pytest.raises(ReadError, match="damaged"):
        read_volume(tmp_path / "a.e2e")


def test_without_eyepy_the_way_to_get_it_is_told(tmp_path, powers, monkeypatch, vol_file):
    (tmp_path / "a.vol").write_bytes(vol_file(powers))
    monkeypatch.setitem(sys.modules, "eyepy", None)
    with pytest.raises(ReadError, match=r"pip install .*\[formats\]"):
        read_volume(tmp_path / "a.vol")
