"""A page's findings in plain words, and what to handle with care."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from slivit.report.style import WORDS, amount, count, in_words, inside, interval, metric_name, number, p_text, spoken
from slivit.report.tables import is_set
from slivit.targets.task import Task

FEW = 10
"""With fewer scans of a class than these, no interval can be trusted."""

Split = Mapping[str, Any]


def sentences(split: Split, task: Task, metrics: Mapping[str, Any], where: str) -> Iterator[str]:
    """The findings, one short paragraph each.

    Args:
        split: the split that the page shows.
        task: what is predicted.
        metrics: all of `metrics.json`.
        where: what the scans are called, as "test".
    """
    yield _scans(split, task, where)
    baseline = metrics.get("baseline")
    yield from no_better(baseline if baseline and baseline["split"] == where else None, split, task)
    for name in task.findings:
        yield from FINDINGS[name](split, task, metrics)
    if "subgroups" in split:
        yield from largest_gap(split, task)
    yield from _readers(split)


def no_better(baseline: Mapping[str, Any] | None, split: Split, task: Task) -> Iterator[str]:
    """Whether the model is better than the mean, and than size and histogram, in plain words.

    Args:
        baseline: the comparison with a baseline of `slivit.evaluate.baselines`, if there was one.
        split: the metrics of the same scans.
        task: what is predicted.
    """
    metric = task.measures.main[0]
    nothing, own = {"roc_auc": 0.5, "r2": 0.0}.get(metric), split["metrics"].get(metric)
    if own and nothing is not None and own["low"] is not None and own["low"] <= nothing:
        what = "chance" if task.makes_calls else "the mean of the training scans"
        yield f"It is not shown to be better than {what}: {spoken(metric)} {interval(own['low'], own['high'])}."
    for one in (baseline, *baseline.get("others", ())) if baseline else ():
        yield from _against(one, metric)


def _against(test: Mapping[str, Any], metric: str) -> Iterator[str]:
    """Whether the model is better than one baseline."""
    if test["difference"] is None:
        return
    low, high = test["low"], test["high"]
    clear = low is not None and (low > 0 or high < 0)
    word = "not shown to be better" if not clear else "better" if test["difference"] > 0 else "worse"
    sure = f"{100 * test['level']:.0f}% interval {interval(low, high)}, p = {p_text(test['p_value'])}"
    baseline = test["names"][1]
    yield (
        f"It is {word} than {baseline} alone, on the same scans: {spoken(metric)} "
        f"{number(test['first'])} against {number(test['second'])}, difference {number(test['difference'])} "
        f"({sure if low is not None else 'too few scans for an interval'})."
    )


def _scans(split: Split, task: Task, where: str) -> str:
    patients = count(split["patients"], "patient")
    text = f"The model was evaluated on {count(split['scans'], where + ' scan')} of {patients}"
    return f"{text}{task.composition(split['counts'])}."


def _referral(split: Split, task: Task, metrics: Mapping[str, Any]) -> Iterator[str]:
    points = split["referral"][task.targets[0]]
    first, last = points[0]["roc_auc"]["value"], points[-1]["roc_auc"]["value"]
    if first is not None and last is not None:
        change = f"be {number(last)} instead of {number(first)}" if number(last) != number(first) else "be the same"
        yield (
            f"If an expert answered the {points[-1]['percent']:.0f}% of scans that the model is least sure of, the ROC "
            f"AUC of both together would {change}."
        )


def _ranking(split: Split, task: Task, metrics: Mapping[str, Any]) -> Iterator[str]:
    auc = split["metrics"]["roc_auc"]
    if auc["value"] is None:
        yield f"How well it ranks scans is not defined: {auc['why']}."
    else:
        yield f"It ranks {task.ranked} in {100 * auc['value']:.0f} of 100 pairs: ROC AUC {in_words(auc)}."


def _calls(split: Split, task: Task, metrics: Mapping[str, Any]) -> Iterator[str]:
    target, estimates = task.targets[0], split["metrics"]
    matrix = split["confusion"][target]["counts"]
    threshold = metrics["operating_point"]["thresholds"].get(target, {}).get("value", 0.5)
    start = f"Called positive from a probability of {number(threshold)} upwards, {_rule(metrics)}"
    if matrix is None:
        yield f"{start}, calls are not defined: {split['confusion'][target]['why']}."
        return
    (tn, fp), (fn, tp) = matrix
    parts = []
    if tp + fn:
        parts.append(
            f"it finds {tp:,} of {tp + fn:,} scans with {target} (sensitivity {inside(estimates['sensitivity'])})"
        )
    if tn + fp:
        alarm = (
            f"raises a false alarm in {fp:,} of {tn + fp:,} without (specificity {inside(estimates['specificity'])})"
        )
        parts.append(alarm if parts else f"it {alarm}")
    yield f"{start}, " + " and ".join(parts) + "."


def _rule(metrics: Mapping[str, Any]) -> str:
    """How the threshold came about, in words."""
    point = metrics["operating_point"]
    if is_set(point["rule"]):
        return "a threshold that was set, not chosen on data"
    return f"a threshold chosen by the rule {point['rule']} on {point['chosen_on'] or 'validation data'}"


def _calibration(split: Split, task: Task, metrics: Mapping[str, Any]) -> Iterator[str]:
    estimates = split["metrics"]
    slope, shift = estimates["calibration_slope"], estimates["calibration_intercept"]
    if slope["value"] is None or slope["low"] is None:
        yield f"Whether its probabilities mean what they say cannot be told: {slope['why']}."
        return
    faults = []
    if slope["high"] < 1:
        faults.append(f"too extreme (calibration slope {inside(slope)}; 1 is best)")
    elif slope["low"] > 1:
        faults.append(f"too cautious (calibration slope {inside(slope)}; 1 is best)")
    if shift["low"] is not None and (shift["high"] < 0 or shift["low"] > 0):
        side = "high" if shift["high"] < 0 else "low"
        faults.append(f"too {side} on the whole (calibration intercept {inside(shift)}; 0 is best)")
    if faults:
        yield "Its probabilities are " + ", and ".join(faults) + "."
    else:
        yield f"Nothing shows that its probabilities are off: calibration slope {in_words(slope)}; 1 is best."


def _accuracy(split: Split, task: Task, metrics: Mapping[str, Any]) -> Iterator[str]:
    share = in_words(split["metrics"]["accuracy"])
    yield f"It calls the right one of {len(task.classes)} classes in a share of {share} of all scans."


def _subset(split: Split, task: Task, metrics: Mapping[str, Any]) -> Iterator[str]:
    subset = split["metrics"]["subset_accuracy"]
    if subset["value"] is not None:
        yield f"Every label of a scan is called correctly in a share of {in_words(subset)} of the scans."


def _best_and_worst(metric: str, split: Split, task: Task, metrics: Mapping[str, Any]) -> Iterator[str]:
    estimates = {name: split["metrics"][f"{metric}/{name}"] for name in task.outputs}
    known = {name: estimate for name, estimate in estimates.items() if estimate["value"] is not None}
    if len(known) > 1:
        best = max(known, key=lambda n: known[n]["value"])
        worst = min(known, key=lambda n: known[n]["value"])
        name = metric_name(metric)
        ends = f"{best}, {in_words(known[best])}, and lowest for {worst}, {in_words(known[worst])}"
        yield f"{name} is highest for the {task.part} {ends}."


def _errors(split: Split, task: Task, metrics: Mapping[str, Any]) -> Iterator[str]:
    for name in task.targets:
        estimates = {m: split["metrics"][f"{m}/{name}"] for m in ("mae", "r2", "bias", "limit_low", "limit_high")}
        if estimates["mae"]["value"] is None:
            yield f"How far predictions of {name} are off is not defined: {estimates['mae']['why']}."
            continue
        off = in_words(estimates["mae"], task.unit, 2)
        yield f"On average, predictions of {name} are off by {off}. R² is {in_words(estimates['r2'])}."
        yield _bias(estimates["bias"], task.unit)
        limits = interval(estimates["limit_low"]["value"], estimates["limit_high"]["value"], 2)
        if limits:
            yield f"95% of single errors are expected between the limits of agreement, {amount(limits, task.unit)}."


def _bias(bias: Mapping[str, Any], unit: str) -> str:
    if bias["low"] is None or bias["low"] <= 0 <= bias["high"]:
        start = "Nothing shows that predictions are too high or too low on the whole"
    else:
        start = f"On the whole they are too {'high' if bias['value'] > 0 else 'low'}"
    return f"{start}: the bias is {in_words(bias, unit, 2)}."


FINDINGS: Mapping[str, Callable[[Split, Task, Mapping[str, Any]], Iterator[str]]] = {
    "ranking": _ranking,
    "calls": _calls,
    "calibration": _calibration,
    "referral": _referral,
    "accuracy": _accuracy,
    "outputs by sensitivity": partial(_best_and_worst, "sensitivity"),
    "outputs by ROC AUC": partial(_best_and_worst, "roc_auc"),
    "subset accuracy": _subset,
    "errors": _errors,
}
"""The findings that kinds of task have (see `Task.findings`): from a split, the task and all metrics to sentences."""


def largest_gap(split: Split, task: Task) -> Iterator[str]:
    """Between which subgroups the main metric differs most, in plain words."""
    metric = task.measures.gap
    gap = split["subgroups"]["largest"].get(metric)
    if gap is None:
        return
    groups = split["subgroups"]["columns"][gap["column"]]
    high, low = (groups[gap[side]]["metrics"][metric] for side in ("highest", "lowest"))
    digits, unit = (2, task.unit) if WORDS[metric].in_unit else (3, "")
    ends = [f"{amount(number(e['value'], digits), unit)} for {gap[s]}" for e, s in ((high, "highest"), (low, "lowest"))]
    yield (
        f"Of the subgroups examined, {spoken(metric)} differs most by {gap['column']}: {', '.join(ends)}, a gap of "
        f"{in_words(gap['difference'], unit, digits)}. The two were picked for their difference, so a new sample would "
        "show a smaller one."
    )


def _readers(split: Split) -> Iterator[str]:
    for name, readers in split.get("readers", {}).items():
        average = readers["average"]
        yield (
            f"{count(len(readers['points']), 'human reader')} of {name} reach on average a sensitivity of "
            f"{in_words(average['sensitivity'])} and a specificity of {in_words(average['specificity'])}."
        )


def cautions(split: Split, task: Task, metrics: Mapping[str, Any], name: str) -> Iterator[str]:
    """What could make the findings misleading.

    Args:
        split: the split that the page shows.
        task: what is predicted.
        metrics: all of `metrics.json`.
        name: of the split.
    """
    data, settings = metrics["data"], metrics["settings"]
    if data.get("shared_patients"):
        shared = count(data["shared_patients"], "patient")
        yield f"{shared} of these scans were in training or validation: the results flatter the model."
    if name in ("train", "val"):
        yield f"These are the {name} rows, on which the model was fitted or chosen: the results flatter it."
    if split["scans"] > split["patients"] and not settings["by_patient"]:
        yield (
            f"{split['scans']:,} scans are of {count(split['patients'], 'patient')}, but scans were drawn one by one, "
            "so the intervals are too narrow: set testing.by_patient = true."
        )
    yield from _sparse(split, task)
    yield from _decisions(task, metrics)
    if data.get("external") is False:
        yield "The scans are of the same source as those of training; on scans of another source, results can be worse."
    lost = [m for m in WORDS if m in split["metrics"] and split["metrics"][m]["value"] is None]
    if lost:
        yield "Not defined on these scans: " + ", ".join(spoken(m) for m in lost) + "."


def _sparse(split: Split, task: Task) -> Iterator[str]:
    missing = [f"{target} {c['missing']:,}" for target, c in split["counts"].items() if c["missing"]]
    if missing:
        yield f"Scans without a label, left out: {', '.join(missing)}."
    for target, counts in split["counts"].items():
        if "classes" not in counts and counts["n"] < FEW:
            yield f"{target}: only {count(counts['n'], 'scan')}."
        for c, n in counts.get("classes", {}).items():
            if n < FEW:
                few = f"only {n}" if n else "no"
                yield f"{target}: {few} {task.class_adjective(c)} scan{'' if n == 1 else 's'}."


def _decisions(task: Task, metrics: Mapping[str, Any]) -> Iterator[str]:
    point = metrics["operating_point"]
    if point is None or not task.thresholded:
        return
    if point["rule"] == "0.5":
        yield (
            "The threshold 0.5 is a default, not a decision: fix one on validation data, as with "
            "--operating-point sensitivity=0.9."
        )
    for target, threshold in point["thresholds"].items():
        if threshold["why"] and not is_set(point["rule"]):
            yield f"{target}: the rule {point['rule']} gave no threshold ({threshold['why']}); 0.5 is used."
