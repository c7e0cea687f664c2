"""The size of a cache folder: counted, kept below a limit, and the entries used longest ago removed for new ones."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slivit.files import whole_file

_COUNTER, _LOCK = "size", "size.lock"
_PATIENCE = 60.0  # seconds to wait for another process that makes room
_ABANDONED = 3600.0  # seconds after which a half-written file is taken for one whose process was killed
_ROOM = 0.1  # of the limit is freed at once, so that not every new entry looks through the folder


@dataclass(frozen=True)
class Kept:
    """A file of a cache: an entry, or one that is still being written."""

    path: Path
    size: int
    used: float
    partial: bool


def kept_files(folder: Path) -> Iterator[Kept]:
    """Walk all entries below a folder, also those half written. Files that vanish meanwhile are passed over."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if not name.endswith((".npy", ".safetensors")):
                continue
            path = Path(parent, name)
            with contextlib.suppress(OSError):
                stat = path.stat()
                yield Kept(path, stat.st_size, stat.st_mtime, name.startswith("."))


def remove(files: Iterator[Kept] | list[Kept]) -> int:
    """Remove files and return the bytes freed; those that are in use (Windows) or vanished are passed over."""
    freed = 0
    for file in files:
        with contextlib.suppress(OSError):
            file.path.unlink()
            freed += file.size
    return freed


def abandoned(file: Kept) -> bool:
    """Whether a file was left half written by a process that was killed."""
    return file.partial and time.time() - file.used > _ABANDONED


@dataclass(frozen=True)
class Limit:
    """Room for entries in a folder that many processes write to.

    Each counts its entry, under a lock, before it writes it; so the folder never holds more than the limit.

    Args:
        folder: the cache's folder.
        stacks: its subfolder of entries.
        max_bytes: the limit; None for none.
    """

    folder: Path
    stacks: Path
    max_bytes: int | None

    def reserve(self, size: int) -> bool:
        """Make room for an entry of `size` bytes, and say whether there is any.

        Raises:
            OSError: the folder cannot be written to, or another process holds the lock for too long.
        """
        if self.max_bytes is None:
            # Entries come in uncounted, so that a process with a limit has to count anew.
            (self.folder / _COUNTER).unlink(missing_ok=True)
            return True
        if size > self.max_bytes:
            return False
        from filelock import FileLock

        with FileLock(self.folder / _LOCK, timeout=_PATIENCE):
            counted = self._counted()
            if counted is None or counted + size > self.max_bytes:
                counted = self._evict(size, self.max_bytes)
            fits = counted + size <= self.max_bytes
            self._count(counted + size if fits else counted)
        return fits

    def _counted(self) -> int | None:
        try:
            return int((self.folder / _COUNTER).read_text())
        except (OSError, ValueError):
            return None

    def _count(self, total: int) -> None:
        with whole_file(self.folder / _COUNTER) as partial:
            partial.write_text(str(total))

    def _evict(self, size: int, limit: int) -> int:
        """Remove what was left half written, and, where the entry does not fit, the entries used longest ago."""
        files = sorted(kept_files(self.stacks), key=lambda file: file.used)
        total = sum(file.size for file in files)
        total -= remove([file for file in files if abandoned(file)])
        if total + size <= limit:
            return total
        target = max(0, int(limit * (1 - _ROOM)) - size)
        for file in (f for f in files if not f.partial):
            if total <= target:
                break
            total -= remove([file])
        return total
