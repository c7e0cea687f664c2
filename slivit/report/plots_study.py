"""A study in figures: performance by the number of labels, and differences from the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slivit.report.draw import Plot, new_figure
from slivit.report.plots_groups import Row, forest
from slivit.report.plots_training import scan_axis
from slivit.report.style import PALETTE, cases_drawn, colour, dash, marker, metric_name, short, spoken, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = Mapping[str, Any]
Lines = Mapping[str, Sequence[Values]]
"""The cells of each line of a panel, from few labels to many."""

PANEL, MOST_LINES, MOST_BANDS, DODGE, BINS = 2.3, len(PALETTE), 3, 1.02, 60
"""Inches of a panel, its lines, of how many a band is drawn, by how much lines with bars stand apart; bins of dots."""


def study_plots(study: Values) -> Iterator[Plot]:
    """The figures of a study.

    Args:
        study: `study.json`.
    """
    unit = study["task"]["unit"]
    if len({cell["fraction"] for cell in study["cells"]}) > 1:
        plot = curve_plot if is_curve(study) else label_plot
        yield from (plot(study, metric, unit) for metric in study["settings"]["metrics"])
    for metric in study["settings"]["metrics"]:
        yield from _differences(study, metric, unit)
    for metric in dict.fromkeys(entry["metric"] for entry in study.get("shuffles", [])):
        yield order_plot(study, metric, unit)


def panels(study: Values) -> dict[str, dict[str, list[Values]]]:
    """The cells by panel and line: a panel a model and a line an initialisation; one panel where that suffices."""
    settings = study["settings"]
    outer, inner = ("model", "start") if len(settings["starts"]) > 1 else ("start", "model")
    if len(settings[f"{inner}s"]) > MOST_LINES:
        outer, inner = inner, outer
    drawn: dict[str, dict[str, list[Values]]] = {}
    for cell in sorted(study["cells"], key=lambda c: c["fraction"]):
        lines = drawn.setdefault(title(study, outer, cell[outer]), {})
        lines.setdefault(title(study, inner, cell[inner]), []).append(cell)
    return drawn


def title(study: Values, axis: str, name: str) -> str:
    """What a model or an initialisation is called."""
    return study["settings"][f"{axis}s"].get(name, name)


def method_title(study: Values, model: str, start: str) -> str:
    """What a model with an initialisation is called; an axis with one name is left out."""
    settings = study["settings"]
    parts = [title(study, "model", model)] if len(settings["models"]) > 1 or len(settings["starts"]) == 1 else []
    parts += [title(study, "start", start)] if len(settings["starts"]) > 1 else []
    return ", ".join(parts)


def is_curve(study: Values) -> bool:
    """Whether a study is of one model under one initialisation, and several shares of the labels."""
    settings = study["settings"]
    return len(settings["models"]) == len(settings["starts"]) == 1 < len(settings["fractions"])


def curve_plot(study: Values, metric: str, unit: str) -> Plot:
    """A metric of one model by the number of training scans: the mean over seeds with its interval, and every run."""
    figure, ax = new_figure(4.0)
    settings, cells = study["settings"], sorted(study["cells"], key=lambda c: c["train_scans"])
    known = [c for c in cells if c["metrics"][metric]["value"] is not None]
    x = [c["train_scans"] for c in known]
    value, low, high = ([c["metrics"][metric][key] for c in known] for key in ("value", "low", "high"))
    ax.plot(x, value, "o-", color=colour(0), label="mean over seeds", zorder=3)
    if None not in (*low, *high):
        label = f"{settings['level']:.0%} interval over test {cases_drawn(settings)}"
        ax.fill_between(x, low, high, color=colour(0), alpha=0.18, linewidth=0, label=label)
    runs = [(c["train_scans"], r["metrics"][metric]) for c in cells for r in c["runs"]]
    runs = [(n, own) for n, own in runs if own is not None]
    if len(settings["seeds"]) > 1 and runs:
        ax.plot(*zip(*runs, strict=True), "x", color=colour(1), ms=5, mew=1.3, label="single runs", zorder=4)
    scan_axis(ax, [c["train_scans"] for c in cells])
    ax.set_ylabel(with_unit(metric, unit))
    ax.grid(True)
    ax.legend(loc="best")
    caption = f"Logarithmic axis of training scans. The band tells how far other test {cases_drawn(settings)} would "
    caption += "move the mean; the crosses, how far the seed of the training moves it."
    alt = f"{metric_name(metric)} by training scans: " + ", ".join(f"{n}" for n in x)
    return Plot(f"labels-{_file(metric)}", f"{with_unit(metric, unit)} by number of labels", caption, figure, alt)


def label_plot(study: Values, metric: str, unit: str) -> Plot:
    """A metric by the number of training scans, for every model and initialisation."""
    lines_of = panels(study)
    columns = min(2, len(lines_of))
    rows = -(-len(lines_of) // columns)
    height = (4.0 if len(lines_of) == 1 else PANEL * rows) + 0.5
    figure, grid = new_figure(height, nrows=rows, ncols=columns, sharey=True, squeeze=False)
    counts = sorted({cell["train_scans"] for cell in study["cells"]})
    names = list(dict.fromkeys(line for lines in lines_of.values() for line in lines))
    for ax, (panel, lines) in zip(grid.flat, lines_of.items(), strict=False):
        _panel(ax, lines, names, metric, single=len(lines_of) == 1)
        ax.set_title(short(panel, 30) if len(lines_of) > 1 else "", fontsize=9)
        scan_axis(ax, counts)
        ax.set_xlabel("")
    for ax in list(grid.flat)[len(lines_of) :]:
        ax.set_axis_off()
    figure.supxlabel("Training scans", fontsize=9.5)
    figure.supylabel(with_unit(metric, unit), fontsize=9.5)
    _legend(figure, grid.flat[0], names)
    banded = len(lines_of) == 1 and len(names) <= MOST_BANDS
    settings = study["settings"]
    caption = "Mean over the seeds by the number of training scans (logarithmic). "
    caption += (
        f"{'Band' if banded else 'Bars'}: {100 * settings['level']:.4g}% interval over test {cases_drawn(settings)}."
    )
    alt = f"{metric_name(metric)} by training scans of {', '.join(lines_of)}"
    return Plot(f"labels-{_file(metric)}", f"{with_unit(metric, unit)} by number of labels", caption, figure, alt)


def _panel(ax: Axes, lines: Lines, names: Sequence[str], metric: str, *, single: bool) -> None:
    """The lines of one panel; a name has the same colour and marker in every panel."""
    for name, cells in lines.items():
        i = names.index(name)
        known = [cell for cell in cells if cell["metrics"][metric]["value"] is not None]
        x, y = [c["train_scans"] for c in known], [c["metrics"][metric]["value"] for c in known]
        low, high = ([c["metrics"][metric][side] for c in known] for side in ("low", "high"))
        whole = None not in (*low, *high)
        style = {"color": colour(i), "marker": marker(i), "linestyle": dash(i), "ms": 4, "linewidth": 1.4}
        if single and len(names) <= MOST_BANDS:
            if whole:
                ax.fill_between(x, low, high, color=colour(i), alpha=0.14, linewidth=0)
            ax.plot(x, y, label=name, **style)
        else:
            beside = [n * DODGE ** (i - (len(names) - 1) / 2) for n in x]
            reach = _reach(y, low, high) if whole else None
            ax.errorbar(beside, y, reach, label=name, elinewidth=0.8, capsize=2, **style)
    ax.grid(True)


def _reach(values: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[list[float]]:
    """How far intervals reach below and above their values: they never leave a metric's range, as an SD may."""
    below = [max(value - end, 0.0) for value, end in zip(values, low, strict=True)]
    return [below, [max(end - value, 0.0) for value, end in zip(values, high, strict=True)]]


