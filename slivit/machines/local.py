"""Processes of this machine: each sees its own GPU, and makes one call at a time."""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from slivit.device import cores
from slivit.machines import Died, Machines

Item = TypeVar("Item")
Result = TypeVar("Result")


class Worker:
    """A process that makes calls, started when it is first needed and again after it died.

    Args:
        log: the file for what it prints.
        device: the GPU that it sees; None leaves that as it is.
        threads: of torch on the CPU, where the environment does not say.
    """

    def __init__(self, log: Path, device: str | None = None, threads: int = 1) -> None:
        self.command = [sys.executable, "-m", "slivit.machines.worker"]
        self.log = log
        self.environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONPATH": _python_path()}
        if device is not None:
            self.environment["CUDA_VISIBLE_DEVICES"] = device
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False

    def __call__(self, function: Callable[[Item], Result], item: Item) -> Result:
        """Make a call in the process.

        Raises:
            Died: the process ended.
            SystemExit: the worker was stopped, so that nothing is known of the call.
        """
        if self.stopped:
            raise SystemExit
        process = self.process if self.process and self.process.poll() is None else self._start()
        try:
            pickle.dump((function, item), _pipe(process.stdin))
            _pipe(process.stdin).flush()
            fine, answer = pickle.load(_pipe(process.stdout))
        except (BrokenPipeError, EOFError) as error:
            if self.stopped:
                raise SystemExit from None
            raise Died(_ended(process.wait(), self.log)) from error
        if fine:
            return answer
        raise answer

    def _start(self) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self.environment
            )
        return self.process

    def stop(self) -> None:
        """End the process; the run that it makes can go on later."""
        self.stopped = True
        if self.process:
            self.process.kill()
            self.process.wait()


class Local(Machines):
    """Processes of this machine, spread over its GPUs, or over the cores of a CPU.

    Args:
        count: of the processes.
        logs: the folder for what they print.
        gpus: as CUDA_VISIBLE_DEVICES names them; none on a CPU.
    """

    def __init__(self, count: int, logs: Path, gpus: Sequence[str] = ()) -> None:
        super().__init__(count)
        threads = max(1, cores() // count)
        names = [gpus[i % len(gpus)] if gpus else None for i in range(count)]
        self.workers = [Worker(logs / f"{i}.txt", name, threads) for i, name in enumerate(names)]
        self._free: queue.Queue[Worker] = queue.Queue()
        for worker in self.workers:
            self._free.put(worker)

    def once(self, function: Callable[[Item], Result], item: Item) -> Result:
        """Make a call in a process that is free."""
        worker = self._free.get()
        try:
            return worker(function, item)
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers:
            worker.stop()


def _pipe(pipe: IO[bytes] | None) -> Any:
    assert pipe is not None  # Popen was asked for both
    return pipe


def _python_path() -> str:
    """A path on which the worker finds this very package, also where it is not installed."""
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])


def _ended(status: int, log: Path) -> str:
    if status == -9:
        return "the process was killed (signal 9), as the system does where memory runs out"
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return f"the process ended with {how}; {log} may say why"
