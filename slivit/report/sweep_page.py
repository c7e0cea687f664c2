"""The page of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slivit.report.draw import styled
from slivit.report.page import render
from slivit.report.plots_sweep import finished, importance_plot, score_name, settings_plot, states_of, sweep_plot
from slivit.report.style import count, number
from slivit.report.tables import Grid

PAGE = "sweep.html"


def write_sweep(out: Path | str, found: Mapping[str, Any]) -> Path:
    """Write `sweep.html`, and its figures as `sweep.*`, `importances.*` and `settings.*`.

    Args:
        out: the folder.
        found: `sweep.json`, with a best trial.

    Returns:
        The page.
    """
    context = {"title": "Sweep", "sentences": list(sentences(found)), "trials": trials_grid(found)}
    with styled():
        drawn = [sweep_plot(found), importance_plot(found), settings_plot(found)]
        plots = {"all": [plot for plot in drawn if plot]}
        return render("sweep.html.j2", context, plots, Path(out), page=PAGE, figures=".")


def sentences(found: Mapping[str, Any]) -> Iterator[str]:
    """The sweep in plain words."""
    states = states_of(found)
    told = ", ".join(f"{n} {state}" for state, n in states.items())
    yield f"{count(len(found['trials']), 'trial')}: {told}."
    best = next(t for t in found["trials"] if t["number"] == found["best"])
    settings = ", ".join(f"{key} = {text(value)}" for key, value in best["values"].items())
    score = f"{score_name(found).lower()} of {number(best['value'])}"
    yield f"The best is trial {best['number']}, with a {score}: {settings}."
    if not found["importances"]:
        yield f"Which settings matter is not known: {found['importances_why']}."
    yield (
        "Every trial was trained on the training rows and scored on the validation rows; test rows were not read. The "
        "best of many scores is better than that model will do on new scans: train best.toml and look at its test."
    )
    failed = [t for t in found["trials"] if t["state"] == "failed" and t["why"]]
    for why in dict.fromkeys(t["why"] for t in failed):
        yield f"Failed ({', '.join(str(t['number']) for t in failed if t['why'] == why)}): {why}"


def text(value: Any) -> str:
    """A setting as it stands in a recipe; numbers short."""
    import json

    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def trials_grid(found: Mapping[str, Any]) -> Grid:
    """All trials: finished ones from the best to the worst, then the others."""
    sign = 1 if found["falls"] else -1
    order = sorted(finished(found), key=lambda t: (sign * t["value"], t["number"]))
    order += [t for t in found["trials"] if t["state"] != "finished"]
    heads = ((score_name(found), ""), ("epochs", ""), ("minutes", ""), *((key, "") for key in found["space"]))
    return Grid("Trials", heads, tuple(_row(t, list(found["space"])) for t in order))


def _row(trial: Mapping[str, Any], keys: list[str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    score = number(trial["value"], 4) if trial["value"] is not None else trial["state"]
    minutes = "" if trial["seconds"] is None else f"{trial['seconds'] / 60:.1f}"
    values = [(text(trial["values"][key]) if key in trial["values"] else "", "") for key in keys]
    return str(trial["number"]), ((score, ""), (str(trial["epochs"]), ""), (minutes, ""), *values)
