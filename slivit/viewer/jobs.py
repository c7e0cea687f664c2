"""Long computations, each done once, that tell how far they are and stop when nobody asks for them any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from slivit.errors import SlivitError
from slivit.viewer.bench import Stopped

PATIENCE = 4.0
"""Seconds after which a computation counts as given up that nobody asked for."""

Progress = Callable[[int, int], None]


@dataclass(eq=False)
class Job:
    """A computation in a thread of its own."""

    asked: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0
    error: str = ""
    stopped: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    def progress(self, done: int, total: int) -> None:
        """Called by the computation; ends it where nobody waits."""
        if time.monotonic() - self.asked > PATIENCE:
            raise Stopped
        self.done, self.total = done, total


class Jobs:
    """What is being computed, by name."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def ask(self, name: str, work: Callable[[Progress], Any], wait: float = 0.3) -> dict[str, Any]:
        """How far a computation is, which begins where it is not going on.

        Args:
            name: of the computation.
            work: the computation; it calls what it is given with (done, total).
            wait: seconds to wait for its end.

        Returns:
            `state` ("done", "running" or "failed"), `done` and `total`, or `error`. One that ended is forgotten; one
            that was stopped because this question came late counts as running, and begins anew with the next one.
        """
        with self._lock:
            job = self._jobs.get(name)
            if job is None:
                job = self._jobs[name] = Job()
                threading.Thread(target=self._run, args=(job, work), daemon=True, name=f"slivit-view {name}").start()
            job.asked = time.monotonic()
        if job.ended.wait(wait):
            with self._lock:
                if self._jobs.get(name) is job:
                    del self._jobs[name]
        if job.stopped or not job.ended.is_set():
            return {"state": "running", "done": job.done, "total": job.total}
        return {"state": "failed", "error": job.error} if job.error else {"state": "done"}

    @staticmethod
    def _run(job: Job, work: Callable[[Progress], Any]) -> None:
        try:
            work(job.progress)
        except Stopped:
            job.stopped = True
        except SlivitError as error:
            job.error = str(error)
        except Exception as error:
            job.error = f"a fault in slivit: {type(error).__name__}: {error}"
            raise
        finally:
            job.ended.set()
