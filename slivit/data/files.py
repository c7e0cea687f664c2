"""Files that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def written_whole(path: Path | str) -> Iterator[Path]:
    """Give a temporary name beside `path`, and put what was written there in its place once the block ends well.

    Where the block raises (an error, a full disk, Ctrl-C) the temporary file goes and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8", newline="")


def split_fragment(path: str) -> tuple[str, str]:
    """Split "scans.npz#train/17" into the file and the item within it; the item is "" where there is none.

    A file whose own name holds a "#" is taken as it is where it exists.
    """
    if "#" not in path or Path(path).exists():
        return path, ""
    file, _, item = path.rpartition("#")
    return file, item
