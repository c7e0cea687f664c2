"""Checksums of a shared model: every file of it, in a file that `sha256sum -c` reads too."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from slivit.errors import CheckpointError, one_of
from slivit.files import write_text

SUMS = "SHA256SUMS"
# What hubs and desktops put beside a model, and nothing of ours reads.
_FOREIGN = re.compile(r"^(\..*|__pycache__/.*|README\.md)$")
_LINE = re.compile(r"^([0-9a-f]{64}) [ *](.+)$")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path) -> str:
    """Write `SHA256SUMS` over all files of a folder.

    Returns:
        The fingerprint: the SHA-256 of `SHA256SUMS` itself, which stands for the whole model.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SUMS)
    write_text(folder / SUMS, "".join(f"{sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in files))
    return sha256(folder / SUMS)


def check_sums(folder: Path, fingerprint: str | None = None) -> None:
    """Refuse a shared model whose files are not those that its `SHA256SUMS` names.

    Args:
        folder: an export. One without `SHA256SUMS`, as a run is, passes where no fingerprint is asked for.
        fingerprint: the SHA-256 of `SHA256SUMS`, as its maker published it: against files that were changed together
            with their checksums.

    Raises:
        CheckpointError: a file that is missing, changed or not listed, or another fingerprint.
    """
    listed = folder / SUMS
    if not listed.is_file():
        if fingerprint:
            raise CheckpointError(f"{folder}: has no {SUMS}, so its fingerprint cannot be checked")
        return
    if fingerprint and sha256(listed) != fingerprint.strip().lower():
        raise CheckpointError(f"{folder}: its fingerprint is {sha256(listed)}, not {fingerprint}; it is another model")
    sums = _read(listed)
    wrong = [name for name, value in sums.items() if not _is(folder / name, value)]
    unlisted = [n for n in _names(folder) if n not in sums and n != SUMS and not _FOREIGN.match(n)]
    for names, what in ((wrong, "missing or changed"), (unlisted, f"not in {SUMS}")):
        if names:
            raise CheckpointError(
                f"{folder}: its checksums do not hold: {one_of(names)} {what}. Fetch the model again, or ask its maker."
            )


def _read(path: Path) -> dict[str, str]:
    matches = [_LINE.match(line) for line in path.read_text("utf-8", errors="replace").splitlines()]
    if not matches or not all(matches):
        raise CheckpointError(f"{path}: is not a list of checksums")
    sums = {match[2]: match[1] for match in matches if match}
    if away := [n for n in sums if Path(n).is_absolute() or ".." in Path(n).parts]:
        raise CheckpointError(f"{path}: names files outside of the model: {one_of(away)}")
    return sums


def _is(path: Path, value: str) -> bool:
    # The card is text for people, which its readers may edit on the hub; nothing is computed from it.
    try:
        return path.name == "README.md" or (path.is_file() and sha256(path) == value)
    except (OSError, ValueError):  # a name that no file can have
        return False


def _names(folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
