"""Filling the cache, and training from it."""

import errno
import multiprocessing
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from slivit.data import cache_entry
from slivit.data.augmentation import Augmentation
from slivit.data.cache import CacheError
from slivit.data.cache_build import prepare
from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.workers import in_processes

SETTINGS = Preprocessing(size=(4, 16, 12))


@pytest.mark.parametrize("workers", [0, 2])
def test_prepare_builds_what_is_missing_and_tells_what_failed(cache, tmp_path, workers, make_scan):
    paths = [make_scan(f"{i}.tif") for i in range(4)]
    (tmp_path / "bad.tif").write_bytes(b"no scan")
    rows = [{"path": p} for p in [*paths, paths[0], str(tmp_path / "bad.tif")]]
    cache.load(paths[1], SETTINGS)
    told = prepare(rows, SETTINGS, cache, workers=workers)
    assert (told.built, told.kept) == (3, 1)
    assert [path for path, _ in told.failed] == [str(tmp_path / "bad.tif")]
    assert "bad.tif" in told.failed[0][1]
    for path in paths:
        np.testing.assert_array_equal(cache.load(path, SETTINGS), load_slices(path, SETTINGS))
    assert prepare(rows, SETTINGS, cache).built == 0


def test_prepare_stops_where_the_disk_is_full(cache, scan, monkeypatch):
    def full(stream, part):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_entry, "_write_all", full)
    with pytest.raises(CacheError, match="cannot be stored \\(No space left on device\\)"):
        prepare([{"path": scan}], SETTINGS, cache)


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_stays_random_on_top(cache, blob_scans, workers):
    import torch

    from slivit.data.blocks import volume_dataloaders
    from slivit.data.manifest import read_manifest
    from slivit.models.registry import ModelSpec
    from slivit.targets.task import Task

    manifest = read_manifest(blob_scans, Task(kind="binary", targets=("bright",)))
    spec = ModelSpec("made", input="volume", size=(4, 16, 16), mean=(0.0,), std=(1.0,))
    change = Augmentation(rotate=180, flip_horizontal=True)
    options = {"augmentation": change, "batch_size": 8, "device": "cpu", "cache": cache, "workers": workers}
    dls = volume_dataloaders(manifest, spec, Preprocessing(size=spec.size), **options)
    train = dls.train.new(shuffle=False)
    first, second = (torch.cat([x for x, _ in train]) for _ in range(2))
    assert not torch.equal(first, second)
    fixed, again = (torch.cat([x for x, _ in dls.valid]) for _ in range(2))
    assert torch.equal(fixed, again)
    assert cache.info().scans == len({row["path"] for split in ("train", "val") for row in manifest.rows(split)})


def test_predictions_are_the_same_with_a_cache(cache, make_scan):
    from slivit.predict.batching import read_batches

    short = make_scan("short.tif", depth=2)
    for _ in range(2):
        (_, plain), (_, cached) = (next(read_batches([short], SETTINGS, c))[0] for c in (None, cache))
        assert np.array_equal(cached.stack, plain.stack)
        assert cached.notes == plain.notes != ()


def note_and_sleep(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


def sleep_in_workers(folder):
    list(in_processes(note_and_sleep, [folder] * 16, 2, died=str))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_processes_end_with_the_one_that_was_killed(tmp_path):
    parent = multiprocessing.get_context("spawn").Process(target=sleep_in_workers, args=(str(tmp_path),))
    parent.start()
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    children = [p.name for p in tmp_path.iterdir()]
    assert all(runs(child) for child in children)
    parent.kill()
    parent.join(60)
    wait_until(lambda: not any(runs(child) for child in children))


def runs(process):
    try:
        state = Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended, but not yet collected by its new parent


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
