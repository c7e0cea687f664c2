"""The page of a study: models under their initialisations and shares of the labels, beside a reference."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slivit.report.compare_page import MEANINGS
from slivit.report.draw import styled
from slivit.report.page import named_targets, render
from slivit.report.plots_study import is_curve, method_title, share_text, study_plots, title
from slivit.report.style import WORDS, amount, cases_drawn, count, in_words, interval, number, p_text, spoken, with_unit
from slivit.report.tables import Cell, Grid
from slivit.targets.task import Task

PAGE, FIGURES = "study.html", "figures"
Values = Mapping[str, Any]


def write_study(out: Path | str, study: Values, recipe: str = "") -> Path:
    """Write the page of a study and its figures.

    Args:
        out: the folder: `study.html`, and `figures/` with every figure as SVG and PDF.
        study: `study.json`.
        recipe: the study's recipe as TOML, to be shown.

    Returns:
        The page.
    """
    task = Task(**study["task"])
    context = {
        "title": study["title"] or f"{'Label efficiency' if is_curve(study) else 'Study'}: {named_targets(task)}",
        "task": task,
        "settings": study["settings"],
        "axes": axes(study),
        "sentences": list(sentences(study, task)),
        "cautions": list(cautions(study)),
        "tables": list(label_grids(study, task) if is_curve(study) else metric_grids(study, task)),
        "tests": list(test_grids(study, task)),
        "groups": list(group_grids(study, task)),
        "sites": list(site_grids(study, task)),
        "shuffles": list(shuffle_grids(study, task)),
        "failed": [run for run in study["runs"] if run["state"] == "failed"],
        "excluded": exclusions(study),
        "times": time_grid(study),
        "recipe": recipe,
        "view": view_command([str(out)] if any(run["state"] == "done" for run in study["runs"]) else []),
    }
    with styled():
        return render("study.html.j2", context, {"all": study_plots(study)}, Path(out), page=PAGE, figures=FIGURES)


def view_command(folders: Sequence[str]) -> str:
    """The command that shows runs beside each other; "" without a run."""
    return shlex.join(["slivit", "view", *folders]) if folders else ""


def falls(metric: str) -> bool:
    """Whether less of a metric is better: what is in the unit of the target is an error."""
    return WORDS[metric.partition("/")[0]].in_unit


def axes(study: Values) -> list[str]:
    """How many models, initialisations, shares and seeds there are, in words."""
    words = {"models": "model", "starts": "initialisation", "fractions": "share of the labels", "seeds": "seed"}
    plurals = {"fractions": "shares of the labels"}
    return [count(len(study["settings"][key]), word, plurals.get(key, "")) for key, word in words.items()]


def sentences(study: Values, task: Task) -> Iterator[str]:
    """The outcome in plain words."""
    settings = study["settings"]
    metric = settings["metrics"][0]
    done = sum(run["state"] == "done" for run in _own_runs(study))
    scans = f"{count(study['scans'], 'test scan')} of {count(study['patients'], 'patient')}"
    *first, seeds = axes(study)
    yield f"{', '.join(first)} and {seeds}: {count(done, 'finished run')}, tested on the same {scans}."
    if is_curve(study):
        yield from _by_labels(study, metric, task)
    for fraction in () if is_curve(study) else settings["fractions"]:
        if text := _best(study, fraction, metric, task):
            yield text
    if text := _against(study, metric):
        yield text
    for entry in (e for e in study.get("shuffles", []) if e["metric"] == metric and e["rank"] is not None):
        name, of = method_title(study, entry["model"], entry["start"]), f"{entry['rank']} of {entry['copies'] + 1}"
        yield (
            f"{name} with its slices in order is number {of} by {spoken(metric)}, its copies in other orders beside it "
            f"(p = {p_text(entry['p_value'])})."
        )


def _by_labels(study: Values, metric: str, task: Task) -> Iterator[str]:
    """What more labels change, where one model is trained on several shares of them."""
    known = [c for c in study["cells"] if c["metrics"][metric]["value"] is not None]
    if len(known) < 2:
        yield f"{spoken(metric).capitalize()} is not defined with several shares of the labels."
        return
    before, last = known[1], known[0]
    unit = task.unit if falls(metric) else ""
    ends = [
        f"{in_words(c['metrics'][metric], unit)} with {count(c['train_scans'], 'training scan')}"
        for c in (known[-1], last)
    ]
    yield f"The mean {spoken(metric)} is {ends[0]}, and {ends[1]}."
    gain = abs(last["metrics"][metric]["value"] - before["metrics"][metric]["value"])
    sd = last["spread"][metric]["sd"]
    beside = f"; runs with different seeds differ by a standard deviation of {number(sd)}" if sd is not None else ""
    yield (
        f"The last step, from {before['train_scans']:,} to {last['train_scans']:,} scans, changes it by "
        f"{amount(number(gain), unit)}{beside}."
    )


def _best(study: Values, fraction: float, metric: str, task: Task) -> str:
    known = [c for c in study["cells"] if c["fraction"] == fraction and c["metrics"][metric]["value"] is not None]
    if not known:
        return ""
    best = (min if falls(metric) else max)(known, key=lambda c: c["metrics"][metric]["value"])
    name = method_title(study, best["model"], best["start"])
    value = in_words(best["metrics"][metric], task.unit if falls(metric) else "")
    return f"With {count(best['train_scans'], 'training scan')}, the best {spoken(metric)} is that of {name}: {value}."


def _against(study: Values, metric: str) -> str:
    tests = _main_tests(study, metric)
    if not tests:
        return ""
    which = "a" if len(study["settings"].get("references", [])) > 1 else "the"
    clear = [t for t in tests if t["holm"] is not None and t["holm"] < 1 - t["level"]]
    better = sum((t["difference"] < 0) == falls(metric) for t in clear)
    return (
        f"Of {count(len(tests), 'comparison')} with {which} reference, {better} show a better {spoken(metric)} and "
        f"{len(clear) - better} a worse one that chance hardly explains (Holm's correction over the study)."
    )


def _main_tests(study: Values, metric: str) -> list[Values]:
    return [t for t in study["tests"] if t["method"] == "paired bootstrap" and t["metric"] == metric]


def cautions(study: Values) -> Iterator[str]:
    """What could make the study misleading."""
    states = [run["state"] for run in _own_runs(study)]
    if failed := states.count("failed"):
        yield f"{count(failed, 'run')} failed; the figures are those of the others."
    if missing := sum(state in ("new", "died") for state in states):
        yield f"{count(missing, 'run')} {'is' if missing == 1 else 'are'} still to be made: this is no final result."
    if study["tests"] and any(len(cell["runs"]) == 1 for cell in study["cells"]):
        yield (
            "Where there is one seed, the tests say whether these very models differ on other scans, not whether they "
            "would, trained again with another seed."
        )
    if study["scans"] > study["patients"] and not study["settings"]["by_patient"]:
        yield (
            f"{study['scans']:,} scans are of {count(study['patients'], 'patient')}, but scans were drawn one by one: "
            "the intervals are too narrow and the p-values too small. Set testing.by_patient."
        )
    if study["scans"] < 100:
        yield f"With {count(study['scans'], 'test scan')}, only large differences can be found: none found is not none."


def _own_runs(study: Values) -> list[Values]:
    """The runs that are compared: not those that come first, nor their tests on further sets."""
    return [run for run in study["runs"] if run["seed"] is not None and not run.get("test")]


def metric_grids(study: Values, task: Task) -> Iterator[Grid]:
    """A table for each metric and share of the labels: a row a model, a column an initialisation."""
    settings = study["settings"]
    cells = {(c["model"], c["start"], c["fraction"]): c for c in study["cells"]}
    for metric in settings["metrics"]:
        for fraction in settings["fractions"]:
            here = [c for c in study["cells"] if c["fraction"] == fraction]
            if not here:
                continue
            heads = tuple((text, "") for text in settings["starts"].values())
            rows = tuple(
                (text, tuple(_value(cells.get((model, start, fraction)), metric) for start in settings["starts"]))
                for model, text in settings["models"].items()
            )
            scans = count(here[0]["train_scans"], "training scan")
            note = f"Mean over the seeds; below it its interval over test {cases_drawn(settings)}, "
            note += "and the SD over the seeds."
            yield Grid(f"{with_unit(metric, task.unit)}, {scans} ({share_text(fraction)})", heads, rows, note)


def label_grids(study: Values, task: Task) -> Iterator[Grid]:
    """Of one model: every metric at each share of the labels, and each metric of every run."""
    settings = study["settings"]
    names = {c["fraction"]: f"{c['train_scans']:,} scans ({100 * c['fraction']:.3g}%)" for c in study["cells"]}
    heads = (("patients", ""), *((with_unit(metric, task.unit), "") for metric in settings["metrics"]))
    rows = tuple(
        (names[c["fraction"]], ((f"{c['train_patients']:,}", ""), *(_value(c, m) for m in settings["metrics"])))
        for c in study["cells"]
    )
    note = f"Below a mean its interval over test {cases_drawn(settings)}, and the SD over the seeds."
    yield Grid("Mean over seeds", heads, rows, note)
    for metric in settings["metrics"]:
        runs = {(c["fraction"], run["seed"]): run["metrics"][metric] for c in study["cells"] for run in c["runs"]}
        heads = tuple((f"seed {seed}", "") for seed in settings["seeds"])
        rows = tuple(
            (name, tuple((number(runs[share, s]) if (share, s) in runs else "–", "") for s in settings["seeds"]))
            for share, name in names.items()
        )
        yield Grid(f"{with_unit(metric, task.unit)} of every run", heads, rows)


def _value(cell: Values | None, metric: str) -> Cell:
    if cell is None:
        return "–", ""
    estimate, sd = cell["metrics"][metric], cell["spread"][metric]["sd"]
    digits = 2 if falls(metric) else 3
    notes = [interval(estimate["low"], estimate["high"], digits), f"SD {number(sd, digits)}" if sd is not None else ""]
    return number(estimate["value"], digits), "; ".join(filter(None, notes))


def test_grids(study: Values, task: Task) -> Iterator[Grid]:
    """One table for each test and metric: differences from the reference, with corrected p-values."""
    groups: dict[tuple[str, str], list[Values]] = {}
    for test in study["tests"]:
        groups.setdefault((test["method"], test["metric"]), []).append(test)
    heads = tuple((text, "") for text in ("labels", "value", "reference", "difference", "p", "Holm"))
    for (method, metric), tests in groups.items():
        rows = tuple((_pair(study, t), _test_cells(t)) for t in tests)
        yield Grid(
            f"{method[0].upper()}{method[1:]}: {with_unit(metric, task.unit)}", heads, rows, MEANINGS.get(method, "")
        )


def _pair(study: Values, test: Values) -> str:
    reference = test["reference"]
    names = [method_title(study, side["model"], side["start"]) for side in (test, reference)]
    if reference.get("fraction", test["fraction"]) != test["fraction"]:
        names[1] += f" with {share_text(reference['fraction'])}"
    return f"{names[0]} − {names[1]}"


def _test_cells(test: Values) -> tuple[Cell, ...]:
    values = [(number(test[key]), "") for key in ("first", "second")]
    difference = (number(test["difference"]), interval(test["low"], test["high"]))
    p_values = ((p_text(test[key]), "") for key in ("p_value", "holm"))
    return ((f"{100 * test['fraction']:.3g}%", ""), *values, difference, *p_values)


def group_grids(study: Values, task: Task) -> Iterator[Grid]:
    """A table for each metric of the statistics of groups of models: a row a statistic, a column a share."""
    entries = study.get("groups", [])
    fractions = study["settings"]["fractions"]
    for metric in dict.fromkeys(entry["metric"] for entry in entries):
        rows: dict[str, dict[float, Cell]] = {}
        digits, best = 2 if falls(metric) else 3, ""
        for entry in (e for e in entries if e["metric"] == metric):
            cell = number(entry["value"], digits), interval(entry["low"], entry["high"], digits)
            rows.setdefault(_contrast(study, entry), {})[entry["fraction"]] = cell
            best += _best_of(study, entry) if entry["statistic"] == "best" else ""
        heads = tuple((share_text(fraction), "") for fraction in fractions)
        cells = tuple((name, tuple(row.get(f, ("–", "")) for f in fractions)) for name, row in rows.items())
        note = entries[0]["drawn"]
        yield Grid(f"Groups: {with_unit(metric, task.unit)}", heads, cells, f"{note[0].upper()}{note[1:]}.{best}")


def _best_of(study: Values, entry: Values) -> str:
    """The best of two groups at a share of the labels, in a sentence."""
    one, two = (method_title(study, entry[f"{side}best"], entry[f"{side}start"]) for side in ("", "other_"))
    return f" Best with {share_text(entry['fraction'])}: {one}; {two}."


def _contrast(study: Values, entry: Values) -> str:
    """What an entry about groups says, in words."""
    groups, start = study["settings"]["groups"], title(study, "start", entry["start"])
    group, other = groups.get(entry["group"], ""), groups.get(entry["other_group"], "")
    if entry["statistic"] == "mean":
        return f"{group} ({entry['models']}): mean, {start}"
    if entry["statistic"] == "start":
        return f"{group} ({entry['models']}): mean of {start} − {title(study, 'start', entry['other_start'])}"
    if entry["statistic"] == "groups":
        return f"Mean of {group} − mean of {other}, {start}"
    return f"Best of {group} − best of {other}"


def site_grids(study: Values, task: Task) -> Iterator[Grid]:
    """A table for each metric and share: a row a method, a column a set on which it was tested; and the gaps."""
    sites, settings = study.get("sites", []), study["settings"]
    named = [("own test rows", study["cells"])] + [(settings["sites"][s["name"]], s["cells"]) for s in sites]
    for metric in settings["metrics"] if sites else ():
        for fraction in settings["fractions"]:
            rows = []
            for cell in (c for c in study["cells"] if c["fraction"] == fraction):
                across = [_same(cell, cells) for _, cells in named]
                rows.append(
                    (method_title(study, cell["model"], cell["start"]), tuple(_value(c, metric) for c in across))
                )
            heads = tuple((text, "") for text, _ in named)
            note = "Each set by itself: mean over the seeds, its interval over test scans, SD over the seeds."
            yield Grid(f"By set: {with_unit(metric, task.unit)} ({share_text(fraction)})", heads, tuple(rows), note)
            yield from _gap_grid(study, fraction, metric, task)


def _gap_grid(study: Values, fraction: float, metric: str, task: Task) -> Iterator[Grid]:
    """How far each method's own test rows lie above each set."""
    names = study["settings"]["sites"]
    here: dict[tuple[str, str], dict[str, Values]] = {}
    labels: dict[str, None] = {}
    for site in study["sites"]:
        for gap in (g for g in site["gaps"] if (g["metric"], g["fraction"]) == (metric, fraction)):
            here.setdefault((gap["model"], gap["start"]), {})[site["name"]] = gap
            if gap["labels"]:
                labels[f"{names[site['name']]}: {', '.join(gap['labels'])}"] = None
    if here:
        sites = [site["name"] for site in study["sites"]]
        rows = tuple(
            (method_title(study, *method), tuple(_gap_cell(gaps.get(name), metric) for name in sites))
            for method, gaps in here.items()
        )
        note = "Over the labels that both have, and its interval over test scans of both, drawn apart. "
        text = f"Own test rows less set: {with_unit(metric, task.unit)} ({share_text(fraction)})"
        yield Grid(text, tuple((names[name], "") for name in sites), rows, note + "; ".join(labels))


