"""The page of `slivit check`: one HTML file with pictures, tables and words, and nothing from outside."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slivit.data.checking.check import CheckResult
from slivit.data.checking.findings import amount, unusual_notes
from slivit.data.manifest_checks import split_place
from slivit.data.readers.address import parts_of, short_name
from slivit.files import whole_file

_BINS = 24
_CLASSES = 24
_GROUPS = 24  # groups of equal scans that are shown


@dataclass(frozen=True)
class Counts:
    """How often each class occurs in each split.

    Args:
        name: the target.
        splits: the names of the columns.
        rows: (class, counts in the order of `splits`).
        totals: scans with a value in each split.
        more: how many rarer classes are not listed.
    """

    name: str
    splits: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]
    totals: tuple[int, ...]
    more: int = 0


@dataclass(frozen=True)
class Histogram:
    """The distribution of a number in each split, on common bins.

    Args:
        name: the target.
        unit: of the target.
        low, high: of the axis.
        panels: (split, counts in each bin, number of values, median) of each split.
    """

    name: str
    unit: str
    low: float
    high: float
    panels: tuple[tuple[str, tuple[int, ...], int, float], ...]


def write_check_page(result: CheckResult, path: Path | str, *, pictures: int = 1000) -> None:
    """Write the page of a check, whole or not at all.

    Args:
        result: what the check found.
        path: the HTML file.
        pictures: of how many scans the middle slice is shown; those with something odd come first, the rest are spread
            evenly over the set.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("slivit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    notes = unusual_notes(result.table)
    result = replace(result, table=result.table.assign(notes=notes))
    shown = _chosen(result.table, pictures)
    stream = environment.get_template("check.html.j2").stream(
        result=result,
        name=Path(result.source).name,
        titles=list(dict.fromkeys(finding.title for finding in result.findings)),
        overview=_overview(result.table),
        charts=_charts(result),
        properties=_properties(result.table),
        intensities=_intensities(result.table),
        groups=_same(result),
        gallery=(_figure(result, row) for row in shown),
        shown=len(shown),
    )
    stream.enable_buffering(50)
    with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(stream)


def _overview(table: pd.DataFrame) -> list[tuple[str, str]]:
    readable = int((table["problem"] == "").sum())
    splits = _splits(table)
    facts = [
        ("scans", f"{len(table):,}"),
        ("readable", f"{readable:,}"),
        ("patients", f"{table['patient'].nunique():,}"),
    ]
    return facts + [(s, f"{(table['split'] == s).sum():,}") for s in splits if s]


def _splits(table: pd.DataFrame) -> tuple[str, ...]:
    """The splits that occur, train, val and test first; "" for a table without."""
    present = list(table["split"].unique())
    return tuple(sorted(present, key=split_place))


# -- labels -----------------------------------------------------------------------------------------------------------


def _charts(result: CheckResult) -> list[Counts | Histogram]:
    """A table of counts or a histogram for each target; without a task, for the columns that look like targets."""
    table, task = result.table, result.task
    if task is not None:
        names = [t for t in task.targets if t in table]
        if not task.makes_calls:
            return [_histogram(table, name, task.unit) for name in names if _numeric(table[name])]
        return [_counts(table, name) for name in names]
    added = list(table.columns).index("problem")
    names = [c for c in table.columns[3:added] if table[c].nunique() > 1]
    others = [c for c in names if _numeric(table[c]) or table[c].nunique() <= _CLASSES]
    return [
        _counts(table, c) if table[c].nunique() <= 10 or not _numeric(table[c]) else _histogram(table, c, "")
        for c in others[:6]
    ]


def _numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and bool(np.isfinite(column).any())


def _counts(table: pd.DataFrame, name: str) -> Counts:
    splits = _splits(table)
    filled = table[table[name].notna() & (table[name] != "")]
    names = filled[name].map(lambda v: f"{v:g}" if isinstance(v, float) else str(v))
    counts = pd.crosstab(names, filled["split"]).reindex(columns=list(splits), fill_value=0)
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    kept = counts.head(_CLASSES).sort_index()
    rows = tuple(
        (str(label), tuple(int(n) for n in row)) for label, row in zip(kept.index, kept.to_numpy(), strict=True)
    )
    totals = tuple(int(n) for n in counts.sum())
    return Counts(str(name), splits, rows, totals, len(counts) - len(kept))


def _histogram(table: pd.DataFrame, name: str, unit: str) -> Histogram:
    values = table[name][np.isfinite(table[name])]
    edges = np.histogram_bin_edges(values, bins=_BINS)
    panels = []
    for split in _splits(table):
        of = values[table.loc[values.index, "split"] == split]
        if len(of):
            counts = tuple(int(n) for n in np.histogram(of, edges)[0])
            panels.append((split, counts, len(of), float(of.median())))
    return Histogram(str(name), unit, float(edges[0]), float(edges[-1]), tuple(panels))


# -- scans ------------------------------------------------------------------------------------------------------------


def _properties(table: pd.DataFrame) -> list[tuple[str, list[tuple[str, int]], int]]:
    """For shape, spacing, slices and type: the most frequent values, their counts, and how many others there are."""
    good = table[table["problem"] == ""]
    spacing = good[["spacing_d", "spacing_h", "spacing_w"]]
    sizes = [" × ".join(f"{v:.3g}" for v in row) if np.isfinite(row).all() else "unknown" for row in spacing.to_numpy()]
    columns = {
        "Shape (slices × rows × columns)": good[["depth", "height", "width"]].astype(str).agg(" × ".join, axis=1),
        "Spacing in mm": pd.Series(sizes, index=good.index, dtype=object),
        "Plane of the slices": good["orientation"].replace("", "unknown"),
        "Values": good["dtype"],
    }
    facts = []
    for name, column in columns.items():
        counts = column.value_counts()
        facts.append((name, [(str(k), int(v)) for k, v in counts.head(6).items()], max(0, len(counts) - 6)))
    return facts


def _intensities(table: pd.DataFrame) -> list[tuple[str, list[str]]]:
    good = table[table["problem"] == ""]
    names = {"low": "lowest", "p1": "1st percentile", "median": "median", "p99": "99th percentile", "high": "highest"}
    rows = []
    for column, name in names.items():
        values = good[column][np.isfinite(good[column])]
        if len(values):
            rows.append((name, [amount(q) for q in np.percentile(values, (0, 10, 50, 90, 100))]))
    return rows


def _same(result: CheckResult) -> list[list[dict[str, Any]]]:
    """The first groups of scans with the same pixels, those across splits first."""
    table = result.table
    groups = [rows for _, rows in table[table["same_as"] != ""].groupby("group", sort=False).groups.items()]
    groups.sort(key=lambda rows: table.loc[rows, "split"].nunique() < 2)
    return [[_figure(result, row) | {"odd": []} for row in rows[:6]] for rows in groups[:_GROUPS]]


def _chosen(table: pd.DataFrame, limit: int) -> list[Any]:
    """The rows whose pictures are shown: all that are odd first, then an even choice of the rest."""
    odd = (table[["problem", "same_as", "outlier", "notes"]] != "").any(axis=1)
    odd |= (table["invalid"] > 0) | (table["low"] == table["high"])
    first, rest = list(table.index[odd])[:limit], table.index[~odd]
    room = min(limit - len(first), len(rest))
    return first + (list(rest[np.linspace(0, len(rest) - 1, room).round().astype(int)]) if room > 0 else [])


def _figure(result: CheckResult, row: Any) -> dict[str, Any]:
    scan = result.table.loc[row]
    picture = result.pictures.get(row)
    targets = result.task.targets if result.task else ()
    labels = [f"{t} {_short(scan[t])}" for t in targets[:3] if t in scan and not _empty(scan[t])]
    return {
        "row": row,
        "path": scan["path"],
        "file": _file_name(str(scan["path"])),
        "picture": f"data:image/jpeg;base64,{b64encode(picture).decode()}" if picture else "",
        "caption": " · ".join(filter(None, [str(scan["split"]), *labels])),
        "shape": _shape(scan) if not scan["problem"] else "",
        "odd": list(_oddities(scan)),
    }


def _oddities(scan: pd.Series) -> Iterator[str]:
    if scan["problem"]:
        yield str(scan["problem"])
    if scan["invalid"]:
        yield f"values that are no numbers ({scan['invalid']:,})"
    if scan["low"] == scan["high"]:
        yield "one value only"
    if scan["same_as"]:
        yield f"same pixels as row {', '.join(str(scan['same_as']).split()[:3])}"
    if scan["outlier"]:
        yield str(scan["outlier"])
    if scan["notes"]:
        yield str(scan["notes"])


def _shape(scan: pd.Series) -> str:
    grid = f"{scan['depth']} × {scan['height']} × {scan['width']}"
    return f"{scan['channels']} channels of {grid}" if scan["channels"] > 1 else grid


def _file_name(path: str) -> str:
    file, _, item = path.rpartition("#")
    return item if file and len(parts_of(path)) == 1 else short_name(path)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _empty(value: Any) -> bool:
    return value == "" or bool(pd.isna(value))
