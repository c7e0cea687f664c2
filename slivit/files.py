"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from slivit.errors import SlivitError, WriteError, mounting

if TYPE_CHECKING:
    from torch import Tensor


_OUTSIDE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors for which not the program is to blame, but the disk or the rights on it."""
_NUMBER = re.compile(r"os error (\d+)")
_DRAFT = re.compile(r"^\..+\.draft-(?P<machine>[0-9a-f]{6})-?(?P<process>\d*)-?[0-9a-f]{6}(\..*)?$")


def make_folder(path: str | Path) -> Path:
    """Make a folder where there is none yet, and those above it.

    Raises:
        WriteError: it is a file, the address of a store, or may not be made there.
    """
    path = Path(path)
    _check_is_path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise WriteError(f"{path}: is or lies in a file; results are written to a folder") from error
    except OSError as error:
        raise WriteError(f"{path}: this folder cannot be made: {error.strerror}") from error
    return path


def _check_is_path(path: Path) -> None:
    if not path.is_absolute() and not path.exists() and (way_out := mounting(path)):
        raise WriteError(f"{path}: cannot be written.{way_out}")


def check_space(folder: str | Path, needed: int, what: str) -> None:
    """Raise before something long where its result would not fit on the disk.

    Args:
        folder: where the result will lie; it need not exist yet.
        needed: bytes.
        what: is written, for the message.

    Raises:
        WriteError: with the space needed and the space there is.
    """
    there = next(p for p in (Path(folder).absolute(), *Path(folder).absolute().parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise WriteError(f"{folder}: {what} needs {_size(needed)}, and {_size(free)} are free there")


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Say of a full disk or a missing right what could not be written, and how much space it takes."""
    make_folder(path.parent)
    try:
        yield
    except OSError as error:
        here = error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(path.parent)
        if isinstance(error, WriteError) or error.errno not in _OUTSIDE or not here:
            raise
        raise WriteError(f"{path}: cannot be written: {error.strerror}{_room(path.parent, error, needed)}") from error


