"""Processes that read scans or are called on other items: where one dies, it is said at what, and the rest goes on."""

from __future__ import annotations

import faulthandler
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import TypeVar

from slivit.errors import ReadError, one_of
from slivit.machines import Machines

log = logging.getLogger(__name__)


Item = TypeVar("Item")
Result = TypeVar("Result")
Chunks = list[range]

_CHUNK = 8
_WAITING = 3  # chunks waiting for each worker: enough to keep it busy, few enough to keep memory flat
NOTES = "SLIVIT_READING"
"""The variable of the environment that names the folder of notes; processes that are started inherit it."""
SHARED = "/dev/shm"
"""Where processes hand tensors over; in containers it often holds 64 MB."""
_AHEAD = 3  # batches: two that wait, and one in the making
_GRACE = 2.0  # seconds until the signal of a process that died has come
_DIED = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)(?: is killed by signal: (\w+))?")


def in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int | Machines,
    died: Callable[[Item], Result],
    *,
    chunk: int = _CHUNK,
    limit: float = 0.0,
) -> Iterator[tuple[int, Result]]:
    """Give (index, result) for every item, in the order in which they are done.

    Where a process dies (a decoder that crashes, no memory left), the items that were in hand are tried again, one by
    one in a process of their own.

    Args:
        function: importable by name in another process.
        items: what it is called on.
        workers: how many processes; 0 calls the function here. Or the machines of a cluster.
        died: makes the result of an item on which its own process died.
        chunk: items that a process is given at once; 1 where results are large, since three chunks a process wait.
        limit: seconds that one item may take; a process that takes longer dies. 0 sets no limit, and neither do 0
            workers.
    """
    if workers == 0:
        yield from ((i, function(item)) for i, item in enumerate(items))
        return
    function = partial(_within, function, limit) if limit else function
    suspects: Chunks = []
    chunks = [range(start, min(start + chunk, len(items))) for start in range(0, len(items), chunk)]
    if isinstance(workers, Machines):
        yield from _elsewhere(function, items, chunks, workers, died)
        return
    while chunks:
        in_hand, chunks = yield from _run(function, items, chunks, workers, workers * _WAITING)
        suspects += [range(i, i + 1) for held in in_hand for i in held]
    while suspects:
        in_hand, suspects = yield from _run(function, items, suspects, 1, 1)
        yield from ((i, died(items[i])) for held in in_hand for i in held)


def _elsewhere(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    chunks: Chunks,
    machines: Machines,
    died: Callable[[Item], Result],
) -> Iterator[tuple[int, Result]]:
    """The same on machines, which make a call again by themselves where one of them is lost."""
    suspects: list[int] = []
    parts = [[items[i] for i in chunk] for chunk in chunks]
    for number, results in machines.map(partial(_call, function), parts, lambda *_: None):
        if results is None:
            suspects += chunks[number]
        else:
            yield from zip(chunks[number], results, strict=True)
    alone = machines.map(function, [items[i] for i in suspects], lambda item, _: died(item))
    yield from ((suspects[number], result) for number, result in alone)


def _run(
    function: Callable[[Item], Result], items: Sequence[Item], chunks: Chunks, workers: int, ahead: int
) -> Generator[tuple[int, Result], None, tuple[Chunks, Chunks]]:
    """Run chunks until all are done or a process dies; returns those then in hand, and those not begun."""
    queue = iter(chunks)
    running: dict[Future[list[Result]], range] = {}
    dead: Chunks = []
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)
    try:
        while not dead:
            for chunk in islice(queue, ahead - len(running)):
                running[pool.submit(_call, function, [items[i] for i in chunk])] = chunk
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                chunk = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    dead.append(chunk)
                else:
                    yield from zip(chunk, future.result(), strict=True)
    except BrokenProcessPool:  # raised by submit: `chunk` was not taken on
        dead.append(chunk)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return dead + list(running.values()), list(queue)


def _end_with_parent() -> None:
    """End this process when its parent is gone: a parent that was killed cannot send it home."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _within(function: Callable[[Item], Result], limit: float, item: Item) -> Result:
    """Call a function, and end this process where it takes too long, even if it hangs in a decoder written in C."""
    with Path(os.devnull).open("w") as nothing:
        faulthandler.dump_traceback_later(limit, exit=True, file=nothing)
        try:
            return function(item)
        finally:
            faulthandler.cancel_dump_traceback_later()


def _call(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]


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
        from slivit.files import size_text

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
            raise ReadError(_message(Path(folder), died[1], died[2] or "", workers)) from error
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


def _message(folder: Path, pids: str, signal: str, workers: int) -> str:
    from psutil import virtual_memory

    from slivit.files import size_text

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
