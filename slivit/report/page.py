"""The page of an evaluation: one HTML file that needs nothing else, and its figures as SVG and PDF."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slivit import __version__
from slivit.data.preprocessing import Preprocessing
from slivit.data.reviews import in_words, read_reviews, scan_key
from slivit.files import write_text
from slivit.recipe import toml_text
from slivit.report import facts, summary, tables
from slivit.report.checklist import checklists
from slivit.report.draw import Plot, draw_files, styled
from slivit.report.mistakes import mistakes
from slivit.report.plots_groups import output_plot, subgroup_plots
from slivit.report.plots_probability import probability_plots
from slivit.report.plots_ranking import ranking_plots
from slivit.report.plots_regression import regression_plots
from slivit.report.plots_training import history_plot
from slivit.targets.cases import Cases, cases_of
from slivit.targets.decision import Decision
from slivit.targets.task import Task

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
PAGE, FIGURES = "index.html", "figures"


def write_report(
    out: Path | str,
    metrics: Mapping[str, Any],
    table: pd.DataFrame,
    *,
    config: Mapping[str, Any] | None = None,
    history: Path | None = None,
    reviews: Path | None = None,
    split: str | None = None,
) -> Path:
    """Write the page of an evaluation and its figures.

    Args:
        out: the folder: `index.html`, and `figures/` with every figure as SVG and PDF.
        metrics: what `slivit.evaluate.measure.measure` returned, or `metrics.json` holds.
        table: the predictions that it was measured on, under the same decision.
        config: the checkpoint's `config.json`; without it, the page tells nothing of the model and shows no scans.
        history: the run's `history.csv`.
        reviews: what people noted who looked at the scans (`reviews.csv`), where there is such a file.
        split: the split to show; "test" where there is one, else the first.

    Returns:
        The page.
    """
    out = Path(out)
    task = Task(**metrics["task"])
    name = split or shown_split(metrics)
    shown = metrics["splits"][name]
    rows = table[table["split"] == name] if "split" in table else table
    with styled():
        plots = _plots(shown, metrics, rows, task, config, history)
        context = _context(shown, metrics, rows, task, config, name)
        context["cautions"] += _doubts(rows, reviews)
        context["view"] = shlex.join(["slivit", "view", str(history.parent)]) if history else ""
        return render("report.html.j2", context, plots, out)


def plots_of(
    metrics: Mapping[str, Any],
    table: pd.DataFrame,
    *,
    config: Mapping[str, Any] | None = None,
    history: Path | None = None,
    split: str | None = None,
) -> list[Plot]:
    """The figures of the page alone, for use elsewhere; draw and save them within `styled()`. See `write_report`."""
    name = split or shown_split(metrics)
    rows = table[table["split"] == name] if "split" in table else table
    sections = _plots(metrics["splits"][name], metrics, rows, Task(**metrics["task"]), config, history)
    return [plot for plots in sections.values() for plot in plots]


def shown_split(metrics: Mapping[str, Any]) -> str:
    """The split that a page is about: "test" where there is one, else the first."""
    return "test" if "test" in metrics["splits"] else next(iter(metrics["splits"]))


def render(
    template: str,
    context: Mapping[str, Any],
    plots: Mapping[str, Iterable[Plot]],
    out: Path,
    *,
    page: str = PAGE,
    figures: str = FIGURES,
) -> Path:
    """Write a page from a template, and its figures as files beside it.

    Args:
        template: its name.
        context: what it prints.
        plots: the figures of each section.
        out: the folder.
        page: the name of the page in it.
        figures: the folder of the files in it; "." for the folder itself.

    Returns:
        The page.
    """
    from markupsafe import Markup

    drawn: dict[str, list[dict[str, Any]]] = {}
    for section, own in plots.items():
        drawn[section] = []
        for plot in own:
            words = {key: getattr(plot, key) for key in ("name", "title", "caption")}
            words["file"] = plot.name if figures == "." else f"{figures}/{plot.name}"
            drawn[section].append({**words, "svg": Markup(draw_files(plot, out / figures))})
    text = environment().get_template(template).render(**context, plots=drawn, version=__version__, today=date.today())
    write_text(out / page, text)
    return out / page


def environment() -> Any:
    """The templates; a name that a template does not know is an error, and all text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("slivit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _plots(
    shown: Mapping[str, Any],
    metrics: Mapping[str, Any],
    rows: pd.DataFrame,
    task: Task,
    config: Mapping[str, Any] | None,
    history: Path | None,
) -> dict[str, list[Plot]]:
    """The figures of every section that has some."""
    decision = Decision(**metrics["operating_point"]) if metrics["operating_point"] else None
    cases = cases_of(rows, task, decision)
    plots = {name: list(PANELS[name](shown, cases)) for name in task.panels}
    if len(task.outputs) > 1:
        plots["performance"] = [output_plot(shown, task)]
    if "subgroups" in shown:
        plots["subgroups"] = list(subgroup_plots(shown, task))
    course = history_plot(history, (config or {}).get("training", {}).get("best_epoch"))
    plots["model"] = [course] if course else []
    return plots


def _ranking(shown: Mapping[str, Any], cases: Cases) -> Iterator[Plot]:
    return ranking_plots(shown)


