"""What readers notice, handed to whoever listens: the block that reads a scan, and the run that gathers all notes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

FOLDER = "SLIVIT_NOTES"
"""The environment variable with the folder in which notes are left; the processes that a run starts inherit it."""

_listening: ContextVar[list[str] | None] = ContextVar("slivit_notes", default=None)


@contextmanager
def heard() -> Iterator[list[str]]:
    """Hear what readers notice in this thread while the block runs."""
    found: list[str] = []
    token = _listening.set(found)
    try:
        yield found
    finally:
        _listening.reset(token)


def record(scan: str, notes: Sequence[str]) -> None:
    """Tell what was noticed in a scan; it is left once a scan for the run that gathers notes, if there is one."""
    if (listening := _listening.get()) is not None:
        listening += notes
    folder = os.environ.get(FOLDER)
    if not folder or not notes:
        return
    import xxhash

    file = Path(folder, f"{xxhash.xxh3_64_hexdigest(os.fsencode(scan))}.json")
    if not file.exists():
        draft = file.with_suffix(f".{os.getpid()}")
        with suppress(OSError):  # notes are not worth a run that dies of them
            file.parent.mkdir(exist_ok=True)
            draft.write_text(json.dumps([scan, *notes]), "utf-8")
            draft.replace(file)