def _room(folder: Path, error: OSError, needed: int) -> str:
    """How much space is needed and left, where that is what is missing."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ""
    size = f"{_size(needed)} are needed and " if needed else ""
    return f"; {size}{_size(shutil.disk_usage(folder).free)} are free in {folder}"


def _draft(path: Path) -> Path:
    """A new name beside `path`, which no other process has, and by which it is known whose it was."""
    _remove_abandoned(path.parent)
    stem = path.stem if len(os.fsencode(path.name)) < 200 else path.stem[:40]  # names end at 255 bytes
    name = f".{stem}.draft-{_machine()}-{os.getpid()}-{secrets.token_hex(3)}{path.suffix}"
    return path.with_name(name)


@cache
def _machine() -> str:
    """Six digits for this machine, and for the container on it in which processes have these numbers."""
    space = Path("/proc/self/ns/pid")
    name = f"{platform.node()}/{space.stat().st_ino if space.exists() else ''}"
    return hashlib.blake2b(name.encode(), digest_size=3).hexdigest()


def remove_drafts(folder: Path) -> None:
    """Remove what is half written below a folder, whoever wrote it; for who alone works there."""
    for path in folder.rglob(".*.draft-*"):
        if _DRAFT.match(path.name):
            _remove(path)


@cache
def _remove_abandoned(folder: Path) -> None:
    """Remove what processes of this machine that are gone left half written in a folder; looked for once a process."""
    from psutil import pid_exists

    for path in folder.glob(".*.draft-*"):
        draft = _DRAFT.match(path.name)
        if draft and draft["machine"] == _machine() and not pid_exists(int(draft["process"] or 0)):
            _remove(path)


def remove_folder(folder: Path) -> None:
    """Remove a folder, whole or not at all: what is half removed is a draft, which is not taken for the folder."""
    if folder.is_dir():
        aside = _draft(folder)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _place(path: str | Path) -> Path:
    """Where a result lies: behind links, which stay what they are.

    Raises:
        WriteError: a pipe or a device, which a result would put an ordinary file in place of.
    """
    path = Path(path)
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        raise WriteError(f"{path}: is a pipe or a device; results are written whole, to files and folders")
    return path


@contextmanager
def whole_file(path: str | Path, needed: int = 0) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move it to `path` where the block ends without an error.

    Args:
        path: of the file; its rights follow the umask, whatever library writes it.
        needed: bytes that it will take, where known, for the message about a full disk.

    Raises:
        WriteError: a full disk, a missing right, or something at the path that is no file.
    """
    path = _place(path)
    with writing(path, needed):
        partial = _draft(path)
        try:
            partial.touch(exist_ok=False)
            mode = partial.stat().st_mode & 0o777
            yield partial
            partial.chmod(mode)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`, and put it in place of `path` where the block ends without an error.

    What lies there is moved aside, and removed when the new folder is in its place. A process that is killed between
    leaves it aside as `.NAME.old`, and the next `whole_folder` of that path brings it back before anything else.

    Raises:
        WriteError: a full disk, a missing right, or something at the path that is no folder.
    """
    path = _place(path)
    aside = path.with_name(f".{path.name}.old")
    with writing(path):
        _bring_back(aside, path)
        partial = _draft(path)
        try:
            partial.mkdir()
            yield partial
            _follow_umask(partial)
            if path.exists():
                path.rename(aside)
            partial.rename(path)
        except BaseException:
            _bring_back(aside, path)
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(aside, ignore_errors=True)


def _bring_back(aside: Path, path: Path) -> None:
    """Undo half a replacement, or end a whole one."""
    if not aside.exists():
        return
    if path.exists():
        shutil.rmtree(aside)
    else:
        aside.rename(path)


def _follow_umask(folder: Path) -> None:
    """Give new files the rights that the umask gave their folder; safetensors would keep its own private."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_mode & 0o666 != mode:
            file.chmod(mode)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON, indented, in UTF-8; not-a-number is an error, because JSON has none."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def read_json(path: str | Path) -> Any:
    """Read JSON that this package wrote, or nothing where there is no such file.

    Raises:
        SlivitError: the file is cut off, as a power cut may leave it, or was altered.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "it is empty" if not path.stat().st_size else str(error)[:200]
        raise SlivitError(f"{path}: is damaged ({reason}); bring a copy back, or make anew what wrote it") from error


def read_mapping(path: str | Path) -> dict[str, Any]:
    """As `read_json`, of a file that holds names and values; empty where there is none.

    Raises:
        SlivitError: the file is damaged, or holds something else.
    """
    values = read_json(path)
    if values is not None and not isinstance(values, dict):
        raise SlivitError(f"{path}: is damaged (it holds a {type(values).__name__}, not names and values)")
    return values or {}


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8."""
    with whole_file(path) as partial:
        partial.write_text(text, "utf-8")


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, from whatever device they are on.

    Raises:
        WriteError: a full disk or a missing right.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path, sum(t.nbytes for t in plain.values())) as partial:
        try:
            save_file(plain, partial, metadata)
        except SafetensorError as error:
            number = _NUMBER.search(str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(partial)) from error


def write_torch(path: str | Path, value: Any, needed: int = 0) -> None:
    """Write tensors and plain values with `torch.save`, to be read with `weights_only=True`.

    Args:
        path: of the file.
        value: what to write.
        needed: bytes that it takes, where known.

    Raises:
        WriteError: a full disk or a missing right.
    """
    import torch

    with whole_file(path, needed) as partial, torch_file(partial) as file:
        torch.save(value, file)


@contextmanager
def torch_file(path: Path) -> Iterator[Any]:
    """Open a file for torch to write; its own errors of a full disk do not say what the disk said.

    Raises:
        OSError: what the disk said.
    """
    with path.open("wb") as file:
        watched = _Watched(file)
        try:
            yield watched
        except RuntimeError:
            if watched.error is None:
                raise
            raise watched.error from None


class _Watched:
    """A file that remembers its error, which `torch.save` replaces by a RuntimeError about its own archive."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def scratch_folders() -> Iterator[Callable[[], Path]]:
    """Give a function that makes temporary folders, which are removed where the block ends."""
    made: list[Path] = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="slivit-")))
        return made[-1]

    def remove() -> None:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)

    try:
        yield make
    finally:
        try:
            remove()
        finally:
            remove()  # a signal may have come while they were removed


def size_text(count: int) -> str:
    """A number of bytes as people read it: "12.3 MB"."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
