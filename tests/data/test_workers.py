"""A process that reads scans and dies: which scan it was reading, and what to set."""

import os
import signal

import pytest
import torch

from slivit.data.workers import NOTES, noted, readers_watched, readers_with_room
from slivit.errors import ReadError

TOLD = (
    r'died.*reading "scan2.nii", and held [\d.]+ [MG]B of memory before it; [\d.]+ [MG]B are free now\. '
    r"2 processes read scans.*data\.workers"
)


class Scans(torch.utils.data.Dataset):
    """The third of them ends the process that reads it, as the system does where memory runs out."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        with noted(f"scan{index}.nii"):
            if index == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_the_scan_is_named_that_a_reader_died_on():
    loader = torch.utils.data.DataLoader(Scans(), num_workers=2)
    with pytest.raises(ReadError, match=TOLD):
        _read(loader, 2)
    assert NOTES not in os.environ


def _read(loader, workers):
    with readers_watched(workers):
        list(loader)


def test_a_death_is_told_that_breaks_off_what_was_handed_over_first():
    def late(number, frame):
        raise RuntimeError("DataLoader worker (pid 77) is killed by signal: Killed.")

    before = signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(ReadError, match="Killed"), readers_watched(2):
            raise ConnectionResetError("reset by peer")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="no reader"), readers_watched(2):
        raise RuntimeError("no reader")
    with pytest.raises(ConnectionResetError), readers_watched(2):
        raise ConnectionResetError("reset by peer")


def test_no_more_processes_read_than_shared_memory_has_room_for(caplog):
    assert readers_with_room(4, 10_000_000, room=120_000_000) == 4
    assert not caplog.records
    assert readers_with_room(4, 10_000_000, room=64_000_000) == 2
    assert "64.0 MB free, and a process that reads needs 30.0 MB (3 batches): 2 of 4 processes read" in caplog.text
    assert readers_with_room(4, 10_000_000, room=0) == 0
    assert readers_with_room(0, 10_000_000) == 0
