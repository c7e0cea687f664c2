"""The course of a sweep, what each setting does, and how much each matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slivit.report.draw import Plot, new_figure
from slivit.report.style import PALETTE, QUIET, colour, count, metric_name, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {"valid_loss": "Validation loss"}


def score_name(sweep: Mapping[str, Any]) -> str:
    """What the score of a sweep is called."""
    return NAMES.get(sweep["monitor"], metric_name(sweep["monitor"]) + " (validation)")


def finished(sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trials that have a value, in their order."""
    return [t for t in sweep["trials"] if t["state"] == "finished"]


def sweep_plot(sweep: Mapping[str, Any]) -> Plot:
    """The score of every trial in the order in which they began, and the best so far.

    Args:
        sweep: `sweep.json`.
    """
    from matplotlib.ticker import MaxNLocator

    figure, ax = new_figure(3.6)
    done = finished(sweep)
    _best_so_far(ax, done, sweep["falls"])
    ax.plot([t["number"] for t in done], [t["value"] for t in done], "o", color=colour(0), ms=5, label="finished")
    pruned = [t for t in sweep["trials"] if t["state"] == "pruned" and t["last"] is not None]
    if pruned:
        x, y = [t["number"] for t in pruned], [t["last"] for t in pruned]
        ax.plot(x, y, "x", color=colour(1), ms=5, mew=1.4, label="pruned (its last value)")
    best = next(t for t in done if t["number"] == sweep["best"])
    ax.plot(best["number"], best["value"], "*", color=PALETTE[4], mec="#1A1F24", mew=0.6, ms=13, label="best", zorder=5)
    failed = [t["number"] for t in sweep["trials"] if t["state"] == "failed"]
    for i, number in enumerate(failed):
        ax.axvline(number, color=QUIET, lw=0.8, ls=":", label="" if i else "failed")
    ax.set(xlabel="Trial", ylabel=score_name(sweep))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(True)
    ax.legend()
    states = ", ".join(f"{n} {s}" for s, n in states_of(sweep).items())
    return Plot("sweep", "Trials", f"The line is the best so far. {states.capitalize()}.", figure, f"Sweep: {states}")


def _best_so_far(ax: Axes, done: Sequence[Mapping[str, Any]], falls: bool) -> None:
    import numpy as np

    running = (np.minimum if falls else np.maximum).accumulate([t["value"] for t in done])
    ax.plot([t["number"] for t in done], running, drawstyle="steps-post", color=colour(2), lw=1.4, label="best so far")


def states_of(sweep: Mapping[str, Any]) -> dict[str, int]:
    """How many trials came to which end."""
    states = [t["state"] for t in sweep["trials"]]
    return {s: states.count(s) for s in ("finished", "pruned", "failed", "running") if s in states}


def importance_plot(sweep: Mapping[str, Any]) -> Plot | None:
    """The share of the score's variance that each setting explains; None where it is not known."""
    if not sweep["importances"]:
        return None
    items = sorted(sweep["importances"].items(), key=lambda item: item[1])
    figure, ax = new_figure(0.9 + 0.32 * len(items))
    ax.barh([short(key, 28) for key, _ in items], [share for _, share in items], color=colour(0), height=0.6)
    ax.set(xlabel="Share of the variance", xlim=(0, 1.08 * max(share for _, share in items)))
    for i, (_, share) in enumerate(items):
        ax.annotate(f" {share:.0%}", (share, i), va="center", fontsize=8.5)
    ax.grid(True, axis="x")
    caption = f"Functional ANOVA on {count(len(finished(sweep)), 'finished trial')}: rough where there are few."
    alt = "Importance: " + ", ".join(f"{key} {share:.0%}" for key, share in reversed(items))
    return Plot("importances", "Which settings matter", caption, figure, alt)


def settings_plot(sweep: Mapping[str, Any]) -> Plot:
    """The score of the finished trials by each setting."""
    from slivit.report.style import INK

    keys, done = list(sweep["space"]), finished(sweep)
    columns = min(len(keys), 2)
    rows = -(-len(keys) // columns)
    figure, axes = new_figure(0.4 + 1.9 * rows, nrows=rows, ncols=columns, squeeze=False, sharey=True)
    for ax in axes.flat[len(keys) :]:
        ax.set_axis_off()
    for i, (ax, key) in enumerate(zip(axes.flat, keys, strict=False)):
        _by_setting(ax, key, sweep["space"][key], done)
        best = next(t for t in done if t["number"] == sweep["best"])
        ax.axhline(best["value"], color=INK, lw=0.6, ls=":")
        if i % columns == 0:
            ax.set_ylabel(score_name(sweep), fontsize=8.5)
    caption = "Finished trials; the dotted line is the best one's score. Down is better."
    caption = caption if sweep["falls"] else caption.replace("Down", "Up")
    return Plot("settings", "Score by setting", caption, figure, "Score by " + ", ".join(keys))


def _by_setting(ax: Axes, key: str, space: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> None:
    import json

    values = [t["values"][key] for t in done]
    scores = [t["value"] for t in done]
    if space["type"] == "categorical":
        choices = [json.dumps(choice) for choice in space["choices"]]
        x = [choices.index(json.dumps(value)) for value in values]
        shown = [short(choice.strip('"'), 14) for choice in choices]
        ax.set_xticks(range(len(choices)), shown, fontsize=8)
        ax.set_xlim(-0.6, len(choices) - 0.4)
    else:
        x = values
        if space["type"] == "log":
            _log_axis(ax, space["low"], space["high"])
    ax.plot(x, scores, "o", color=colour(0), ms=4, alpha=0.75)
    ax.set_xlabel(short(key, 28), fontsize=8.5)
    ax.grid(True)


def _log_axis(ax: Axes, low: float, high: float) -> None:
    """All of a logarithmic range, with labels at powers of ten; at its ends where there are too few of them."""
    from matplotlib.ticker import NullFormatter

    ax.set_xscale("log")
    margin = (high / low) ** 0.06
    ax.set_xlim(low / margin, high * margin)
    ax.xaxis.set_minor_formatter(NullFormatter())
    if high < 100 * low:
        ax.set_xticks([low, high], [f"{end:.3g}" for end in (low, high)])
