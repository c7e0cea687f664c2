"""Slices that a run keeps for itself while it trains: in memory, shared by the processes that read, or on disk.

In memory a scan has a slot for what `slivit.data.cache_entry` would write to disk, checksum and all. So a slot that
another process is just filling is told from a full one, and that process's scan is prepared once more.
"""

from __future__ import annotations

import logging
import shutil
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from slivit.data.cache import prepare_stack
from slivit.data.cache_entry import Damaged, Stack, decode_stack, encode_stack
from slivit.data.notes import record
from slivit.data.preprocessing import Preprocessing, crop_slices, load_slices
from slivit.data.slices import Grey
from slivit.data.workers import SHARED
from slivit.device import Memory
from slivit.files import size_text

log = logging.getLogger(__name__)

ROOM = 0.8
"""The share of a disk's free bytes that the slices of a run may take."""
SHARE = 0.25
"""Of the memory that is free, what slices may take; of what processes share, too."""
_LENGTH = struct.Struct("<Q")
_BESIDE = 4096  # bytes of a slot beside the slices: what was noticed in the scan


class MemoryCache:
    """Slices that stay in memory once they were read; what is noticed in a scan is said each time, as by `SliceCache`.

    The scans' files are taken not to change: it is for one run.

    Args:
        paths: of the scans; others are read anew each time.
        settings: the preprocessing; scans under other settings are read anew each time.
        size: bytes of the largest stack; larger ones are read anew each time.
        shared: with the processes that this one starts.
    """

    def __init__(self, paths: Sequence[str], settings: Preprocessing, size: int, *, shared: bool) -> None:
        self.settings = settings.stored
        self._slots = {path: number for number, path in enumerate(dict.fromkeys(paths))}
        self._memory = torch.from_numpy(np.zeros((len(self._slots), size + _BESIDE), np.uint8))
        if shared:
            self._memory.share_memory_()

    def load(self, path: str, settings: Preprocessing) -> Grey:
        """The preprocessed slices of a scan, as `load_slices` returns them.

        Args:
            path: anything that `read_volume` takes.
            settings: the preprocessing, with its size set.

        Raises:
            ReadError: the scan cannot be read.
        """
        if path not in self._slots or settings.stored != self.settings:
            return load_slices(path, settings)
        slot = self._memory[self._slots[path]].numpy().data
        stack = _kept(slot)
        if stack is None:
            stack = prepare_stack(path, self.settings)  # which records what the reader notices
            _keep(slot, stack, path)
        else:
            record(path, stack.seen)
        for note in stack.notes:
            warnings.warn(note, stacklevel=2)
        return crop_slices(stack.slices, settings.sized()[1:])


def room_in_memory(need: int, *, shared: bool) -> bool:
    """Whether there is memory for so many bytes of slices.

    Args:
        need: bytes.
        shared: with the processes that read.
    """
    rooms = [Memory(torch.device("cpu")).free()]
    if shared and Path(SHARED).is_dir():
        rooms.append(shutil.disk_usage(SHARED).free)
    return need <= SHARE * min(rooms)


def room_for_slices(own: Path, need: int) -> bool:
    """Whether a run can keep its slices in a folder of its own while it trains; logged.

    Args:
        own: the folder.
        need: bytes of all slices; 0 where that is not known.
    """
    if need > ROOM * shutil.disk_usage(own.parent).free:
        log.warning("%s: its disk has no room for %s of slices, so each is read anew", own.parent, size_text(need))
        return False
    log.info("slices are kept in %s while it trains%s", own, f": up to {size_text(need)}" if need else "")
    return True


def _kept(slot: memoryview) -> Stack | None:
    """What a slot holds; None where that is nothing yet, or not the whole of it."""
    (length,) = _LENGTH.unpack_from(slot)
    if not 0 < length <= len(slot) - _LENGTH.size:
        return None
    try:
        return decode_stack(slot[_LENGTH.size : _LENGTH.size + length])
    except Damaged:
        return None


def _keep(slot: memoryview, stack: Stack, source: str) -> None:
    parts = encode_stack(stack, source)
    length = sum(memoryview(part).nbytes for part in parts)
    if length > len(slot) - _LENGTH.size:
        return
    end = _LENGTH.size
    for part in parts:
        begin, end = end, end + memoryview(part).nbytes
        slot[begin:end] = memoryview(part).cast("B")
    _LENGTH.pack_into(slot, 0, length)
