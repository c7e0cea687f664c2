"""What is wrong in a set of scans, in words: from the table of all scans to findings, the most important first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from slivit.data.notes import USUAL, counted_notes
from slivit.data.reviews import Review, doubted, in_words, scan_key
from slivit.targets.task import Task

Level = Literal["wrong", "look"]
Mask = npt.NDArray[np.bool_]
_FEW = 8  # scans below which nothing is called an outlier
_SELDOM = 0.05  # share of scans above which values far out are a group, not outliers
_AIR = 0.4  # the share of a scan that a crop to its foreground keeps, below which that is said
_MAGNITUDE, _TWICE, _SQUASHED = 10.0, 2.0, 1.5  # factors from which scales, spacings and sides are said to differ
_NAN_NOTE = "of the voxels are NaN"  # a note that has a finding of its own
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
    table: pd.DataFrame,
    task: Task | None,
    problems: Sequence[str],
    warnings: Sequence[str],
    reviews: Sequence[Review] = (),
) -> tuple[Finding, ...]:
    """All findings, the most important first.

    Args:
        table: one row a scan; see `slivit.data.checking.check.CheckResult`.
        task: what is predicted, where it is known.
        problems: of the manifest.
        warnings: of the manifest.
        reviews: what people noted who looked at the scans.
    """
    findings = [
        *_in_manifest(problems),
        *_same_content(table, task),
        *_invalid(table),
        *_unreadable(table),
        *_blank(table),
        *_doubted(table, reviews),
        *(Finding("look", "the manifest", _sentence(text)) for text in warnings),
        *_shape_tells_label(table, task),
        *_rare_class(table, task),
        *_odd_targets(table, task),
        *_one_patient(table),
        *_mixed(table),
        *_scales(table),
        *_spacings(table),
        *_aspects(table),
        *_air(table),
        *_outliers(table),
        *_reader_notes(table),
    ]
    return tuple(sorted(findings, key=lambda f: f.level != "wrong"))


def _doubted(table: pd.DataFrame, reviews: Sequence[Review]) -> Iterator[Finding]:
    """What reviewers doubt and did not take back."""
    doubts = doubted(reviews)
    scans = [{str(name): value for name, value in scan.items()} for scan in table.to_dict("records")]
    keys = dict(zip(table.index, map(scan_key, scans), strict=True))
    rows = [row for row, key in keys.items() if key in doubts]
    if rows:
        summary = in_words(reviews, set(keys.values()))
        way_out = "look at them with slivit view, or leave them out with slivit manifest reviewed RUN OUT.csv"
        text = f"{summary} by people who looked at the scans ({_rows(table.loc[rows])}); {way_out}."
        yield Finding("look", "doubted by reviewers", text, tuple(rows))


def amount(value: float) -> str:
    """A number as people read it: three digits, and thousands without an exponent."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.3g}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def _in_manifest(problems: Sequence[str]) -> list[Finding]:
    shared = [p for p in problems if "splits must not share patients" in p or "more patients in two splits" in p]
    others = [p for p in problems if p not in shared]
    findings = [Finding("wrong", "a patient in two splits", _sentences(shared))] if shared else []
    return findings + ([Finding("wrong", "the manifest", _sentences(others))] if others else [])


def _sentences(problems: Sequence[str]) -> str:
    more = f" And {len(problems) - 3} more like it." if len(problems) > 3 else ""
    return " ".join(_sentence(p) for p in problems[:3]) + more


