"""How many scans a batch: grown while that is faster and memory would do, and made smaller where it would not."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.scan_reading import ReadScan
from slivit.device import Memory, cores, out_of_memory
from slivit.errors import ReadError

Item = TypeVar("Item")
Result = TypeVar("Result")

LARGEST = 256
_SHARE = 0.7  # of the free memory that a batch may take
_WORTH = 1.05  # times faster that a larger batch must be


@dataclass
class Batcher:
    """Runs batches, and finds out how large they may be.

    Args:
        memory: of the device.
        size: scans a batch; where `fixed` is False, those of the first batch.
        fixed: keep the size, but for a lack of memory.
        largest: that is ever tried.
    """

    memory: Memory
    size: int = 1
    fixed: bool = False
    largest: int = LARGEST
    _rates: dict[int, float] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)

    def run(
        self,
        function: Callable[[Sequence[Item]], dict[int, Result]],
        items: Sequence[Item],
        too_large: Callable[[Item], None],
    ) -> dict[int, Result]:
        """Run a function on items, in smaller parts where memory does not do.

        Args:
            function: gives results by index.
            items: at most `size` of them.
            too_large: is called with an item for which memory does not do even alone.
        """
        try:
            return self._measured(function, items)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Outside of the handler, because the error holds on to everything that was in memory.
        self.memory.empty()
        if len(items) == 1:
            too_large(items[0])
            return {}
        half = (len(items) + 1) // 2
        self.size, self.fixed = min(self.size, half), True
        return self.run(function, items[:half], too_large) | self.run(function, items[half:], too_large)

    def _measured(
        self, function: Callable[[Sequence[Item]], dict[int, Result]], items: Sequence[Item]
    ) -> dict[int, Result]:
        if self.fixed:
            return function(items)
        before = self.memory.restart()
        start = time.perf_counter()
        results = function(items)
        self.memory.wait()
        if len(items) == self.size:
            self._grow(time.perf_counter() - start, max(self.memory.peak() - before, 0))
        return results

    def _grow(self, seconds: float, taken: int) -> None:
        """Double the size, or settle on the fastest; the first batch of a size only warms up."""
        if self.size not in self._seen:
            self._seen.add(self.size)
            if 2 * taken > _SHARE * self.memory.free():
                self.fixed = True
            return
        self._rates[self.size] = self.size / max(seconds, 1e-9)
        slower = self._rates[self.size] < _WORTH * self._rates.get(self.size // 2, 0.0)
        if slower or 2 * self.size > self.largest or 2 * taken > _SHARE * self.memory.free():
            self.size = self.size // 2 if slower else self.size
            self.fixed = True
        else:
            self.size *= 2


def default_workers(scans: int) -> int:
    """Processes that read scans: none for a few scans, since starting one takes longer than reading those."""
    return 0 if scans < 8 else min(4, cores())


def read_batches(
    paths: Sequence[str], settings: Preprocessing, cache: Any = None, workers: int = 0, batch_size: int = 1
) -> Iterator[list[tuple[int, ReadScan]]]:
    """Read and preprocess scans; one that cannot be read carries its error.

    Args:
        paths: of the scans.
        settings: the preprocessing, with its size set.
        cache: where preprocessed slices are kept.
        workers: processes that read; 0 reads in this one.
        batch_size: scans that a process reads at a time.

    Yields:
        Batches of the number of each scan and the scan, in their order.
    """
    scans = _Scans(paths, settings, cache)
    for batch in DataLoader(scans, batch_size=batch_size, num_workers=workers, collate_fn=list):
        yield [(n, ReadScan(None if s is None else s.numpy(), None, notes, why)) for n, s, notes, why in batch]


class _Scans(Dataset):
    """Number, stack, notes and error of a scan; tensors, since those go between processes without being copied."""

    def __init__(self, paths: Sequence[str], settings: Preprocessing, cache: Any) -> None:
        self.paths, self.settings, self.cache = list(paths), settings, cache

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[int, Tensor | None, tuple[str, ...], str]:
        load = self.cache.load if self.cache else load_slices
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                stack = torch.from_numpy(load(self.paths[number], self.settings))
            except ReadError as error:
                return number, None, (), str(error)
        return number, stack, tuple(str(w.message) for w in caught), ""
