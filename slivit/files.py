"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from slivit.errors import WriteError

_OUTSIDE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""Errors for which not the program is to blame, but the disk or the rights on it."""


def make_folder(path: str | Path) -> Path:
    """Make a folder where there is none yet, and those above it.

    Raises:
        WriteError: it is a file, or may not be made there.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise WriteError(f"{path}: is or lies in a file; results are written to a folder") from error
    except OSError as error:
        raise WriteError(f"{path}: this folder cannot be made: {error.strerror}") from error
    return path


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say of a full disk or a missing right what could not be written."""
    make_folder(path.parent)
    try:
        yield
    except OSError as error:
        here = error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(path.parent)
        if error.errno not in _OUTSIDE or not here:
            raise
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move it to `path` where the block ends without an error."""
    path = Path(path)
    with _writing(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        partial = Path(name)
        try:
            yield partial
            partial.chmod(0o644)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`, and put it in place of `path` where the block ends without an error."""
    path = Path(path)
    with _writing(path):
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            yield partial
            partial.chmod(0o755)
            if path.exists():
                shutil.rmtree(path)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON, indented, in UTF-8; not-a-number is an error, because JSON has none."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8."""
    with whole_file(path) as partial:
        partial.write_text(text, "utf-8")


@contextmanager
def scratch_folders() -> Iterator[Callable[[], Path]]:
    """Give a function that makes temporary folders, which are removed where the block ends."""
    with ExitStack() as stack:
        yield lambda: Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slivit-")))
