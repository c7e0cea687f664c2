"""Thresholds: the rules on small data by hand, and against scikit-learn's ROC."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from slivit.statistics import (
    Plan,
    StatisticsError,
    choose_threshold,
    confusion_matrix,
    parse_rule,
    rates_by_threshold,
)

Y = [0, 0, 1, 0, 1, 1]
P = [0.1, 0.2, 0.3, 0.4, 0.6, 0.8]


@pytest.mark.parametrize(
    ("rule", "threshold", "sensitivity", "specificity"),
    [
        ("youden", 0.5, 2 / 3, 1.0),
        ("sensitivity=1", 0.25, 1.0, 2 / 3),
        ("sensitivity=0.6", 0.5, 2 / 3, 1.0),
        ("sensitivity=0", 0.9, 0.0, 1.0),
        ("specificity=1", 0.5, 2 / 3, 1.0),
        ("specificity=0.6", 0.25, 1.0, 2 / 3),
        ("specificity=0", 0.05, 1.0, 0.0),
        ("0.3", 0.3, 1.0, 2 / 3),
        (0.35, 0.35, 2 / 3, 2 / 3),
    ],
)
def test_rules_by_hand(rule, threshold, sensitivity, specificity):
    got = choose_threshold(Y, P, rule)
    assert got.threshold == pytest.approx(threshold)
    assert got.sensitivity == pytest.approx(sensitivity)
    assert got.specificity == pytest.approx(specificity)
    assert (got.n, got.positives) == (6, 3)


@pytest.mark.parametrize("target", [0.5, 0.8, 0.9, 0.95])
def test_rates_are_kept_and_no_other_threshold_is_better(rng, target):
    y = (rng.random(400) < 0.4).astype(float)
    p = np.round(0.4 * y + 0.6 * rng.random(400), 2)
    fpr, tpr, _ = sk.roc_curve(y, p, drop_intermediate=False)
    high = choose_threshold(y, p, f"sensitivity={target}")
    assert high.sensitivity >= target
    assert high.specificity == pytest.approx(1 - fpr[tpr >= target].min())
    low = choose_threshold(y, p, f"specificity={target}")
    assert low.specificity >= target
    assert low.sensitivity == pytest.approx(tpr[1 - fpr >= target].max())
    best = choose_threshold(y, p, "youden")
    assert best.sensitivity + best.specificity - 1 == pytest.approx((tpr - fpr).max())


def test_thresholds_lie_between_probabilities(rng):
    y, p = rng.integers(0, 2, 50), np.round(rng.random(50), 2)
    cut = choose_threshold(y, p, "sensitivity=0.7").threshold
    assert np.abs(p - cut).min() > 0.004


def test_neighbouring_floats_and_the_end_of_the_scale():
    low = 0.5
    high = np.nextafter(low, 1)
    got = choose_threshold([0, 0, 1, 1], [low, low, high, high])
    assert (got.sensitivity, got.specificity) == (1.0, 1.0)
    none = choose_threshold([0, 1, 0, 1], [1.0, 1.0, 0.3, 0.2], "specificity=1")
    assert none.threshold > 1
    assert (none.sensitivity, none.specificity) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("y", "p"), [([], []), ([1], [0.5]), ([1, 1], [0.1, 0.2]), ([0, 1], [0.3, 0.3]), ([0, 1], [0.3, np.nan])]
)
@pytest.mark.parametrize("rule", ["youden", "sensitivity=0.9", "specificity=0.9"])
def test_degenerate_input_gives_no_threshold(y, p, rule):
    got = choose_threshold(y, p, rule)
    assert got.threshold is None
    assert "needs both classes" in got.why


def test_a_fixed_threshold_needs_no_data():
    got = choose_threshold([1, 1], [0.2, 0.7], "0.5")
    assert (got.threshold, got.sensitivity, got.specificity) == (0.5, 0.5, None)
    assert "not defined" in got.why


@pytest.mark.parametrize("text", ["sensitivity", "sensitivty=0.9", "specificity=90", "2", "youden=0.5", "", "nan"])
def test_rules_that_are_none_are_told(text):
    with pytest.raises(StatisticsError, match="operating point"):
        parse_rule(text)


def test_rules_are_written_as_they_are_read():
    assert [str(parse_rule(r)) for r in ("Youden", " sensitivity = 0.9", 0.5)] == [
        "youden",
        "sensitivity=0.9",
        "fixed=0.5",
    ]
    assert parse_rule("fixed=0.5") == parse_rule("0.5")


def test_rates_by_threshold_are_shares_of_each_class(rng):
    y, p = rng.integers(0, 2, 200).astype(float), rng.random(200)
    y[:10] = np.nan
    got = rates_by_threshold(y, p, [0.25, 0.5], plan=Plan(draws=100))
    for point in got:
        call = (p >= point.threshold)[10:]
        assert point.false_negative_rate.value == pytest.approx(1 - sk.recall_score(y[10:], call))
        assert point.false_positive_rate.value == pytest.approx(1 - sk.recall_score(1 - y[10:], ~call))
        assert point.false_negative_rate.low < point.false_negative_rate.value < point.false_negative_rate.high
    assert len(rates_by_threshold(y, p, plan=Plan(draws=0))) == 19


def test_rates_of_a_class_without_cases_are_stated():
    (point,) = rates_by_threshold([0, 0], [0.2, 0.7], [0.5], plan=Plan(draws=10))
    assert point.false_negative_rate.value is None
    assert "positive" in point.false_negative_rate.why
    (unknown,) = rates_by_threshold([0, 1], [0.2, np.nan], [0.5])
    assert unknown.false_negative_rate.value is None


def test_confusion_matrix_agrees_with_scikit_learn(rng):
    y, called = rng.integers(0, 3, 100), rng.integers(0, 3, 100)
    assert confusion_matrix(y, called, 3) == sk.confusion_matrix(y, called).tolist()
    assert confusion_matrix([0, 1, np.nan], [1, 1, 0]) == [[0, 1], [0, 1]]
    with pytest.raises(StatisticsError, match="called"):
        confusion_matrix([0, 1], [0, np.nan])
