"""The files of a scan, wherever they lie: on disk or inside a zip archive."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from slivit.data.readers.base import decoding, natural_key
from slivit.errors import ReadError

_LARGE = 1 << 30  # bytes
_DENSEST = 100  # scans in a zip shrink to a half or a tenth, never to a hundredth


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
    """Return all files below `folder` in natural order, without clutter."""
    return sorted(_walk(folder), key=lambda entry: natural_key(entry.name))


def _walk(folder: Path) -> Iterator[FileEntry]:
    for parent, _, names in os.walk(folder, onerror=_raise):
        inside = Path(parent).relative_to(folder).as_posix()
        for name in names:
            relative = name if inside == "." else f"{inside}/{name}"
            if not _is_clutter(relative) and os.path.isfile(f"{parent}/{name}"):  # noqa: PTH113 (hundreds of files)
                yield FileEntry(Path(parent, name), relative)


def _raise(error: OSError) -> None:
    raise error


def zip_entries(path: Path, source: str) -> list[Entry]:
    """Return the files of a zip archive in natural order, without clutter.

    Raises:
        ReadError: the archive is damaged, encrypted, or unpacks to an absurd size (a zip bomb).
    """
    with decoding(source, "zip archive"):
        archive = zipfile.ZipFile(path)
    members = [info for info in archive.infolist() if not info.is_dir() and not _is_clutter(info.filename)]
    if any(info.flag_bits & 1 for info in members):
        raise ReadError(f"{source}: the archive is encrypted. Unpack it with its password and give the folder.")
    unpacked = sum(info.file_size for info in members)
    if unpacked > max(_LARGE, _DENSEST * path.stat().st_size):
        raise ReadError(f"{source}: would unpack to {unpacked / 1e9:.0f} GB, too much to be scans. It was left alone.")
    entries: list[Entry] = [ZipEntry(archive, info) for info in members]
    return sorted(entries, key=lambda entry: natural_key(entry.name))


def _is_clutter(name: str) -> bool:
    """True for hidden files and the leftovers of desktops: .DS_Store, __MACOSX, Thumbs.db."""
    parts = name.split("/")
    if any(part.startswith((".", "__MACOSX")) for part in parts[:-1] if part != "..") or parts[-1].startswith("."):
        return True
    return parts[-1].casefold() in ("thumbs.db", "desktop.ini")
