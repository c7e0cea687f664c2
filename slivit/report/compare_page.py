"""The page of a comparison: the same plain style as an evaluation's, for several models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slivit.report.draw import styled
from slivit.report.page import named_targets, render
from slivit.report.plots_compare import comparison_plots
from slivit.report.style import (
    WORDS,
    amount,
    count,
    in_words,
    interval,
    metric_name,
    number,
    p_text,
    spoken,
    with_unit,
)
from slivit.report.tables import Cell, Grid, cell
from slivit.targets.task import Task

KINDS = {"single": "one run", "seeds": "runs with different seeds", "folds": "folds, put together"}

T_TEST = "SLIViT t-test on bootstrap differences"
MEANINGS = {
    "paired bootstrap": "On the same draws of the same scans; the test to rely on.",
    T_TEST: (
        "As in the SLIViT paper. Its p-values are too small, because draws of a bootstrap are no independent "
        "observations: do not rest a finding on it."
    ),
    "DeLong": "Of the ROC AUC; takes scans as independent.",
    "McNemar, exact": "Of the calls: the share that is right.",
    "Welch": "Between the runs of two methods; speaks of other runs on these scans.",
    "Wilcoxon": "Between the runs of two methods, paired by seed or fold.",
}


def write_comparison(out: Path | str, comparison: Mapping[str, Any]) -> Path:
    """Write the page of a comparison and its figures.

    Args:
        out: the folder: `index.html`, and `figures/` with every figure as SVG and PDF.
        comparison: `comparison.json`.

    Returns:
        The page.
    """
    task = Task(**comparison["task"])
    context = {
        "title": f"Comparison: {named_targets(task)}",
        "task": task,
        "settings": comparison["settings"],
        "sentences": list(sentences(comparison, task)),
        "cautions": list(cautions(comparison)),
        "metrics": metrics_grid(comparison, task),
        "tests": list(test_grids(comparison, task)),
        "spreads": list(spread_grids(comparison, task)),
        "by_output": output_grid(comparison, task),
        "methods": [(name, KINDS[m["kind"]], m["runs"]) for name, m in comparison["methods"].items()],
    }
    with styled():
        return render("compare.html.j2", context, {"all": comparison_plots(comparison, task.unit)}, Path(out))


def sentences(comparison: Mapping[str, Any], task: Task) -> Iterator[str]:
    """The outcome in plain words."""
    methods = comparison["methods"]
    scans = f"{count(comparison['scans'], 'test scan')} of {count(comparison['patients'], 'patient')}"
    yield f"{count(len(methods), 'method')} were tested on the same {scans}."
    metric = comparison["settings"]["metrics"][0]
    known = {name: m["metrics"][metric] for name, m in methods.items() if m["metrics"][metric]["value"] is not None}
    if not known:
        yield f"{metric_name(metric)} is not defined for any of them."
        return
    higher = WORDS[metric.partition("/")[0]].in_unit is False
    best = (max if higher else min)(known, key=lambda n: known[n]["value"])
    unit = "" if higher else task.unit
    yield f"The best {spoken(metric)} is that of {best}: {in_words(known[best], unit)}."
    tests = [t for t in _main_tests(comparison, metric) if best in t["names"]]
    for test in tests:
        yield _test_sentence(test, best, metric, unit)


def _main_tests(comparison: Mapping[str, Any], metric: str) -> list[Mapping[str, Any]]:
    return [t for t in comparison["comparisons"] if t["method"] == "paired bootstrap" and t["metric"] == metric]


def _test_sentence(test: Mapping[str, Any], best: str, metric: str, unit: str) -> str:
    first, second = test["names"]
    if test["difference"] is None:
        return f"{first} and {second} cannot be compared: {test['why']}."
    span = interval(test["low"], test["high"])
    size = amount(number(test["difference"]), unit) + (f" ({test['level']:.0%} interval {span})" if span else "")
    text = f"Difference of {spoken(metric)}, {first} − {second}: {size}"
    if test["p_value"] is None:
        return f"{text}; no p-value: {test['why']}."
    clear = (
        "a difference that chance hardly explains" if test["holm"] < 1 - test["level"] else "which chance can explain"
    )
    return f"{text}, p {p_text(test['p_value'])}, {p_text(test['holm'])} after Holm's correction: {clear}."


def cautions(comparison: Mapping[str, Any]) -> Iterator[str]:
    """What could make the comparison misleading."""
    if comparison["scans"] > comparison["patients"] and not comparison["settings"]["by_patient"]:
        yield (
            f"{comparison['scans']:,} scans are of {count(comparison['patients'], 'patient')}, but scans were drawn "
            "one by one: the intervals are too narrow and the p-values too small. Use --by-patient."
        )
    single = [name for name, m in comparison["methods"].items() if m["kind"] == "single"]
    if single:
        yield (
            f"One run each of {', '.join(single)}: the tests say whether these very models differ on other scans, not "
            "whether the methods would, trained again with another seed."
        )
    if any(m["kind"] == "folds" for m in comparison["methods"].values()):
        yield (
            "Folds put together mix the probabilities of several models; where they fall short of the single folds, "
            "the models are calibrated differently."
        )
    if comparison["scans"] < 100:
        yield f"With {count(comparison['scans'], 'scan')}, only large differences can be found: none found is not none."


def metrics_grid(comparison: Mapping[str, Any], task: Task) -> Grid:
    """The main metrics of every method."""
    metrics = list(dict.fromkeys([*comparison["settings"]["metrics"], *task.measures.headlines]))
    rows = tuple(
        (name, tuple(cell(m["metrics"].get(k), k) for k in metrics)) for name, m in comparison["methods"].items()
    )
    return Grid(
        "Main metrics",
        tuple((with_unit(m, task.unit), "") for m in metrics),
        rows,
        "All metrics are in comparison.json.",
    )


def output_grid(comparison: Mapping[str, Any], task: Task) -> Grid | None:
    """The main metric of every class, label or quantity, by method; None where there is one only."""
    names = task.parts
    if len(names) < 2:
        return None
    metric = task.measures.main[0]
    rows = tuple((n, tuple(cell(m["metrics"][f"{metric}/{n}"]) for m in comparison["methods"].values())) for n in names)
    return Grid(f"{metric_name(metric)} by {task.part}", tuple((name, "") for name in comparison["methods"]), rows)


def test_grids(comparison: Mapping[str, Any], task: Task) -> Iterator[Grid]:
    """One table for each test and metric, with differences, intervals and corrected p-values."""
    heads = ("first", "second", "difference", "p", "Holm", "Bonferroni")
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for test in comparison["comparisons"]:
        groups.setdefault((test["method"], test["metric"]), []).append(test)
    for (method, metric), tests in groups.items():
        rows = tuple((f"{t['names'][0]} − {t['names'][1]}", _test_cells(t)) for t in tests)
        notes = dict.fromkeys(t["why"] for t in tests if t["why"] and method != T_TEST)
        note = " ".join([MEANINGS.get(method, ""), *(f"{n[0].upper()}{n[1:]}." for n in notes)]).strip()
        title = f"{method[0].upper()}{method[1:]}: {with_unit(metric, task.unit)}"
        yield Grid(title, tuple((h, "") for h in heads), rows, note)


def _test_cells(test: Mapping[str, Any]) -> tuple[Cell, ...]:
    values = [(number(test[k]), "") for k in ("first", "second")]
    difference = (number(test["difference"]), interval(test["low"], test["high"]))
    return (*values, difference, *((p_text(test[k]), "") for k in ("p_value", "holm", "bonferroni")))


def spread_grids(comparison: Mapping[str, Any], task: Task) -> Iterator[Grid]:
    """Mean and standard deviation over seeds or folds, and every run, of methods with several."""
    metrics = list(dict.fromkeys([*comparison["settings"]["metrics"], *task.measures.headlines]))
    for name, method in comparison["methods"].items():
        if "spread" not in method:
            continue
        rows: list[tuple[str, tuple[Cell, ...]]] = []
        for run, values in zip(method["runs"], method["per_run"], strict=True):
            rows.append((_run_name(run), tuple((number(values[m]), "") for m in metrics)))
        rows.append(("mean", tuple((number(method["spread"][m]["mean"]), "") for m in metrics)))
        rows.append(("standard deviation", tuple((number(method["spread"][m]["sd"]), "") for m in metrics)))
        if method["kind"] == "folds":
            rows.append(("folds put together", tuple(cell(method["metrics"][m], m) for m in metrics)))
        yield Grid(f"Runs of {name}", tuple((with_unit(m, task.unit), "") for m in metrics), tuple(rows))


def _run_name(run: Mapping[str, Any]) -> str:
    return Path(run["folder"]).name + (f", seed {run['seed']}" if run["seed"] is not None else "")
