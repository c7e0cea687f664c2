"""What the CLAIM and TRIPOD+AI guidelines ask for, and which of it a page answers."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Item:
    """One item of a guideline.

    Args:
        item: its number there.
        asks: what it is about, in this project's words.
        status: "answered", "partly" or "owed".
        section: where on the page the answer stands; empty where there is none.
        owed: what remains for the author.
    """

    item: str
    asks: str
    status: str
    section: str = ""
    owed: str = ""


@dataclass(frozen=True)
class Checklist:
    """One guideline, answered as far as a page does.

    Args:
        title: its name.
        source: where it was published.
        items: all of them, in its order.
    """

    title: str
    source: str
    items: tuple[Item, ...]

    def count(self, status: str) -> int:
        """How many items have a status."""
        return sum(item.status == status for item in self.items)


def checklists(facts: Collection[str], sections: Collection[str]) -> list[Checklist]:
    """Both guidelines, answered by the facts of a page.

    Args:
        facts: the names of the facts that the page tells (see `slivit.report.facts`).
        sections: the sections that it has.

    Source: Tejani et al., Radiol Artif Intell 6 (2024) e240300 (CLAIM 2024); Collins et al., BMJ 385 (2024) e078378
    (TRIPOD+AI).
    """
    text = files("slivit.report").joinpath("checklist.toml").read_text("utf-8")
    return [_checklist(values, facts, sections) for values in tomllib.loads(text).values()]


def _checklist(values: dict[str, Any], facts: Collection[str], sections: Collection[str]) -> Checklist:
    items = tuple(_item(v, facts, sections) for v in values["items"])
    return Checklist(values["title"], values["source"], items)


def _item(value: dict[str, str], facts: Collection[str], sections: Collection[str]) -> Item:
    name, asks, rest = value["item"], value["asks"], value.get("rest", "")
    if value.get("fact") not in facts:
        return Item(
            name, asks, "owed", owed=value.get("owed") or rest or "The run's checkpoint is needed to tell this."
        )
    section = value["section"] if value["section"] in sections else ""
    return Item(name, asks, "partly" if rest else "answered", section, rest)
