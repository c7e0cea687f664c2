"""What readers noticed in the scans of a run, gathered from all of its processes and counted by kind."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slivit.parallel import is_main

log = logging.getLogger(__name__)

NOTES = "notes.csv"
USUAL = ("colour converted to grey", "read as sagittal slices", "read as coronal slices")
"""How notes begin that mean nothing where all scans of a set have them."""

_GATHERED = ".notes"
_EXAMPLES = 3
FOLDER = "SLIVIT_NOTES"
"""The environment variable with the folder in which notes are left; the processes that a run starts inherit it."""
_listening: ContextVar[list[str] | None] = ContextVar("slivit_notes", default=None)


@dataclass(frozen=True)
class NoteKind:
    """Notes that say the same, whatever numbers are in them.

    Args:
        example: the first of them.
        scans: the scans that have one.
    """

    example: str
    scans: tuple[Any, ...]

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.scans[:_EXAMPLES]))
        more = f" and {len(self.scans) - _EXAMPLES} more" if len(self.scans) > _EXAMPLES else ""
        number = "1 scan" if len(self.scans) == 1 else f"{len(self.scans)} scans"
        return f"{number}: {self.example} ({shown}{more})"


def counted_notes(notes: Iterable[tuple[Any, str]]) -> list[NoteKind]:
    """Put notes of one kind together, the commonest kind first.

    Args:
        notes: scan and note.

    Example:
        >>> [str(kind) for kind in counted_notes([("a", "2 slices missing"), ("b", "11 slices missing")])]
        ['2 scans: 2 slices missing (a, b)']
    """
    kinds: dict[str, tuple[str, dict[Any, None]]] = {}
    for scan, note in notes:
        kinds.setdefault(kind_of(note), (note, {}))[1][scan] = None
    counted = [NoteKind(example, tuple(scans)) for example, scans in kinds.values()]
    return sorted(counted, key=lambda kind: -len(kind.scans))


def joined_notes(notes: Iterable[str]) -> str:
    """Notes as one cell of a table, whose parts `"; "` divides."""
    return "; ".join(note.replace("; ", ", ") for note in notes)


def kind_of(note: str) -> str:
    """A note without its numbers."""
    return re.sub(r"\d[\d.,]*", "#", note)


@contextmanager
def gathered_notes(folder: Path, file: Callable[[str], Path] | None = None) -> Iterator[Callable[[], None]]:
    """Gather what readers notice while the block runs, in this process and those that it starts.

    At the end, one line for each kind of note is logged, and all of them are kept in `notes.csv`, where there are any.

    Args:
        folder: of the run.
        file: gives the path of a file of the run by its name; by default in the folder.

    Yields:
        What tells of the notes so far.
    """
    own, before = folder / _GATHERED, os.environ.get(FOLDER)
    os.environ[FOLDER] = str(own)
    try:
        yield lambda: _tell(own, file or folder.joinpath)
        if is_main():
            _tell(own, file or folder.joinpath)
    finally:
        os.environ.pop(FOLDER)
        if before is not None:
            os.environ[FOLDER] = before
        if is_main():
            shutil.rmtree(own, ignore_errors=True)


def _tell(own: Path, file: Callable[[str], Path]) -> None:
    notes = sorted((scan, note) for scan, *noticed in map(_read, own.glob("*.json")) for note in noticed)
    if not notes:
        return
    import pandas as pd

    from slivit.data.table import write_table

    for kind in counted_notes(notes):
        log.warning("%s", kind)
    write_table(file(NOTES), pd.DataFrame(notes, columns=["path", "note"]))


def _read(file: Path) -> list[str]:
    notes: list[str] = json.loads(file.read_bytes())
    return notes


@contextmanager
def heard() -> Iterator[list[str]]:
    """Hear what readers notice in this thread while the block runs."""
    noticed: list[str] = []
    token = _listening.set(noticed)
    try:
        yield noticed
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
