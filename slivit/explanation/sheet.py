"""The contact sheet: every slice that the model saw, where in it the model looked, and the scores beside each other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slivit.data.readers.address import short_name
from slivit.explanation.outputs import slice_map
from slivit.explanation.result import Explanation
from slivit.report.draw import styled
from slivit.report.style import INK, LINE, QUIET, amount, number, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 48
"""More slices than these are not shown; then the best ones are, in the order of the scan."""

COLUMNS, TILE = 8, 1.25
COLOURS = {"occlusion": "#D55E00", "rollout": "#0072B2", "gradcam": "#009E73"}
HEAT = "inferno"


def sheet_figure(explanation: Explanation) -> Figure:
    """Draw the contact sheet of an explanation.

    Above, the scores of the slices by method (not of a single image, whose score compares with none); below, the
    slices with the map of Grad-CAM (or else of another method that has one) over them. A frame in a method's colour
    marks the slice that it finds most important.
    """
    from matplotlib.figure import Figure

    shown = shown_slices(explanation)
    columns = min(COLUMNS, max(len(shown), 4))
    rows, bars = -(-len(shown) // columns), len(explanation.attributions)
    width, tile = columns * TILE, TILE / min(max(explanation.scan.aspect, 0.5), 2.0)
    alone = explanation.scan.shape[0] == 1
    heights = [0.75, *([] if alone else [bars * 0.95 + 0.15]), rows * (tile + 0.24)]
    with styled():
        figure = Figure(figsize=(width, sum(heights)), layout="constrained")
        panels: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
        _write_title(panels[0], explanation)
        if not alone:
            _draw_scores(panels[1], explanation)
        _draw_slices(panels[-1], explanation, shown, (rows, columns))
    return figure


def shown_slices(explanation: Explanation, most: int = MOST) -> npt.NDArray[np.intp]:
    """The numbers of the slices to show, ascending: all, or where there are too many the best of each method."""
    if len(explanation.scan.sampled) <= most:
        return explanation.scan.sampled
    rankings = [explanation.ranking(method) for method in explanation.attributions]
    order = [n for place in zip(*rankings, strict=True) for n in place] or list(explanation.scan.sampled)
    return np.sort(np.array(list(dict.fromkeys(order))[:most]))


def map_method(result: Explanation) -> str | None:
    """The method whose map is drawn over the slices."""
    having = [m for m in ("gradcam", "rollout") if m in result.attributions and result.attributions[m].maps is not None]
    return having[0] if having else None


def prediction_text(explanation: Explanation) -> str:
    """The prediction in words."""
    if explanation.task.makes_calls:
        return f"probability of {explanation.target}: {number(explanation.prediction)}"
    return f"{explanation.target}: {amount(number(explanation.prediction, 2), explanation.task.unit)}"


def png_bytes(figure: Figure) -> bytes:
    """A figure as PNG, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def _write_title(panel: Any, explanation: Explanation) -> None:
    name = short(short_name(explanation.scan.source), 60)
    panel.text(0.012, 0.70, prediction_text(explanation), fontsize=12, fontweight="bold", color=INK, va="center")
    seen = f": {len(explanation.scan.sampled)} of its {explanation.scan.shape[0]} slices seen, counted from 0."
    frames = " Framed: the slice that a method puts first." if explanation.attributions else ""
    text = name if explanation.scan.shape[0] == 1 else f"{name}{seen}{frames}"
    panel.text(0.012, 0.24, text, fontsize=8.5, color=QUIET, va="center")


def _draw_scores(panel: Any, explanation: Explanation) -> None:
    axes = np.atleast_1d(panel.subplots(max(len(explanation.attributions), 1), 1, sharex=True))
    unit = "log-odds" if explanation.task.makes_calls else explanation.task.unit or "value"
    labels = {"occlusion": f"Occlusion\n({unit})", "rollout": "Attention\nrollout", "gradcam": "Grad-CAM\n(mean)"}
    width = 0.8 * float(np.diff(explanation.scan.sampled).min(initial=explanation.scan.shape[0]))
    for ax, (method, attribution) in zip(axes, explanation.attributions.items(), strict=False):
        ax.bar(explanation.scan.sampled, attribution.scores, width, color=COLOURS[method])
        ax.axhline(0, color=LINE, linewidth=0.8)
        ax.set_ylabel(labels[method], rotation=0, ha="right", va="center", fontsize=8)
        ax.locator_params(axis="y", nbins=3)
        ax.tick_params(labelsize=7)
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    axes[-1].set_xlabel("Slice", fontsize=8)


def _draw_slices(panel: Any, explanation: Explanation, shown: npt.NDArray[np.intp], grid: tuple[int, int]) -> None:
    axes = np.atleast_2d(panel.subplots(*grid, squeeze=False)).ravel()
    method = map_method(explanation)
    maps = explanation.attributions[method].maps if method else None
    peak = float(maps.max()) if maps is not None else 0.0
    alone = explanation.scan.shape[0] == 1
    tops = {} if alone else {m: int(explanation.ranking(m)[0]) for m in explanation.attributions}
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    for ax, slice_ in zip(axes, shown, strict=False):
        picture = explanation.scan.shown[explanation.scan.slices == slice_][0]
        _draw_slice(ax, picture, explanation.scan.aspect)
        if maps is not None and peak > 0:
            cells = slice_map(explanation.scan, maps, int(slice_), picture.shape) / peak
            ax.imshow(cells, cmap=HEAT, vmin=0, vmax=1, alpha=0.65 * np.clip(cells, 0, 1), aspect="auto")
        _frame(ax, "" if alone else f"{slice_}", [m for m, top in tops.items() if top == slice_])


def _draw_slice(ax: Axes, picture: npt.NDArray[np.uint8], aspect: float) -> None:
    ax.imshow(picture, cmap="gray", vmin=0, vmax=255, aspect="auto")
    ax.set_box_aspect(1 / min(max(aspect, 0.5), 2.0))
    ax.set_xticks([])
    ax.set_yticks([])


def _frame(ax: Axes, label: str, best: Sequence[str]) -> None:
    """The slice's number below it, and a frame and a square in the colour of each method that puts it first."""
    for spine in ax.spines.values():
        spine.set_visible(bool(best))
        spine.set_linewidth(2.6)
        spine.set_color(COLOURS[best[0]] if best else LINE)
    for i, method in enumerate(best):
        place = (0.06 + 0.09 * i, 0.93)
        ax.plot(*place, "s", color=COLOURS[method], mec="white", mew=0.6, ms=6, transform=ax.transAxes, clip_on=False)
    ax.set_xlabel(label, fontsize=7, color=INK if best else QUIET, fontweight="bold" if best else None, labelpad=2)
