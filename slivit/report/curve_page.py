"""The page of a label-efficiency curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slivit.report.draw import styled
from slivit.report.page import named_targets, render
from slivit.report.plots_training import curve_plot
from slivit.report.style import WORDS, amount, cases_drawn, count, in_words, number, spoken, with_unit
from slivit.report.tables import Grid, cell
from slivit.targets.task import Task

PAGE = "curve.html"


def write_curve(out: Path | str, curve: Mapping[str, Any]) -> Path:
    """Write `curve.html` with the curve of each metric, and the curves as `curve*.svg` and `curve*.pdf`.

    Args:
        out: the folder.
        curve: `curve.json`.

    Returns:
        The page.
    """
    task = Task(**curve["task"])
    metrics = curve["settings"]["metrics"]
    names = ["curve", *(f"curve-{metric.replace('_', '-')}" for metric in metrics[1:])]
    context = {
        "title": f"Label efficiency: {named_targets(task)}",
        "task": task,
        "settings": curve["settings"],
        "sentences": list(sentences(curve, task)),
        "means": means_grid(curve, task),
        "runs": [runs_grid(curve, metric, task) for metric in metrics],
    }
    with styled():
        plots = {"all": [curve_plot(curve, metric, name) for metric, name in zip(metrics, names, strict=True)]}
        return render("curve.html.j2", context, plots, Path(out), page=PAGE, figures=".")


def sentences(curve: Mapping[str, Any], task: Task) -> Iterator[str]:
    """The curve in plain words."""
    metric = curve["settings"]["metrics"][0]
    unit = task.unit if WORDS[metric].in_unit else ""
    seeds = count(len(curve["settings"]["seeds"]), "seed")
    scans = f"{count(curve['scans'], 'scan')} of {count(curve['patients'], 'patient')}"
    yield f"{count(len(curve['points']), 'subset')} of the training scans, {seeds} each, tested on the same {scans}."
    known = [p for p in curve["points"] if p["metrics"][metric]["value"] is not None]
    if not known:
        yield f"{spoken(metric).capitalize()} is not defined at any point."
        return
    first, last = known[0], known[-1]
    ends = [
        f"{in_words(p['metrics'][metric], unit)} with {count(p['train_scans'], 'training scan')}" for p in (first, last)
    ]
    yield f"The mean {spoken(metric)} is " + (f"{ends[0]}, and {ends[1]}." if len(known) > 1 else f"{ends[0]}.")
    if len(known) > 1:
        before, gain = known[-2], abs(last["metrics"][metric]["value"] - known[-2]["metrics"][metric]["value"])
        yield (
            f"The last step, from {before['train_scans']:,} to {last['train_scans']:,} scans, changes it by "
            f"{amount(number(gain), unit)}{_beside(last, metric)}."
        )


def _beside(point: Mapping[str, Any], metric: str) -> str:
    sd = point["spread"][metric]["sd"]
    return f"; runs with different seeds differ by a standard deviation of {number(sd)}" if sd is not None else ""


def means_grid(curve: Mapping[str, Any], task: Task) -> Grid:
    """The mean over seeds with its interval, and the standard deviation over seeds, at every point."""
    metrics = curve["settings"]["metrics"]
    heads = [
        ("patients", ""),
        *((with_unit(m, task.unit), "") for m in metrics),
        *((f"SD of {spoken(m)}", "") for m in metrics),
    ]
    rows = []
    for p in curve["points"]:
        cells = [(f"{p['train_patients']:,}", ""), *(cell(p["metrics"][m], m) for m in metrics)]
        spreads = [(number(p["spread"][m]["sd"]) if p["spread"][m]["sd"] is not None else "", "") for m in metrics]
        rows.append((f"{p['train_scans']:,} scans ({100 * p['fraction']:.3g}%)", (*cells, *spreads)))
    note = f"Intervals are over test {cases_drawn(curve['settings'])}, for these runs."
    return Grid("Mean over seeds", tuple(heads), tuple(rows), note)


def runs_grid(curve: Mapping[str, Any], metric: str, task: Task) -> Grid:
    """Every run of a metric, by subset and seed."""
    heads = tuple((f"seed {seed}", "") for seed in curve["settings"]["seeds"])
    rows = tuple(
        (f"{p['train_scans']:,} scans", tuple((number(run["metrics"][metric]), "") for run in p["runs"]))
        for p in curve["points"]
    )
    return Grid(f"{with_unit(metric, task.unit)} of every run", heads, rows)
