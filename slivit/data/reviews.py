"""What people noted who looked at scans: a CSV that only grows, one whole line a note, by several people."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from slivit.data.table import as_shown, unquoted
from slivit.errors import ManifestError, WriteError, one_of

REVIEWS = "reviews.csv"
ACCEPT, WRONG_LABEL, BAD_SCAN, COMMENT = "accept", "wrong label", "bad scan", "comment"
VERDICTS = (ACCEPT, WRONG_LABEL, BAD_SCAN, COMMENT)
DOUBTS = (WRONG_LABEL, BAD_SCAN)
_LINES = 5  # of a note at most
LONGEST = 2000
"""Characters of a comment or a name at most."""


@dataclass(frozen=True)
class Review:
    """One note about one scan.

    Args:
        reviewer: who looked.
        path: of the scan, as its manifest has it.
        verdict: one of `VERDICTS`; a comment alone changes no earlier verdict.
        comment: in words, or "".
        patient: whose scan it is.
        series: of a folder of several.
        time: when, ISO 8601 with the zone.
    """

    reviewer: str
    path: str
    verdict: str
    comment: str = ""
    patient: str = ""
    series: str = ""
    time: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ManifestError(f"verdict is {self.verdict!r}; allowed are {one_of(VERDICTS)}")
        if not self.reviewer.strip():
            raise ManifestError("reviewer is empty; a note needs the name of who made it")
        if self.verdict == COMMENT and not self.comment.strip():
            raise ManifestError("comment is empty; a note without a verdict says something in words")
        for name in ("reviewer", "comment"):
            object.__setattr__(self, name, " ".join(getattr(self, name).split())[:LONGEST])

    @property
    def key(self) -> str:
        """What tells its scan from every other one."""
        return scan_key(asdict(self))


COLUMNS = tuple(f.name for f in fields(Review))


def scan_key(row: Mapping[str, Any]) -> str:
    """What tells the scan of a row from every other one: its path, and its series where it has one."""
    series = row.get("series")
    return f"{row['path']}#series={series}" if isinstance(series, str) and series else str(row["path"])


def append_review(file: Path | str, review: Review) -> None:
    """Add a note as one whole line; what stands there stays, also where several processes write.

    Raises:
        WriteError: the file cannot be written.
    """
    from filelock import FileLock

    file = Path(file)
    line = as_shown(pd.DataFrame([asdict(review)])).to_csv(header=False, index=False, lineterminator="\n")
    try:
        with FileLock(file.with_name(f".{file.name}.lock")), file.open("a+b") as stream:
            begun = stream.tell()
            if begun:
                stream.seek(begun - 1)
                line = line if stream.read(1) == b"\n" else f"\n{line}"  # a line that a dead process left half written
            else:
                line = ",".join(COLUMNS) + "\n" + line
            stream.write(line.encode("utf-8"))
    except OSError as error:
        raise WriteError(f"{file}: the note cannot be kept: {error.strerror}") from error


def read_reviews(file: Path | str) -> list[Review]:
    """All notes of a file, in their order; none where there is no file. Lines that are no notes are passed over.

    A note may run over several lines where a path does. What a dead process left half written ends at the line that
    begins the next note, also where it opened a quote.
    """
    file = Path(file)
    if not file.is_file():
        return []
    lines = file.read_text("utf-8", errors="replace").replace("\0", "").splitlines(keepends=True)
    notes, start = [], 0
    while start < len(lines):
        note, used = next(((n, k) for k in range(1, _LINES + 1) if (n := _note(lines[start : start + k]))), (None, 1))
        notes += [note] if note else []
        start += used
    return notes


def _note(lines: Sequence[str]) -> Review | None:
    """The note that these lines are, if they are one."""
    try:
        rows = list(csv.reader(lines, strict=True))
    except csv.Error:
        return None
    if len(rows) != 1 or len(rows[0]) != len(COLUMNS) or tuple(rows[0]) == COLUMNS:
        return None
    try:
        return Review(**dict(zip(COLUMNS, map(unquoted, rows[0]), strict=True)))
    except ManifestError:
        return None


def verdicts(reviews: Sequence[Review]) -> dict[str, dict[str, str]]:
    """The last verdict of each reviewer, by the scan's key and the reviewer's name."""
    by_scan: dict[str, dict[str, str]] = {}
    for review in reviews:
        if review.verdict != COMMENT:
            by_scan.setdefault(review.key, {})[review.reviewer] = review.verdict
    return by_scan


def doubted(reviews: Sequence[Review]) -> dict[str, str]:
    """By the scan's key, what somebody doubts about it and did not take back: its label, or the scan itself."""
    last = verdicts(reviews)
    return {
        key: next(d for d in DOUBTS if d in by.values()) for key, by in last.items() if set(DOUBTS) & set(by.values())
    }


def in_words(reviews: Sequence[Review], keys: set[str] | None = None) -> str:
    """How many labels and scans are doubted: "12 labels are doubted and 1 scan is called bad"; "" where none is.

    Args:
        reviews: the notes.
        keys: of the scans that count; all where None.
    """
    doubts = [doubt for key, doubt in doubted(reviews).items() if keys is None or key in keys]
    labels, scans = doubts.count(WRONG_LABEL), doubts.count(BAD_SCAN)
    counted = (
        (labels, "label is doubted", "labels are doubted"),
        (scans, "scan is called bad", "scans are called bad"),
    )
    return " and ".join(f"{n} {one if n == 1 else many}" for n, one, many in counted if n)
