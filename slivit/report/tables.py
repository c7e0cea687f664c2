"""Tables of metrics, as rows that the templates print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slivit.report.style import WORDS, interval, metric_name, number, with_unit
from slivit.targets.task import Task

Split = Mapping[str, Any]
Cell = tuple[str, str]
"""A value and, below it, its interval or a note."""


@dataclass(frozen=True)
class Grid:
    """A table with a heading a column and a name a row.

    Args:
        title: above it.
        columns: the heading of each column; a second line may follow as a note.
        rows: a name, and a cell a column.
        note: below it.
    """

    title: str
    columns: tuple[Cell, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One metric in the table of performance.

    Args:
        name: in words.
        value: as text.
        interval: as text; empty where there is none.
        meaning: what it says.
        why: why there is no value or interval, or what to know of them.
    """

    name: str
    value: str
    interval: str
    meaning: str
    why: str = ""


def cell(estimate: Mapping[str, Any] | None, metric: str = "") -> Cell:
    """A value with its interval below it; what is in the unit of the target has fewer decimals."""
    if estimate is None:
        return "", ""
    digits = 2 if metric in WORDS and WORDS[metric].in_unit else 3
    return number(estimate["value"], digits), interval(estimate["low"], estimate["high"], digits)


def performance(split: Split, task: Task) -> list[Line]:
    """Every overall metric of a split, one a line."""
    lines = [_line(name, split["metrics"][name], task) for name in WORDS if name in split["metrics"]]
    delong = split.get("delong", {}).get(task.targets[0]) if task.two_classes else None
    if delong:
        meaning = "The same AUC with DeLong's interval, which takes scans as independent."
        lines.insert(1, Line("ROC AUC, DeLong", *cell(delong), meaning, delong["why"] or ""))
    return lines


def _line(name: str, estimate: Mapping[str, Any], task: Task) -> Line:
    word = WORDS[name]
    unit = f" ({task.unit})" if task.unit and word.in_unit else ""
    return Line(word.name + unit, *cell(estimate, name), task.averaging(name) + word.meaning, estimate["why"] or "")


def headline_cells(split: Split, task: Task) -> list[tuple[str, str, str]]:
    """The first figures of a page: name, value, interval."""
    return [(with_unit(m, task.unit), *cell(split["metrics"][m], m)) for m in task.measures.headlines]


def outputs(split: Split, task: Task) -> Grid | None:
    """The main metrics of every class, label or quantity; None where there is one only."""
    names = task.parts
    if len(names) < 2:
        return None
    metrics = task.measures.by_output
    rows = tuple((n, tuple(cell(split["metrics"].get(f"{m}/{n}"), m) for m in metrics)) for n in names)
    return Grid(f"By {task.part}", tuple((with_unit(m, task.unit), "") for m in metrics), rows)


def thresholds(metrics: Mapping[str, Any], task: Task) -> Grid | None:
    """The threshold of every target, with what it did on validation data; None where there are none."""
    point = metrics["operating_point"]
    if not point or not point["thresholds"]:
        return None
    columns = ("threshold", "sensitivity there", "specificity there", "scans", "positive")
    rows = tuple((target, _threshold_cells(point["thresholds"][target])) for target in task.targets)
    where = point["chosen_on"]
    note = f"Chosen by the rule {point['rule']} on {where}." if where else "Set, not chosen on data."
    if is_set(point["rule"]) and where:
        note = f"Set, not chosen on data; the rates are those on {where}."
    return Grid("Thresholds", tuple((c, "") for c in columns), rows, note)


def label_means(split: Split) -> list[Grid]:
    """What thresholds and referral do on average over labels; nothing where there is one label."""
    means = split.get("means")
    if not means:
        return []
    rates = {
        "false negatives": "false_negative_rate",
        "false positives": "false_positive_rate",
        "accuracy": "accuracy",
        "subset accuracy": "subset_accuracy",
    }
    error = cell(split["metrics"]["calibration_error"])
    note = (
        "Means over labels; subset accuracy is the share of scans with all labels right. The mean calibration error of "
    )
    note += f"the probabilities, which no threshold changes, is {error[0]}" + (f" ({error[1]})." if error[1] else ".")
    rows = [(f"{row['threshold']:.2f}", row) for row in means["thresholds"] if round(row["threshold"] * 100) % 10 == 0]
    grids = [_mean_grid("By threshold, mean over labels", "threshold", rates, rows, note)]
    ranked = {metric_name(name): name for name in ("roc_auc", "average_precision")}
    points = [(f"{point['percent']:g}%", point) for point in means["referral"]]
    note = "Means over labels. An expert answers the share of labels of which the model is least sure."
    return [*grids, _mean_grid("Referral, mean over labels", "referred", ranked, points, note)]


def _mean_grid(
    title: str, first: str, columns: Mapping[str, str], rows: Sequence[tuple[str, Mapping[str, Any]]], note: str
) -> Grid:
    cells = tuple((name, tuple(cell(row[key]) for key in columns.values())) for name, row in rows)
    return Grid(f"{title} ({first})", tuple((name, "") for name in columns), cells, note)


