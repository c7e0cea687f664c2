"""The cache among processes, on full disks, and below a limit."""

import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from slivit.data import cache_entry
from slivit.data.cache import CacheError, SliceCache
from slivit.data.preprocessing import Preprocessing, load_slices

SETTINGS = Preprocessing(size=(4, 16, 12))
SPAWN = multiprocessing.get_context("spawn")


def entries(cache):
    return sorted((cache.folder / "stacks").rglob("[!.]*.npy"))


def test_a_full_disk_is_told_once_and_scans_are_still_read(cache, monkeypatch, caplog, make_scan):
    def full(stream, part):
        raise OSError(errno.ENOSPC, "No space left on device")

    paths = [make_scan(f"{i}.tif") for i in range(3)]
    kept = cache.load(paths[0], SETTINGS).copy()
    monkeypatch.setattr(cache_entry, "_write_all", full)
    for path in paths:
        np.testing.assert_array_equal(cache.load(path, SETTINGS), load_slices(path, SETTINGS))
    assert caplog.text.count("No space left on device") == 1
    with pytest.raises(CacheError, match="No space left"):
        cache.build(paths[2], SETTINGS)
    assert not list(cache.folder.rglob(".*.npy"))
    monkeypatch.undo()
    np.testing.assert_array_equal(cache.load(paths[0], SETTINGS), kept)


LIMITED = """
import logging, resource, sys
logging.basicConfig()
from slivit.data.cache import SliceCache
from slivit.data.preprocessing import Preprocessing
cache = SliceCache(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
print(int(cache.load(sys.argv[1], Preprocessing(size=(4, 32, 32))).sum()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of POSIX")
def test_a_file_system_that_takes_no_more_bytes(tmp_path, scan):
    """The real thing: the write itself fails in its middle."""
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, scan, str(tmp_path / "small")], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) == load_slices(scan, Preprocessing(size=(4, 32, 32))).sum()
    assert "cannot be stored (File too large)" in ran.stderr
    assert not list((tmp_path / "small" / "stacks").rglob("*.npy"))


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_somebody_else_can_be_read(cache, scan):  # pragma: no cover (root)
    expected = cache.load(scan, SETTINGS).copy()
    for folder in (cache.folder, *(p for p in cache.folder.rglob("*") if p.is_dir())):
        folder.chmod(0o500)
    np.testing.assert_array_equal(SliceCache(cache.folder).load(scan, SETTINGS), expected)


def die_while_writing(folder, path):
    def stuck(stream, part):
        stream.write(bytes(part)[: len(part) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    cache_entry._write_all = stuck
    SliceCache(folder).load(path, SETTINGS)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_process_killed_half_way_leaves_a_cache_that_works(cache, scan, reads):
    process = SPAWN.Process(target=die_while_writing, args=(cache.folder, scan))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert cache.info().partial_bytes > 0
    np.testing.assert_array_equal(cache.load(scan, SETTINGS), load_slices(scan, SETTINGS))
    cache.load(scan, SETTINGS)
    assert len(reads) == 1
    assert cache.info().partial_bytes == 0  # who writes there next removes what a dead process left
    assert len(entries(cache)) == 1


def load_many(folder, max_bytes, paths, sums):
    cache = SliceCache(folder, max_bytes=max_bytes)
    for path in paths:
        sums.put((path, int(cache.load(path, SETTINGS).sum())))


@pytest.mark.parametrize("room", [None, 3])
def test_two_processes_at_once(tmp_path, room, make_scan):
    paths = [make_scan(f"{i}.tif") for i in range(6)]
    probe = SliceCache(tmp_path / "probe")
    probe.load(paths[0], SETTINGS)
    limit = room and room * probe.info().bytes
    sums = SPAWN.Queue()
    orders = (paths * 3, paths[::-1] * 3)
    both = [SPAWN.Process(target=load_many, args=(tmp_path / "shared", limit, order, sums)) for order in orders]
    for process in both:
        process.start()
    found = [sums.get(timeout=60) for _ in range(36)]
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    expected = {path: int(load_slices(path, SETTINGS).sum()) for path in paths}
    assert all(expected[path] == total for path, total in found)
    shared = SliceCache(tmp_path / "shared", max_bytes=limit)
    assert shared.info().scans == 6 if room is None else 0 < shared.info().bytes <= limit


def test_the_entry_used_longest_ago_makes_room(tmp_path, reads, make_scan, age):
    paths = [make_scan(f"{i}.tif") for i in range(5)]
    probe = SliceCache(tmp_path / "probe")
    probe.load(paths[0], SETTINGS)
    limit = 4 * probe.info().bytes
    cache = SliceCache(tmp_path / "cache", max_bytes=limit)
    for i, path in enumerate(paths[:4]):
        cache.load(path, SETTINGS)
        for entry in set(entries(cache)):
            if time.time() - entry.stat().st_mtime < 100:
                age(entry, 10000 - 1000 * i)
    cache.load(paths[0], SETTINGS)  # now the youngest
    assert cache.info().scans == 4
    cache.load(paths[4], SETTINGS)
    assert cache.info().bytes <= limit
    reads.clear()
    cache.load(paths[0], SETTINGS)
    cache.load(paths[4], SETTINGS)
    assert reads == []
    cache.load(paths[1], SETTINGS)
    assert reads == [paths[1]]


def test_a_limit_holds_for_what_was_kept_without_one(tmp_path, make_scan):
    paths = [make_scan(f"{i}.tif") for i in range(6)]
    free = SliceCache(tmp_path / "cache")
    limited = SliceCache(tmp_path / "cache", max_bytes=5000)
    limited.load(paths[0], SETTINGS)
    for path in paths[1:5]:
        free.load(path, SETTINGS)
    assert free.info().bytes > 5000 - 1000
    limited.load(paths[5], SETTINGS)
    assert limited.info().bytes <= 5000


def test_a_scan_larger_than_the_limit_is_read_but_not_kept(tmp_path, scan, caplog):
    cache = SliceCache(tmp_path / "cache", max_bytes=100)
    for _ in range(2):
        np.testing.assert_array_equal(cache.load(scan, SETTINGS), load_slices(scan, SETTINGS))
    assert caplog.text.count("do not fit under the limit of 100") == 1
    assert cache.info().bytes == 0


def test_it_travels_to_worker_processes(cache, scan):
    cache.load(scan, SETTINGS)
    copy = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(copy.load(scan, SETTINGS), load_slices(scan, SETTINGS))
