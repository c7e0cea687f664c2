"""DeLong: published values, the definition written out, and what is not defined."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from slivit.statistics import StatisticsError, delong_covariance, delong_interval, delong_test

# Ratings of 109 CT scans, from definitely normal to definitely abnormal: Hanley and McNeil, Radiology 143 (1982) 29,
# table I.
NORMAL, ABNORMAL = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]


@pytest.fixture
def ratings():
    y = np.repeat([0.0, 1.0], [sum(NORMAL), sum(ABNORMAL)])
    p = np.concatenate([np.repeat(np.arange(1, 6), counts) for counts in (NORMAL, ABNORMAL)]) / 10
    return y, p


def placements(y, p):
    """The mean of each case's comparisons with the other class, one pair at a time."""

    def wins(high, low):
        return 1.0 if high > low else 0.5 if high == low else 0.0

    positive, negative = p[y == 1], p[y == 0]
    return (
        np.array([np.mean([wins(a, b) for b in negative]) for a in positive]),
        np.array([np.mean([wins(a, b) for a in positive]) for b in negative]),
    )


def test_published_area_and_interval(ratings):
    # Stata's manual, [R] roc, example of Hanley and McNeil's data: area 0.8932, DeLong standard error 0.0307, 95%
    # interval 0.83295 to 0.95339.
    got = delong_interval(*ratings, scale="plain")
    assert got.value == pytest.approx(0.8932, abs=5e-5)
    assert np.sqrt(delong_covariance(*ratings)[1][0, 0]) == pytest.approx(0.0307, abs=5e-5)
    assert (got.low, got.high) == (pytest.approx(0.83295, abs=5e-6), pytest.approx(0.95339, abs=5e-6))


def test_covariance_equals_its_definition(rng):
    y = (rng.random(60) < 0.4).astype(float)
    scores = np.round(rng.random((2, 60)) * 0.5 + 0.5 * y, 1)
    aucs, covariance = delong_covariance(y, scores)
    first, second = (placements(y, p) for p in scores)
    expected = sum(np.cov(a, b) / len(a) for a, b in zip(first, second, strict=True))
    np.testing.assert_allclose(covariance, expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(aucs, [roc_auc_score(y, p) for p in scores], rtol=0, atol=1e-14)


def test_the_test_is_the_difference_over_its_standard_error(rng):
    y = np.repeat([0.0, 1.0], 50)
    a, b = (np.clip(0.3 * y + 0.6 * rng.random(100), 0, 1) for _ in range(2))
    got = delong_test(y, a, b)
    _, covariance = delong_covariance(y, [a, b])
    se = np.sqrt(np.array([1, -1]) @ covariance @ np.array([1, -1]))
    z = (roc_auc_score(y, a) - roc_auc_score(y, b)) / se
    assert got.statistic == pytest.approx(z)
    assert got.p_value == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert got.low == pytest.approx(got.difference - 1.959964 * se, abs=1e-6)


def test_p_values_are_even_where_models_are_alike(rng):
    y = np.repeat([0.0, 1.0], 40)
    p_values = [
        delong_test(y, *(stats.norm.cdf(rng.normal(size=80) + y) for _ in range(2))).p_value for _ in range(200)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_logit_intervals_stay_within_zero_and_one():
    y = np.repeat([0.0, 1.0], 5)
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.65, 0.6, 0.7, 0.8, 0.9, 0.95])
    logit, plain = delong_interval(y, p), delong_interval(y, p, scale="plain")
    assert 0 < logit.low < logit.value < logit.high < 1
    assert plain.high == 1


@pytest.mark.parametrize(
    ("y", "p", "reason"),
    [
        ([], [], "0 cases"),
        ([1, 1, 1], [0.1, 0.2, 0.3], "3 positive"),
        ([0, 0, 1], [0.1, 0.2, 0.3], "two cases of each class"),
        ([0, 0, 1, 1], [0.1, np.nan, 0.3, 0.2], "not finite"),
        ([0, 0, 1, 1], [0.2] * 4, "differ"),
    ],
)
def test_degenerate_input_is_stated(y, p, reason):
    assert reason in delong_interval(y, p).why
    assert delong_interval(y, p).value is None
    compared = delong_test(y, p, p)
    assert compared.p_value is None
    assert reason in compared.why


def test_no_variance_is_stated():
    y, p = [0, 0, 1, 1], [0.1, 0.2, 0.7, 0.9]
    separated = delong_interval(y, p)
    assert separated.value == 1
    assert separated.low is None
    assert "variance is 0" in separated.why
    same = delong_test([0, 1, 0, 1], p, p)
    assert same.difference == 0
    assert same.p_value is None
    assert "no variance" in same.why


def test_the_matrix_needs_two_of_each():
    with pytest.raises(StatisticsError, match="two cases of each class"):
        delong_covariance([0, 1, 1], [0.1, 0.2, 0.3])
