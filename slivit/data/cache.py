"""Preprocessed slices on disk: read and prepared once, and mapped into memory in every epoch after that.

An entry is found by the content of the scan's files, every setting of the preprocessing, and the code that reads and
prepares. A changed file, setting or reader is therefore another entry, and stale slices cannot be had. Random
augmentation comes after the cache, on the batch, and stays random.

    FOLDER/CACHEDIR.TAG            marks the folder; backups leave it out
    FOLDER/contents/ab/ab12.json   the digest of a scan's files, and what they looked like when it was computed
    FOLDER/stacks/SETTINGS/settings.json
    FOLDER/stacks/SETTINGS/cd/cd34.npy
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from slivit.data.cache_entry import Damaged, Stack, encode_stack, read_stack, write_stack
from slivit.data.cache_limit import Kept, Limit, abandoned, kept_files, remove
from slivit.data.content import Digests, Files, files_of
from slivit.data.notes import heard, record
from slivit.data.preprocessing import Preprocessing, crop_slices, load_slices
from slivit.data.slices import Grey
from slivit.errors import SlivitError
from slivit.files import whole_file

log = logging.getLogger(__name__)

_TAG = "CACHEDIR.TAG"
_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55"
_TAG_TEXT = f"{_SIGNATURE}\n# Slices that slivit has preprocessed. This folder may be deleted at any time.\n"
_PAUSE = 300.0  # seconds without trying to store after the disk refused
_TOUCH = 60.0  # seconds: an entry used again within them is not marked again
_DAY = 86400.0
_LATER = {"flips", "sliding"}  # settings of what happens to slices after they were loaded


class CacheError(SlivitError):
    """A cache folder that cannot be used, or cannot take what it was to keep."""


class _Refused(CacheError):
    """A disk or a limit that does not let an entry be stored."""


@dataclass(frozen=True)
class Group:
    """The entries of one preprocessing in a cache.

    Args:
        settings: the preprocessing as plain values.
        scans: how many entries.
        bytes: their size on disk.
        used: when one of them was last used, in seconds since 1970.
        current: whether this version of the code can still find them.
    """

    settings: dict[str, Any]
    scans: int
    bytes: int
    used: float
    current: bool


@dataclass(frozen=True)
class CacheInfo:
    """What a cache folder holds.

    Args:
        folder: where it is.
        groups: the entries by preprocessing.
        partial_bytes: of files half written, by processes at work or killed.
    """

    folder: Path
    groups: tuple[Group, ...]
    partial_bytes: int

    @property
    def scans(self) -> int:
        """How many entries there are."""
        return sum(group.scans for group in self.groups)

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return sum(group.bytes for group in self.groups) + self.partial_bytes


@dataclass(frozen=True)
class _Place:
    """Where the slices of a scan lie, and the files as they were when that was found out."""

    entry: Path
    files: Files


class SliceCache:
    """Preprocessed slices in a folder, shared by any number of processes.

    Two processes that prepare the same scan at once both succeed, and one result stays. Where the disk is full or the
    folder is read-only, scans are still read, with a warning, but not kept. A damaged entry is prepared anew.

    Args:
        folder: made where it is not there; must be empty or a cache.
        max_bytes: the size limit; entries used longest ago make room for new ones. None for no limit.
        verify: read all bytes of a scan's files each time, instead of trusting their size and times: for file systems
            whose times do not tell of changes.

    Raises:
        CacheError: a folder that holds other things, or that cannot be made.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int | None = None, verify: bool = False) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise CacheError(f"{folder}: the cache's size limit must be at least 1 byte, got {max_bytes}")
        self.folder = Path(folder).expanduser().absolute()
        self.max_bytes, self.verify = max_bytes, verify
        self._paused_until = 0.0
        _claim(self.folder)

    def __repr__(self) -> str:
        return f"SliceCache({str(self.folder)!r}, max_bytes={self.max_bytes})"

    def load(self, path: str, settings: Preprocessing) -> Grey:
        """The preprocessed slices of a scan, from the cache or else from its files.

        What was noticed when the scan was prepared is a warning each time.

        Args:
            path: anything that `read_volume` takes.
            settings: the preprocessing, with its size set.

        Returns:
            As `load_slices` returns it.

        Raises:
            ReadError: the scan cannot be read.
        """
        whole = self._load(path, settings.stored)
        return crop_slices(whole, settings.size[1:]) if settings.size else whole

    def _load(self, path: str, settings: Preprocessing) -> Grey:
        place = self._place(path, settings)
        stack = self._kept(place, path)
        if stack is None:
            stack = prepare_stack(path, settings)  # which records what the reader notices
            if time.monotonic() >= self._paused_until:
                self._try_to_store(place, stack, path, settings)
        for note in stack.notes:
            warnings.warn(note, stacklevel=2)
        return stack.slices

    def build(self, path: str, settings: Preprocessing) -> bool:
        """Keep the slices of a scan, where they are not kept already; returns whether they had to be prepared.

        Raises:
            ReadError: the scan cannot be read.
            CacheError: the slices cannot be stored.
        """
        settings = settings.stored
        place = self._place(path, settings)
        if self._kept(place, path) is not None:
            return False
        self._store(place, prepare_stack(path, settings), path, settings)
        return True

    def info(self) -> CacheInfo:
        """What the cache holds."""
        files = list(kept_files(self._stacks))
        by_group: dict[str, list[Kept]] = {}
        for file in files:
            if not file.partial:
                by_group.setdefault(file.path.parts[len(self._stacks.parts)], []).append(file)
        groups = [_group(self._stacks / name, kept) for name, kept in by_group.items()]
        ordered = sorted(groups, key=lambda g: -g.used)
        return CacheInfo(self.folder, tuple(ordered), sum(f.size for f in files if f.partial))

    def clear(self, unused_days: float | None = None) -> int:
        """Remove entries, also while others use the cache; returns the bytes freed.

        Args:
            unused_days: only entries not used for this long; None removes all of them.
        """
        files = list(kept_files(self._stacks))
        if unused_days is not None:
            before = time.time() - unused_days * _DAY
            files = [f for f in files if (abandoned(f) if f.partial else f.used < before)]
        freed = remove(files)
        if unused_days is None:
            shutil.rmtree(self._contents, ignore_errors=True)
        (self.folder / "size").unlink(missing_ok=True)
        return freed

    @property
    def _stacks(self) -> Path:
        return self.folder / "stacks"

    @property
    def _contents(self) -> Path:
        return self.folder / "contents"

    def _place(self, path: str, settings: Preprocessing) -> _Place | None:
        """Where the scan's entry is or would be; None where its files cannot be looked at."""
        import xxhash

        try:
            files = files_of(path)
            digest = Digests(self._contents, self.verify).of(path, files)
        except OSError:
            return None  # reading the scan will tell what is wrong with it
        name = xxhash.xxh3_128_hexdigest(f"{digest}\0{files.item}".encode())
        return _Place(self._stacks / _settings_name(settings) / name[:2] / f"{name}.npy", files)

    def _read(self, entry: Path) -> Stack | None:
        try:
            stack = read_stack(entry)
        except (Damaged, OSError) as error:
            log.warning("%s: %s; the scan is prepared anew", entry, error)
            return None
        if stack is not None and time.time() - stack.used > _TOUCH:
            _mark_used(entry)
        return stack

    def _kept(self, place: _Place | None, path: str) -> Stack | None:
        """The stack of a scan, where it is kept; what the reader noticed when it was made is recorded."""
        stack = self._read(place.entry) if place else None
        if stack is not None:
            record(path, stack.seen)
        return stack

    def _try_to_store(self, place: _Place | None, stack: Stack, path: str, settings: Preprocessing) -> None:
        """Keep a stack; where that fails, say so, and where the disk refused, leave it in peace for a while."""
        try:
            self._store(place, stack, path, settings)
        except _Refused as error:
            self._paused_until = time.monotonic() + _PAUSE
            log.warning("%s; scans are read anew each time. Free space, or choose another folder or limit.", error)
        except CacheError as error:
            log.warning("%s", error)

    def _store(self, place: _Place | None, stack: Stack, path: str, settings: Preprocessing) -> None:
        parts = encode_stack(stack, path)
        size = sum(memoryview(part).nbytes for part in parts)
        try:
            if place is None:
                raise CacheError(f"{path}: its slices are not kept, because its files cannot be looked at")
            if files_of(path) != place.files:
                raise CacheError(f"{path}: its slices are not kept, because its files changed while they were read")
            if not Limit(self.folder, self._stacks, self.max_bytes).reserve(size):
                raise _Refused(f"{self.folder}: {size} bytes of slices do not fit under the limit of {self.max_bytes}")
            _describe(self._stacks / _settings_name(settings), settings)
            write_stack(place.entry, parts)
        except OSError as error:
            reason = getattr(error.__cause__ or error, "strerror", None) or str(error) or type(error).__name__
            raise _Refused(f"{self.folder}: preprocessed slices cannot be stored ({reason})") from error


