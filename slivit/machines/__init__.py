"""Where calls are made: in this process, in processes of this machine, or on the machines of a Ray cluster.

Studies, curves, sweeps, planned runs, checks, preparation, prediction and features hand out their work through
`Machines`. A call is a function that another process can import by name, and something that can be pickled; what a call
leaves lies in folders that all machines see.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
TRIES, READING_TRIES = 4, 2  # a scan that kills its reader does so every time


class Died(Exception):
    """The process in which a call was made ended before it answered; the message says how."""


class Lost(Died):
    """It ended with its machine, or in a way that says nothing of the call; another machine may do better."""


class Machines:
    """A place for calls: this one is the process itself.

    Args:
        slots: calls at a time; 0 where they are made in the caller's own thread.
        tries: how often a call is made, at most, where machines are lost.
    """

    def __init__(self, slots: int = 0, tries: int = TRIES) -> None:
        self.slots, self.tries = slots, tries

    def once(self, function: Callable[[Item], Result], item: Item) -> Result:
        """Make a call, and wait for what it gives; safe to use from as many threads as there are slots.

        Raises:
            Died: its process ended.
            Exception: what the function raised.
        """
        return function(item)

    def call(
        self, function: Callable[[Item], Result], item: Item, again: Callable[[Item], Item] | None = None
    ) -> Result:
        """Make a call, and make it again where its machine was lost.

        Args:
            function: importable by name in another process.
            item: what it is called on.
            again: makes what it is called on when it is made again.

        Raises:
            Died: its process ended, or machine after machine was lost.
            Exception: what the function raised.
        """
        for left in reversed(range(self.tries)):
            try:
                return self.once(function, item)
            except Lost:
                if not left:
                    raise
                item = again(item) if again else item
        raise AssertionError  # the last try returns or raises

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item], died: Callable[[Item, str], Result]
    ) -> Iterator[tuple[int, Result]]:
        """Give (index, result) for every item, in the order in which they are done.

        Args:
            function: importable by name in another process.
            items: what it is called on.
            died: makes the result of an item whose process died, and is called with how.
        """

        def made(item: Item) -> Result:
            try:
                return self.call(function, item)
            except Died as error:
                return died(item, str(error))

        if not self.slots:
            yield from ((i, made(item)) for i, item in enumerate(items))
            return
        queue, running = iter(range(len(items))), dict[Future[Result], int]()
        threads = ThreadPoolExecutor(self.slots, "slivit-call")
        try:
            while True:
                # A few ahead: enough to keep all busy, and few enough to keep memory flat.
                for i in islice(queue, 2 * self.slots - len(running)):
                    running[threads.submit(made, items[i])] = i
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def work(self, take: Callable[[], Item | None], make: Callable[[Item], None]) -> None:
        """Make jobs until there are no more, as many at a time as there are slots.

        Args:
            take: gives the next job, waiting for it where others must end first; None where there are no more.
            make: makes a job through `call`, and keeps what came of it.

        Raises:
            Exception: what `take` or `make` raised first.
        """
        bugs: list[Exception] = []

        def drain() -> None:
            try:
                while (job := take()) is not None:
                    make(job)
            except Exception as error:
                bugs.append(error)

        threads = [threading.Thread(target=drain, daemon=True) for _ in range(self.slots)]
        for thread in threads:
            thread.start()
        if not threads:
            drain()
        for thread in threads:
            thread.join()
        if bugs:
            raise bugs[0]

    def close(self) -> None:
        """End what was started; calls that are being made raise SystemExit or `Died`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def readers_at(cluster: str, workers: int) -> Iterator[int | Machines]:
    """Who reads scans: so many processes of this machine, or the cores of a Ray cluster where one is named.

    Raises:
        SlivitError: Ray is not installed, or there is no such cluster.
    """
    if not cluster:
        yield workers
        return
    from slivit.machines.cluster import Cluster

    with Cluster(cluster, reading=True) as machines:
        yield machines


def machines_at(cluster: str, count: int | None, logs: Path) -> Machines:
    """The place that a command was told to work in.

    Args:
        cluster: "auto", "ray://HOST:PORT" or "HOST:PORT" of a Ray cluster; this machine where empty.
        count: calls at a time on this machine; one for each GPU where None, or one on a CPU. 0: in this process.
        logs: the folder for what processes of this machine print.

    Raises:
        SlivitError: Ray is not installed, or there is no such cluster.
    """
    if cluster:
        from slivit.machines.cluster import Cluster

        return Cluster(cluster)
    gpus = devices() if count != 0 else []
    count = count if count is not None else len(gpus) or 1
    if not count:
        return Machines()
    from slivit.machines.local import Local

    return Local(count, logs, gpus)


def devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none on a CPU."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
