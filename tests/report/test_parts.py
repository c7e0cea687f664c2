"""The parts of a page: numbers, words, checklists, errors and their pictures."""

import numpy as np
import pandas as pd
import pytest

from slivit.data.preprocessing import Preprocessing
from slivit.report import facts, style, summary, tables
from slivit.report.checklist import checklists
from slivit.report.mistakes import contact_sheet, mistakes, png_uri
from slivit.report.plots_training import history_plot
from slivit.targets.decision import Decision, Threshold
from slivit.targets.task import Task


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.500"),
        (-0.0004, "0.000"),
        (-1.25, "−1.250"),
        (12.345, "12.35"),
        (1234.5, "1,234.5"),
        (None, "not defined"),
    ],
)
def test_numbers_have_decimals_by_their_size(value, text):
    assert style.number(value) == text


def test_both_ends_of_an_interval_have_the_same_decimals():
    assert style.interval(9.5, 10.51) == "9.50 to 10.51"
    assert style.interval(None, 1.0) == ""


def test_estimates_in_words():
    estimate = {"value": 0.871, "low": 0.802, "high": 0.93, "level": 0.9, "why": None}
    assert style.in_words(estimate) == "0.871 (90% interval 0.802 to 0.930)"
    assert style.inside(estimate) == "0.871, 90% interval 0.802 to 0.930"
    undefined = {**estimate, "value": None, "why": "needs both classes"}
    assert style.in_words(undefined) == "not defined (needs both classes)"
    assert style.amount("4.4", "%") == "4.4%"
    assert style.amount("4.4", "mm") == "4.4 mm"


def test_every_metric_has_words():
    from slivit.statistics import METRICS

    assert {name for names in METRICS.values() for name in names} == set(style.WORDS)


def test_metrics_within_a_sentence_keep_names_of_people_and_letters():
    spoken = [style.spoken(m) for m in ("roc_auc", "mae", "pearson", "f1", "r2", "brier", "dice", "hd95")]
    assert spoken == ["ROC AUC", "mean absolute error", "Pearson r", "F1", "R²", "Brier score", "Dice", "HD95 (mm)"]


def test_the_summary_counts_what_the_table_holds(evaluated):
    metrics, table = evaluated["binary"]
    test = table[table["split"] == "test"]
    positive, called = test["target_drusen"] == 1, test["call_drusen"] == 1
    said = " ".join(summary.sentences(metrics["splits"]["test"], Task(**metrics["task"]), metrics, "test"))
    assert f"{len(test)} test scans of {test['patient'].nunique()} patients" in said
    assert f"{(positive & called).sum()} of {positive.sum()} scans with drusen" in said
    assert f"{(~positive & called).sum()} of {(~positive).sum()} without" in said
    assert "the rule sensitivity=0.9" in said


def test_the_summary_warns_of_what_flatters(evaluated):
    metrics = evaluated["binary"][0]
    leaked = {**metrics, "data": {**metrics["data"], "shared_patients": 3}}
    said = " ".join(summary.cautions(metrics["splits"]["test"], Task(**metrics["task"]), leaked, "test"))
    assert "3 patients of these scans were in training" in said
    assert "set testing.by_patient = true" in said


def test_guidelines_are_whole_and_in_order():
    claim, tripod = checklists(set(), set())
    assert [item.item for item in claim.items] == [str(i) for i in range(1, 45)]
    numbers = [int("".join(c for c in item.item if c.isdigit())) for item in tripod.items]
    assert sorted(set(numbers)) == list(range(1, 28))
    assert len(tripod.items) == 52
    assert claim.count("owed") == 44, "without facts, all is owed"
    assert all(item.owed for checklist in (claim, tripod) for item in checklist.items)


def test_facts_answer_items(evaluated):
    metrics, _ = evaluated["binary"]
    told = facts.facts_of(metrics, metrics["splits"]["test"], None)
    claim, tripod = checklists(told, {"performance", "subgroups", "errors", "data", "sites"})
    status = {item.item: item.status for item in claim.items}
    assert status["29"] == status["37"] == status["39"] == "answered"
    assert status["8"] == "partly"
    assert status["1"] == status["22"] == "owed"
    assert {item.item: item.section for item in tripod.items}["23b"] == "sites"


