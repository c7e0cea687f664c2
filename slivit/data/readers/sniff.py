"""What a path holds: recognised by its first bytes, else by its name."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from slivit.data.readers.base import counted
from slivit.data.readers.entries import Entry, file_entry, folder_entries, zip_entries
from slivit.data.readers.mp4 import STARTS as MP4_STARTS
from slivit.errors import ReadError, mounting, nearest

_HEAD = 512
_GZIP = b"\x1f\x8b"
_STARTS = {
    b"\x89PNG\r\n\x1a\n": "image",
    b"\xff\xd8\xff": "image",
    b"II*\0": "image",
    b"MM\0*": "image",
    b"II+\0": "image",
    b"MM\0+": "image",
    b"PK\x03\x04": "zip",
    b"GIF8": "video",
    b"\0\0\x01\xba": "video",
    b"\0\0\x01\xb3": "video",
    b"\x1a\x45\xdf\xa3": "video",
    b"\x93NUMPY": "npy",
    b"NRRD000": "itk",
    b"HSF-OCT-": "heidelberg",
    b"CMDb": "heidelberg",
}
# A dataset without preamble starts with an element of group 8: its length, character set, image type or class.
_BARE_DICOM = (b"\x08\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0")
_IN_MEMORY = ("dicom", "image", "nifti")  # what can be read from inside a zip

Suffixes = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Found:
    """What a path holds.

    Args:
        format: the name of its reader.
        path: the file or folder.
        entries: its files: all those below a folder or inside an archive, or the one.
        notes: what the user should know.
        source: what messages call it.
    """

    format: str
    path: Path
    entries: Sequence[Entry]
    notes: tuple[str, ...] = ()
    source: str = ""


def recognise(path: Path, source: str, suffixes: Suffixes) -> Found:
    """Return the format and the files of a path.

    Args:
        path: the file or folder.
        source: its name for messages.
        suffixes: the file names of each format.
    """
    if not path.exists():
        raise ReadError(f"{source}: no such file or folder.{_near(path)}")
    if path.is_dir():
        return _recognise_many(path, folder_entries(path), source, "folder", suffixes)
    if not path.is_file():
        raise ReadError(f"{source}: is neither a file nor a folder.")
    entry = file_entry(path)
    kind = recognise_file(entry, source, suffixes)
    if kind == "zip":
        return _recognise_zip(path, source, suffixes)
    return Found(kind, path, [entry])


def recognise_file(entry: Entry, source: str, suffixes: Suffixes) -> str:
    """Return the format of one file, or "zip"."""
    with entry.open() as stream:
        head = stream.read(_HEAD)
    if not head:
        raise ReadError(f"{source}: the file is empty. Copy or export it again.")
    kind = by_content(head, entry.name) or by_name(entry.name, suffixes)
    if kind is None:
        known = ", ".join(s for group in suffixes.values() for s in group)
        raise ReadError(f"{source}: is of no known format. Known are {known}, .zip, and DICOM files of any name.")
    return kind


def holds_dicom(file: Path) -> bool:
    """Whether a file is DICOM by what it holds, whatever its name."""
    return _content(file_entry(file)) == "dicom"


def by_content(head: bytes, name: str) -> str | None:
    """Return the format that the first 512 bytes of a file prove, or None."""
    if head[128:132] == b"DICM" or head[:4] in _BARE_DICOM:
        return "dicom"
    if head[:4] == b"PK\x03\x04" and name.casefold().endswith(".npz"):
        return "npz"
    if _is_nifti(head) or (head[:2] == _GZIP and _is_nifti(_unpacked(head))):
        return "nifti"
    if head[4:8] in MP4_STARTS or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return "video"
    return next((kind for start, kind in _STARTS.items() if head.startswith(start)), None)


def by_name(name: str, suffixes: Suffixes) -> str | None:
    """Return the format that a file name stands for, or None."""
    folded = name.casefold()
    return next((kind for kind, ends in suffixes.items() if folded.endswith(tuple(ends))), None)


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] == b"n+2\0"


def _unpacked(head: bytes) -> bytes:
    """Return what the start of a gzipped file unpacks to; nothing where it is damaged."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    except zlib.error:
        return b""


