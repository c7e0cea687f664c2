"""Predicted quantities: scatter, Bland-Altman, and the spread of errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from slivit.report.draw import Plot, new_figure, nothing
from slivit.report.style import INK, NEGATIVE, POSITIVE, QUIET, in_words, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Split = Mapping[str, Any]
MOST_TARGETS = 6
LIMITS = ("limit_high", "bias", "limit_low")
DENSE = 2000
"""Beyond this many scans, points are drawn small, and as one picture inside the vector graphic."""


def regression_plots(split: Split, values: Mapping[str, tuple[Any, Any]], unit: str) -> Iterator[Plot]:
    """Scatter, Bland-Altman and error figures of each quantity.

    Args:
        split: of `metrics.json`.
        values: by target, (n,) true and (n,) predicted values without missing ones.
        unit: of the targets.
    """
    for i, (name, (y, p)) in enumerate(list(values.items())[:MOST_TARGETS]):
        key = f"-{i + 1}" if len(values) > 1 else ""
        of = f": {name}" if len(values) > 1 else ""
        kept = np.isfinite(y) & np.isfinite(p)
        y, p = y[kept], p[kept]
        yield _scatter(split, name, y, p, unit, f"scatter{key}", f"Predicted and true{of}")
        lines = {m: _metric(split, m, name) for m in LIMITS}
        yield bland_altman(lines, name, y, p, unit, f"bland-altman{key}", f"Bland-Altman{of}")
        yield _errors(name, p - y, unit, f"errors{key}", f"Errors{of}")


def _metric(split: Split, metric: str, name: str) -> Mapping[str, Any]:
    estimates = split["metrics"]
    return estimates.get(f"{metric}/{name}") or estimates[metric]


def _label(text: str, name: str, unit: str) -> str:
    return f"{text} {name}" + (f" ({unit})" if unit else "")


def _points(ax: Axes, x: Any, y: Any) -> None:
    many = len(x) > DENSE
    ax.scatter(x, y, s=5 if many else 16, color=NEGATIVE, alpha=0.35 if many else 0.6, linewidths=0, rasterized=many)
    ax.grid(True)


def _scatter(split: Split, name: str, y: Any, p: Any, unit: str, key: str, title: str) -> Plot:
    figure, ax = new_figure(4.7)
    stats = {m: _metric(split, m, name) for m in ("r2", "pearson", "mae")}
    if not len(y):
        nothing(ax, stats["mae"]["why"] or "there are no values")
    else:
        low, high = float(min(y.min(), p.min())), float(max(y.max(), p.max()))
        pad = 0.04 * (high - low) or 1
        ax.plot([low - pad, high + pad], [low - pad, high + pad], color=QUIET, linewidth=0.9, linestyle=":")
        _points(ax, y, p)
        square = (low - pad, high + pad)
        ax.set(xlim=square, ylim=square, aspect="equal", xlabel=_label("True", name, unit))
        ax.set_ylabel(_label("Predicted", name, unit))
        lines = [f"R² {number(stats['r2']['value'])}", f"r {number(stats['pearson']['value'])}"]
        ax.text(0.03, 0.97, "\n".join(lines), va="top", transform=ax.transAxes)
    caption = "Each point is a scan; on the dotted line, prediction and truth agree."
    alt = (
        f"Scatter of predicted against true {name}: R² {in_words(stats['r2'])}, Pearson r {in_words(stats['pearson'])}"
    )
    return Plot(key, title, caption, figure, alt)


def bland_altman(
    lines: Mapping[str, Mapping[str, Any]], name: str, y: Any, p: Any, unit: str, key: str, title: str
) -> Plot:
    """Predicted less true values against their mean.

    Args:
        lines: the estimates of LIMITS, by name, as plain values.
        name: of the quantity.
        y: (n,) true.
        p: (n,) predicted.
        unit: of both.
        key: of the figure's files.
        title: above it.
    """
    figure, ax = new_figure(4.2)
    if len(y):
        _points(ax, (y + p) / 2, p - y)
        ax.set(xlabel=_label("Mean of true and predicted", name, unit), ylabel=_label("Predicted − true", "", unit))
        ax.margins(x=0.12)
    else:
        nothing(ax, lines["bias"]["why"] or "there are no values")
    for metric, estimate in lines.items():
        if estimate["value"] is None or not len(y):
            continue
        dashes = "-" if metric == "bias" else (0, (6, 2))
        ax.axhline(estimate["value"], color=POSITIVE, linewidth=1.2, linestyle=dashes)
        if estimate["low"] is not None:
            ax.axhspan(estimate["low"], estimate["high"], color=POSITIVE, alpha=0.12, linewidth=0)
        text = f"{'bias' if metric == 'bias' else 'limit'} {number(estimate['value'], 2)}"
        ax.annotate(text, (1, estimate["value"]), (-2, 2), ("axes fraction", "data"), textcoords="offset points",
                    ha="right", va="bottom", fontsize=8.5, color=INK)  # fmt: skip
    caption = "Bias (line) and 95% limits of agreement (dashed), with their intervals. A slope of the cloud means that "
    caption += "high values are predicted too low, or the other way round."
    alt = f"Bland-Altman plot of {name}: bias {in_words(lines['bias'], unit)}, limits "
    alt += f"{in_words(lines['limit_low'], unit)} and {in_words(lines['limit_high'], unit)}"
    return Plot(key, title, caption, figure, alt)


def _errors(name: str, error: Any, unit: str, key: str, title: str) -> Plot:
    from matplotlib.ticker import MaxNLocator

    figure, ax = new_figure(3.4)
    if len(error):
        ax.hist(error, bins="auto" if np.ptp(error) > 0 else 1, color=NEGATIVE, ec="white", lw=0.4)
        ax.axvline(0, color=INK, linewidth=1, linestyle="--")
        ax.set(xlabel=_label("Predicted − true", name, unit), ylabel="Scans")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        nothing(ax, "there are no values")
    caption = "How far predictions lie from the truth."
    return Plot(key, title, caption, figure, f"Histogram of predicted less true {name}")
