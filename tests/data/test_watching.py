"""A process that reads scans and dies: which scan it was reading, and what to set."""

import os
import signal

import pytest
import torch

from slivit.data.watching import NOTES, noted, readers_watched
from slivit.errors import ReadError


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
    with pytest.raises(ReadError, match=r'died.*reading "scan2.nii"\. 2 processes read scans.*data\.workers'):
        _read(loader, 2)
    assert NOTES not in os.environ


def _read(loader, workers):
    with readers_watched(workers):
        list(loader)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="no reader"), readers_watched(2):
        raise RuntimeError("no reader")
