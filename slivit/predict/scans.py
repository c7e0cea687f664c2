"""The scans of a manifest, read in their order by processes of their own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.scan_reading import ReadScan
from slivit.errors import ReadError


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
