"""The page of a planned run: what won, whether it is better than size and histogram, and what was done."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slivit.report.draw import Plot, styled
from slivit.report.page import named_targets, render
from slivit.report.plots_groups import Row, forest
from slivit.report.style import count, in_words, interval, number, p_text, spoken, with_unit
from slivit.report.tables import Grid
from slivit.targets.task import Task

PAGE, FIGURES = "auto.html", "figures"
Facts = Mapping[str, Any]
TITLES = {"mean": "mean of the training scans", "everything": "all features"}
WORTH = 0.01
"""By how much twice the labels must have raised the main metric for more of them to be thought to help."""
NOTHING = {"roc_auc": (0.5, "chance"), "r2": (0.0, "mean")}
"""What a metric is where nothing was learned, and how that is called."""


def write_auto(out: Path | str, facts: Facts) -> Path:
    """Write the page of a planned run and its figures.

    Args:
        out: the folder: `auto.html`, and `figures/`.
        facts: `auto.json`.

    Returns:
        The page.
    """
    task, plan = Task(**facts["task"]), facts["plan"]
    context = {
        "title": f"slivit auto: {named_targets(task)}",
        "task": task,
        "facts": facts,
        "plan": plan,
        "sentences": facts["sentences"],
        "board": board(facts, task),
        "comparisons": comparisons(facts),
        "candidates": candidates(plan),
        "networks": count(len(plan["candidates"]), "network"),
        "view": shlex.join(["slivit", "view", str(Path(out).parent)]),
    }
    with styled():
        plots = {"all": [_figure(facts, task)]}
        return render("auto.html.j2", context, plots, Path(out), page=PAGE, figures=FIGURES)


def title(name: str) -> str:
    """A model as people call it: "size_and_histogram_linear" is "size and histogram, linear"."""
    features, _, model = name.rpartition("_")
    if model not in ("linear", "kernel", "forest"):
        return TITLES.get(name, name)
    return f"{TITLES.get(features, features.replace('_', ' '))}, {model}"


def sentences(facts: Facts, best: Mapping[str, str]) -> Iterator[str]:
    """The answers in plain words, the one that matters most first.

    Args:
        facts: `auto.json`, so far.
        best: the best of each group ("network", "simple", "baseline", "frozen", "member") by the main metric.
    """
    metric, board = facts["metrics"][0], facts["leaderboard"]
    tests = {tuple(t["names"]): t for t in facts["comparisons"]}
    better = "mean" not in board or board["ensemble"][metric]["low"] is None or _better_than_chance(board, metric)
    if not better:
        yield "No model is clearly better than the mean: that these scans can be predicted is not shown."
    yield _network_or_not(facts, best, tests, metric)
    test = tests.get((best["network"], best["baseline"]))
    if test and best["simple"] not in ("", best["baseline"]):
        yield f"Against the best model without a network, {title(best['baseline'])}: {_difference(test, metric)}."
    yield from _frozen(facts, best, tests, metric)
    ensemble = in_words(board["ensemble"][metric])
    yield (
        f"The ensemble has a {spoken(metric)} of {ensemble} out of fold, over {count(facts['scans'], 'scan')} of "
        f"{count(facts['patients'], 'patient')}; each part was predicted by an ensemble that was chosen on the others."
    )
    if partly := facts.get("partly"):
        scans = f"{facts['plan']['trained']} of {facts['plan']['folds']} folds, {count(min(partly.values()), 'scan')}"
        yield f"Networks are not in the ensemble: there was time for {scans}, to which they add little or nothing."
    if alone := facts.get("scans_that_train_alone"):
        folds = f"{facts['plan']['trained']} of {facts['plan']['folds']} folds"
        yield f"There was time to train networks on {folds} alone, so {count(alone, 'scan')} could not be predicted."
    if test := tests.get(("ensemble", best["member"])):
        yield f"Against its best member, {title(best['member'])}: {_difference(test, metric)}."
    if better:
        yield from _curve(facts, metric)
    if facts["test"]:
        scans = count(facts["test_scans"], "test scan")
        yield f"On {scans}, read once at the end: {spoken(metric)} {in_words(facts['test'][metric])}."
    else:
        yield "There was no test split: all figures are out of fold, and the best of single models is optimistic."
    if beside := facts["task"].get("covariates"):
        yield f"Every model but the mean reads {', '.join(beside)} beside the scan, and predictions need them too."
    for name, why in facts["failed"].items():
        yield f"The network {name} is left out: {why}"


def _network_or_not(facts: Facts, best: Mapping[str, str], tests: Mapping[Any, Facts], metric: str) -> str:
    if not best["network"]:
        return (
            "No network was trained to the end, so the result rests on models of size, grey levels, texture and "
            f"coarse voxels; more time than the {facts['plan']['minutes']:g} minutes (--time) may change that."
        )
    against = best["simple"] or best["baseline"]
    test = tests.get((best["network"], against))
    if test is None:
        return f"The best network is {title(best['network'])}."
    clear = test["p_value"] is not None and test["p_value"] < 0.05
    if clear:
        verdict = "is better than" if test["difference"] > 0 else "is worse than"
    else:
        verdict = "is not clearly better than" if (test["difference"] or 0) > 0 else "is no better than"
    beside = [*facts["task"].get("covariates", ()), "size"]
    what = f"{', '.join(beside)} and histogram alone" if best["simple"] else "models without a network"
    return f"The best network, {best['network']}, {verdict} {what} ({title(against)}): {_difference(test, metric)}."


def _frozen(facts: Facts, best: Mapping[str, str], tests: Mapping[Any, Facts], metric: str) -> Iterator[str]:
    """What the frozen features of pre-trained networks are worth, and under which licence their weights are."""
    if not best.get("frozen"):
        return
    value = in_words(facts["leaderboard"][best["frozen"]][metric])
    yield f"Frozen features of a pre-trained network ({title(best['frozen'])}) have a {spoken(metric)} of {value}."
    for other, what in (("network", "the best trained network"), ("baseline", "the best model without a network")):
        if test := tests.get((best["frozen"], best[other])):
            yield f"Against {what}, {title(best[other])}: {_difference(test, metric)}."
    for frozen in facts["plan"]["frozen"]:
        used = any(name.startswith(f"{frozen['name']}_") for name in facts["weights"])
        if frozen["licence"] and used:
            yield f"The result holds the weights of {frozen['name']}, which are under {frozen['licence']}."


def _curve(facts: Facts, metric: str) -> Iterator[str]:
    """What more labels would bring, by what fewer would have cost."""
    if not facts.get("curve"):
        return
    values = [point["value"] for point in facts["curve"]["points"]]
    if None in values:
        return
    counts = [str(point["trained_on"]) for point in facts["curve"]["points"]]
    earlier = ", ".join(number(v) for v in values[:-1])
    rises = values[-1] - values[-2] > WORTH
    verdict = "so more labels would probably help it" if rises else "so twice as many labels may bring it little"
    yield (
        f"Trained on {', '.join(counts[:-1])} and {counts[-1]} patients, {title(facts['curve']['model'])} has a "
        f"{spoken(metric)} of {earlier} and {number(values[-1])}, {verdict}."
    )


def _difference(test: Facts, metric: str) -> str:
    span = interval(test["low"], test["high"])
    sure = f"95% interval {span}, p = {p_text(test['p_value'])}" if span else "too few scans for an interval"
    return f"difference of {spoken(metric)} {number(test['difference'])} ({sure})"


def _better_than_chance(board: Facts, metric: str) -> bool:
    """Whether the ensemble's interval lies above what says nothing."""
    nothing, _ = NOTHING.get(metric, (-1.0, ""))
    return bool(board["ensemble"][metric]["low"] > nothing)


