"""What stands beside the slices: the prediction, how far it can be trusted, and the nearest training scans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from nicegui import ui

from slivit.explanation import number_of
from slivit.report.style import amount, number
from slivit.targets.task import is_missing
from slivit.viewer.bench import Bench, Opened
from slivit.viewer.pictures import png_uri, svg_uri


def scan_label(row: Mapping[str, Any]) -> str:
    """A scan in the list to choose from."""
    parts = [Path(str(row["path"])).name, str(row["patient"]) if row["patient"] != row["path"] else "", row["split"]]
    return " · ".join(str(p) for p in parts if p)


def draw_prediction(panel: ui.element, bench: Bench, opened: Opened, target: str) -> None:
    """The prediction, the call, the known answer, and what the reader noticed."""
    task = bench.checkpoint.task
    value = float(opened.predictions[column_of(bench, target)])
    panel.clear()
    with panel:
        _heading("Prediction")
        ui.label(opened.name).classes("quiet")
        ui.label(number(value) if task.makes_calls else amount(number(value, 2), task.unit)).classes("big")
        ui.label(f"probability of {target}" if task.makes_calls else target).classes("quiet")
        if len(task.outputs) > 1:
            _outputs(bench, opened)
        for sentence in [*calls(bench, opened, target), *known(bench, opened)]:
            ui.label(sentence).classes("call")
        for note in opened.scan.notes:
            ui.label(note).classes("quiet note")


def _outputs(bench: Bench, opened: Opened) -> None:
    """Every output with its prediction."""
    outputs = bench.checkpoint.task.outputs
    places = range(len(outputs))
    values = [float(opened.predictions[bench.checkpoint.task.prediction_columns[i]]) for i in places]
    rows = zip(outputs, values, strict=True)
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{number(value)}</td></tr>" for name, value in rows)
    ui.html(f'<table class="outputs">{cells}</table>', sanitize=False)


def calls(bench: Bench, opened: Opened, target: str) -> list[str]:
    """What is called of the prediction, or why nothing is."""
    task, decision = bench.checkpoint.task, bench.checkpoint.operating_point
    if not task.makes_calls:
        return []
    if task.exclusive:
        best = max(task.classes, key=lambda name: float(opened.predictions[f"prob_{name}"]))
        return [f"Called {best}, the most probable class."]
    if decision is None or target not in decision.thresholds:
        return ["No operating point is fixed in this checkpoint, so there is no call."]
    threshold = decision.threshold(target)
    found = float(opened.predictions[f"prob_{target}"]) >= threshold
    how = f"operating point {decision.rule}" + (f", chosen on {decision.chosen_on}" if decision.chosen_on else "")
    return [f"Called {'with' if found else 'without'} {target}: the threshold is {number(threshold)} ({how})."]


def known(bench: Bench, opened: Opened) -> list[str]:
    """The known answers of a scan of the manifest."""
    task, split = bench.checkpoint.task, opened.row.get("split") or ""
    told = [f"{target} {amount(str(value), task.unit)}" for target, value in bench.truth(opened).items()]
    sentences = [f"Known: {', '.join(told)}."] if told else []
    return sentences + ([f"The model was trained on this scan (split {split})."] if split == "train" else [])


def column_of(bench: Bench, target: str) -> str:
    """The column of an output's prediction."""
    return bench.checkpoint.task.prediction_columns[number_of(bench.checkpoint.task, target)]


def draw_calibration(panel: ui.element, bench: Bench, opened: Opened, target: str) -> None:
    """How predictions like this one turned out."""
    value = float(opened.predictions[column_of(bench, target)])
    figure = bench.record.figure(target, value)
    panel.clear()
    with panel:
        _heading("Calibration" if bench.checkpoint.task.makes_calls else "Predicted and true")
        ui.label(bench.record.sentence(target, value)).classes("trust")
        if figure is not None:
            alt = f"Predictions of the {bench.record.split} scans against the truth; this one is marked"
            ui.element("img").props(f'alt="{alt}"').classes("plot").props["src"] = svg_uri(figure)


def draw_neighbours(panel: ui.element, bench: Bench, opened: Opened, compare: Callable[[], Any]) -> None:
    """The nearest training scans, or the button that computes their features."""
    neighbours = bench.neighbours
    panel.clear()
    with panel:
        _heading("Nearest training scans")
        if not neighbours.rows:
            ui.label("The training scans are not known here: the run has no split.csv.").classes("quiet")
            return
        if neighbours.missing > 0:
            told = f"{neighbours.missing:,} of {len(neighbours.rows):,} training scans must be read once for this."
            ui.label(told).classes("quiet")
            ui.button("Compare", on_click=compare).props("no-caps unelevated dense").classes("compare q-px-md")
        with ui.element("div").classes("near"):
            for found in neighbours.nearest(opened.features, but=str(opened.row.get("path", ""))):
                _neighbour(bench, found)
        if neighbours.unreadable > 0:
            ui.label(f"{neighbours.unreadable:,} training scans could not be read.").classes("quiet")


def _neighbour(bench: Bench, found: Any) -> None:
    task = bench.checkpoint.task
    answers = [f"{t} {found.row[t]}" for t in task.targets if t in found.row and not is_missing(found.row[t])]
    with ui.element("figure"):
        ui.element("img").props('alt="middle slice"').props["src"] = png_uri(found.thumbnail)
        with ui.element("figcaption"):
            ui.label(", ".join(answers))
            ui.label(f"{Path(str(found.row['path'])).name}, similarity {number(found.similarity, 2)}").classes("quiet")


def _heading(text: str) -> None:
    ui.html(f"<h2>{escape(text)}</h2>", sanitize=False)
