"""The page of an evaluation: whole, self-contained, true to the numbers, and honest where there are none."""

import json
import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from slivit.evaluate.deciding import decide
from slivit.evaluate.measure import measure
from slivit.evaluate.recipe import Testing as Options
from slivit.report.page import write_report
from slivit.targets.cases import cases_of
from slivit.targets.task import Task

KINDS = ("binary", "multiclass", "multilabel", "regression")
SECTIONS = {"summary", "performance", "errors", "data", "checklist", "subgroups", "sites"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_has_every_section_and_needs_nothing_from_outside(pages, kind):
    html = pages[kind].read_text("utf-8")
    sections = set(re.findall(r'<section id="([^"]+)"', html))
    assert sections >= SECTIONS | ({"agreement"} if kind == "regression" else {"ranking", "calibration"})
    assert not re.search(r"<script|<link rel=.stylesheet|@import|url\((?!#)", html)
    loaded = re.findall(r'(?:src|data|xlink:href|(?<!a )href)="([^"]*)"', html)
    links = {v for v in loaded if not v.startswith(("#", "data:", "figures/"))}
    assert not links
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(re.findall(r'id="([^"]+)"', html))


def test_a_page_of_several_labels_has_means_over_them(pages, evaluated):
    html, split = pages["multilabel"].read_text("utf-8"), evaluated["multilabel"][0]["splits"]["test"]
    assert "By threshold, mean over labels" in html
    assert f"{split['means']['thresholds'][9]['subset_accuracy']['value']:.3f}" in html
    assert f"{split['means']['referral'][-1]['roc_auc']['value']:.3f}" in html
    assert "mean over labels" not in pages["multiclass"].read_text("utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_no_id_stands_twice_on_a_page(pages, kind):
    ids = re.findall(r' id="([^"]+)"', pages[kind].read_text("utf-8"))
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_there_as_svg_and_pdf(pages, kind):
    files = re.findall(r'href="(figures/[^"]+)"', pages[kind].read_text("utf-8"))
    assert len(files) >= 10
    for name in files:
        file = pages[kind].parent / name
        if file.suffix == ".svg":
            assert ElementTree.parse(file).getroot().tag.endswith("svg")
        else:
            assert file.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_says_the_numbers_of_the_metrics(pages, evaluated, kind):
    html, metrics = pages[kind].read_text("utf-8"), evaluated[kind][0]["splits"]["test"]["metrics"]
    for name in ("mae", "r2") if kind == "regression" else ("roc_auc", "average_precision", "sensitivity"):
        digits = 2 if name == "mae" else 3
        assert f"{metrics[name]['value']:.{digits}f}" in html
        assert f"{metrics[name]['low']:.{digits}f} to {metrics[name]['high']:.{digits}f}" in html


def test_pages_and_figures_are_the_same_again(evaluated, pages, tmp_path):
    again = write_report(tmp_path, *evaluated["binary"])
    assert again.read_text("utf-8") == pages["binary"].read_text("utf-8")
    for file in sorted((tmp_path / "figures").iterdir()):
        assert file.read_bytes() == (pages["binary"].parent / "figures" / file.name).read_bytes(), file.name


def test_names_with_markup_are_escaped(made_up_predictions, svg_alone, tmp_path):
    table, task = made_up_predictions("binary", n=30)
    table = table.rename(columns=lambda c: c.replace("drusen", "<b>&x"))
    task = task.model_copy(update={"targets": ("<b>&x",)})
    testing = Options(draws=10)
    decision = decide(table[table["split"] == "val"], task, testing)
    html = write_report(tmp_path, measure(table, task, testing, decision=decision), decision.apply(table, task))
    assert "<b>&x" not in html.read_text("utf-8")


def test_why_there_are_no_pictures_is_said_once(pages):
    html = pages["binary"].read_text("utf-8")
    assert html.count("preprocessing is not at hand") == 1
    assert "Slices as the model saw them" not in html
    assert html.count('class="mistake"') > 1


def broken(table, task, how):
    """Predictions about which little can be said."""
    table = table.copy()
    columns = list(task.prediction_columns)
    if how == "constant":
        table[columns] = 5.0 if task.kind == "regression" else 1 / len(columns)
    elif how == "one class":
        for column in task.target_columns:
            table[column] = table[column].iloc[0] if task.kind in ("multiclass", "regression") else 1.0
    elif how == "one scan":
        table = table.iloc[-1:]
    elif how == "nan":
        table.loc[table.index[-1], columns] = np.nan
    return table


@pytest.fixture
def svg_alone(monkeypatch):
    """The files are tested above, and PDF takes longest."""
    draw = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: k["format"] == "pdf" or draw(self, *a, **k))


@pytest.mark.parametrize("how", ["constant", "one class", "one scan", "nan"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_defined_is_said_so(made_up_predictions, svg_alone, tmp_path, kind, how):
    table, task = made_up_predictions(kind, n=30)
    table = broken(table, task, how)
    testing = Options(draws=20, subgroups=("sex",))
    decision = None if kind == "regression" else decide(table[table["split"] == "val"], task, testing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = measure(table, task, testing, decision=decision)
        page = write_report(tmp_path, metrics, decision.apply(table, task) if decision else table)
    json.dumps(metrics, allow_nan=False)
    main = "pearson" if kind == "regression" else "roc_auc"
    assert metrics["splits"]["test"]["metrics"][main]["value"] is None
    html = page.read_text("utf-8")
    assert "not defined" in html
    assert not re.search(r"\b(nan|NaN|inf|None)\b", html)


def test_thresholds_of_the_page_are_those_of_the_decision(evaluated):
    metrics, table = evaluated["binary"]
    threshold = metrics["operating_point"]["thresholds"]["drusen"]["value"]
    cases = cases_of(table[table["split"] == "test"], Task(**metrics["task"]))
    called = cases.p >= threshold
    assert metrics["splits"]["test"]["metrics"]["sensitivity"]["value"] == pytest.approx(called[cases.y == 1].mean())
    assert threshold != 0.5
