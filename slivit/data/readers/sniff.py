"""What a path holds: recognised by its first bytes, else by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from slivit.data.readers.entries import Entry, folder_entries
from slivit.errors import ReadError, nearest

_HEAD = 512
_STARTS = {
    b"\x89PNG\r\n\x1a\n": "image",
    b"\xff\xd8\xff": "image",
    b"II*\0": "image",
    b"MM\0*": "image",
    b"II+\0": "image",
    b"MM\0+": "image",
    b"\0\0\x01\xba": "video",
    b"\0\0\x01\xb3": "video",
    b"\x1a\x45\xdf\xa3": "video",
}
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


def recognise(path: Path, source: str, suffixes: Mapping[str, Sequence[str]]) -> str:
    """Return the name of the format of a file or folder.

    Args:
        path: the file or folder.
        source: its name for messages.
        suffixes: the file names of each format.
    """
    if not path.exists():
        raise ReadError(f"{source}: no such file or folder.{_near(path)}")
    if path.is_dir():
        return _recognise_folder(folder_entries(path), source, suffixes)
    if not path.is_file():
        raise ReadError(f"{source}: is neither a file nor a folder.")
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if not head:
        raise ReadError(f"{source}: the file is empty. Copy or export it again.")
    found = by_content(head, path.name) or by_name(path.name, suffixes)
    if found is None:
        known = ", ".join(s for group in suffixes.values() for s in group)
        raise ReadError(f"{source}: is of no known format. Known are {known}, and DICOM files of any name.")
    return found


def by_content(head: bytes, name: str) -> str | None:
    """Return the format that the first 512 bytes of a file prove, or None."""
    if head[128:132] == b"DICM":
        return "dicom"
    if head[:4] == b"PK\x03\x04":
        return "npz" if name.casefold().endswith(".npz") else None
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] == b"n+2\0":
        return "nifti"
    if head[4:8] in _BOXES or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return "video"
    return next((kind for start, kind in _STARTS.items() if head.startswith(start)), None)


def by_name(name: str, suffixes: Mapping[str, Sequence[str]]) -> str | None:
    """Return the format that a file name stands for, or None."""
    folded = name.casefold()
    return next((kind for kind, ends in suffixes.items() if folded.endswith(tuple(ends))), None)


def _recognise_folder(entries: Sequence[Entry], source: str, suffixes: Mapping[str, Sequence[str]]) -> str:
    """Return "dicom" where a file of the folder is DICOM, "frames" where they are images."""
    if not entries:
        raise ReadError(f"{source}: the folder is empty.")
    names = [by_name(entry.name, suffixes) for entry in entries]
    if "dicom" in names or any(_is_dicom(e) for e, kind in zip(entries, names, strict=True) if kind is None):
        return "dicom"
    if "image" in names:
        return "frames"
    held = next((e.name for e, kind in zip(entries, names, strict=True) if kind), None)
    if held is not None:
        raise ReadError(f"{source}: is a folder without DICOM or image files. Give the path of a file: {held!r}.")
    raise ReadError(f"{source}: the folder has no file of a known format (DICOM, TIFF, PNG, JPEG, BMP).")


def _is_dicom(entry: Entry) -> bool:
    with entry.open() as stream:
        head = stream.read(_HEAD)
    return by_content(head, entry.name) == "dicom"


def _near(path: Path) -> str:
    """Return a hint at the closest name in the parent folder, or at the part of the path that is missing."""
    parent = path.parent
    if parent.is_dir():
        return nearest(path.name, (p.name for p in parent.iterdir()))
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    return f" The path is good as far as {parent}."
