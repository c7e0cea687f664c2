"""The course of training, and how performance grows with the number of labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slivit.report.draw import Plot, new_figure
from slivit.report.style import PALETTE, colour, dash, marker

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)


def history_plot(history: Path | None, best_epoch: int | None = None) -> Plot | None:
    """Training and validation loss by epoch; None where no history was kept.

    Args:
        history: the run's `history.csv`.
        best_epoch: the epoch whose weights were kept, counted from 1.
    """
    from matplotlib.ticker import MaxNLocator

    if history is None or not history.is_file():
        return None
    table = _epochs(history)
    losses = [c for c in ("train_loss", "valid_loss") if c in table and table[c].notna().any()]
    if not losses:
        return None
    figure, ax = new_figure(3.2)
    names = {"train_loss": "training", "valid_loss": "validation"}
    for i, column in enumerate(losses):
        ax.plot(table["epoch"] + 1, table[column], marker(i), ls=dash(i), ms=4, color=colour(i), label=names[column])
    if best_epoch:
        ax.axvline(best_epoch, color=PALETTE[2], linewidth=1.2, linestyle=":", label="kept")
    ax.set(xlabel="Epoch", ylabel="Loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(True)
    ax.legend()
    caption = "Loss on training and validation scans by epoch; dotted: the epoch whose weights were kept."
    return Plot("history", "Training", caption, figure, caption)


def _epochs(history: Path) -> pd.DataFrame:
    """The numbers of a `history.csv`; none of one that is damaged, without which a page is as good otherwise."""
    import pandas as pd

    try:
        return pd.read_csv(history).apply(pd.to_numeric, errors="coerce").dropna(subset=["epoch"])
    except (ValueError, KeyError) as error:
        log.warning("%s: is damaged (%s); the page has no figure of the training", history, error)
        return pd.DataFrame()


def scan_axis(ax: Axes, counts: Sequence[int]) -> None:
    """A logarithmic axis of training scans with a tick at each number."""
    from matplotlib.ticker import NullLocator

    if len(set(counts)) > 1:
        ax.set_xscale("log")
    ax.set_xticks(sorted(set(counts)), [f"{n:,}" for n in sorted(set(counts))])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("Training scans")