def _rows(rows: pd.DataFrame | pd.Series, limit: int = 4) -> str:
    names = [str(r) for r in rows.index[:limit]]
    listed = ", ".join(names) + (f" and {len(rows) - limit} more" if len(rows) > limit else "")
    return f"row {listed}" if len(rows) == 1 else f"rows {listed}"


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
    empty = table[table["empty"] > 0]
    if len(empty):
        text = (
            f"{_scans(len(empty))} with slices that hold no number at all ({_rows(empty)}): they would be black. The "
            f"first has {empty['empty'].iloc[0]} of {empty['depth'].iloc[0]}. Export the scans again, or cut them off."
        )
        yield Finding("wrong", "slices without numbers", text, tuple(empty.index))
    bad = table[(table["invalid"] > 0) & (table["empty"] == 0)]
    if len(bad):
        share = (bad["invalid"] / (bad["channels"] * bad["depth"] * bad["height"] * bad["width"])).max()
        text = (
            f"{_scans(len(bad))} with values that are NaN or infinite, up to {share:.2%} of a scan ({_rows(bad)}): "
            "they are taken for black. Export the scans again, or write a number there."
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
    yield from _group_findings(
        splits, "wrong", "the same scan in two splits", "stand in more than one split",
        "the test would be too good; leave each in one split only",
    )  # fmt: skip
    yield from _group_findings(
        labels, "wrong", "one scan, two answers", "have different targets", "at most one of the answers is right"
    )
    yield from _group_findings(
        plain, "look", "the same scan twice", "are listed more than once", "they count double; list each once"
    )


def _group_findings(groups: list[pd.DataFrame], level: Level, title: str, what: str, so: str) -> Iterator[Finding]:
    if not groups:
        return
    first = groups[0]
    example = ", ".join(f"row {row}{f' ({s})' if s else ''}" for row, s in first["split"].head(4).items())
    count = "The same pixels" if len(groups) == 1 else f"The pixels of {len(groups)} scans"
    rows = tuple(row for members in groups for row in members.index)
    yield Finding(level, title, f"{count} {what} ({example}): {so}.", rows)


def _odd_targets(table: pd.DataFrame, task: Task | None) -> Iterator[Finding]:
    """Values of a quantity far from all others: a slip of the keyboard outweighs every other scan."""
    if task is None or task.makes_calls or task.dense:
        return
    for target in (t for t in task.targets if t in table):
        values = pd.to_numeric(table[target], errors="coerce").to_numpy(dtype=float)
        usual, far = _far(values, np.isfinite(values))
        odd = table[far]
        if len(odd):
            fact = f"{target} of {_scans(len(odd))} is far from all others ({_rows(odd)}): {amount(values[far][0])}"
            text = f"{fact}, usually {amount(usual)}. It outweighs all other scans: correct it, or leave it empty."
            yield Finding("look", "values unlike the others", text, tuple(odd.index))


def _one_patient(table: pd.DataFrame) -> Iterator[Finding]:
    """One patient who is a third of the set."""
    counts = table["patient"].value_counts()
    if len(table) >= _FEW and len(counts) > 1 and counts.iloc[0] > len(table) / 3:
        fact = f"Patient {counts.index[0]} has {counts.iloc[0]} of {len(table)} scans"
        text = f"{fact}: what is learned and measured is largely that one patient, as no split shares these scans out."
        yield Finding("look", "one patient has most scans", text)


def _shape_tells_label(table: pd.DataFrame, task: Task | None) -> Iterator[Finding]:
    """A class that alone has its size of slices: a network can read the answer from how a scan was made."""
    if task is None or not task.one_class or task.targets[0] not in table:
        return
    good = table[(table["problem"] == "") & table[task.targets[0]].notna()]
    sizes = good["height"].astype(str) + " x " + good["width"].astype(str)
    seen = {str(name): set(sizes[rows]) for name, rows in good.groupby(task.targets[0]).groups.items()}
    if len(seen) > 1 and len(good) >= _FEW and sum(map(len, seen.values())) == len(set.union(*seen.values())):
        each = "; ".join(f"{name}: {', '.join(sorted(of)[:3])}" for name, of in sorted(seen.items())[:4])
        text = f"The size of the slices gives {task.targets[0]} away ({each}). The classes come from different sources."
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
    counts = good["channels"].value_counts()
    if len(counts) > 1:
        listed = ", ".join(f"{n} with {count}" for count, n in counts.items())
        text = f"The scans have different numbers of channels ({listed}); a model takes one number."
        rows = tuple(good.index[good["channels"] == counts.index[-1]])
        yield Finding("wrong", "different numbers of channels", text, rows)
    planes = good.loc[good["orientation"] != "", "orientation"].str.removesuffix(", oblique").value_counts()
    if len(planes) > 1:
        listed = ", ".join(f"{n} {name}" for name, n in planes.items())
        text = f"The slices lie in different planes ({listed}); read them in one with the reader's option axis."
        yield Finding(
            "look", "different planes", text, tuple(good.index[good["orientation"].str.startswith(planes.index[-1])])
        )
    known = good["spacing_d"].notna()
    if known.any() and not known.all():
        text = f"{(~known).sum()} of {len(good)} scans do not tell their spacing in mm; sizes cannot be compared."
        yield Finding("look", "spacing unknown", text)


def _scales(table: pd.DataFrame) -> Iterator[Finding]:
    """Intensities in units of their own: 0 to 1 beside 0 to 255, say."""
    good = table[(table["problem"] == "") & (table["low"] < table["high"])]
    scale = good[["p1", "p99"]].abs().max(axis=1)
    scale = scale[scale > 0].sort_values()
    if len(scale) and (factor := scale.iloc[-1] / scale.iloc[0]) >= _MAGNITUDE:
        text = (
            f"The intensities of the scans differ in scale by a factor of {amount(factor)}: row {scale.index[0]} "
            f"reaches to {amount(scale.iloc[0])}, row {scale.index[-1]} to {amount(scale.iloc[-1])}. A stretch between "
            "percentiles evens that out, a fixed window does not; the scale must not tell the answer."
        )
        yield Finding("look", "intensity scales differ", text)


def _spacings(table: pd.DataFrame) -> Iterator[Finding]:
    good = table[table["problem"] == ""]
    ranges = []
    for column, between in (("spacing_d", "slices"), ("spacing_h", "rows"), ("spacing_w", "columns")):
        known = good.loc[good[column] > 0, column]
        if len(known) and known.max() / known.min() >= _TWICE:
            ranges.append(f"between {between} from {known.min():.3g} to {known.max():.3g} mm")
    if ranges:
        text = (
            f"The spacing differs between scans: {', '.join(ranges)}. One size in pixels is not one size in the patient"
        )
        yield Finding("look", "spacing differs", f"{text}; preprocessing.spacing brings all to one.")


def _aspects(table: pd.DataFrame) -> Iterator[Finding]:
    """Slices that are much longer one way: most models take square ones."""
    good = table[table["problem"] == ""]
    steps = good["spacing_w"] / good["spacing_h"]
    wide = good["width"] * steps.where(steps > 0, 1.0) / good["height"].clip(lower=1)
    squashed = np.maximum(wide, 1 / wide.where(wide > 0))
    many = squashed[squashed >= _SQUASHED]
    if len(many):
        text = (
            f"The slices of {_scans(len(many))} of {len(good)} are up to {many.max():.2g} times as long one way as the "
            'other; resizing them to a square squashes what is in them. preprocessing.fit = "pad" keeps their aspect.'
        )
        yield Finding("look", "slices that will be squashed", text)


def _air(table: pd.DataFrame) -> Iterator[Finding]:
    """Scans that are mostly what lies around the patient."""
    good = table[(table["problem"] == "") & (table["depth"] > 1)]
    if len(good) and (kept := good["foreground"].median()) <= _AIR:
        text = (
            f"Half of the scans hold what is bright in at most {100 * kept:.0f} % of their volume; the rest is mostly "
            'air. preprocessing.foreground = { threshold = "otsu" } crops them to it, so that more pixels show it.'
        )
        yield Finding("look", "much air around", text)


def _outliers(table: pd.DataFrame) -> Iterator[Finding]:
    odd = table[table["outlier"] != ""]
    if len(odd):
        text = f"{_scans(len(odd))} unlike the others ({_rows(odd)}). Row {odd.index[0]}: {odd['outlier'].iloc[0]}."
        yield Finding("look", "unlike the others", text, tuple(odd.index))


def _reader_notes(table: pd.DataFrame) -> Iterator[Finding]:
    """What the reader noticed, one finding for each kind of note; what is usual and so in every scan is none."""
    noted = unusual_notes(table)
    kinds = counted_notes((row, note) for row, notes in noted.items() for note in notes.split("; ") if note)
    for kind in [kind for kind in kinds if _NAN_NOTE not in kind.example][:5]:
        text = f"{_scans(len(kind.scans))}: {_sentence(kind.example)}"
        yield Finding("look", "noticed while reading", text, kind.scans)


def unusual_notes(table: pd.DataFrame) -> pd.Series:
    """What the reader noticed of each scan, without what is usual (colour made grey, ...) and so of every scan."""
    parts = table["notes"].map(lambda notes: str(notes).split("; "))
    good = parts[table["problem"] == ""]
    usual = tuple(
        start for start in USUAL if good.map(lambda notes, s=start: any(n.startswith(s) for n in notes)).all()
    )
    return parts.map(lambda notes: "; ".join(n for n in notes if not (usual and n.startswith(usual))))


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


def _add(texts: list[list[str]], odd: Mask, notes: Sequence[str]) -> None:
    for i in np.flatnonzero(odd).tolist():
        texts[i].append(notes[i])


def _odd_shapes(shapes: npt.NDArray[np.float64], good: Mask) -> tuple[Mask, list[str]]:
    """Which scans have a side that differs from what most have, or is less than half or more than twice the median."""
    usual = np.median(shapes[good], axis=0)
    common = (shapes[good] == usual).mean(axis=0) >= _ALIKE
    differ = (shapes != usual) & common
    far = np.abs(np.log2(np.maximum(shapes, 1) / np.maximum(usual, 1))) > 1
    far &= far[good].mean(axis=0) <= 1 - _ALIKE  # where many lie far out, that is how the set is
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
