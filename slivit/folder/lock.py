"""One process at a time works in a folder; one that died lets the next one in."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from slivit import files
from slivit.errors import RecipeError, WriteError
from slivit.files import write_json

OWNER, GUARD = "lock.json", ".lock"
"""Who works in a folder, and the lock behind it."""

BEAT, SILENT = 30.0, 600.0
"""Seconds between two signs of life of a lock's owner, and after which an owner on another machine counts as dead."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a folder for this process; it is made where it is not there, and not left behind empty.

    Raises:
        RecipeError: another process holds it, or it cannot be made.
    """
    from filelock import FileLock, Timeout

    make_folder(path)
    guard = FileLock(path / GUARD)
    try:
        guard.acquire(timeout=0)
    except Timeout:
        raise RecipeError(_in_use(path, _owner(path) or {})) from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        if (owner := _owner(path)) and _alive(owner, path / OWNER):
            raise RecipeError(_in_use(path, owner))
        with _owned(path):
            yield
    finally:
        guard.release()
        (path / GUARD).unlink(missing_ok=True)
        with suppress(OSError):  # it holds something
            path.rmdir()


@contextmanager
def _owned(path: Path) -> Iterator[None]:
    """Say who holds a folder, with a sign of life every half minute for processes on other machines."""
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    write_json(path / OWNER, {"process": os.getpid(), "born": _born(os.getpid()), "host": _host(), "since": started})
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            with suppress(OSError):
                os.utime(path / OWNER)

    life = threading.Thread(target=beat, daemon=True, name="slivit-lock")
    life.start()
    try:
        yield
    finally:
        ended.set()
        life.join()
        (path / OWNER).unlink(missing_ok=True)


def _owner(path: Path) -> dict[str, Any] | None:
    """Who said last that it holds a folder."""
    try:
        owner = json.loads((path / OWNER).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) and "host" in owner else None  # else damaged: nobody says that


def _alive(owner: Mapping[str, Any], file: Path) -> bool:
    """Whether the owner of a lock still runs: by its process here, by its last sign of life elsewhere."""
    if owner.get("host") == _host():
        born = _born(owner.get("process"))
        return born is not None and born == owner.get("born")
    try:
        return _now(file.parent) - file.stat().st_mtime < SILENT
    except OSError:
        return False


def _now(folder: Path) -> float:
    """The time by the clock of the disk, which all machines share; their own may differ by more than `SILENT`."""
    os.utime(folder / GUARD)
    return (folder / GUARD).stat().st_mtime


def _in_use(path: Path, owner: Mapping[str, Any]) -> str:
    who = f"process {owner.get('process', '(unknown)')} on {owner.get('host', 'this machine')}"
    since = f", since {owner['since']}" if "since" in owner else ""
    return f"{path}: {who} works in this folder{since}; wait for it, or choose another folder with out=FOLDER"


def _host() -> str:
    return socket.gethostname()


def _born(process: Any) -> float | None:
    """When a process of this machine began, which tells it from a later one of the same number; None of a dead one."""
    import psutil

    try:
        return float(psutil.Process(int(process)).create_time())
    except (psutil.Error, TypeError, ValueError):
        return None


def make_folder(folder: Path) -> Path:
    """Make a folder where there is none yet.

    Raises:
        RecipeError: it is a file, or may not be made there.
    """
    try:
        return files.make_folder(folder)
    except WriteError as error:
        raise RecipeError(str(error)) from error
