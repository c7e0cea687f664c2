"""Small multiples: one panel for each class, label or quantity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from slivit.report.draw import new_figure
from slivit.report.style import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 12
PER_ROW = 3


def shown(names: Sequence[str], most: int = MOST_PANELS) -> list[str]:
    """The names that have a panel: the first ones, where there are too many."""
    return list(names)[:most]


def left_out(names: Sequence[str], most: int = MOST_PANELS) -> str:
    """A sentence on the panels that are not drawn; empty where all are."""
    more = len(names) - most
    return f" The first {most} of {len(names)} are drawn; metrics.json has all." if more > 0 else ""


def panels(
    names: Sequence[str],
    draw: Callable[[Axes, str], None],
    x: str,
    y: str,
    *,
    height: float = 1.55,
    share: bool = True,
) -> Figure:
    """Draw one panel for each name, three in a row.

    Args:
        names: at most `MOST_PANELS`.
        draw: what draws the panel of a name.
        x, y: what the axes of all panels show.
        height: of a row, in inches.
        share: whether all panels have the same axes.
    """
    per_row = min(PER_ROW, len(names)) if len(names) != 4 else 2
    rows = -(-len(names) // per_row)
    tall = height * PER_ROW / per_row if per_row < PER_ROW else height
    figure, axes = new_figure(0.5 + tall * rows, nrows=rows, ncols=per_row, sharex=share, sharey=share, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        draw(ax, name)
        ax.set_title(short(name, 20), fontsize=9, fontweight="normal")
        ax.tick_params(labelsize=7.5)
    for ax in list(axes.flat)[len(names) :]:
        ax.set_visible(False)
    figure.supxlabel(x, fontsize=9.5)
    figure.supylabel(y, fontsize=9.5)
    return figure