def test_every_fact_of_the_checklists_is_one_that_a_page_can_tell(evaluated):
    import tomllib
    from importlib.resources import files

    text = files("slivit.report").joinpath("checklist.toml").read_text("utf-8")
    wanted = {item["fact"] for values in tomllib.loads(text).values() for item in values["items"] if "fact" in item}
    metrics, _ = evaluated["binary"]
    split = {**metrics["splits"]["test"], "readers": {}}
    config = {"training": {"recipe": {"data": {}}}}
    all_of_it = {**metrics, "data": {"run": {"train": {}}, "external": True}}
    all_of_it["operating_point"] = {**metrics["operating_point"], "temperature": 1.2}
    told = facts.facts_of(all_of_it, split, config) | facts.facts_of(
        {**all_of_it, "data": {"external": False}}, split, config
    )
    assert wanted <= told


def binary_table():
    return pd.DataFrame({"path": list("abcdef"), "patient": list("abcdef"), "target_x": [1, 1, 0, 0, 1, 0],
                         "prob_x": [0.9, 0.05, 0.99, 0.2, 0.4, 0.3]})  # fmt: skip


def test_the_surest_errors_come_first():
    task = Task(kind="binary", targets=("x",))
    found = mistakes(Decision().apply(binary_table(), task), task, 10, None)
    assert [m.path for m in found] == ["c", "b", "e"]
    assert found[0].true == "without x"
    assert found[0].predicted == "with x, probability 0.990"
    assert "preprocessing" in found[0].problem
    low = Decision(thresholds={"x": Threshold(value=0.35)})
    assert [m.path for m in mistakes(low.apply(binary_table(), task), task, 10, None, {"x": 0.35})] == ["c", "b"]
    high = Decision(thresholds={"x": Threshold(value=0.95)})
    found = mistakes(high.apply(binary_table(), task), task, 10, None, {"x": 0.95})
    assert [m.path for m in found] == ["b", "c", "e", "a"], "0.05 lies further below 0.95 than 0.99 lies above"


def test_errors_of_classes_labels_and_quantities(made_up_predictions):
    for kind in ("multiclass", "multilabel", "regression"):
        table, task = made_up_predictions(kind)
        table = table if kind == "regression" else Decision().apply(table, task)
        found = mistakes(table, task, 5, None)
        assert len(found) == 5
    off = (table["pred_LVEF"] - table["target_LVEF"]).abs()
    assert found[0].path == table["path"][off.idxmax()]


def test_pictures_are_read_through_the_preprocessing_and_a_lost_scan_is_said(blob_scans):
    scan = str(blob_scans.parent / "scan0.nii")
    task = Task(kind="binary", targets=("x",))
    table = Decision().apply(binary_table().iloc[1:3].assign(path=[scan, "gone.nii"]), task)
    found = {m.path: m for m in mistakes(table, task, 2, Preprocessing(size=(6, 24, 24)))}
    assert found[scan].picture.startswith("data:image/png;base64,")
    assert found["gone.nii"].picture == ""
    assert "gone.nii" in found["gone.nii"].problem


@pytest.mark.parametrize(("slices", "shape"), [(1, (192, 192)), (3, (96, 292)), (8, (194, 390)), (40, (194, 390))])
def test_contact_sheets(slices, shape):
    stack = np.full((slices, 50, 60), 7, np.uint8)
    stack[slices // 2] = 9
    sheet = contact_sheet(stack)
    assert sheet.shape == shape
    assert set(np.unique(sheet)) <= {7, 9, 255}
    assert len(png_uri(sheet)) < 5000


def test_site_table_says_which_sites_training_saw(evaluated):
    metrics = {**evaluated["binary"][0]}
    metrics["data"] = {"trained_on": {"site": ["Haifa"]}}
    grid = tables.site_grid(metrics["splits"]["test"], metrics, Task(**metrics["task"]))
    assert grid.columns == (("Haifa", "in training"), ("London", "not in training"))
    rows = dict(grid.rows)
    assert rows["ROC AUC, less Haifa"][0] == ("reference", "")
    assert rows["ROC AUC, less Haifa"][1][1]


def test_an_expert_who_changes_nothing_is_said_to(evaluated):
    metrics = evaluated["binary"][0]
    test, task = metrics["splits"]["test"], Task(**metrics["task"])
    points = test["referral"]["drusen"]
    told = " ".join(summary.sentences({**test, "referral": {"drusen": [points[0]] * 2}}, task, metrics, "test"))
    assert "of both together would be the same." in told
    assert f"instead of {style.number(points[0]['roc_auc']['value'])}" in " ".join(
        summary.sentences(test, task, metrics, "test")
    )


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", bytes(range(256))])
def test_a_damaged_history_costs_its_figure_alone(tmp_path, caplog, content):
    (tmp_path / "history.csv").write_bytes(content)
    assert history_plot(tmp_path / "history.csv") is None
    assert "history.csv: is damaged" in caplog.text
