"""The slices of a scan, one at a time: slider, wheel, keys, a bar for each slice, colours over the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from nicegui import events, ui

from slivit.explanation import Explanation, SeenScan
from slivit.viewer.pictures import CLEAR, heat_uri, slice_uri

STEPS = {"ArrowLeft": -1, "ArrowDown": -1, "ArrowRight": 1, "ArrowUp": 1, "PageUp": 5, "PageDown": -5}


class SliceView:
    """Shows a scan's slices, and an explanation over them."""

    def __init__(self) -> None:
        self.scan: SeenScan | None = None
        self.found: Explanation | None = None
        self.method = ""
        self.place = 0
        with ui.element("div").classes("stage") as self.stage:
            self.picture = ui.element("img").props('alt="slice" draggable=false').classes("under")
            self.heat = ui.element("img").props('alt="" draggable=false').classes("over")
        self.stage.on(
            "wheel.prevent", self._wheel, js_handler="(e) => emit(Math.sign(e.deltaY))", throttle=0.04,
            trailing_events=False,
        )  # fmt: skip
        with ui.element("div").classes("slice-bar q-mt-sm"):
            self.slider = _range("slice-slider", "Slice")
            self.slider.on("input", lambda e: self.go(int(e.args)), js_handler="(e) => emit(e.target.value)")
            self.label = ui.label().classes("quiet slice-label")
        self.bars = ui.element("div").classes("bars q-mt-sm")
        with ui.element("div").classes("opacity q-mt-sm") as self.colours:
            ui.label("Colours").classes("quiet")
            opacity = _range("opacity-slider", "Opacity of the colours").props("min=0 max=100 step=5 value=60")
            opacity.on("input", lambda e: self._fade(int(e.args)), js_handler="(e) => emit(e.target.value)")
        self._fade(60)
        ui.keyboard(on_key=self._key, ignore=["input", "select", "textarea"])

    def show_scan(self, scan: SeenScan) -> None:
        """Show another scan, from its middle slice."""
        self.scan, self.found, self.place = scan, None, len(scan.sampled) // 2
        self.slider.props(f"min=0 max={len(scan.sampled) - 1} step=1")
        aspect = min(max(scan.aspect, 0.4), 2.5)
        self.stage.style(f"aspect-ratio: {aspect:.4f}; max-width: calc(68vh * {aspect:.4f})")
        self.show_nothing()

    def show_explanation(self, found: Explanation, method: str) -> None:
        """Show a method's scores as bars and its map as colours, from its most important slice on."""
        first = self.found is None
        self.found, self.method = found, method
        self.colours.visible = found.attributions[method].maps is not None
        self._draw_bars(found.attributions[method].scores)
        best = int(np.searchsorted(found.scan.sampled, found.ranking(method)[0]))
        self.go(best if first else self.place)

    def show_nothing(self) -> None:
        """Take bars and colours away."""
        self.found = None
        self.colours.visible = False
        self.bars.clear()
        self.go(self.place)

    def go(self, place: int) -> None:
        """Show the slice of a place among those that the model saw."""
        if self.scan is None:
            return
        total = len(self.scan.sampled)
        before, self.place = self.place, min(max(place, 0), total - 1)
        number = int(self.scan.sampled[self.place])
        self.picture.props["src"] = slice_uri(self.scan, number)
        self.heat.props["src"] = heat_uri(self.found, self.method, number) if self.found else CLEAR
        self.slider.props["value"] = self.place
        self.label.text = f"slice {number} of 0 to {self.scan.shape[0] - 1} ({self.place + 1} of {total} seen)"
        for element in (self.picture, self.heat, self.slider):
            element.update()
        self._mark(before)

    def _mark(self, before: int) -> None:
        bars = list(self.bars)
        for place, bar in enumerate(bars):
            if place == self.place:
                bar.classes(add="now")
            elif place == before:
                bar.classes(remove="now")

    def _draw_bars(self, scores: Any) -> None:
        """One bar for each slice, from a common line; what speaks against the output hangs below it."""
        top, bottom = max(float(np.max(scores)), 0.0), min(float(np.min(scores)), 0.0)
        span = (top - bottom) or 1.0
        self.bars.clear()
        with self.bars:
            for place, score in enumerate(scores):
                height, base = 100 * abs(float(score)) / span, 100 * -bottom / span
                foot = base if score >= 0 else base - height
                bar = ui.element("button").classes("bar").props(f'aria-label="slice {place}: {score:.3g}"')
                bar.on("click", lambda _, p=place: self.go(p))
                with bar:
                    ui.element("i").style(f"bottom: {foot:.2f}%; height: {height:.2f}%").classes(
                        "" if score >= 0 else "against"
                    )

    def _fade(self, percent: int) -> None:
        self.heat.style(f"opacity: {percent / 100:.2f}")

    def _wheel(self, event: events.GenericEventArguments) -> None:
        self.go(self.place + int(event.args))

    def _key(self, event: events.KeyEventArguments) -> None:
        if not event.action.keydown or self.scan is None:
            return
        name = str(event.key.name)
        ends = {"Home": 0, "End": len(self.scan.sampled) - 1}
        if name in ends:
            self.go(ends[name])
        elif name in STEPS:
            self.go(self.place + STEPS[name])


def _range(name: str, label: str) -> ui.element:
    """A slider of the browser itself, which keys move too."""
    return ui.element("input").props(f'type=range aria-label="{label}"').classes(name)
