"""Fixtures of the cache: scans on disk, a cache that trusts young files, and a count of what is read."""

import os
import time

import numpy as np
import pytest


@pytest.fixture
def make_scan(tmp_path, rng):
    """Write a random TIFF stack into the test's folder, or over an earlier one; returns its path."""
    import tifffile

    def make(name, depth=6):
        array = rng.integers(0, 4000, (depth, 20, 18)).astype(np.uint16)
        tifffile.imwrite(tmp_path / name, array, photometric="minisblack")
        return str(tmp_path / name)

    return make


@pytest.fixture
def scan(make_scan):
    return make_scan("scan.tif")


@pytest.fixture
def age():
    """Let a file look as if it had been written so many seconds ago."""

    def change(path, seconds=10.0):
        then = time.time() - seconds
        os.utime(path, (then, then))

    return change


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache that keeps the digests of files just written too."""
    from slivit.data import content
    from slivit.data.cache import SliceCache

    monkeypatch.setattr(content, "_RACY", 0)
    return SliceCache(tmp_path / "cache")


@pytest.fixture
def reads(monkeypatch):
    """The paths of the scans that were read and prepared, in order."""
    from slivit.data import cache as cache_module
    from slivit.data.preprocessing import load_slices

    paths = []

    def counted(path, settings):
        paths.append(path)
        return load_slices(path, settings)

    monkeypatch.setattr(cache_module, "load_slices", counted)
    return paths
