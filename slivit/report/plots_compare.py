"""Several models: their metrics, their differences, their curves, and the spread of their runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slivit.report.draw import Plot, new_figure, unit_square
from slivit.report.plots_groups import Row, forest
from slivit.report.plots_ranking import AREAS, AXES, TITLES
from slivit.report.style import PALETTE, colour, dash, marker, metric_name, number, short, spoken, with_unit

MOST_CURVES = len(PALETTE)
WITH_BANDS = 3
"""More bands than these hide each other."""


def comparison_plots(comparison: Mapping[str, Any], unit: str) -> Iterator[Plot]:
    """The figures of a comparison.

    Args:
        comparison: `comparison.json`.
        unit: of the targets.
    """
    for metric in comparison["settings"]["metrics"]:
        yield _methods(comparison, metric, unit)
        yield _differences(comparison, metric, unit)
    if comparison["curves"]:
        yield from (_curves(comparison, kind) for kind in AXES)
    if any(len(m["per_run"]) > 1 for m in comparison["methods"].values()):
        yield from (_runs(comparison, metric, unit) for metric in comparison["settings"]["metrics"])


def _file(metric: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in metric)


def _methods(comparison: Mapping[str, Any], metric: str, unit: str) -> Plot:
    rows: list[Row] = [(name, m["metrics"][metric]) for name, m in comparison["methods"].items()]
    caption = "Squares: value on the test scans, the mean over runs where there are several; bars: its interval."
    name = with_unit(metric, unit)
    return Plot(f"methods-{_file(metric)}", name, caption, forest(rows, name), caption)


def _differences(comparison: Mapping[str, Any], metric: str, unit: str) -> Plot:
    tests = [t for t in comparison["comparisons"] if t["method"] == "paired bootstrap" and t["metric"] == metric]
    rows: list[Row] = [(" − ".join(short(n, 14) for n in t["names"]), {**t, "value": t["difference"]}) for t in tests]
    name = f"Difference of {spoken(metric)}" + with_unit(metric, unit).removeprefix(metric_name(metric))
    figure = forest(rows, name, line=0.0, line_text="no difference")
    caption = "Squares: first less second on the same scans; bars: paired bootstrap interval."
    return Plot(f"differences-{_file(metric)}", name, caption, figure, caption)


def _curves(comparison: Mapping[str, Any], kind: str) -> Plot:
    figure, ax = new_figure(4.7)
    unit_square(ax, *AXES[kind])
    names = list(comparison["curves"])[:MOST_CURVES]
    for i, name in enumerate(names):
        curve = comparison["curves"][name][kind]
        if curve["y"] is None:
            continue
        x, y = zip(*[(p[0], p[1]) for p in curve["points"]], strict=True)
        text = f"{short(name)}, {number(comparison['methods'][name]['metrics'][AREAS[kind]]['value'])}"
        step = "steps-pre" if kind == "precision_recall" else "default"
        ax.plot(x, y, color=colour(i), linestyle=dash(i), drawstyle=step, label=text)
        if curve["low"] is not None and len(names) <= WITH_BANDS:
            ax.fill_between(curve["x"], curve["low"], curve["high"], color=colour(i), alpha=0.15, linewidth=0)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="lower right" if kind == "roc" else "lower left")
    caption = "On the same scans; of a method with several runs, the run whose AUC is in the middle."
    return Plot(f"curves-{kind}", TITLES[kind], caption, figure, f"{TITLES[kind]} of {', '.join(names)}")


def _runs(comparison: Mapping[str, Any], metric: str, unit: str) -> Plot:
    """Every run as a point, with their mean."""
    figure, ax = new_figure(0.9 + 0.42 * len(comparison["methods"]))
    for place, method in enumerate(comparison["methods"].values()):
        values = [run[metric] for run in method["per_run"] if run[metric] is not None]
        ax.plot(values, [place] * len(values), marker(place), color=colour(place), ls="none", alpha=0.65, ms=6)
        if values:
            mean = sum(values) / len(values)
            ax.plot([mean, mean], [place - 0.3, place + 0.3], color=colour(place), linewidth=2)
    names = list(comparison["methods"])
    ax.set_yticks(range(len(names)), [short(n, 26) for n in names])
    ax.set(ylim=(len(names) - 0.5, -0.5), xlabel=with_unit(metric, unit))
    ax.grid(True, axis="x")
    caption = "Each mark is a run (a seed or a fold); the line is their mean."
    return Plot(f"runs-{_file(metric)}", f"{with_unit(metric, unit)} by run", caption, figure, caption)