def _legend(figure: Any, ax: Axes, names: Sequence[str]) -> None:
    """One legend for all panels, with every line."""
    from matplotlib.lines import Line2D

    if len(names) < 2:
        return
    handles = [Line2D([], [], color=colour(i), marker=marker(i), linestyle=dash(i), ms=4) for i in range(len(names))]
    columns = 2 if max(map(len, names)) > 14 else 3
    figure.legend(handles, [short(n, 26) for n in names], loc="outside upper center", ncols=min(columns, len(names)))


def _differences(study: Values, metric: str, unit: str) -> Iterator[Plot]:
    """A forest plot of the differences from each reference, for each share of the labels."""
    references = study["settings"].get("references") or [{}]
    for place, reference in enumerate(references):
        text = "the reference" if len(references) == 1 else reference_title(study, reference)
        name = f"Difference of {spoken(metric)} from {text}"
        for fraction in study["settings"]["fractions"]:
            tests = [
                t
                for t in study["tests"]
                if (t["method"], t["metric"], t["fraction"]) == ("paired bootstrap", metric, fraction)
                and _reference_of(t, references) == place
            ]
            if not tests:
                continue
            rows: list[Row] = [
                (method_title(study, t["model"], t["start"]), {**t, "value": t["difference"]}) for t in tests
            ]
            share = share_text(fraction)
            caption = f"With {share}. Squares: difference on the same test scans; bars: paired bootstrap interval."
            label = f"Difference of {spoken(metric)}" + with_unit(metric, unit).removeprefix(metric_name(metric))
            figure = forest(rows, label, line=0.0, line_text="no difference")
            file = f"differences-{_file(metric)}-{fraction:.4g}" + (f"-{place + 1}" if place else "")
            whose = f", {share}" if len(references) == 1 else f": models with {share}"
            yield Plot(file, name + whose, caption, figure, caption)


