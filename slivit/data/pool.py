"""Call a function on many items in other processes, and live on where one of them dies."""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import TypeVar

from slivit.machines import Machines

Item = TypeVar("Item")
Result = TypeVar("Result")
Chunks = list[range]

_CHUNK = 8
_AHEAD = 3  # chunks waiting for each worker: enough to keep it busy, few enough to keep memory flat


def spread(
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
        in_hand, chunks = yield from _run(function, items, chunks, workers, workers * _AHEAD)
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
