"""What the files of a run tell of its model: how far its probabilities, or values, can be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.data.reviews import scan_key
from slivit.data.table import read_shown
from slivit.folder import MEMBERS, METRICS, PREDICTIONS
from slivit.report.draw import styled
from slivit.report.page import shown_split
from slivit.report.style import POSITIVE, amount, count, number
from slivit.targets.decision import Decision
from slivit.targets.task import Task

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PLACES = ("evaluation", ".")


@dataclass(frozen=True, eq=False)
class Record:
    """The measured performance of a model.

    Args:
        task: what it predicts.
        split: the name of the rows that it was measured on; empty where nothing is known.
        results: of `metrics.json`: that split; empty where nothing is known.
        table: its rows of `predictions.csv`, or None.
        why: why nothing is known, in words.
    """

    task: Task
    split: str
    results: Mapping[str, Any]
    table: pd.DataFrame | None
    why: str = ""

    @classmethod
    def of(cls, run: Path, task: Task, decision: Decision | None) -> Record:
        """The record of a run: of its evaluation, or else of its end of training, on the same scale of probability."""
        files = [run / place / METRICS for place in PLACES if (run / place / METRICS).is_file()]
        if not files:
            return cls(task, "", {}, None, f"{run} holds no {METRICS}: how well the model does is not known here.")
        for file in files:
            metrics = _read(file)
            if metrics and _temperature(metrics.get("operating_point")) == (decision.temperature if decision else None):
                split = shown_split(metrics)
                return cls(task, split, metrics["splits"][split], _rows(file.with_name(PREDICTIONS), split))
        return cls(task, "", {}, None, "The run was measured at another temperature; evaluate it again to see it here.")

    def sentence(self, target: str, value: float) -> str:
        """What became of the scans with a prediction like this one."""
        if not self.results:
            return self.why
        if not self.task.makes_calls:
            metrics = self.results["metrics"]
            error = (metrics.get(f"mae/{target}") or metrics["mae"])["value"]
            near = amount(number(error, 2), self.task.unit)
            return f"On {self.results['scans']:,} {self.split} scans, predictions were off by {near} on average."
        match = self.like(target, value)
        if match is None:
            return f"None of the {self.split} scans had a probability like this one."
        share = match["observed"]["value"]
        span = f"{number(match['low'])} to {number(match['high'])}"
        positives = round(share * match["n"])
        scans, hits = count(match["n"], f"{self.split} scan"), f"{positives} ({share:.0%})"
        what = target if self.task.exclusive else f"positive for {target}"
        return f"Of {scans} with a probability from {span}, {hits} {'was' if positives == 1 else 'were'} {what}."

    def like(self, target: str, value: float) -> Mapping[str, Any] | None:
        """The bin of the calibration in which a probability falls: `observed` is the share of positives in it."""
        bins = self.results.get("reliability", {}).get(target, {}).get("mass", ())
        return next((b for b in bins if b["n"] and b["low"] <= value <= b["high"]), None)

    @property
    def drawn(self) -> bool:
        """Whether there is a figure."""
        return bool(self.results) and (self.task.makes_calls or self.table is not None)

    def figure(self, target: str, value: float) -> Figure | None:
        """Reliability, or predicted against true values, with the prediction marked; None where nothing is known."""
        if not self.drawn:
            return None
        with styled():
            if self.table is not None and not self.task.makes_calls:
                return self._scatter(self.table, target, value)
            from slivit.report.plots_probability import reliability_plot

            one = {**self.results, "reliability": {target: self.results["reliability"][target]}}
            if len(self.results["reliability"]) > 1:  # the metrics are those of all outputs together
                one["metrics"] = {"brier": {"value": None}}
            figure = reliability_plot(one).figure
        figure.axes[0].axvline(value, color=POSITIVE, linewidth=1.6)
        return figure

    def _scatter(self, table: pd.DataFrame, target: str, value: float) -> Figure:
        from slivit.report.plots_regression import regression_plots

        columns = table[[f"target_{target}", f"pred_{target}"]].dropna().to_numpy(float)
        plot = next(iter(regression_plots(self.results, {target: (columns[:, 0], columns[:, 1])}, self.task.unit)))
        plot.figure.axes[0].axhline(value, color=POSITIVE, linewidth=1.6)
        return plot.figure


def stored_predictions(run: Path) -> dict[str, dict[str, Any]]:
    """The rows of a run's `predictions.csv` and of its evaluation's, by the scan's path (and series)."""
    rows: dict[str, dict[str, Any]] = {}
    for place in reversed(PLACES):
        if (run / place / PREDICTIONS).is_file():
            for row in read_shown(run / place / PREDICTIONS).to_dict("records"):
                named = {str(name): value for name, value in row.items()}
                rows[scan_key(named)] = named
    return rows


def stored_members(run: Path, names: Sequence[str]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """What a run's `members.csv` holds of the members of its ensemble: by member, the rows by the scan's path."""
    by_member: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in names}
    if names and (run / MEMBERS).is_file():
        for row in read_shown(run / MEMBERS).to_dict("records"):
            named = {str(name): value for name, value in row.items()}
            if str(named.get("member")) in by_member:
                by_member[str(named["member"])][scan_key(named)] = named
    return by_member


def _read(file: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return metrics if isinstance(metrics, dict) and metrics.get("splits") else {}


def _temperature(point: Mapping[str, Any] | None) -> float | None:
    return (point or {}).get("temperature")


def _rows(csv: Path, split: str) -> pd.DataFrame | None:
    if not csv.is_file():
        return None
    table = read_shown(csv)
    return table[table["split"] == split] if "split" in table else table
