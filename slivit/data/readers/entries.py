"""The files of a scan, wherever they lie: on disk or inside a zip archive."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from slivit.data.readers.base import MAX_GB, check_members, decoding, natural_order, size_limit
from slivit.errors import ReadError


class Entry(Protocol):
    """A file that can be opened any number of times."""

    @property
    def name(self) -> str:
        """The name relative to the scan's folder or archive, with forward slashes."""

    @property
    def size(self) -> int:
        """Bytes when opened."""

    @property
    def path(self) -> Path | None:
        """Where it lies on disk; None inside an archive."""

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


@dataclass(frozen=True)
class ZipEntry:
    """A member of an archive, unpacked in memory as it is read; nothing is ever written to disk."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo

    @property
    def name(self) -> str:
        return self.info.filename

    @property
    def size(self) -> int:
        return self.info.file_size

    @property
    def path(self) -> None:
        return None

    def open(self) -> BinaryIO:
        return cast(BinaryIO, self.archive.open(self.info))


def file_entry(path: Path) -> FileEntry:
    """Return the entry of one file by itself."""
    return FileEntry(path, path.name)


def folder_entries(folder: Path) -> list[Entry]:
    """Return all files below `folder` in natural order, without clutter; links to folders are followed."""
    return _sorted([FileEntry(Path(entry.path), name) for name, entry in walk(os.fspath(folder))])


def _sorted(entries: list[Entry]) -> list[Entry]:
    order = natural_order(entry.name for entry in entries)
    return sorted(entries, key=lambda entry: order(entry.name))


def walk(folder: str, inside: str = "", above: tuple[str, ...] = ()) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield all files below a folder with their names relative to it, without clutter; links are followed.

    Raises:
        ReadError: a link that leads back to a folder that it lies in.
    """
    real = os.path.realpath(folder)
    if real in above:
        raise ReadError(f"{folder}: is a link that leads back to {real!r}, a folder that it lies in. Remove the link.")
    with os.scandir(folder) as listing:
        for entry in listing:
            name = inside + entry.name
            if entry.is_dir():
                if not entry.name.startswith((".", "__MACOSX")):
                    yield from walk(entry.path, f"{name}/", (*above, real))
            elif not _is_clutter(entry.name) and entry.is_file():
                yield name, entry


def zip_entries(path: Path, source: str) -> list[Entry]:
    """Return the files of a zip archive in natural order, without clutter.

    Raises:
        ReadError: the archive is damaged, encrypted, of too many files, or unpacks to an absurd size (a zip bomb).
    """
    check_members(path, source)
    with decoding(source, "zip archive"):
        archive = zipfile.ZipFile(path)
    members = [info for info in archive.infolist() if not info.is_dir() and not _is_clutter(info.filename)]
    if any(info.flag_bits & 1 for info in members):
        raise ReadError(f"{source}: the archive is encrypted. Unpack it with its password and give the folder.")
    unpacked = sum(info.file_size for info in members)
    if unpacked > size_limit(path.stat().st_size):
        raise ReadError(
            f"{source}: would unpack to {unpacked / 1e9:.3g} GB, too much to be scans. It was left alone; where it is "
            f"right, unpack it and give the folder, or set the environment variable {MAX_GB} to more."
        )
    return _sorted([ZipEntry(archive, info) for info in members])


def _is_clutter(name: str) -> bool:
    """True for hidden files and the leftovers of desktops: .DS_Store, __MACOSX, Thumbs.db."""
    parts = name.split("/")
    if any(part.startswith((".", "__MACOSX")) for part in parts[:-1] if part != "..") or parts[-1].startswith("."):
        return True
    return parts[-1].casefold() in ("thumbs.db", "desktop.ini")
