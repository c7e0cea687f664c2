"""The members of an ensemble, each looked at like a run of its own, on the same scans."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from slivit.models.ensemble import Ensemble
from slivit.predict.engine import Engine
from slivit.report.auto_page import title
from slivit.viewer.bench import OPENED, Bench, Opened, Recent, Row
from slivit.viewer.neighbours import Neighbours
from slivit.viewer.record import Record
from slivit.volume import Volume

NOT_MEASURED = "This is a member of an ensemble: how well it does by itself stands in the run's leaderboard."


class MemberBench(Bench):
    """One member of an ensemble; scans are those that the ensemble has read already.

    Args:
        whole: the bench of the ensemble.
        place: of the member.
    """

    def __init__(self, whole: Bench, place: int) -> None:
        model: Any = whole.checkpoint.model
        self.whole, self.place = whole, place
        self.checkpoint = replace(whole.checkpoint, model=model.member(place))
        self.engine = Engine(self.checkpoint, str(whole.engine.device), batch_size=whole.engine.at_once)
        self.run, self.rows, self.dropped, self.members = whole.run, whole.rows, whole.dropped, {}
        name, self.known = list(whole.members.items())[place]
        self.name = title(name)
        self._opened, self._lock = Recent[Opened](OPENED), whole._lock

    @cached_property
    def record(self) -> Record:
        task = self.checkpoint.task
        return Record(task, "", {}, None, NOT_MEASURED)

    @cached_property
    def neighbours(self) -> Neighbours:
        return self.whole.neighbours

    def open(self, key: str, row: Row | None = None) -> Opened:
        """See `Bench.open`; the whole ensemble has read and predicted it."""
        own = self.whole.open(key, row)
        return self._opened.get(own, lambda: self._own(own))

    def _own(self, opened: Opened) -> Opened:
        said = self.whole.members_say(opened.features)[self.place]
        return replace(opened, predictions=said, explanations={}, volume=None)

    def volume(self, opened: Opened) -> Volume:
        """See `Bench.volume`; a dropped scan is kept by the whole ensemble alone."""
        dropped = (one for one in self.dropped.values() if one.scan is opened.scan)
        return self.whole.volume(next(dropped, opened))


def members_of(bench: Bench) -> list[MemberBench]:
    """A bench for each member of an ensemble; none of every other model."""
    model = bench.checkpoint.model
    return [MemberBench(bench, place) for place in range(len(bench.members))] if isinstance(model, Ensemble) else []