def is_set(rule: str) -> bool:
    """Whether the rule of an operating point is a threshold itself, not a choice by data."""
    return rule.replace(".", "").isdigit()


def _threshold_cells(threshold: Mapping[str, Any]) -> tuple[Cell, ...]:
    texts = [number(threshold["value"])]
    if threshold["n"]:
        texts += [number(threshold["sensitivity"]), number(threshold["specificity"])]
        texts += [f"{threshold['n']:,}", f"{threshold['positives']:,}"]
    return tuple((text, "") for text in [*texts, *[""] * (5 - len(texts))])


def subgroup_grids(split: Split, task: Task) -> list[Grid]:
    """The main metrics of every subgroup, one table a column."""
    metrics = task.measures.headlines
    heads = (("scans", ""), *((with_unit(m, task.unit), "") for m in metrics))
    grids = []
    for column, groups in split["subgroups"]["columns"].items():
        cells = {v: (_sizes(g), *(cell(g["metrics"].get(m), m) for m in metrics)) for v, g in groups.items()}
        grids.append(Grid(column, heads, tuple(cells.items()), _gap_note(split, column, task)))
    return grids


def _sizes(group: Mapping[str, Any]) -> Cell:
    patients = group["patients"]
    return f"{group['n']:,}", f"{patients:,} patients" if patients is not None else ""


def _gap_note(split: Split, column: str, task: Task) -> str:
    main = task.measures.gap
    for gap in split["subgroups"]["gaps"]:
        if gap["column"] == column and gap["metric"] == main:
            value, span = cell(gap["difference"], main)
            return (
                f"Largest gap of {metric_name(main)}: {value}"
                + (f" ({span})" if span else "")
                + f", {gap['highest']} less {gap['lowest']}."
            )
    return ""


def site_grid(split: Split, metrics: Mapping[str, Any], task: Task) -> Grid | None:
    """The sites side by side: seen in training or not; None where no column of sites is named."""
    column = metrics["settings"]["site"]
    if not column or column not in split.get("subgroups", {}).get("columns", {}):
        return None
    groups = split["subgroups"]["columns"][column]
    trained = metrics["data"].get("trained_on", {}).get(column)
    heads = tuple((site, _seen(site, trained)) for site in groups)
    rows: list[tuple[str, tuple[Cell, ...]]] = [("scans", tuple(_sizes(g) for g in groups.values()))]
    for metric in (m for m in WORDS if m in split["metrics"]):
        rows.append(
            (with_unit(metric, task.unit), tuple(cell(g["metrics"].get(metric), metric) for g in groups.values()))
        )
    reference = metrics["settings"]["reference"].get(column)
    rows += _difference_rows(groups, reference, task) if reference else []
    return Grid("Sites side by side", heads, tuple(rows))


def _seen(site: str, trained: Sequence[str] | None) -> str:
    if trained is None:
        return ""
    return "in training" if site in trained else "not in training"


def _difference_rows(groups: Mapping[str, Any], reference: str, task: Task) -> list[tuple[str, tuple[Cell, ...]]]:
    return [
        (
            f"{with_unit(m, task.unit)}, less {reference}",
            tuple(cell(g["differences"][m], m) if g["differences"] else ("reference", "") for g in groups.values()),
        )
        for m in task.measures.headlines
    ]


def reader_grid(name: str, readers: Mapping[str, Any], split: Split, predicted: Mapping[str, Any] | None) -> Grid:
    """Human readers and their average, and the model at its threshold, with the time that each took.

    Args:
        name: of the class, label or target that was called.
        readers: their points.
        split: of the metrics.
        predicted: `seconds` that the model took for `scans`; None where that was not measured.
    """
    columns = (("scans read", ""), ("Sensitivity", ""), ("Specificity", ""), ("PPV", ""), ("time", ""))
    rates = ("sensitivity", "specificity", "ppv")
    points = [*readers["points"], readers["average"]]
    rows = [
        (p["name"], ((f"{p['n']:,}", ""), *(cell(p[rate]) for rate in rates), (_spent(p.get("seconds")), "")))
        for p in points
    ]
    metrics = split["metrics"]
    own = {rate: metrics.get(f"{rate}/{name}") or metrics.get(rate) for rate in rates}
    a_scan = f"{predicted['seconds'] / predicted['scans']:.2g} s a scan" if predicted else ""
    seconds = predicted["seconds"] / predicted["scans"] * split["scans"] if predicted else None
    model = (f"{split['scans']:,}", ""), *(cell(own[rate]) for rate in rates), (_spent(seconds), a_scan)
    note = "The time of the model is that of reading, preparing and predicting the scans." if predicted else ""
    return Grid(f"Human readers: {name}", columns, (*rows, ("model", model)), note)


def _spent(seconds: float | None) -> str:
    """A time in words."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
