"""Runs commands of slivit, each in a process of its own that begins with all libraries loaded, and ends some of them.

A line of JSON comes in for each command, and one goes out: how it ended, what it said, how long it computed, and which
operations on files it came to. Python tells of those by audit events; the command gets a signal at the one that is
asked for.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import pkgutil
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

APART = ("slivit.viewer", "slivit.__main__", "slivit.machines.worker")
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.link", "os.symlink"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def watch(folder: str, at: int, number: int, counts: Path) -> None:
    """Count the operations below a folder by which files are made and changed, and end this process at one of them."""
    done: list[str] = []
    owner = os.getpid()

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in EVENTS or os.getpid() != owner or not _below(folder, args):
            return
        if event == "open" and not args[2] & WRITING:
            return
        done.append(f"{event} {_kind(args[0])}")
        if len(done) == at:
            os.kill(owner, number)

    sys.addaudithook(hook)
    atexit.register(lambda: counts.write_text(json.dumps(done)))


def _below(folder: str, args: tuple[Any, ...]) -> bool:
    """Whether an operation is below the folder; names that are relative to an open folder count as such."""
    path = args[0]
    if isinstance(path, bytes | os.PathLike):
        path = os.fsdecode(path)
    if not isinstance(path, str):
        return False
    return path.startswith(folder) or (not path.startswith("/") and len(args) > 1 and args[-1] not in (-1, None))


def _kind(path: Any) -> str:
    """A path without what differs between processes: the numbers and random names of drafts and temporary folders."""
    return re.sub(r"[0-9a-f]{6}-\d+-[0-9a-f]{6}|slivit-\w+|\d+", "*", os.fsdecode(path))


def child(job: dict[str, Any]) -> None:
    """Run a command, and never come back."""
    status = 70
    try:
        os.chdir(job["folder"])
        os.environ.update(job.get("env", {}))
        tempfile.tempdir = None  # it is looked for again
        for number, name in ((1, "out.txt"), (2, "err.txt")):
            os.dup2(os.open(Path(job["scratch"]) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        import logging

        from slivit.cli import app

        logging.root.handlers.clear()
        if job.get("memory"):
            used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_DATA, (used + job["memory"], -1))
        if job.get("files"):
            resource.setrlimit(resource.RLIMIT_NOFILE, (job["files"], job["files"]))
        if job.get("user"):
            os.setgroups([])
            os.setgid(job["user"])
            os.setuid(job["user"])
        watch(job["folder"], job.get("at", 0), job.get("signal", signal.SIGKILL), Path(job["scratch"]) / "count.txt")
        app(args=job["argv"], prog_name="slivit")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a command to its end, or to the limit of its time."""
    scratch = Path(job["scratch"])
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "count.txt").unlink(missing_ok=True)
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(job)
    while not (done := os.wait4(pid, os.WNOHANG))[0]:
        if time.monotonic() - begun > job["seconds"]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return {"status": "hung", "said": "", "operations": [], "seconds": job["seconds"]}
        time.sleep(0.01)
    counts = scratch / "count.txt"
    said = "".join((scratch / name).read_text("utf-8", "replace") for name in ("out.txt", "err.txt"))
    operations = json.loads(counts.read_text()) if counts.is_file() else []
    seconds = done[2].ru_utime + done[2].ru_stime
    status = os.waitstatus_to_exitcode(done[1])
    return {"status": status, "said": said[-4000:], "operations": operations, "seconds": seconds}


def main() -> None:
    """Answer until standard input is closed."""
    import slivit

    for module in pkgutil.walk_packages(slivit.__path__, "slivit."):
        if not module.name.startswith(APART):
            import_module(module.name)
    gc.collect()
    gc.freeze()  # so that a process copies fewer pages of what it was forked from
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
