"""Forest plots: a metric with its interval for subgroups, labels, models or differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slivit.report.draw import Plot, new_figure
from slivit.report.style import INK, NEGATIVE, POSITIVE, QUIET, metric_name, number, short, with_unit
from slivit.targets.task import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = tuple[str, Mapping[str, Any] | None]
"""A line of a forest plot: its name and its estimate, or a heading without one."""

MOST_ROWS = 60


def forest(rows: Sequence[Row], label: str, *, line: float | None = None, line_text: str = "") -> Any:
    """Draw a forest plot.

    Args:
        rows: from top to bottom; a row whose estimate is not defined says so.
        label: of the horizontal axis.
        line: a value to mark, as that of all scans.
        line_text: what it is.
    """
    from matplotlib.ticker import MaxNLocator, NullLocator

    rows = list(rows)[:MOST_ROWS]
    figure, ax = new_figure(0.9 + 0.27 * len(rows))
    for place, (_, estimate) in enumerate(rows):
        if estimate is not None:
            _draw_row(ax, place, estimate)
    if line is not None:
        ax.axvline(line, color=POSITIVE, linewidth=1, linestyle="--", zorder=0)
        ax.annotate(line_text, (line, 1), (2, 2), ("data", "axes fraction"), textcoords="offset points", fontsize=8,
                    color=POSITIVE, va="bottom", ha="center", annotation_clip=False)  # fmt: skip
    ax.set_yticks(range(len(rows)), [short(name, 30) for name, _ in rows])
    for text, (_, estimate) in zip(ax.get_yticklabels(), rows, strict=True):
        text.set_fontweight("bold" if estimate is None else "normal")
    ax.set(ylim=(len(rows) - 0.4, -0.7), xlabel=label)
    ax.tick_params(axis="y", length=0)
    defined = any(estimate is not None and estimate["value"] is not None for _, estimate in rows)
    ax.xaxis.set_major_locator(MaxNLocator(5) if defined else NullLocator())
    ax.spines["left"].set_visible(False)
    ax.grid(True, axis="x")
    ax.margins(x=0.08)
    return figure


def _draw_row(ax: Axes, place: int, estimate: Mapping[str, Any]) -> None:
    value, low, high = (estimate[k] for k in ("value", "low", "high"))
    right = ax.get_yaxis_transform()
    if value is None:
        ax.text(0.5, place, "not defined", transform=right, va="center", ha="center", fontsize=8.5, color=QUIET)
        return
    if low is not None:
        ax.plot([low, high], [place, place], color=NEGATIVE, linewidth=1.6, solid_capstyle="butt")
    ax.plot(value, place, "s", color=NEGATIVE, ms=5)
    ax.text(1.02, place, number(value), transform=right, va="center", fontsize=8.5, color=INK)


def subgroup_plots(split: Mapping[str, Any], task: Task) -> Iterator[Plot]:
    """A forest plot of each main metric over all subgroups."""
    for metric in task.measures.by_group:
        rows: list[Row] = []
        for column, groups in split["subgroups"]["columns"].items():
            rows.append((column, None))
            rows += [(f"{value}  (n = {g['n']})", g["metrics"].get(metric)) for value, g in groups.items()]
        overall = split["metrics"][metric]["value"]
        name = metric_name(metric)
        figure = forest(rows, with_unit(metric, task.unit), line=overall, line_text="all scans")
        caption = "Squares: value in the subgroup; bars: its interval; dashed: all scans."
        yield Plot(f"subgroups-{metric}", f"{name} by subgroup", caption, figure, caption)


def output_plot(split: Mapping[str, Any], task: Task) -> Plot:
    """A forest plot of the main metric over classes, labels or quantities."""
    metric = task.measures.main[0]
    rows: list[Row] = [(name, split["metrics"][f"{metric}/{name}"]) for name in task.outputs]
    figure = forest(rows, metric_name(metric), line=split["metrics"][metric]["value"], line_text="mean")
    caption = f"Squares: value for the {task.part}; bars: its interval; dashed: their mean."
    return Plot("outputs", f"{metric_name(metric)} by {task.part}", caption, figure, caption)