def _calibration(shown: Mapping[str, Any], cases: Cases) -> Iterator[Plot]:
    known = {c.name: ~np.isnan(c.y) for c in cases.columns()}
    scores = {c.name: (c.y[known[c.name]], c.p[known[c.name]]) for c in cases.columns()}
    return probability_plots(shown, scores, dict(zip(cases.task.thresholded, cases.thresholds, strict=True)))


def _agreement(shown: Mapping[str, Any], cases: Cases) -> Iterator[Plot]:
    columns = zip(cases.task.targets, cases.y.T, cases.p.T, strict=True)
    quantities = {name: (y[~np.isnan(y)], p[~np.isnan(y)]) for name, y, p in columns}
    return regression_plots(shown, quantities, cases.task.unit)


PANELS: Mapping[str, Callable[[Mapping[str, Any], Cases], Iterator[Plot]]] = {
    "ranking": _ranking,
    "calibration": _calibration,
    "agreement": _agreement,
}
"""The figures of the sections that kinds of task have (see `Task.panels`), from a split of `metrics.json`."""


def _context(
    shown: Mapping[str, Any],
    metrics: Mapping[str, Any],
    rows: pd.DataFrame,
    task: Task,
    config: Mapping[str, Any] | None,
    name: str,
) -> dict[str, Any]:
    """All that the template prints beside the figures."""
    settings = metrics["settings"]
    preprocessing = Preprocessing(**config["preprocessing"]) if config else None
    notes = int((rows["notes"].fillna("") != "").sum()) if "notes" in rows else 0
    answered = facts.facts_of(metrics, shown, config)
    return {
        "title": f"Evaluation: {named_targets(task)}",
        "model": config["model"]["name"] if config else "",
        "source": metrics["data"].get("source", ""),
        "split": name,
        "task": task,
        "settings": settings,
        "headlines": tables.headline_cells(shown, task),
        "sentences": list(summary.sentences(shown, task, metrics, name)),
        "cautions": list(summary.cautions(shown, task, metrics, name)),
        "lines": tables.performance(shown, task),
        "grids": [g for g in (tables.outputs(shown, task), tables.thresholds(metrics, task)) if g]
        + tables.label_means(shown),
        "readers": [
            tables.reader_grid(n, r, shown, metrics["data"].get("predicted"))
            for n, r in shown.get("readers", {}).items()
        ],
        "temperature": temperature_text(metrics),
        "subgroups": tables.subgroup_grids(shown, task) if "subgroups" in shown else [],
        "sites": tables.site_grid(shown, metrics, task),
        "mistakes": mistakes(rows, task, settings["pictures"], preprocessing, _thresholds(metrics)),
        "data": facts.data_table(metrics, shown, name, task),
        "exclusions": facts.data_sentences(metrics, shown, config, notes),
        "facts": facts.model_facts(config) if config else [],
        "recipe": recipe_text(config),
        "checklists": checklists(answered, set(_sections(shown, metrics, config))),
    }


def _doubts(rows: pd.DataFrame, reviews: Path | None) -> list[str]:
    """What reviewers doubt of the scans that were measured; they are counted as they are labelled."""
    notes = read_reviews(reviews) if reviews else []
    if not notes or "path" not in rows:
        return []
    scans = rows[[c for c in ("path", "series") if c in rows]].to_dict("records")
    doubts = in_words(notes, {scan_key({str(k): v for k, v in scan.items()}) for scan in scans})
    return [f"{doubts} by people who looked at the scans ({reviews}); they count here as labelled."] if doubts else []


def named_targets(task: Task) -> str:
    """The targets, or the structures of masks, at most three by name."""
    names = task.parts if task.dense else task.targets
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def _thresholds(metrics: Mapping[str, Any]) -> dict[str, float]:
    point = metrics["operating_point"] or {"thresholds": {}}
    return {target: threshold["value"] for target, threshold in point["thresholds"].items()}


def _sections(shown: Mapping[str, Any], metrics: Mapping[str, Any], config: Any) -> Iterator[str]:
    yield from ("performance", "errors", "data")
    yield from Task(**metrics["task"]).panels
    yield from ("subgroups",) if "subgroups" in shown else ()
    yield from ("sites",) if metrics["settings"]["site"] else ()
    yield from ("model",) if config else ()


def temperature_text(metrics: Mapping[str, Any]) -> str:
    """What a temperature does to the probabilities, or would do, in words; empty where none was looked for."""
    point = metrics["operating_point"] or {}
    fitted = point.get("fitted_temperature")
    if not fitted:
        return ""
    if fitted["value"] is None:
        return f"No temperature fits the validation scans: {fitted['why']}."
    loss = f"{fitted['before']:.3f} to {fitted['after']:.3f}"
    text = f"On {fitted['n']:,} validation labels, a temperature of {fitted['value']:.2f} fits best"
    text += f" (mean negative log-likelihood from {loss}). "
    if point["temperature"] is not None:
        return text + f"All probabilities on this page are scaled by {point['temperature']:.2f}."
    return text + "It is not applied here; testing.temperature = true applies it and keeps it in the checkpoint."


def recipe_text(config: Mapping[str, Any] | None) -> str:
    """The recipe of training as TOML; empty where it is not known."""
    recipe = (config or {}).get("training", {}).get("recipe")
    return toml_text(recipe) if recipe else ""
