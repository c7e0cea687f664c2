"""Thresholds and temperatures are chosen on validation rows alone."""

import numpy as np
import pytest

from slivit.errors import RecipeError
from slivit.evaluate.deciding import decide
from slivit.evaluate.measure import check_testing, measure
from slivit.evaluate.recipe import Testing as Options
from slivit.recipe import check_recipe
from slivit.statistics import apply_temperature, choose_threshold


def val_of(table):
    return table[table["split"] == "val"]


def test_a_rate_is_kept_on_the_validation_rows(made_up_predictions):
    table, task = made_up_predictions("binary", n=300)
    decision = decide(val_of(table), task, Options(operating_point="sensitivity=0.9"))
    y, p = val_of(table)["target_drusen"], val_of(table)["prob_drusen"]
    threshold = decision.thresholds["drusen"]
    assert (p[y == 1] >= threshold.value).mean() == pytest.approx(threshold.sensitivity)
    assert threshold.sensitivity >= 0.9
    assert threshold.value == choose_threshold(y, p, "sensitivity=0.9").threshold
    assert (threshold.n, threshold.positives) == (len(y), y.sum())


def test_test_rows_do_not_move_a_threshold(made_up_predictions):
    table, task = made_up_predictions("binary")
    options = Options(operating_point="youden", draws=10)
    decision = decide(val_of(table), task, options)
    other = table.assign(prob_drusen=np.where(table["split"] == "test", 1 - table["prob_drusen"], table["prob_drusen"]))
    assert decide(val_of(other), task, options) == decision
    found = measure(table, task, options, decision=decision)
    assert found["operating_point"]["thresholds"]["drusen"]["value"] == decision.thresholds["drusen"].value


def test_thresholds_are_chosen_after_the_temperature(made_up_predictions):
    table, task = made_up_predictions("binary", n=300)
    both = decide(val_of(table), task, Options(operating_point="youden", temperature=True))
    plain = decide(val_of(table), task, Options(operating_point="youden"))
    assert both.temperature == both.fitted_temperature["value"]
    assert plain.temperature is None
    assert plain.fitted_temperature == both.fitted_temperature, "it is told even where it is not applied"
    p = table["prob_drusen"].to_numpy()
    called = apply_temperature("binary", p, both.temperature) >= both.thresholds["drusen"].value
    assert (called == (p >= plain.thresholds["drusen"].value)).all(), "a temperature moves no order"


def test_a_label_without_both_classes_keeps_the_default_and_says_why(made_up_predictions, caplog):
    table, task = made_up_predictions("multilabel")
    table = table.assign(target_GA=1.0)
    decision = decide(val_of(table), task, Options(operating_point="sensitivity=0.9"))
    assert decision.thresholds["GA"].value == 0.5
    assert "both classes" in decision.thresholds["GA"].why
    assert "GA" in caplog.text
    assert decision.thresholds["DRV"].value != 0.5


def test_what_cannot_be_chosen_is_an_error(made_up_predictions):
    table, task = made_up_predictions("binary")
    with pytest.raises(RecipeError, match="gives no threshold"):
        decide(val_of(table.assign(target_drusen=1)), task, Options(operating_point="youden"))
    with pytest.raises(RecipeError, match="needs validation rows"):
        decide(None, task, Options(operating_point="youden"), "run/predictions.csv")
    with pytest.raises(RecipeError, match="no temperature fits"):
        decide(val_of(table.assign(target_drusen=1)), task, Options(temperature=True))
    assert decide(None, task, Options(operating_point="0.3")).threshold("drusen") == 0.3


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("multiclass", {"operating_point": "youden"}, "most probable class"),
        ("regression", {"operating_point": "0.4"}, "makes no calls"),
        ("multilabel", {"stratified": True}, "binary and multiclass"),
        ("regression", {"temperature": True}, "for classification"),
        ("binary", {"readers": "nobody.csv"}, "no such file"),
    ],
)
def test_options_that_do_not_fit_the_task(made_up_predictions, kind, options, message):
    _, task = made_up_predictions(kind)
    with pytest.raises(RecipeError, match=message):
        check_testing(Options(**options), task)


@pytest.mark.parametrize(
    ("given", "kept"), [(0.3, "0.3"), ("Youden", "youden"), ("sensitivity = 0.90", "sensitivity=0.9")]
)
def test_rules_of_a_recipe(given, kept):
    assert Options(operating_point=given).operating_point == kept


def test_a_wrong_rule_is_told_with_the_recipe():
    with pytest.raises(RecipeError, match=r"operating_point: an operating point is .* Did you mean .sensitivity"):
        check_recipe(Options, {"operating_point": "sensibility=0.9"}, "my.toml")
