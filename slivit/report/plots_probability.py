"""What the probabilities mean: reliability, the scores of each class, the confusion of calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from slivit.report.draw import Plot, new_figure, nothing, unit_square
from slivit.report.panels import left_out, panels, shown
from slivit.report.style import INK, NEGATIVE, POSITIVE, QUIET, number, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Split = Mapping[str, Any]
Scores = Mapping[str, tuple[Any, Any]]
"""By class, label or target: (n,) truth as 0 or 1 without missing labels, and (n,) probability."""


def probability_plots(split: Split, scores: Scores, thresholds: Mapping[str, float]) -> Iterator[Plot]:
    """Reliability, histogram and confusion figures.

    Args:
        split: of `metrics.json`.
        scores: the truth and the probabilities.
        thresholds: by target; a class of several has none.
    """
    yield reliability_plot(split)
    yield histogram_plot(scores, thresholds)
    yield confusion_plot(split["confusion"])


def reliability_plot(split: Split) -> Plot:
    """Observed shares by predicted probability."""
    names = list(split["reliability"])
    x, y = "Predicted probability", "Observed share"
    if len(names) == 1:
        figure, ax = new_figure(4.7)
        unit_square(ax, x, y)
        _draw_reliability(ax, split["reliability"][names[0]]["mass"], 6)
        if split["metrics"]["brier"]["value"] is not None:
            _note_calibration(ax, split["metrics"])
    else:

        def draw(ax: Axes, name: str) -> None:
            unit_square(ax, "", "")
            _draw_reliability(ax, split["reliability"][name]["mass"], 4)

        figure = panels(shown(names), draw, x, y)
    caption = (
        "Scans in bins of equal number, with intervals of the observed share. On the dotted line, probabilities mean "
        "what they say; below it, risks are overestimated." + left_out(names)
    )
    return Plot("calibration", "Calibration", caption, figure, caption)


def _draw_reliability(ax: Axes, bins: Sequence[Mapping[str, Any]], size: float) -> None:
    known = [b for b in bins if b["predicted"] is not None and b["observed"]["value"] is not None]
    if not known:
        why = bins[0]["observed"]["why"] if bins else "there are no predictions that can be used"
        nothing(ax, why or "no bin has a share")
        return
    ax.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
    x, y = [b["predicted"] for b in known], np.array([b["observed"]["value"] for b in known])
    low, high = (
        np.array([b["observed"]["value"] if b["observed"][s] is None else b["observed"][s] for b in known])
        for s in ("low", "high")
    )
    reach = np.abs([np.minimum(low - y, 0), np.maximum(high - y, 0)])
    ax.errorbar(x, y, yerr=reach, fmt="o-", color=NEGATIVE, ms=size, elinewidth=1, linewidth=1.2)


def _note_calibration(ax: Axes, metrics: Mapping[str, Any]) -> None:
    lines = [
        f"{text} {number(metrics[key]['value'])}"
        for key, text in (
            ("calibration_slope", "slope"),
            ("calibration_intercept", "intercept"),
            ("calibration_error", "calibration error"),
            ("brier", "Brier score"),
        )
    ]
    place: Any = {"va": "top", "transform": ax.transAxes, "zorder": 5}
    veil = {"facecolor": "white", "alpha": 0.8, "pad": 2.0, "linewidth": 0}  # for numbers over bars and lines
    ax.text(0.03, 0.97, "\n".join(lines), fontsize=8.5, color=INK, bbox=veil, **place)


def histogram_plot(scores: Scores, thresholds: Mapping[str, float]) -> Plot:
    """How the probabilities of each class are spread, positives upwards and negatives downwards."""
    names = list(scores)
    if len(names) == 1:
        figure, ax = new_figure(3.7)
        _draw_histogram(ax, *scores[names[0]], thresholds.get(names[0]), 30)
        ax.set(xlabel="Predicted probability", ylabel="Share of the class (negatives below)")
        if ax.get_legend_handles_labels()[1]:
            ax.legend(loc="best")
    else:
        figure = panels(
            shown(names),
            lambda ax, name: _draw_histogram(ax, *scores[name], thresholds.get(name), 15),
            "Predicted probability",
            "Share of the class (negatives below)",
            height=1.4,
        )
    dashed = " Dashed line: the threshold." if any(n in thresholds for n in names) else ""
    caption = "Share of the positive scans above the line (orange), of the negative ones below it (blue)."
    caption += dashed + left_out(names)
    return Plot("scores", "Predicted probabilities by class", caption, figure, caption)


def _draw_histogram(ax: Axes, y: Any, p: Any, threshold: float | None, bins: int) -> None:
    from matplotlib.ticker import MaxNLocator

    finite = np.isfinite(p)
    if not finite.any():
        nothing(ax, "there are no predictions that can be used")
        return
    y, p = y[finite], p[finite]
    edges = np.linspace(0, 1, bins + 1)
    above, below = (np.histogram(p[y == c], edges)[0] / max((y == c).sum(), 1) for c in (1, 0))
    ax.bar(edges[:-1], above, np.diff(edges), align="edge", color=POSITIVE, ec="white", lw=0.4, label="positive")
    ax.bar(edges[:-1], -below, np.diff(edges), align="edge", color=NEGATIVE, ec="white", lw=0.4, label="negative")
    ax.axhline(0, color=INK, linewidth=0.8)
    if threshold is not None and 0 <= threshold <= 1:
        ax.axvline(threshold, color=INK, linewidth=1, linestyle="--")
    ax.set_xlim(0, 1)
    ax.yaxis.set_major_formatter(lambda v, _: f"{abs(v):.0%}")
    ax.yaxis.set_major_locator(MaxNLocator(5))


def confusion_plot(confusion: Mapping[str, Any]) -> Plot:
    """Counts by true and called class, with their shares of the true class."""
    names = list(confusion)
    if len(names) == 1:
        classes = confusion[names[0]]["classes"]
        figure, ax = new_figure(min(4.6, 2.3 + 0.42 * len(classes)))
        _draw_confusion(ax, confusion[names[0]], 11 if len(classes) < 6 else 7.5)
        ax.set(xlabel="Called", ylabel="True")
    else:
        figure = panels(
            shown(names),
            lambda ax, name: _draw_confusion(ax, confusion[name], 8),
            "Called",
            "True",
            height=1.6,
            share=False,
        )
    caption = "Numbers of scans, and their share of the true class (the row)." + left_out(names)
    return Plot("confusion", "Confusion matrix" if len(names) == 1 else "Confusion matrices", caption, figure, caption)


def _draw_confusion(ax: Axes, matrix: Mapping[str, Any], size: float) -> None:
    if matrix["counts"] is None:
        nothing(ax, matrix["why"])
        return
    counts = np.array(matrix["counts"])
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    for (row, column), n in np.ndenumerate(counts):
        percent = f"\n{share[row, column]:.0%}" if total[row, 0] and len(counts) < 10 else ""
        tone = "white" if share[row, column] > 0.6 else INK
        ax.text(column, row, f"{n:,}{percent}", ha="center", va="center", color=tone, fontsize=size)
    two = {"0": "negative", "1": "positive"} if matrix["classes"] == ["0", "1"] else {}
    labels = [short(two.get(c, c), 12) for c in matrix["classes"]]
    turn = 35 if max(map(len, labels)) > 4 and len(labels) > 4 else 0
    ax.set_xticks(range(len(labels)), labels, rotation=turn, ha="right" if turn else "center")
    ax.set_yticks(range(len(labels)), labels, rotation=90 if two else 0, va="center")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
