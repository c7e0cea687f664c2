"""What is wrong in a set of scans, in words: from the table of all scans to findings, the most important first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from slivit.targets.task import Task

Level = Literal["wrong", "look"]
Mask = npt.NDArray[np.bool_]
_FEW = 8  # scans below which nothing is called an outlier
_SELDOM = 0.05  # share of scans above which values far out are a group, not outliers
_ALIKE = 0.8  # share of scans with one size above which another size is odd


@dataclass(frozen=True)
class Finding:
    """One thing that the user should know.

    Args:
        level: "wrong" where training or testing on the set would be wrong, "look" where a person should look.
        title: a few words.
        text: one or two sentences: what, where, and the way out.
        rows: the rows of the manifest that it is about.
    """

    level: Level
    title: str
    text: str
    rows: tuple[Any, ...] = ()


def find_all(
    table: pd.DataFrame, task: Task | None, problems: Sequence[str], warnings: Sequence[str]
) -> tuple[Finding, ...]:
    """All findings, the most important first.

    Args:
        table: one row a scan; see `slivit.data.checking.check.CheckResult`.
        task: what is predicted, where it is known.
        problems: of the manifest.
        warnings: of the manifest.
    """
    found = [
        *_in_manifest(problems),
        *_same_content(table, task),
        *_invalid(table),
        *_unreadable(table),
        *_blank(table),
        *(Finding("look", "the manifest", _sentence(text)) for text in warnings),
        *_shape_tells_label(table, task),
        *_rare_class(table, task),
        *_mixed(table),
        *_outliers(table),
        *_reader_notes(table),
    ]
    return tuple(sorted(found, key=lambda f: f.level != "wrong"))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def _in_manifest(problems: Sequence[str]) -> list[Finding]:
    shared = [p for p in problems if "splits must not share patients" in p or "more patients in two splits" in p]
    others = [p for p in problems if p not in shared]
    found = [Finding("wrong", "a patient in two splits", _told(shared))] if shared else []
    return found + ([Finding("wrong", "the manifest", _told(others))] if others else [])


def _told(problems: Sequence[str]) -> str:
    more = f" And {len(problems) - 3} more like it." if len(problems) > 3 else ""
    return " ".join(_sentence(p) for p in problems[:3]) + more


def _rows(rows: pd.DataFrame | pd.Series, limit: int = 4) -> str:
    names = [str(r) for r in rows.index[:limit]]
    told = ", ".join(names) + (f" and {len(rows) - limit} more" if len(rows) > limit else "")
    return f"row {told}" if len(rows) == 1 else f"rows {told}"


def _scans(count: int) -> str:
    return "1 scan" if count == 1 else f"{count} scans"


def _unreadable(table: pd.DataFrame) -> Iterator[Finding]:
    bad = table[table["problem"] != ""]
    if len(bad):
        text = (
            f"{_scans(len(bad))} of {len(table)} cannot be read ({_rows(bad)}). Row {bad.index[0]}: "
            f"{_sentence(bad['problem'].iloc[0])} Mend the files, or take their rows out."
        )
        yield Finding("wrong", "unreadable scans", text, tuple(bad.index))


def _invalid(table: pd.DataFrame) -> Iterator[Finding]:
    bad = table[table["invalid"] > 0]
    if len(bad):
        text = (
            f"{_scans(len(bad))} with values that are no numbers ({_rows(bad)}); a network that sees one gives nothing "
            "but NaN from then on."
        )
        yield Finding("wrong", "values that are no numbers", text, tuple(bad.index))


def _blank(table: pd.DataFrame) -> Iterator[Finding]:
    blank = table[(table["problem"] == "") & (table["low"] == table["high"])]
    if len(blank):
        text = f"{_scans(len(blank))} of one value only ({_rows(blank)}): there is nothing to see."
        yield Finding("look", "blank scans", text, tuple(blank.index))


def _same_content(table: pd.DataFrame, task: Task | None) -> Iterator[Finding]:
    """Scans with the same pixels: in two splits, with different targets, of two patients, or merely twice."""
    groups = table[table["same_as"] != ""].groupby("group", sort=False)
    targets = [t for t in (task.targets if task else ()) if t in table]
    splits, labels, plain = [], [], []
    for _, members in groups:
        known = set(members["split"]) - {""}
        if len(known) > 1:
            splits.append(members)
        if any(members[t].astype(str).nunique() > 1 for t in targets):
            labels.append(members)
        elif len(known) <= 1:
            plain.append(members)
    yield from _told_groups(
        splits, "wrong", "the same scan in two splits", "stand in more than one split",
        "the test would be too good; leave each in one split only",
    )  # fmt: skip
    yield from _told_groups(
        labels, "wrong", "one scan, two answers", "have different targets", "at most one of the answers is right"
    )
    yield from _told_groups(
        plain, "look", "the same scan twice", "are listed more than once", "they count double; list each once"
    )


def _told_groups(groups: list[pd.DataFrame], level: Level, title: str, what: str, so: str) -> Iterator[Finding]:
    if not groups:
        return
    first = groups[0]
    example = ", ".join(f"row {row}{f' ({s})' if s else ''}" for row, s in first["split"].head(4).items())
    count = "The same pixels" if len(groups) == 1 else f"The pixels of {len(groups)} scans"
    rows = tuple(row for members in groups for row in members.index)
    yield Finding(level, title, f"{count} {what} ({example}): {so}.", rows)


def _shape_tells_label(table: pd.DataFrame, task: Task | None) -> Iterator[Finding]:
    """A class that alone has its size of slices: a network can read the answer from how a scan was made."""
    if task is None or not task.one_class or task.targets[0] not in table:
        return
    good = table[(table["problem"] == "") & table[task.targets[0]].notna()]
    sizes = good["height"].astype(str) + " x " + good["width"].astype(str)
    seen = {str(name): set(sizes[rows]) for name, rows in good.groupby(task.targets[0]).groups.items()}
    if len(seen) > 1 and len(good) >= _FEW and sum(map(len, seen.values())) == len(set.union(*seen.values())):
        told = "; ".join(f"{name}: {', '.join(sorted(of)[:3])}" for name, of in sorted(seen.items())[:4])
        text = f"The size of the slices gives {task.targets[0]} away ({told}). The classes come from different sources."
        yield Finding("look", "the answer shows in the size", text)


def _rare_class(table: pd.DataFrame, task: Task | None) -> Iterator[Finding]:
    if task is None or not task.makes_calls:
        return
    train = table[table["split"] == "train"] if (table["split"] == "train").any() else table
    for target in (t for t in task.targets if t in train):
        counts = train[target].dropna().value_counts()
        rare = counts[counts < 10]
        if len(rare) and len(train) >= 50:
            name = rare.index[-1]
            text = f"{target} = {name} has only {_scans(int(rare.iloc[-1]))} to learn from."
            yield Finding("look", "a rare class", text)


def _mixed(table: pd.DataFrame) -> Iterator[Finding]:
    good = table[table["problem"] == ""]
    planes = good.loc[good["orientation"] != "", "orientation"].str.removesuffix(", oblique").value_counts()
    if len(planes) > 1:
        told = ", ".join(f"{n} {name}" for name, n in planes.items())
        text = f"The slices lie in different planes ({told}); read them in one with the reader's option axis."
        yield Finding(
            "look", "different planes", text, tuple(good.index[good["orientation"].str.startswith(planes.index[-1])])
        )
    known = good["spacing_d"].notna()
    if known.any() and not known.all():
        text = f"{(~known).sum()} of {len(good)} scans do not tell their spacing in mm; sizes cannot be compared."
        yield Finding("look", "spacing unknown", text)


def _outliers(table: pd.DataFrame) -> Iterator[Finding]:
    odd = table[table["outlier"] != ""]
    if len(odd):
        text = f"{_scans(len(odd))} unlike the others ({_rows(odd)}). Row {odd.index[0]}: {odd['outlier'].iloc[0]}."
        yield Finding("look", "unlike the others", text, tuple(odd.index))


def _reader_notes(table: pd.DataFrame) -> Iterator[Finding]:
    """What the reader noticed, one finding for each kind of note, whatever numbers are in it."""
    noted = table.loc[table["notes"] != "", "notes"]
    kinds: dict[str, list[Any]] = {}
    example: dict[str, str] = {}
    for row, notes in noted.items():
        for note in str(notes).split("; "):
            kind = re.sub(r"[\d.,]+", "#", note)
            kinds.setdefault(kind, []).append(row)
            example.setdefault(kind, note)
    for kind, rows in sorted(kinds.items(), key=lambda item: -len(item[1]))[:5]:
        text = f"{_scans(len(rows))}: {_sentence(example[kind])}"
        yield Finding("look", "noticed while reading", text, tuple(rows))


# -- columns of the table ---------------------------------------------------------------------------------------------


def outlier_texts(table: pd.DataFrame) -> list[str]:
    """For each scan, in what it is unlike the others; empty where it is not."""
    good = (table["problem"] == "").to_numpy()
    texts: list[list[str]] = [[] for _ in range(len(table))]
    if good.sum() < _FEW:
        return [""] * len(table)
    shapes = table[["depth", "height", "width"]].to_numpy(dtype=float)
    _add(texts, *_odd_shapes(shapes, good))
    for column, name in (("p1", "1st percentile"), ("median", "median"), ("p99", "99th percentile")):
        values = table[column].to_numpy(dtype=float)
        usual, odd = _far(values, good)
        _add(texts, odd, [f"{name} of intensity {value:.4g}, usually {usual:.4g}" for value in values])
    return ["; ".join(parts) for parts in texts]


def _add(texts: list[list[str]], odd: Mask, told: Sequence[str]) -> None:
    for i in np.flatnonzero(odd).tolist():
        texts[i].append(told[i])


def _odd_shapes(shapes: npt.NDArray[np.float64], good: Mask) -> tuple[Mask, list[str]]:
    """Which scans have a side that differs from what most have, or is less than half or more than twice the median."""
    usual = np.median(shapes[good], axis=0)
    common = (shapes[good] == usual).mean(axis=0) >= _ALIKE
    differ = (shapes != usual) & common
    far = np.abs(np.log2(np.maximum(shapes, 1) / np.maximum(usual, 1))) > 1
    about = "" if common.all() else "about "
    return good & (differ | far).any(axis=1), [f"{_size(s)}, the others have {about}{_size(usual)}" for s in shapes]


def _size(shape: npt.NDArray[np.float64]) -> str:
    return " × ".join(f"{n:.0f}" for n in shape)


def _far(values: npt.NDArray[np.float64], good: Mask) -> tuple[float, Mask]:
    """The median, and which few values lie far outside the bulk (the middle 80%), by twice its width or more."""
    known = values[good & np.isfinite(values)]
    if known.size < _FEW:
        return np.nan, np.zeros(len(values), dtype=bool)
    usual = float(np.median(known))
    low, high = np.percentile(known, (10, 90))
    beyond = max(2 * float(high - low), 0.1 * abs(usual), 1e-12)
    far = good & ((values < low - beyond) | (values > high + beyond))
    # Where many lie far out they are a group of their own, not outliers.
    few = far.sum() <= max(2, _SELDOM * known.size)
    return usual, far if few else np.zeros(len(values), dtype=bool)