def _reference_of(test: Values, references: Sequence[Values]) -> int:
    """The place of the first reference that a test is against."""
    own = test["reference"]
    return next((i for i, r in enumerate(references) if all(r.get(k) in ("", 0, None, own[k]) for k in own)), 0)


def reference_title(study: Values, reference: Values) -> str:
    """What a reference of a study is called: what it names of model, initialisation and share."""
    named = [title(study, axis, reference[axis]) for axis in ("model", "start") if reference[axis]]
    shares = [f"({share_text(reference['fraction'])})"] if reference["fraction"] else []
    return " ".join([", ".join(named), *shares]).strip() or "the reference"


def share_text(fraction: float) -> str:
    """A share of the labels in words."""
    return "all labels" if fraction == 1 else f"{100 * fraction:.3g}% of the labels"


def order_plot(study: Values, metric: str, unit: str) -> Plot:
    """Where each run stands among its copies whose slices have other orders: a dot a copy, stacked where they meet."""
    entries = [e for e in study["shuffles"] if e["metric"] == metric and e["value"] is not None]
    figure, grid = new_figure(0.7 + 1.5 * max(1, len(entries)), nrows=max(1, len(entries)), sharex=True, squeeze=False)
    for ax, entry in zip(grid.flat, entries, strict=False):
        _copies(ax, entry)
        seed = f", seed {entry['seed']}" if len(study["settings"]["seeds"]) > 1 else ""
        ax.set_title(short(method_title(study, entry["model"], entry["start"]) + seed, 44), fontsize=9, loc="left")
    grid.flat[0].legend(loc="upper left", fontsize=8, handletextpad=0.4)
    figure.supxlabel(with_unit(metric, unit), fontsize=9.5)
    level = f"{100 * study['settings']['level']:.4g}%"
    caption = f"Dots: copies with their slices in other orders. Line and band: slices in order, with the {level} "
    caption += f"interval over test {cases_drawn(study['settings'])}."
    return Plot(
        f"order-{_file(metric)}", f"{metric_name(metric)} in order and in other orders", caption, figure, caption
    )


def _copies(ax: Axes, entry: Values) -> None:
    """The dots of one run's copies in narrow bins, and the run itself."""
    import numpy as np

    values = np.sort(entry["values"])
    ends = [values[0], values[-1], entry["value"], *(e for e in (entry["low"], entry["high"]) if e is not None)]
    bins = np.floor((values - min(ends)) / max(max(ends) - min(ends), 1e-9) * BINS)
    heights = [int((bins[:i] == own).sum()) for i, own in enumerate(bins)]
    if entry["low"] is not None:
        ax.axvspan(entry["low"], entry["high"], color=PALETTE[0], alpha=0.14, linewidth=0)
    ax.plot(values, heights, "o", color=PALETTE[1], ms=3.2, alpha=0.8, markeredgewidth=0, label="other orders")
    ax.axvline(entry["value"], color=PALETTE[0], linewidth=1.6, label="in order")
    ax.set(yticks=[], ylim=(-0.8, max([3, *heights]) + 1))
    ax.spines["left"].set_visible(False)


def _file(metric: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in metric)