def open_cache(folder: str | Path) -> SliceCache:
    """An existing cache.

    Raises:
        CacheError: the folder is no cache.
    """
    if not (Path(folder).expanduser() / _TAG).is_file():
        raise CacheError(f"{folder}: is no cache of preprocessed slices; there is no {_TAG} in it")
    return SliceCache(folder)


def _claim(folder: Path) -> None:
    """Make the folder and mark it as a cache, once."""
    tag = folder / _TAG
    try:
        if tag.is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        # Another process may be claiming it now: its tag, or the hidden draft of it, may be there by then.
        others = [p.name for p in folder.iterdir() if p.name != _TAG and not p.name.startswith(".")]
        if others and not tag.is_file():
            raise CacheError(f"{folder}: holds other things ({others[0]}), so it is no cache; give a new folder")
        with whole_file(tag) as partial:
            partial.write_text(_TAG_TEXT, "utf-8")
    except OSError as error:
        raise CacheError(f"{folder}: cannot be made into a cache ({error.strerror or error})") from error


def prepare_stack(path: str, settings: Preprocessing) -> Stack:
    """Read and preprocess a scan, and catch what is noticed on the way."""
    with heard() as seen, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        slices = load_slices(path, settings)
    warned = dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning))
    return Stack(slices, tuple(warned), tuple(seen))


