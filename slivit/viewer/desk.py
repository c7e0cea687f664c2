"""All that one page is about: the run that is looked at, what is compared with it, thumbnails and people's notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from slivit.data.reviews import REVIEWS, Review, append_review, in_words, read_reviews, scan_key
from slivit.errors import SlivitError, one_of
from slivit.viewer.bench import Bench, Opened
from slivit.viewer.members import members_of
from slivit.viewer.opinions import Other, distinct_names
from slivit.viewer.server import ViewError
from slivit.viewer.thumbnails import Thumbnails
from slivit.viewer.worklist import worklist

if TYPE_CHECKING:
    from starlette.requests import Request


class Desk:
    """The runs of a page.

    Args:
        benches: the runs; the first one's scans are listed, the others are compared with it, and its members where it
            is an ensemble.
        readers: calls of people, by name.
    """

    def __init__(self, benches: Sequence[Bench], readers: Sequence[Other] = ()) -> None:
        for bench, name in zip(benches, distinct_names([(bench.name, bench.run) for bench in benches]), strict=True):
            bench.name = name
        self.benches: list[Bench] = [*benches, *members_of(benches[0])]
        self.readers = list(readers)
        own = self.main.checkpoint.task
        for bench in self.benches[1:]:
            other = bench.checkpoint.task
            if (other.kind, other.outputs) != (own.kind, own.outputs):
                tasks = (
                    f"{other.kind} of {one_of(other.outputs)}, and {self.main.run} {own.kind} of {one_of(own.outputs)}"
                )
                raise ViewError(f"{bench.run}: predicts {tasks}; runs of one task can be compared")
        self.reviews_file = self.main.run / REVIEWS

    @property
    def main(self) -> Bench:
        """The run whose scans are listed."""
        return self.benches[0]

    @property
    def names(self) -> list[str]:
        """The runs, and the members of an ensemble: all that can be asked for an explanation."""
        return [bench.name for bench in self.benches]

    @cached_property
    def thumbnails(self) -> Thumbnails:
        """The pictures of the list."""
        return Thumbnails(self.main)

    def worklist(self, target: str) -> dict[str, Any]:
        """The whole list for a target.

        Raises:
            SlivitError: no such target.
        """
        task = self.main.checkpoint.task
        names = task.targets
        target = target or names[0]
        if target not in names:
            raise SlivitError(f"no target {target!r} here; the targets are {one_of(names)}")
        return worklist(self.main, target, self.others)

    @property
    def others(self) -> list[Other]:
        """All who have an opinion beside the run that is looked at: other runs, an ensemble's members, people."""
        runs = [Other(b.name, b.known, b.checkpoint.operating_point) for b in self.benches[1:]]
        return [*runs, *self.readers]

    def opened(self, request: Request) -> tuple[Bench, Opened]:
        """The run and the scan that a request is about.

        Raises:
            SlivitError: no such run or scan, or one that cannot be read.
        """
        number, key = request.query_params.get("run", "0"), request.path_params["key"]
        if not number.isdecimal() or int(number) >= len(self.benches):
            raise SlivitError(f"there is no run {number!r}; the runs are 0 to {len(self.benches) - 1}")
        bench = self.benches[int(number)]
        row = None
        if bench is not self.main and key not in bench.dropped and key.isdecimal() and int(key) < len(self.main.rows):
            row = self.main.rows[int(key)]
        return bench, bench.open(key, row)

    def reviews(self) -> dict[str, Any]:
        """All notes, and in words how many doubts there are."""
        notes = read_reviews(self.reviews_file)
        keys = {scan_key(row) for row in self.main.rows}
        return {"reviews": [{**asdict(note), "key": note.key} for note in notes], "summary": in_words(notes, keys)}

    def add_review(self, values: Mapping[str, Any]) -> None:
        """Keep a note of somebody.

        Args:
            values: `scan` (the number of a row), `reviewer`, `verdict`, `comment`.

        Raises:
            SlivitError: a value that is not allowed, or a file that cannot be written.
        """
        number = int(values["scan"])
        if not 0 <= number < len(self.main.rows):
            raise SlivitError(f"there is no scan {number} in the list; a dropped scan has no place in the notes")
        row = self.main.rows[number]
        said = {name: str(values.get(name) or "") for name in ("reviewer", "verdict", "comment")}
        series = row.get("series")
        place = {"path": str(row["path"]), "patient": str(row["patient"])}
        place["series"] = series if isinstance(series, str) else ""
        append_review(self.reviews_file, Review(**said, **place))
