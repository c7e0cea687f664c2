"""Unpack a zip archive of scans that somebody sent, without trusting it."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from slivit.data.readers.base import check_members, decoding
from slivit.errors import ReadError

_LARGE = 1 << 30  # bytes; smaller archives are never suspected
_DENSEST = 100  # scans in a zip shrink to a half or a tenth, never to a hundredth
_BLOCK = 1 << 20
_KEPT_FREE = 1 << 30  # bytes of the disk that are left free
_DRIVE = re.compile(r"^[A-Za-z]:")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip archive into a folder.

    Args:
        archive: the zip file.
        folder: an empty folder that only this process writes to.

    Raises:
        ReadError: the archive is damaged, encrypted or too large, or a name in it leads out of the folder, is a link,
            or occurs twice; then nothing of the archive is used.
    """
    check_members(archive, str(archive))
    with decoding(archive, "zip archive"), zipfile.ZipFile(archive) as opened:
        members = [info for info in opened.infolist() if not info.is_dir()]
        for problem in _problems(archive, members, folder):
            raise ReadError(f"{archive}: {problem}. Nothing of it was unpacked.")
        for info in members:
            _write(opened, info, folder / info.filename, archive)


def _problems(archive: Path, members: list[zipfile.ZipInfo], folder: Path) -> Iterator[str]:
    if not members:
        yield "the archive is empty"
    yield from _bad_names(info.filename for info in members)
    if any(info.flag_bits & 1 for info in members):
        yield "is encrypted; unpack it with its password and give the folder"
    if any(stat.S_ISLNK(info.external_attr >> 16) for info in members):
        yield "holds links, which could lead anywhere"
    size, packed = sum(info.file_size for info in members), archive.stat().st_size
    if size > max(_LARGE, _DENSEST * packed):
        problem = f"would unpack to {size / 1e9:.0f} GB from {packed / 1e9:.3f} GB, too much to be scans"
        yield f"{problem}; where that is right, unpack it and give the folder"
    free = shutil.disk_usage(folder).free
    if size > max(free - _KEPT_FREE, 0):
        yield f"unpacks to {size / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB left; set TMPDIR to a larger disk"


def _bad_names(names: Iterable[str]) -> Iterator[str]:
    listed = list(names)
    for name in listed:
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or _DRIVE.match(name) or "\0" in name:
            yield f"the name {name!r} in it leads out of the folder"
    yield from (f"holds {name!r} twice" for name, count in Counter(listed).items() if count > 1)


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, archive: Path) -> None:
    """Unpack one member, and no more bytes than its header promised."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with opened.open(info) as source, target.open("xb") as out:
        while block := source.read(_BLOCK):
            written += len(block)
            if written > info.file_size:
                raise ReadError(f"{archive}: {info.filename!r} is larger than the archive says; it was left alone.")
            out.write(block)