def ordered(facts: Facts) -> list[str]:
    """The models, the best first by the main metric."""
    metric = facts["metrics"][0]
    value = {n: e[metric]["value"] for n, e in facts["leaderboard"].items()}
    return sorted(value, key=lambda name: -(value[name] if value[name] is not None else -1e9))


def board(facts: Facts, task: Task) -> Grid:
    """The leaderboard."""
    heads = (*((with_unit(m, task.unit), "") for m in facts["metrics"]), ("weight", "in the ensemble"))
    rows = []
    for name in ordered(facts):
        estimates = facts["leaderboard"][name]
        cells = [(number(e["value"]), interval(e["low"], e["high"])) for e in estimates.values()]
        weight = facts["weights"].get(name)
        of = f" ({count(facts['partly'][name], 'scan')})" if name in facts.get("partly", {}) else ""
        rows.append((title(name) + of, (*cells, (f"{weight:.2f}" if weight else "", ""))))
    note = "Out of fold, with 95% intervals over patients. The best of several looks better than it is; "
    return Grid("Leaderboard", heads, tuple(rows), note + "that of the ensemble is from a nested selection.")


def comparisons(facts: Facts) -> Grid | None:
    """The differences that the first sentences rest on."""
    rows = tuple(
        (
            " − ".join(title(name) for name in t["names"]),
            ((number(t["difference"]), interval(t["low"], t["high"])), (p_text(t["p_value"]), "")),
        )
        for t in facts["comparisons"]
    )
    heads = ((f"difference of {spoken(facts['metrics'][0])}", ""), ("p", ""))
    return Grid("On the same scans", heads, rows, "Paired bootstrap over patients.") if rows else None


def candidates(plan: Facts) -> Grid | None:
    """The networks that were tried."""
    rows = tuple(
        (c["name"], ((c["model"], ""), (str(c["epochs"]), ""), (f"{c['lr']:g}", ""), (c["why"], "")))
        for c in plan["candidates"]
    )
    heads = tuple((text, "") for text in ("model", "epochs", "rate", "why"))
    return Grid("Networks", heads, rows) if rows else None


def _figure(facts: Facts, task: Task) -> Plot:
    metric = facts["metrics"][0]
    known = [n for n in ordered(facts) if facts["leaderboard"][n][metric]["value"] is not None]
    rows: list[Row] = [(title(n), facts["leaderboard"][n][metric]) for n in known]
    caption = "Squares: value out of fold; bars: 95% interval over patients. The best is on top."
    name = with_unit(metric, task.unit)
    line, text = NOTHING.get(metric, (None, ""))
    return Plot("leaderboard", name, caption, forest(rows, name, line=line, line_text=text), caption)
