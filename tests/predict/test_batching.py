"""The batch size follows speed and memory."""

import pytest
import torch

from slivit.device import Memory, out_of_memory
from slivit.predict import batching
from slivit.predict.batching import Batcher, default_workers

KB = 1024


class Fake(Memory):
    """A device on which a scan takes `cost` bytes and `seconds(n)` for n of them, with a clock of its own."""

    def __init__(self, room, cost, seconds, monkeypatch):
        self.room, self.cost, self.seconds, self.now, self.used = room, cost, seconds, 0.0, 0
        self.sizes = []
        monkeypatch.setattr(batching.time, "perf_counter", lambda: self.now)

    def free(self):
        return self.room

    def peak(self):
        return self.used

    def restart(self):
        return 0

    def wait(self):
        pass

    def empty(self):
        pass

    def run(self, items):
        self.sizes.append(len(items))
        self.used = len(items) * self.cost
        if self.used > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much")
        self.now += self.seconds(len(items))
        return {item: [0.5] for item in items}


def feed(memory, count=200, **options):
    batcher, done, failed, start = Batcher(memory, **options), {}, [], 0
    while start < count:
        items = range(start, min(start + batcher.size, count))
        done |= batcher.run(memory.run, items, failed.append)
        start = items.stop
    assert sorted([*done, *failed]) == list(range(count))
    return batcher, failed


def test_it_grows_while_that_is_faster(monkeypatch):
    memory = Fake(10**9, 1, lambda n: 1 + 0.001 * n, monkeypatch)
    batcher, _ = feed(memory, 2000)
    assert batcher.size >= 64
    assert batcher.size <= batching.LARGEST


def test_it_settles_where_more_is_not_faster(monkeypatch):
    memory = Fake(10**9, 1, lambda n: max(1.0, n / 4), monkeypatch)
    batcher, _ = feed(memory)
    assert batcher.size == 4
    assert batcher.fixed


def test_it_stops_before_memory_would_not_do(monkeypatch):
    memory = Fake(100 * KB, 10 * KB, lambda n: 1.0, monkeypatch)
    batcher, failed = feed(memory)
    assert batcher.size == 4  # 8 of them would take 80 of 100 kB, above the share of 70
    assert not failed
    assert max(memory.sizes) == 4


def test_a_size_that_was_asked_for_is_halved_where_memory_does_not_do(monkeypatch):
    memory = Fake(30 * KB, 10 * KB, lambda n: 1.0, monkeypatch)
    batcher, failed = feed(memory, 33, size=16, fixed=True)
    assert batcher.size == 2
    assert not failed


def test_a_scan_that_is_too_large_alone_is_told_and_others_go_on(monkeypatch):
    memory = Fake(30 * KB, 10 * KB, lambda n: 1.0, monkeypatch)
    usual = memory.run

    def run(items):
        if 5 in items:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return usual(items)

    memory.run = run
    _, failed = feed(memory, 20)
    assert failed == [5]


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    memory = Fake(30 * KB, 10 * KB, lambda n: 1.0, monkeypatch)

    def broken(items):
        raise RuntimeError("sizes do not match")

    with pytest.raises(RuntimeError, match="sizes"):
        Batcher(memory).run(broken, [1], print)
    assert out_of_memory(MemoryError())
    assert not out_of_memory(ValueError("out of memory"))


def test_the_memory_of_this_process_is_measured():
    memory = Memory(torch.device("cpu"))
    before = memory.restart()
    held = torch.ones(20_000_000)
    assert memory.peak() >= before > 0
    assert memory.free() > 0
    assert held.sum() == 20_000_000


def test_few_scans_are_read_without_other_processes():
    assert default_workers(3) == 0
    assert default_workers(1000) >= 1