def _recognise_many(path: Path, entries: Sequence[Entry], source: str, place: str, suffixes: Suffixes) -> Found:
    """Return what many files are: one DICOM series, one scan of another format, or else the frames of one.

    Pictures beside a scan are previews of it. Two scans, or two formats, are an error that lists them.
    """
    if not entries:
        raise ReadError(f"{source}: the {place} is empty.")
    names = [by_name(entry.name, suffixes) for entry in entries]
    unsure = (entry for entry, kind in zip(entries, names, strict=True) if kind != "image")  # DICOM has any name
    is_dicom = "dicom" in names or any(_content(entry) == "dicom" for entry in unsure)
    if not is_dicom:
        names = [kind or _content(entry) for entry, kind in zip(entries, names, strict=True)]
    scans = _whole_scans(entries, names)
    if is_dicom:
        scans = [entry for entry in scans if _content(entry) != "dicom"]  # whatever its name
    if len(scans) + is_dicom > 1:
        listing = ", ".join(repr(e.name) for e in scans[:4]) + (f" and {len(scans) - 4} more" if len(scans) > 4 else "")
        beside = " beside DICOM files" if is_dicom else ""
        raise ReadError(f"{source}: the {place} holds more than one scan: {listing}{beside}. Give the path of one.")
    if is_dicom:
        return Found("dicom", path, entries)
    if scans:
        return _one_scan(path, scans[0], names.count("image"), source, place, suffixes)
    if "image" in names:
        return Found("frames", path, entries)
    raise ReadError(f"{source}: the {place} has no file of a known format (DICOM, NIfTI, TIFF, PNG, JPEG, ...).")


def _whole_scans(entries: Sequence[Entry], names: Sequence[str | None]) -> list[Entry]:
    """Return the files that are a scan each: neither slices (DICOM, images) nor the values beside a header."""
    scans = [e for e, kind in zip(entries, names, strict=True) if kind not in (None, "dicom", "image")]
    headers = {_stem(e.name) for e in scans if e.name.casefold().endswith(".hdr")}
    return [e for e in scans if not (e.name.casefold().endswith(".img") and _stem(e.name) in headers)]


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _one_scan(path: Path, entry: Entry, pictures: int, source: str, place: str, suffixes: Suffixes) -> Found:
    """Return the one scan of a folder or archive."""
    kind = recognise_file(entry, f"{source}/{entry.name}", suffixes)
    if kind == "zip" and entry.path is not None:
        return _recognise_zip(entry.path, source, suffixes)
    if entry.path is None and kind not in _IN_MEMORY:
        raise ReadError(f"{source}: holds {entry.name!r}, which is not read from inside an archive. Unpack it.")
    notes = (f"{counted(pictures, 'picture')} beside {entry.name} ignored",) if pictures else ()
    return Found(kind, entry.path or path, [entry], notes)


def _recognise_zip(path: Path, source: str, suffixes: Suffixes) -> Found:
    """Return what an archive holds: a series, frames, or one file of a format that is read in memory."""
    entries = zip_entries(path, source)
    if len(entries) == 1:
        return _one_scan(path, entries[0], 0, source, "zip archive", suffixes)
    return _recognise_many(path, entries, source, "zip archive", suffixes)


def _content(entry: Entry) -> str | None:
    with entry.open() as stream:
        return by_content(stream.read(_HEAD), entry.name)


def _near(path: Path) -> str:
    """Return a hint at the closest name in the parent folder, or at the part of the path that is missing."""
    if way_out := mounting(path):
        return way_out
    parent = path.parent
    if parent.is_dir():
        return nearest(path.name, (p.name for p in parent.iterdir()))
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    return f" The path is good as far as {parent}."
