"""The page of one visitor: choose a scan, scroll through its slices, see why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from nicegui import run, ui

from slivit.errors import SlivitError
from slivit.explanation import METHODS, TITLES, target_or
from slivit.models.registry import spec_of
from slivit.targets.task import Task
from slivit.viewer.bench import Bench, DropFolder, Opened, Stopped
from slivit.viewer.panels import draw_calibration, draw_neighbours, draw_prediction, scan_label
from slivit.viewer.slices import SliceView

log = logging.getLogger(__name__)


class Page:
    """What one visitor sees, and what happens when something is pressed.

    Args:
        bench: the model and the scans.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.opened: Opened | None = None
        self.target = bench.checkpoint.task.outputs[0]
        self.method = METHODS[-1]
        self.step: tuple[int, int] | None = None  # of what is being computed
        self.turn = 0  # counts what the visitor asked for: what is out of date stops

    def build(self) -> None:
        """Lay the page out."""
        ui.colors(primary="#0067A3")
        ui.add_css(files("slivit.viewer").joinpath("page.css").read_text("utf-8"))
        spec = spec_of(self.bench.checkpoint.model)
        with ui.element("header").classes("top"):
            ui.html(f"<h1>{_escaped(self.bench.run.name)}</h1>", sanitize=False)
            targets = ", ".join(self.bench.checkpoint.task.targets)
            ui.label(f"{spec.name} for {targets}. For research; not a medical device.").classes("quiet")
        with ui.element("main").classes("whole"):
            with ui.element("div").classes("main"):
                self._build_choice()
                self.trouble = ui.label().classes("care").props("role=alert")
                self.trouble.visible = False
                offered = "Choose a scan of the list, or drop" if self.bench.rows else "Drop"
                self.hint = ui.label(f"{offered} a file to see what the model makes of it, and why.").classes("quiet")
                self._build_viewer()
            with ui.element("div").classes("side"):
                self.prediction = ui.element("section").classes("panel prediction")
                self.calibration = ui.element("section").classes("panel calibration")
                self.near = ui.element("section").classes("panel nearest")
        for panel in (self.viewer, self.prediction, self.calibration, self.near):
            panel.visible = False
        ui.timer(0.2, self._show_step)

    def _build_choice(self) -> None:
        with ui.element("section").classes("panel choose"):
            if self.bench.rows:
                with ui.element("div"):
                    names = {i: scan_label(row) for i, row in enumerate(self.bench.rows)}
                    self.choice = ui.select(names, with_input=True, label="Scan", on_change=self._choose)
                    self.choice.props('dense outlined aria-label="Scan"').classes("scan-choice")
                    with ui.element("div").classes("row-of-buttons q-mt-sm"):
                        ui.button("Previous", on_click=partial(self._move_on, -1)).props("flat dense no-caps")
                        ui.button("Next", on_click=partial(self._move_on, 1)).props("flat dense no-caps")
            drop = ui.upload(
                multiple=True, auto_upload=True, label="Drop a scan here", on_multi_upload=self._take_dropped
            )
            drop.props("flat bordered")
            self.drop = drop

    def _build_viewer(self) -> None:
        with ui.element("section").classes("panel viewer") as self.viewer:
            with ui.element("div").classes("row-of-buttons"):
                self.methods = ui.toggle({m: TITLES[m] for m in METHODS}, value=self.method, on_change=self._set_method)
                self.methods.props("dense no-caps unelevated").classes("methods")
                names = list(self.bench.checkpoint.task.outputs)
                self.targets = ui.select(names, value=self.target, label="Explain", on_change=self._set_target)
                self.targets.props("dense outlined").classes("targets")
                self.targets.visible = len(names) > 1
            self.slices = SliceView()
            self.progress = ui.linear_progress(value=0, show_value=False).props("rounded")
            self.progress.visible = False
            self.said = ui.label().classes("quiet said")

    async def _choose(self, event: Any) -> None:
        if event.value is not None:
            await self._open(partial(self.bench.open_row, int(event.value)))

    def _move_on(self, by: int) -> None:
        now = self.choice.value
        self.choice.value = (0 if now is None else int(now) + by) % len(self.bench.rows)

    async def _take_dropped(self, event: Any) -> None:
        """Open what was dropped: one file, or several as the slices of one scan. Nothing of it stays."""
        with DropFolder() as folder:
            for file in event.files:
                await file.save(folder / (Path(file.name).name or "scan"))
            self.drop.reset()
            await self._open(partial(self.bench.open_files, folder), folder)

    async def _open(self, read: Callable[[], Opened], folder: Path | None = None) -> None:
        turn = self._new_turn()
        self.said.text = "reading ..."
        try:
            opened = await run.io_bound(read)
        except SlivitError as error:
            self._tell(str(error).replace(f"{folder}/", "") if folder else str(error))
            return
        if turn != self.turn or opened is None:  # None comes where the server is being stopped
            return
        self._tell("")
        self.opened = opened
        self.target = target_or(self.bench.checkpoint.task, None, opened.predictions)
        self.targets.value = self.target
        self.slices.show_scan(opened.scan)
        self.hint.visible = False
        for panel in (self.viewer, self.prediction, self.calibration, self.near):
            panel.visible = True
        self._draw_side()
        await self._explain()

    def _draw_side(self) -> None:
        if self.opened is None:
            return
        draw_prediction(self.prediction, self.bench, self.opened, self.target)
        draw_calibration(self.calibration, self.bench, self.opened, self.target)
        draw_neighbours(self.near, self.bench, self.opened, self._compare)

    async def _set_method(self, event: Any) -> None:
        self.method = str(event.value)
        await self._explain()

    async def _set_target(self, event: Any) -> None:
        if self.opened is not None and event.value != self.target:
            self.target = str(event.value)
            self._draw_side()
            await self._explain()

    async def _explain(self) -> None:
        """Show the chosen method's explanation, computed first where it was not yet."""
        opened, target, method, turn = self.opened, self.target, self.method, self._new_turn()
        if opened is None:
            return
        self.said.text = "computing ..."
        try:
            found = await run.io_bound(self.bench.explain, opened, target, method, self._progress(turn))
        except Stopped:
            return
        except SlivitError as error:
            if turn == self.turn:
                self.slices.show_nothing()
                self.said.text = str(error)
            return
        if turn == self.turn and found is not None:
            self.step = None
            self.slices.show_explanation(found, method)
            self.said.text = explained(method, self.bench.checkpoint.task)

    async def _compare(self) -> None:
        """Compute the features of the training scans, and show the nearest."""
        turn = self._new_turn()
        try:
            await run.io_bound(self.bench.neighbours.build, self._progress(turn))
        except Stopped:
            return
        self.step = None
        if self.opened is not None:
            draw_neighbours(self.near, self.bench, self.opened, self._compare)

    def _new_turn(self) -> int:
        self.turn += 1
        self.step = None
        return self.turn

    def _progress(self, turn: int) -> Callable[[int, int], None]:
        """What a computation calls in its own thread; it ends one that nobody waits for."""

        def progress(done: int, total: int) -> None:
            if turn != self.turn:
                raise Stopped
            self.step = (done, total)

        return progress

    def _show_step(self) -> None:
        self.progress.visible = self.step is not None
        if self.step:
            self.progress.value = self.step[0] / self.step[1]

    def _tell(self, trouble: str) -> None:
        """Say on the page what went wrong; an empty text takes it away."""
        self.trouble.text = trouble
        self.trouble.visible = bool(trouble)
        self.said.text = ""


def explained(method: str, task: Task) -> str:
    """What the bars and colours of a method mean."""
    unit = "the log-odds" if task.makes_calls else "the prediction"
    return {
        "occlusion": f"Bars: by how much {unit} would fall without the slice; below the line, it would rise.",
        "rollout": "Bars: the part of what the model reads at the end that came from the slice, by all attention.",
        "gradcam": "Colours: where features speak for the output, relative to the scan's highest. Bars: the mean.",
    }[method]


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)
