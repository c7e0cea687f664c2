"""Repeated runs: against NumPy, SciPy and published examples."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from slivit.statistics import (
    Estimate,
    StatisticsError,
    over_folds,
    over_runs,
    spread,
    summarise,
    welch_test,
    wilcoxon_test,
)


def test_mean_and_standard_deviation_over_seeds():
    got = spread([0.8, 0.9, None, 0.85, float("nan"), Estimate(0.75)])
    assert got.mean == pytest.approx(0.825)
    assert got.sd == pytest.approx(np.std([0.8, 0.9, 0.85, 0.75], ddof=1))
    assert got.n == 4
    assert got.values == (0.8, 0.9, None, 0.85, None, 0.75)
    assert "2 of 6" in got.why


def test_too_few_runs_are_stated():
    assert spread([]).why == "there are no runs"
    assert spread([None]).mean is None
    one = spread([0.7])
    assert (one.mean, one.sd) == (0.7, None)
    assert "one run" in one.why


def test_runs_are_joined_by_metric():
    got = over_runs([{"roc_auc": Estimate(0.8), "f1": 0.5}, {"roc_auc": Estimate(0.9)}])
    assert got["roc_auc"].mean == pytest.approx(0.85)
    assert got["f1"].values == (0.5, None)
    json.dumps({name: s.to_dict() for name, s in got.items()}, allow_nan=False)


def test_folds_pooled_and_apart(rng):
    y, p = rng.integers(0, 2, 90).astype(float), rng.random(90)
    fold, patients = np.arange(90) % 3, np.arange(90) // 3
    got = over_folds("binary", y, p, fold, groups=patients, draws=50, seed=2)
    assert got.pooled == summarise("binary", y, p, groups=patients, draws=50, seed=2)
    assert list(got.per_fold) == ["0", "1", "2"]
    second = fold == 1
    assert got.per_fold["1"] == summarise("binary", y[second], p[second], groups=patients[second], draws=50, seed=2)
    aucs = [found["roc_auc"].value for found in got.per_fold.values()]
    assert got.spread["roc_auc"].mean == pytest.approx(np.mean(aucs))
    json.dumps(got.to_dict(), allow_nan=False)


def test_a_fold_without_positives_is_stated_and_left_out():
    y, p = np.array([0, 0, 0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    got = over_folds("binary", y, p, ["a", "a", "b", "b", "c", "c"], draws=0)
    assert got.per_fold["a"]["roc_auc"].value is None
    assert got.spread["roc_auc"].n == 2
    assert "1 of 3" in got.spread["roc_auc"].why


def test_welch_agrees_with_scipy(rng):
    a, b = rng.normal(0.8, 0.02, 5), rng.normal(0.78, 0.05, 8)
    got, expected = welch_test(a, b, level=0.9), stats.ttest_ind(a, b, equal_var=False)
    assert got.p_value == pytest.approx(expected.pvalue)
    assert got.difference == pytest.approx(a.mean() - b.mean())
    interval = expected.confidence_interval(0.9)
    assert (got.low, got.high) == pytest.approx((interval.low, interval.high))


def test_wilcoxon_on_a_published_example():
    # Hollander and Wolfe, Nonparametric Statistical Methods, example 3.1 (depression before and after): two-sided
    # p = 0.0391.
    before = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    after = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    got = wilcoxon_test(before, after)
    assert got.p_value == pytest.approx(0.0391, abs=5e-5)
    assert got.statistic == 5
    assert got.why is None


def test_few_pairs_cannot_be_significant():
    got = wilcoxon_test([0.8, 0.82, 0.85], [0.7, 0.71, 0.72])
    assert got.p_value == pytest.approx(0.25)
    assert "0.25" in got.why


@pytest.mark.parametrize(("a", "b"), [([], []), ([0.5], [0.6]), ([0.5, 0.5], [0.5, 0.5])])
def test_tests_that_are_not_defined_are_stated(a, b):
    for test in (welch_test, wilcoxon_test):
        got = test(a, b)
        assert got.p_value is None
        assert got.why


def test_unpaired_runs_are_refused():
    with pytest.raises(StatisticsError, match="second"):
        wilcoxon_test([0.5, 0.6], [0.5])
