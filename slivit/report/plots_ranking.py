"""How well scans are ranked: ROC and precision-recall curves with bands, thresholds, referral."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slivit.report.draw import Plot, new_figure, nothing, unit_square
from slivit.report.panels import left_out, panels, shown
from slivit.report.style import INK, PALETTE, QUIET, colour, dash, in_words, marker, number, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOGETHER = 4
"""More curves than these have a panel each."""

ABOVE = 1.005
"""Where an axis of areas under curves ends at the latest: none is above 1, and a line at 1 is still seen whole."""

AXES = {
    "roc": ("False-positive rate (1 − specificity)", "Sensitivity"),
    "precision_recall": ("Recall (sensitivity)", "Precision (PPV)"),
}
TITLES = {"roc": "ROC curve", "precision_recall": "Precision-recall curve"}
AREAS = {"roc": "roc_auc", "precision_recall": "average_precision"}
Split = Mapping[str, Any]


def ranking_plots(split: Split) -> Iterator[Plot]:
    """ROC, precision-recall, threshold and referral figures of a split of `metrics.json`."""
    names = list(split["curves"])
    for kind in AXES:
        yield curve_plot(kind, split, names)
    if len(names) == 1:
        yield threshold_plot(split, names[0])
    yield referral_plot(split, names)


def curve_plot(kind: str, split: Split, names: Sequence[str]) -> Plot:
    """One kind of curve for every class or label, in one square or in a panel each."""
    if len(names) <= TOGETHER:
        figure, ax = new_figure(4.7)
        unit_square(ax, *AXES[kind])
        for i, name in enumerate(names):
            _draw_curve(ax, kind, split, name, i, len(names) > 1)
        if len(names) == 1 and split["curves"][names[0]][kind]["y"]:
            _chance(ax, kind, split, names[0])
        _legend(ax, kind)
    else:
        figure = panels(shown(names), lambda ax, name: _draw_panel(ax, kind, split, name), *AXES[kind])
    return Plot(kind, TITLES[kind], _caption(kind, split, names), figure, _alt(kind, split, names))


def _legend(ax: Axes, kind: str) -> None:
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="lower right" if kind == "roc" else "lower left")


def _draw_panel(ax: Axes, kind: str, split: Split, name: str) -> None:
    unit_square(ax, "", "")
    curve = split["curves"][name][kind]
    if curve["y"] is None:
        nothing(ax, curve["why"])
        return
    _chance(ax, kind, split, name)
    _draw_curve(ax, kind, split, name, 0, False, label=False)
    value = number(_metric(split, AREAS[kind], name)["value"], 2)
    place = (0.96, 0.06, "right") if kind == "roc" else (0.04, 0.06, "left")
    ax.text(*place[:2], value, ha=place[2], transform=ax.transAxes, fontsize=9, fontweight="bold")


def _draw_curve(ax: Axes, kind: str, split: Split, name: str, i: int, many: bool, *, label: bool = True) -> None:
    curve = split["curves"][name][kind]
    if curve["y"] is None:
        if not many:
            nothing(ax, curve["why"])
        return
    x, y = zip(*[(p[0], p[1]) for p in curve["points"]], strict=True)
    area = _metric(split, AREAS[kind], name)["value"]
    short_name = "AUC" if kind == "roc" else "AP"
    text = f"{short(name)}, {short_name} {number(area)}" if many else f"model, {short_name} {number(area)}"
    style = dash(i) if many else "-"
    if curve["low"] is not None:
        ax.fill_between(curve["x"], curve["low"], curve["high"], color=colour(i), alpha=0.18, linewidth=0)
    step = "steps-pre" if kind == "precision_recall" else "default"
    ax.plot(x, y, color=colour(i), linestyle=style, drawstyle=step, label=text if label else None)
    _draw_point(ax, kind, split, name, i, label and not many)
    _draw_readers(ax, kind, split.get("readers", {}).get(name), i, label and i == 0)


def _draw_point(ax: Axes, kind: str, split: Split, name: str, i: int, label: bool) -> None:
    """Where the calls lie on the curve."""
    sensitivity = _metric(split, "sensitivity", name)["value"]
    other = _metric(split, "specificity" if kind == "roc" else "ppv", name)["value"]
    if sensitivity is None or other is None:
        return
    place = (1 - other, sensitivity) if kind == "roc" else (sensitivity, other)
    ax.plot(
        *place, marker(i), color=colour(i), mec="white", ms=8, label="at the threshold" if label else None, zorder=5
    )


def _draw_readers(ax: Axes, kind: str, readers: Mapping[str, Any] | None, i: int, label: bool) -> None:
    if not readers:
        return
    tone = INK if label else colour(i)
    places = [place for point in readers["points"] if (place := _reader_place(point, kind))]
    if places:
        x, y = zip(*places, strict=True)
        text = f"{len(places)} readers" if len(places) > 1 else "reader"
        ax.plot(x, y, "o", mfc="none", mec=tone, ms=6, label=text if label else None, zorder=6)
    average = _reader_place(readers["average"], kind)
    if average and len(places) > 1:
        ax.plot(*average, "D", color=tone, mec="white", ms=8, label="their average" if label else None, zorder=7)


def _reader_place(point: Mapping[str, Any], kind: str) -> tuple[float, float] | None:
    sensitivity, specificity, ppv = (point[k]["value"] for k in ("sensitivity", "specificity", "ppv"))
    if kind == "roc":
        return None if None in (sensitivity, specificity) else (1 - specificity, sensitivity)
    return None if None in (sensitivity, ppv) else (sensitivity, ppv)


def _chance(ax: Axes, kind: str, split: Split, name: str) -> None:
    if kind == "roc":
        ax.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
    elif (share := prevalence(split, name)) is not None:
        ax.axhline(share, color=QUIET, linewidth=0.8, linestyle=":")


def prevalence(split: Split, name: str) -> float | None:
    """The share of scans that are positive for a class, label or target."""
    counts = split["counts"].get(name) or next(iter(split["counts"].values()))
    n = counts["classes"].get("1" if name in split["counts"] else name)
    return n / counts["n"] if counts["n"] and n is not None else None


def _metric(split: Split, metric: str, name: str) -> Mapping[str, Any]:
    estimates = split["metrics"]
    return estimates.get(f"{metric}/{name}") or estimates[metric]


def _caption(kind: str, split: Split, names: Sequence[str]) -> str:
    curve = split["curves"][names[0]][kind]
    band = f"Bands: pointwise {curve['level']:.0%} intervals of {curve['draws']:,} bootstrap draws. "
    chance = "dotted line: chance" if len(names) == 1 or len(names) > TOGETHER else "chance is the diagonal"
    marks = f"Marker: the calls; {chance}." if kind == "roc" else "Marker: the calls."
    if kind == "precision_recall" and (len(names) == 1 or len(names) > TOGETHER):
        marks += " Dotted line: the share of positives, which is chance."
    return (band if curve["low"] else "") + marks + left_out(names)


def _alt(kind: str, split: Split, names: Sequence[str]) -> str:
    area = AREAS[kind]
    return f"{TITLES[kind]}. " + "; ".join(f"{n}: {in_words(_metric(split, area, n))}" for n in shown(names))


def threshold_plot(split: Split, name: str) -> Plot:
    """What every threshold misses and raises in vain, with intervals."""
    rates = split["thresholds"][name]
    figure, ax = new_figure(3.7)
    x = [r["threshold"] for r in rates]
    for i, (key, text) in enumerate(
        (("false_negative_rate", "missed positives"), ("false_positive_rate", "false alarms"))
    ):
        known = [(t, r[key]) for t, r in zip(x, rates, strict=True) if r[key]["value"] is not None]
        if not known:
            continue
        ts, values = [t for t, _ in known], [e["value"] for _, e in known]
        ax.plot(ts, values, color=colour(1 - i), linestyle=dash(i), label=text)
        if all(e["low"] is not None for _, e in known):
            lows, highs = [e["low"] for _, e in known], [e["high"] for _, e in known]
            ax.fill_between(ts, lows, highs, color=colour(1 - i), alpha=0.18, linewidth=0)
    ax.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="Threshold (probability)", ylabel="Share of scans of the class")
    ax.grid(True)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="upper center", ncols=2)
    else:
        nothing(ax, rates[0]["false_negative_rate"]["why"])
    caption = "False-negative rate (underdiagnosis) and false-positive rate by threshold, with intervals."
    return Plot("thresholds", "Errors by threshold", caption, figure, caption)


def referral_plot(split: Split, names: Sequence[str]) -> Plot:
    """The ranking when the most uncertain scans go to an expert."""
    chosen = list(names)[: len(PALETTE)]
    figure, ax = new_figure(3.7)
    for i, name in enumerate(chosen):
        text = "ROC AUC" if len(chosen) == 1 else short(name)
        _referral_line(ax, split["referral"][name], "roc_auc", i, text, band=len(chosen) < 3)
    if len(chosen) == 1:
        _referral_line(ax, split["referral"][chosen[0]], "average_precision", 1, "average precision")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="best", ncols=2 if len(chosen) > TOGETHER else 1)
        ax.set(xlabel="Most uncertain scans referred to an expert (%)", ylabel="Expert and model together")
        ax.set_ylim(top=min(ax.get_ylim()[1], ABOVE))
        ax.grid(True)
    else:
        nothing(ax, split["referral"][chosen[0]][0]["roc_auc"]["why"])
    what = "ROC AUC and average precision" if len(chosen) == 1 else "ROC AUC of each class or label"
    caption = f"{what} when an expert, who is always right, answers the scans the model is least sure of (Oracle AUC)."
    caption += left_out(names, len(PALETTE))
    return Plot("referral", "Referral of uncertain scans", caption, figure, caption)


def _referral_line(
    ax: Axes, points: Sequence[Mapping[str, Any]], metric: str, i: int, label: str, *, band: bool = True
) -> None:
    known = [p for p in points if p[metric]["value"] is not None]
    if not known:
        return
    x = [p["percent"] for p in known]
    ax.plot(x, [p[metric]["value"] for p in known], marker=marker(i), color=colour(i), linestyle=dash(i), label=label)
    if band and all(p[metric]["low"] is not None for p in known):
        low, high = ([p[metric][side] for p in known] for side in ("low", "high"))
        ax.fill_between(x, low, high, color=colour(i), alpha=0.13, linewidth=0)
