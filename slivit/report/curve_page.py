"""The page of a label-efficiency curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slivit.report.draw import styled
from slivit.report.page import named_targets, render
from slivit.report.plots_training import curve_plot
from slivit.report.style import WORDS, amount, cases_drawn, count, number, spoken, told, with_unit
from slivit.report.tables import Grid, cell
from slivit.targets.task import Task

PAGE = "curve.html"


def write_curve(out: Path | str, found: Mapping[str, Any]) -> Path:
    """Write `curve.html` with the curve of each metric, and the curves as `curve*.svg` and `curve*.pdf`.

    Args:
        out: the folder.
        found: `curve.json`.

    Returns:
        The page.
    """
    task = Task(**found["task"])
    metrics = found["settings"]["metrics"]
    names = ["curve", *(f"curve-{metric.replace('_', '-')}" for metric in metrics[1:])]
    context = {
        "title": f"Label efficiency: {named_targets(task)}",
        "task": task,
        "settings": found["settings"],
        "sentences": list(sentences(found, task)),
        "means": means_grid(found, task),
        "runs": [runs_grid(found, metric, task) for metric in metrics],
    }
    with styled():
        plots = {"all": [curve_plot(found, metric, name) for metric, name in zip(metrics, names, strict=True)]}
        return render("curve.html.j2", context, plots, Path(out), page=PAGE, figures=".")


def sentences(found: Mapping[str, Any], task: Task) -> Iterator[str]:
    """The curve in plain words."""
    metric = found["settings"]["metrics"][0]
    unit = task.unit if WORDS[metric].in_unit else ""
    seeds = count(len(found["settings"]["seeds"]), "seed")
    scans = f"{count(found['scans'], 'scan')} of {count(found['patients'], 'patient')}"
    yield f"{count(len(found['points']), 'subset')} of the training scans, {seeds} each, tested on the same {scans}."
    known = [p for p in found["points"] if p["metrics"][metric]["value"] is not None]
    if not known:
        yield f"{spoken(metric).capitalize()} is not defined at any point."
        return
    first, last = known[0], known[-1]
    ends = [
        f"{told(p['metrics'][metric], unit)} with {count(p['train_scans'], 'training scan')}" for p in (first, last)
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


def means_grid(found: Mapping[str, Any], task: Task) -> Grid:
    """The mean over seeds with its interval, and the standard deviation over seeds, at every point."""
    metrics = found["settings"]["metrics"]
    heads = [
        ("patients", ""),
        *((with_unit(m, task.unit), "") for m in metrics),
        *((f"SD of {spoken(m)}", "") for m in metrics),
    ]
    rows = []
    for p in found["points"]:
        cells = [(f"{p['train_patients']:,}", ""), *(cell(p["metrics"][m], m) for m in metrics)]
        spreads = [(number(p["spread"][m]["sd"]) if p["spread"][m]["sd"] is not None else "", "") for m in metrics]
        rows.append((f"{p['train_scans']:,} scans ({100 * p['fraction']:.3g}%)", (*cells, *spreads)))
    note = f"Intervals are over test {cases_drawn(found['settings'])}, for these runs."
    return Grid("Mean over seeds", tuple(heads), tuple(rows), note)


def runs_grid(found: Mapping[str, Any], metric: str, task: Task) -> Grid:
    """Every run of a metric, by subset and seed."""
    heads = tuple((f"seed {seed}", "") for seed in found["settings"]["seeds"])
    rows = tuple(
        (f"{p['train_scans']:,} scans", tuple((number(run["metrics"][metric]), "") for run in p["runs"]))
        for p in found["points"]
    )
    return Grid(f"{with_unit(metric, task.unit)} of every run", heads, rows)
