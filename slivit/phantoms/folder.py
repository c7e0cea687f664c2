"""The folder that made-up scans are written to: claimed, filled with whole scans, closed with a manifest."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slivit.files import make_folder, whole_file, whole_folder, write_json
from slivit.phantoms.cases import PhantomError

MARK = "phantoms.json"
MANIFEST = "manifest.csv"


def claim_folder(out: Path, scans: Sequence[str], made_with: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make `out` ready: what an earlier run made there goes, and a mark names what this run will make.

    Only scans named in the mark of an earlier run are ever removed, so a file of the user's stays.

    Args:
        out: the folder; made where absent.
        scans: the paths of the scans to come, relative to `out`.
        made_with: kind, seed and options, kept in the mark.
        overwrite: write among foreign files too, replacing those of the same name.

    Raises:
        PhantomError: `out` is a file, or holds files that were not made here and `overwrite` is not set.
    """
    if out.exists() and not out.is_dir():
        raise PhantomError(f"{out}: is a file; phantoms are written to a folder. Give another path.")
    if (out / MARK).is_file():
        _remove_made(out)
    elif out.is_dir() and any(out.iterdir()) and not overwrite:
        raise PhantomError(
            f"{out}: the folder is not empty, and its files were not made by `slivit phantoms`. "
            "Choose an empty or new folder, or pass overwrite=True to write among them."
        )
    make_folder(out)
    write_json(out / MARK, {**made_with, "scans": list(scans)})


def write_manifest(out: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write `rows` as the folder's manifest.

    Args:
        out: the folder.
        rows: one a scan; all with the same keys. None becomes an empty cell.

    Returns:
        The path of the manifest.
    """
    with whole_file(out / MANIFEST) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out / MANIFEST


@contextmanager
def whole_scan(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a scan, an empty folder where `path` has no ending, and put it in place at the end."""
    with (whole_file if path.suffix else whole_folder)(path) as partial:
        yield partial


def _remove_made(out: Path) -> None:
    """Remove the manifest and the scans that the mark in `out` names."""
    try:
        scans = [out / str(name) for name in json.loads((out / MARK).read_text(encoding="utf-8"))["scans"]]
    except (ValueError, KeyError, TypeError) as error:
        raise PhantomError(f"{out / MARK}: not a mark that `slivit phantoms` wrote ({error}). Remove it.") from error
    # A mark edited by hand must not reach beyond its folder.
    inside = out.resolve()
    for path in [out / MANIFEST, *(s for s in scans if s.resolve() != inside and inside in s.resolve().parents)]:
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
