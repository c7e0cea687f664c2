"""The processes that make the runs of a study: one a device, each with one run at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from slivit.data.pool import cores
from slivit.experiments.study_worker import answer

Make = Callable[[dict[str, str]], dict[str, str]]
WORKERS = "workers"


def devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none on a CPU."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


class Worker:
    """A process that makes runs, started when it is first needed and again after it died.

    Args:
        number: of the worker, for the name of its log.
        folder: of the study.
        device: the GPU that it sees; None leaves that as it is.
        threads: of torch on the CPU, where the environment does not say.
    """

    def __init__(self, number: int, folder: Path, device: str | None = None, threads: int = 1) -> None:
        self.command = [sys.executable, "-m", "slivit.experiments.study_worker"]
        self.log = folder / WORKERS / f"{number}.txt"
        self.environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONPATH": _python_path()}
        if device is not None:
            self.environment["CUDA_VISIBLE_DEVICES"] = device
        self.process: subprocess.Popen[str] | None = None
        self.stopped = False

    def __call__(self, line: dict[str, str]) -> dict[str, str]:
        """Have a run made.

        Returns:
            What went wrong, as `study_worker.answer` gives it.

        Raises:
            SystemExit: the worker was stopped, so that nothing is known of the run.
        """
        process = self.process if self.process and self.process.poll() is None else self._start()
        try:
            _pipe(process.stdin).write(json.dumps(line) + "\n")
            _pipe(process.stdin).flush()
            answered = _pipe(process.stdout).readline()
        except BrokenPipeError:
            answered = ""
        if self.stopped:
            raise SystemExit
        if not answered:
            return {"error": _ended(process.wait(), self.log), "traceback": ""}
        return json.loads(answered)

    def _start(self) -> subprocess.Popen[str]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment
            )
        return self.process

    def stop(self) -> None:
        """End the process; the run that it makes can go on later."""
        self.stopped = True
        if self.process:
            self.process.kill()
            self.process.wait()


def _pipe(pipe: IO[str] | None) -> IO[str]:
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


def workers(count: int, folder: Path, gpus: Sequence[str]) -> list[Worker]:
    """`count` workers, spread over the GPUs, or over the cores of a CPU."""
    threads = max(1, cores() // count)
    return [Worker(i, folder, gpus[i % len(gpus)] if gpus else None, threads) for i in range(count)]


def work(take: Callable[[], Any], make: Callable[[Any, Make], None], count: int, folder: Path) -> None:
    """Make runs until there are no more.

    Args:
        take: gives the next run, waiting for it where others must end first; None where there are no more.
        make: makes a run by what it is given, and keeps what came of it.
        count: processes; 0 makes the runs in this one.
        folder: of the study.
    """
    if count == 0:
        _drain(take, make, answer)
        return
    pool = workers(count, folder, devices())
    bugs: list[Exception] = []
    threads = [threading.Thread(target=_kept, args=(bugs, take, make, worker), daemon=True) for worker in pool]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        for worker in pool:
            worker.stop()
    if bugs:
        raise bugs[0]


def _kept(bugs: list[Exception], *args: Any) -> None:
    """Work in a thread; what goes wrong beside the runs is kept for who waits for the thread."""
    try:
        _drain(*args)
    except Exception as error:
        bugs.append(error)


def _drain(take: Callable[[], Any], make: Callable[[Any, Make], None], by: Make) -> None:
    while (job := take()) is not None:
        make(job, by)