def _same(cell: Values, cells: list[Values]) -> Values | None:
    axes = ("model", "start", "fraction")
    return next((c for c in cells if all(c[a] == cell[a] for a in axes)), None)


def _gap_cell(gap: Values | None, metric: str) -> Cell:
    digits = 2 if falls(metric) else 3
    return (number(gap["value"], digits), interval(gap["low"], gap["high"], digits)) if gap else ("–", "")


def shuffle_grids(study: Values, task: Task) -> Iterator[Grid]:
    """A table for each metric: every run among its copies whose slices have other orders."""
    entries = study.get("shuffles", [])
    for metric in dict.fromkeys(entry["metric"] for entry in entries):
        digits = 2 if falls(metric) else 3
        rows = []
        for e in (e for e in entries if e["metric"] == metric):
            name = f"{method_title(study, e['model'], e['start'])}, {share_text(e['fraction'])}, seed {e['seed']}"
            own = number(e["value"], digits), interval(e["low"], e["high"], digits)
            ends = f"{number(e['least'], digits)} to {number(e['most'], digits)}"
            rank = "–" if e["rank"] is None else f"{e['rank']} of {e['copies'] + 1}"
            rows.append((name, (own, (number(e["mean"], digits), ends), (rank, ""), (p_text(e["p_value"]), ""))))
        heads = tuple((text, "") for text in ("in order", "shuffled, mean", "rank", "p"))
        note = "Below the first its interval over test scans (of the mean over seeds), below the second the range."
        yield Grid(f"Slices in other orders: {with_unit(metric, task.unit)}", heads, tuple(rows), note)


def exclusions(study: Values) -> list[tuple[str, str]]:
    """What was left out of the grid, and why, each once."""
    left: dict[tuple[str, str], None] = {}
    for entry in study["excluded"]:
        pair = f"{title(study, 'model', entry['model'])}, {title(study, 'start', entry['start'])}"
        left[pair, entry["why"]] = None
    return list(left)


def time_grid(study: Values) -> Grid | None:
    """The mean minutes of a run, by model and share of the labels; None where no time is known."""
    fractions = study["settings"]["fractions"]
    rows = []
    for model, text in study["settings"]["models"].items():
        runs = [r for r in _own_runs(study) if r["model"] == model and r["seconds"] is not None]
        per_share = [[r["seconds"] for r in runs if r["fraction"] == fraction] for fraction in fractions]
        if any(per_share):
            rows.append((text, tuple((_minutes(seconds), "") for seconds in per_share)))
    if not rows:
        return None
    heads = tuple((share_text(fraction), "") for fraction in fractions)
    return Grid("Minutes a run, on average", heads, tuple(rows), "Training, testing and saving, as they came.")


def _minutes(seconds: list[float]) -> str:
    return amount(number(sum(seconds) / len(seconds) / 60, 2), "min") if seconds else "–"
