"""What a prediction of many scans has done so far, on disk row by row, so that a stopped one can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from slivit.data.scan_reading import ScanRef
from slivit.errors import SlivitError
from slivit.files import make_folder

Row = dict[str, Any]
_SUFFIX = ".part"


def journal_of(out: str | Path) -> Path:
    """Where the rows of an unfinished table lie."""
    return Path(f"{out}{_SUFFIX}")


class Journal:
    """Rows by scan, appended whole: a line of JSON each, which counts only once its end is there.

    Args:
        path: the file; None keeps rows in memory alone.
        made_by: what all rows depend on: the checkpoint, the preprocessing. A journal of anything else is refused.
        resume: go on with what is there; otherwise start anew.

    Raises:
        SlivitError: a journal of another checkpoint, or none of ours.
    """

    def __init__(self, path: Path | None, made_by: Mapping[str, Any], *, resume: bool) -> None:
        self.path, self.made_by = path, json.loads(json.dumps(made_by))
        self.rows: dict[str, Row] = {}
        self._file: IO[str] | None = None
        if resume and path is not None and path.is_file():
            self._read(path)

    def _read(self, path: Path) -> None:
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]  # a line that a kill cut off is done again
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            made_by = lines[0]["made_by"] if lines else self.made_by
        except (ValueError, KeyError, TypeError) as error:
            raise SlivitError(f"{path}: not the rows of an unfinished table ({error}); remove it") from error
        if made_by != self.made_by:
            differ = ", ".join(k for k in self.made_by if made_by.get(k) != self.made_by[k])
            raise SlivitError(
                f"{path}: was begun with another {differ}; finish it with that one, or start anew with --overwrite"
            )
        self.rows = {line["key"]: line for line in lines[1:]}
        if len(whole) < len(text):
            os.truncate(path, len(whole))

    def __enter__(self) -> Self:
        if self.path is not None:
            make_folder(self.path.parent)
            self._file = self.path.open("a" if self.rows else "w", encoding="utf-8")
            if not self.rows:
                self._write({"made_by": self.made_by})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    def done(self, ref: ScanRef) -> bool:
        """Whether a scan was predicted, and has not changed since; those that could not be are tried again."""
        row = self.rows.get(ref.key)
        return row is not None and not row["error"] and row["state"] == ref.state

    def add(self, ref: ScanRef, row: Row) -> None:
        """Keep the row of a scan."""
        kept = {"key": ref.key, "state": ref.state, **row}
        self.rows[ref.key] = kept
        self._write(kept)

    def _write(self, value: Row) -> None:
        if self._file is not None:
            self._file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()

    def remove(self) -> None:
        """Remove the file, once the table is written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
