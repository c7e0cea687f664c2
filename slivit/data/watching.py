"""Processes that read scans, watched: where one dies, it is said which scan it was reading, and what to set."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path

from slivit.errors import ReadError, one_of

log = logging.getLogger(__name__)

NOTES = "SLIVIT_READING"
"""The variable of the environment that names the folder of notes; processes that are started inherit it."""
SHARED = "/dev/shm"
"""Where processes hand tensors over; in containers it often holds 64 MB."""
_AHEAD = 3  # batches: two that wait, and one in the making
_GRACE = 2.0  # seconds until the signal of a process that died has come
_DIED = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)(?: is killed by signal: (\w+))?")


@contextmanager
def noted(scan: str) -> Iterator[None]:
    """Leave a note of the scan that is being read, and of what was held before, in a process that reads for another."""
    folder = os.environ.get(NOTES)
    if not folder or parent_process() is None:
        yield
        return
    from psutil import Process

    note = Path(folder) / str(os.getpid())
    note.write_text(f"{scan}\n{Process().memory_info().rss}", "utf-8")
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def readers_with_room(workers: int, batch: int, room: int | None = None) -> int:
    """As many of the processes that read as have room in shared memory for the batches that they hand over.

    Args:
        workers: as many as were asked for.
        batch: bytes of one batch.
        room: free bytes of shared memory; looked at where None.

    Returns:
        At most `workers`; 0 reads in the training process, which hands nothing over.
    """
    if room is None:
        room = shutil.disk_usage(SHARED).free if Path(SHARED).is_dir() else workers * _AHEAD * batch
    fit = min(workers, room // max(_AHEAD * batch, 1))
    if fit < workers:
        from slivit.data.caching import size_text

        log.warning(
            "%s has %s free, and a process that reads needs %s (%d batches): %d of %d processes read; in a container, "
            "give it more (docker run --shm-size)",
            SHARED, size_text(room), size_text(_AHEAD * batch), _AHEAD, fit, workers,
        )  # fmt: skip
    return fit


@contextmanager
def readers_watched(workers: int) -> Iterator[None]:
    """Say of a reading process that dies while the block runs which scan it was reading.

    Args:
        workers: how many processes read, for the message.

    Raises:
        ReadError: one of them died, as the system ends processes where memory runs out.
    """
    if workers == 0:
        yield
        return
    before = os.environ.get(NOTES)
    with tempfile.TemporaryDirectory(prefix="slivit-reading-") as folder:
        os.environ[NOTES] = folder
        try:
            with _signalled():
                yield
        except RuntimeError as error:
            died = _DIED.search(str(error))
            if died is None:
                raise
            raise ReadError(_told(Path(folder), died[1], died[2] or "", workers)) from error
        finally:
            if before is None:
                del os.environ[NOTES]
            else:
                os.environ[NOTES] = before


@contextmanager
def _signalled() -> Iterator[None]:
    """Let torch say that a process died, where what it was handing over broke off before the system's signal came.

    torch's handler of that signal raises its RuntimeError wherever this process is at that moment.
    """
    try:
        yield
    except (ConnectionError, EOFError):
        time.sleep(_GRACE)
        raise


def _told(folder: Path, pids: str, signal: str, workers: int) -> str:
    from psutil import virtual_memory

    from slivit.data.caching import size_text

    notes = [folder / pid.strip() for pid in pids.split(",")]
    read = [note.read_text("utf-8").rpartition("\n") for note in notes if note.is_file()]
    scans, held = [scan for scan, _, _ in read], max((int(bytes_) for _, _, bytes_ in read), default=0)
    how = f" (signal: {signal})" if signal else ""
    fewer = "set data.workers (--workers) to fewer, 0 to read in this process"
    before = f", and held {size_text(held)} of memory before it" if held else ""
    what = f"; it was reading {one_of(scans)}{before}" if scans else "; it was between two scans"
    return (
        f"a process that reads scans died{how}{what}; {size_text(virtual_memory().available)} are free now. {workers} "
        f"processes read scans; where the system ended one "
        f"because memory ran out, {fewer}. A run goes on with --resume"
    )
