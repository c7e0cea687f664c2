"""The page of a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slivit.report.draw import styled
from slivit.report.page import render
from slivit.report.plots_sweep import finished, importance_plot, score_name, settings_plot, states_of, sweep_plot
from slivit.report.style import count, number
from slivit.report.tables import Grid

PAGE = "sweep.html"


def write_sweep(out: Path | str, sweep: Mapping[str, Any]) -> Path:
    """Write `sweep.html`, and its figures as `sweep.*`, `importances.*` and `settings.*`.

    Args:
        out: the folder.
        sweep: `sweep.json`, with a best trial.

    Returns:
        The page.
    """
    train = shlex.join(["slivit", "finetune", str(Path(out) / "best.toml"), "out=RUN"])
    view = f"{train} && slivit view RUN"
    context = {"title": "Sweep", "sentences": list(sentences(sweep)), "trials": trials_grid(sweep), "view": view}
    with styled():
        drawn = [sweep_plot(sweep), importance_plot(sweep), settings_plot(sweep)]
        plots = {"all": [plot for plot in drawn if plot]}
        return render("sweep.html.j2", context, plots, Path(out), page=PAGE, figures=".")


def sentences(sweep: Mapping[str, Any]) -> Iterator[str]:
    """The sweep in plain words."""
    states = states_of(sweep)
    counts = ", ".join(f"{n} {state}" for state, n in states.items())
    yield f"{count(len(sweep['trials']), 'trial')}: {counts}."
    best = next(t for t in sweep["trials"] if t["number"] == sweep["best"])
    values = ", ".join(f"{key} = {text(value)}" for key, value in best["values"].items())
    score = f"{score_name(sweep).lower()} of {number(best['value'])}"
    yield f"The best is trial {best['number']}, with a {score}: {values}."
    if not sweep["importances"]:
        yield f"Which settings matter is not known: {sweep['importances_why']}."
    yield (
        "Every trial was trained on the training rows and scored on the validation rows; test rows were not read. The "
        "best of many scores is better than that model will do on new scans: train best.toml and look at its test."
    )
    failed = [t for t in sweep["trials"] if t["state"] == "failed" and t["why"]]
    for why in dict.fromkeys(t["why"] for t in failed):
        yield f"Failed ({', '.join(str(t['number']) for t in failed if t['why'] == why)}): {why}"


def text(value: Any) -> str:
    """A setting as it stands in a recipe; numbers short."""
    import json

    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def trials_grid(sweep: Mapping[str, Any]) -> Grid:
    """All trials: finished ones from the best to the worst, then the others."""
    sign = 1 if sweep["falls"] else -1
    order = sorted(finished(sweep), key=lambda t: (sign * t["value"], t["number"]))
    order += [t for t in sweep["trials"] if t["state"] != "finished"]
    heads = ((score_name(sweep), ""), ("epochs", ""), ("minutes", ""), *((key, "") for key in sweep["space"]))
    return Grid("Trials", heads, tuple(_row(t, list(sweep["space"])) for t in order))


def _row(trial: Mapping[str, Any], keys: list[str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    score = number(trial["value"], 4) if trial["value"] is not None else trial["state"]
    minutes = "" if trial["seconds"] is None else f"{trial['seconds'] / 60:.1f}"
    values = [(text(trial["values"][key]) if key in trial["values"] else "", "") for key in keys]
    return str(trial["number"]), ((score, ""), (str(trial["epochs"]), ""), (minutes, ""), *values)