def _mark_used(entry: Path) -> None:
    """Say that an entry was used now; a folder of somebody else's may be read all the same."""
    try:
        os.utime(entry)
    except OSError:
        return


def _text_of(settings: Preprocessing) -> str:
    """Everything beside the scan itself that its slices depend on."""
    values = settings.model_dump(mode="json", exclude=_LATER)
    return json.dumps({"code": code_version(), "settings": values}, sort_keys=True)


def _settings_name(settings: Preprocessing) -> str:
    import xxhash

    return xxhash.xxh3_64_hexdigest(_text_of(settings).encode())


def _describe(folder: Path, settings: Preprocessing) -> None:
    """Write down which settings the entries of a folder are for."""
    if not (folder / "settings.json").is_file():
        with whole_file(folder / "settings.json") as partial:
            partial.write_text(_text_of(settings), "utf-8")


def _group(folder: Path, kept: Iterable[Kept]) -> Group:
    kept = list(kept)
    try:
        described = json.loads((folder / "settings.json").read_bytes())
    except (OSError, ValueError):
        described = {"settings": {}, "code": ""}
    current = described["code"] == code_version()
    return Group(described["settings"], len(kept), sum(f.size for f in kept), max(f.used for f in kept), current)


@lru_cache(maxsize=1)
def code_version() -> str:
    """A number that stands for all code between a file and its slices: another release never reads stale slices."""
    import xxhash

    digest = xxhash.xxh3_64()
    for source in code_files():
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()


def code_files() -> list[Path]:
    """The source files between a scan's file and its slices."""
    here = Path(__file__).parent
    names = ("preprocessing", "stacking", "foreground", "physical", "slices", "windows")
    own = [here / f"{name}.py" for name in names]
    return [*sorted((here / "readers").glob("*.py")), here.parent / "volume.py", *own]
