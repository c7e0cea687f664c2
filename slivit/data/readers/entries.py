"""The files of a scan, wherever they lie: in a folder or, later, in an archive."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from slivit.data.readers.base import natural_key


class Entry(Protocol):
    """A file that can be opened any number of times."""

    @property
    def name(self) -> str:
        """The name relative to the scan's folder or archive, with forward slashes."""

    @property
    def size(self) -> int:
        """Bytes when opened."""

    def open(self) -> BinaryIO:
        """Return a seekable stream of its bytes."""


@dataclass(frozen=True)
class FileEntry:
    """A file on disk."""

    path: Path
    name: str

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def open(self) -> BinaryIO:
        return self.path.open("rb")


def file_entry(path: Path) -> FileEntry:
    """Return the entry of one file by itself."""
    return FileEntry(path, path.name)


def is_clutter(name: str) -> bool:
    """True for hidden files and the leftovers of desktops: .DS_Store, __MACOSX, Thumbs.db."""
    parts = name.split("/")
    return any(part.startswith((".", "__MACOSX")) for part in parts) or parts[-1].casefold() in (
        "thumbs.db",
        "desktop.ini",
    )


def folder_entries(folder: Path) -> list[FileEntry]:
    """Return all files below `folder` in natural order, without clutter."""
    return sorted(_walk(folder), key=lambda entry: natural_key(entry.name))


def _walk(folder: Path) -> Iterator[FileEntry]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if not is_clutter(relative) and path.is_file():
                yield FileEntry(path, relative)
