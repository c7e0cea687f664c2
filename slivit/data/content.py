"""What a scan's files contain, as one number: another byte gives another number, another place the same."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slivit.data.readers import itk
from slivit.data.readers.address import parts_of, split_address
from slivit.data.readers.entries import walk
from slivit.files import whole_file

_Entry = tuple[str, str, os.stat_result]  # name, path, what the file looks like

_BLOCK = 1 << 20
_MASK = (1 << 64) - 1
_RACY = 2_000_000_000  # ns: some file systems keep times this coarsely; younger files may change and keep theirs
_PAIRS = {".hdr": ".img", ".img": ".hdr"}


@dataclass(frozen=True)
class Files:
    """The files that a scan is read from, and how they were when looked at.

    Args:
        paths: name (relative to a folder, or the file's own) and path of each, in order of their names.
        item: the item of a file that holds many, such as "train/17", or "".
        state: size, times and place on disk of all of them, as one hexadecimal number.
        changed: when the youngest of them was written or renamed, in ns since 1970.
    """

    paths: tuple[tuple[str, str], ...]
    item: str
    state: str
    changed: int


def files_of(path: str) -> Files:
    """Look at the files of a scan, without reading them.

    Args:
        path: anything that `read_volume` takes.

    Raises:
        OSError: a file is missing or must not be looked at.
    """
    import xxhash

    if len(parts := parts_of(path)) > 1:
        return _together([files_of(part) for part in parts])
    file, item = split_address(path)
    files = _folder(file) if os.path.isdir(file) else list(_alone(Path(file)))  # noqa: PTH112
    # The time of the last change of status cannot be set back by hand, so an edit that keeps size and date shows too.
    numbers = [n & _MASK for _, _, s in files for n in (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)]
    state = xxhash.xxh3_128(struct.pack(f"{len(numbers)}Q", *numbers))
    state.update("\0".join([name for name, _, _ in files]).encode("utf-8", "surrogateescape"))
    changed = max((max(s.st_mtime_ns, s.st_ctime_ns) for _, _, s in files), default=0)
    return Files(tuple((name, where) for name, where, _ in files), item, state.hexdigest(), changed)


def _together(parts: Sequence[Files]) -> Files:
    """The files of a scan of several channels, as their order tells them."""
    paths = tuple((f"{place}/{name}", path) for place, part in enumerate(parts) for name, path in part.paths)
    items, states = ("\0".join(getattr(part, name) for part in parts) for name in ("item", "state"))
    return Files(paths, items, states, max(part.changed for part in parts))


def _folder(folder: str) -> list[_Entry]:
    """The files that readers look at, and how they are."""
    return sorted((name, entry.path, entry.stat()) for name, entry in walk(folder))


def _alone(file: Path) -> Iterator[_Entry]:
    for path in (file, *_companions(file)):
        yield path.name, str(path), path.stat()


def _companions(file: Path) -> list[Path]:
    """The other files of a scan whose header lies apart from its values."""
    suffix = file.suffix.casefold()
    if suffix in _PAIRS:
        other = file.with_suffix("")
        ends = (_PAIRS[suffix], _PAIRS[suffix].upper())
        return [p for end in ends if (p := other.with_name(other.name + end)).is_file()][:1]
    if suffix not in itk.SUFFIXES:
        return []
    return sorted(p for name in itk.data_files(file) if (p := file.parent / name).is_file())


def digest_of(files: Files) -> str:
    """Read all bytes of the files, and return a number of 128 bits that stands for them, in hexadecimal.

    The number does not protect against forgers (XXH3 is no cryptographic hash), and two scans share it by chance once
    in 2^64 scans.

    Raises:
        OSError: a file cannot be read.
    """
    import xxhash

    whole, block = xxhash.xxh3_128(), bytearray(_BLOCK)
    alone = len(files.paths) == 1
    for name, path in files.paths:
        own = _file_digest(path, block)
        whole.update(own if alone else own + os.fsencode(name) + b"\0")
    return whole.hexdigest()


def _file_digest(path: str, block: bytearray) -> bytes:
    import xxhash

    digest = xxhash.xxh3_128()
    view = memoryview(block)
    with Path(path).open("rb", buffering=0) as stream:
        while size := stream.readinto(block):
            digest.update(view[:size])
    return digest.digest()


@dataclass(frozen=True)
class Digests:
    """Digests kept on disk, so that files which look the same as last time are not read again.

    A file looks the same where its size, its time of writing, its time of change and its place on disk are the same.

    Args:
        folder: one small file a scan.
        verify: never trust what is kept.
    """

    folder: Path
    verify: bool = False

    def of(self, path: str, files: Files) -> str:
        """The digest of a scan's files, from memory where they have not changed.

        Raises:
            OSError: a file cannot be read.
        """
        note = self._note(path, files)
        kept = None if self.verify else _read_note(note)
        if kept is not None and kept.get("state") == files.state:
            return str(kept["digest"])
        digest = digest_of(files)
        if time.time_ns() - files.changed > _RACY:
            _write_note(note, {"path": path, "state": files.state, "digest": digest})
        return digest

    def _note(self, path: str, files: Files) -> Path:
        import xxhash

        file = os.path.abspath(path.removesuffix(f"#{files.item}") if files.item else path)  # noqa: PTH100
        name = xxhash.xxh3_64_hexdigest(os.fsencode(file))
        return self.folder / name[:2] / f"{name}.json"


def _read_note(note: Path) -> dict[str, str] | None:
    try:
        kept = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) and "digest" in kept else None


def _write_note(note: Path, kept: dict[str, str]) -> None:
    """Keep a digest; where that fails it is computed again next time, and nothing is lost."""
    try:
        with whole_file(note) as partial:
            partial.write_text(json.dumps(kept), "utf-8")
    except OSError:
        return
