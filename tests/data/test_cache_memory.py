"""Slices in memory: read once, by whichever process asks first, and what was noticed is told each time."""

import warnings

import numpy as np
import pytest
from torch.utils.data import DataLoader

from slivit.data.cache_memory import MemoryCache, room_in_memory
from slivit.data.preprocessing import Preprocessing, load_slices

SETTINGS = Preprocessing(size=(4, 16, 12))
SIZE = 4 * 16 * 12


class Loads:
    """The stacks of some scans, as a process that reads for another loads them."""

    def __init__(self, paths, memory):
        self.paths, self.memory = paths, memory

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.memory.load(self.paths[index], SETTINGS)


def test_a_scan_is_read_once_and_what_is_loaded_may_be_written_to(scan, reads):
    memory = MemoryCache([scan], SETTINGS, SIZE, shared=False)
    expected = load_slices(scan, SETTINGS)
    for _ in range(3):
        found = memory.load(scan, SETTINGS)
        np.testing.assert_array_equal(found, expected)
        found[:] = 0
    assert reads == [scan]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_what_one_process_read_is_there_for_all(make_scan, reads, context):
    paths = [make_scan(f"{number}.tif") for number in range(4)]
    memory = MemoryCache(paths, SETTINGS, SIZE, shared=True)
    loader = DataLoader(Loads(paths, memory), num_workers=2, multiprocessing_context=context)
    before = [batch[0].numpy() for batch in loader]
    for path, expected in zip(paths, before, strict=True):
        np.testing.assert_array_equal(memory.load(path, SETTINGS), expected)
    assert reads == []  # by this process


def test_scans_settings_and_sizes_that_it_was_not_made_for_are_read_anew(make_scan, reads):
    known, other = make_scan("known.tif"), make_scan("other.tif")
    memory = MemoryCache([known], SETTINGS, SIZE, shared=False)
    large = Preprocessing(size=(4, 96, 96))
    small = MemoryCache([known], large, SIZE, shared=False)
    for cache, path, settings in ((memory, other, SETTINGS), (memory, known, large), (small, known, large)):
        for _ in range(2):
            np.testing.assert_array_equal(cache.load(path, settings), load_slices(path, settings))


def test_what_is_cropped_later_is_kept_whole(scan, reads):
    settings = Preprocessing(size=(4, 16, 12), resize=(20, 18))
    memory = MemoryCache([scan], settings, 4 * 20 * 18, shared=False)
    assert memory.load(scan, settings).shape == (4, 16, 12)
    assert memory.load(scan, settings.stored).shape == (4, 20, 18)
    assert reads == [scan]


def test_a_warning_about_a_scan_comes_each_time(make_scan):
    short = make_scan("short.tif")
    settings = Preprocessing(size=(40, 16, 12))
    memory = MemoryCache([short], settings, 40 * 16 * 12, shared=False)
    told = []
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            memory.load(short, settings)
        told.append([str(w.message) for w in caught])
    assert told[0] == told[1] != []


def test_a_slot_that_is_half_filled_is_prepared_anew(scan, reads):
    memory = MemoryCache([scan], SETTINGS, SIZE, shared=False)
    expected = memory.load(scan, SETTINGS).copy()
    memory._memory[0, SIZE // 2 : SIZE] = 77
    np.testing.assert_array_equal(memory.load(scan, SETTINGS), expected)
    assert reads == [scan, scan]


def test_memory_that_there_is_not_is_not_taken():
    assert room_in_memory(1000, shared=True)
    assert not room_in_memory(2**50, shared=False)
