"""Calibration: against scikit-learn, SciPy and a logistic regression; temperatures that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from slivit.statistics import (
    Plan,
    StatisticsError,
    apply_temperature,
    fit_temperature,
    point_metrics,
    reliability_curve,
    summarise,
)
from slivit.statistics.binary import BinarySample
from slivit.statistics.bootstrap import count_chunks, resample
from slivit.statistics.calibration import CALIBRATION


@pytest.fixture
def overconfident(rng):
    """Labels drawn at the true risk, and probabilities whose logits are twice the true ones, plus 0.5."""
    z = rng.normal(-0.5, 1.2, 3000)
    return (rng.random(3000) < expit(z)).astype(float), expit(2 * z + 0.5)


def recalibrated(y, z, weights=None):
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(z[:, None], y, sample_weight=weights)
    return fitted.intercept_[0], fitted.coef_[0, 0]


def test_slope_is_that_of_a_logistic_regression(overconfident):
    y, p = overconfident
    slope = point_metrics("binary", y, p, metrics=["calibration_slope"])["calibration_slope"]
    assert slope == pytest.approx(recalibrated(y, logit(p))[1], abs=1e-5)
    assert slope == pytest.approx(0.5, abs=0.05)


def test_intercept_makes_as_many_cases_expected_as_observed(overconfident):
    y, p = overconfident
    a = point_metrics("binary", y, p, metrics=["calibration_intercept"])["calibration_intercept"]
    assert expit(logit(p) + a).sum() == pytest.approx(y.sum(), abs=1e-6)


def test_draws_are_refitted(rng):
    y = (rng.random(80) < 0.4).astype(float)
    p = expit(rng.normal(size=80) + y)
    plan = Plan(draws=10, seed=1)
    got = resample(BinarySample(y, p, CALIBRATION), plan).values
    counts = np.concatenate(list(count_chunks(80, plan)))
    for i, weights in enumerate(counts):
        assert got["calibration_slope"][i] == pytest.approx(recalibrated(y, logit(p), weights)[1], abs=1e-4)
        expected = weights @ expit(logit(p) + got["calibration_intercept"][i])
        assert expected == pytest.approx(weights @ y, abs=1e-6)


def test_separated_classes_have_no_slope():
    y, p = [0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.6, 0.8, 0.9]
    got = summarise("binary", y, p, draws=0)
    assert got["calibration_slope"].value is None
    assert "overlap" in got["calibration_slope"].why
    assert got["calibration_intercept"].value is not None


def test_probabilities_of_0_and_1_do_not_break_the_fit():
    y, p = [0, 0, 1, 0, 1, 1], [0.0, 0.0, 0.2, 1.0, 0.9, 1.0]
    got = summarise("binary", y, p, draws=100)
    assert np.isfinite(got["calibration_slope"].value)


@pytest.mark.parametrize(
    ("name", "strategy"), [("calibration_error", "uniform"), ("calibration_error_mass", "quantile")]
)
def test_calibration_error_agrees_with_scikit_learns_bins(overconfident, name, strategy):
    y, p = overconfident
    observed, predicted = calibration_curve(y, p, n_bins=8, strategy=strategy)
    edges = np.linspace(0, 1, 9) if strategy == "uniform" else np.quantile(p, np.linspace(0, 1, 9))
    sizes = np.bincount(np.searchsorted(edges[1:-1], p), minlength=8)
    expected = (np.abs(observed - predicted) * sizes[sizes > 0]).sum() / len(y)
    got = summarise("binary", y, p, draws=0, bins=8)[name].value
    assert got == pytest.approx(expected, abs=1e-12)


def test_calibration_error_by_hand():
    # Bins of width a half: {0.2, 0.4} with mean 0.3 and one of two positive; {0.9} with one of one positive.
    got = summarise("binary", [0, 1, 1], [0.2, 0.4, 0.9], draws=0, bins=2)["calibration_error"].value
    assert got == pytest.approx(2 / 3 * 0.2 + 1 / 3 * 0.1)


@pytest.mark.parametrize(("by", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_reliability_curve_agrees_with_scikit_learn(overconfident, by, strategy):
    y, p = overconfident
    observed, predicted = calibration_curve(y, p, n_bins=5, strategy=strategy)
    curve = reliability_curve(y, p, bins=5, by=by, plan=Plan(draws=100))
    assert [b.predicted for b in curve] == pytest.approx(predicted)
    assert [b.observed.value for b in curve] == pytest.approx(observed)
    assert sum(b.n for b in curve) == len(y)
    assert all(b.observed.low < b.observed.value < b.observed.high for b in curve)


def test_an_empty_bin_is_stated():
    low, high = reliability_curve([0, 1, 1], [0.1, 0.2, 0.3], bins=2, plan=Plan(draws=20))
    assert low.n == 3
    assert high.predicted is None
    assert "empty" in high.observed.why


def test_reliability_of_constant_or_unusable_predictions():
    (only,) = reliability_curve([0, 1, 1, 1], [0.4] * 4, by="mass", plan=Plan(draws=20))
    assert (only.n, only.predicted, only.observed.value) == (4, 0.4, 0.75)
    assert reliability_curve([], []) == []
    assert reliability_curve([0, 1], [0.5, np.nan]) == []


def test_temperature_of_two_classes_is_found(rng):
    z = rng.normal(0, 2, 20_000)
    y = (rng.random(20_000) < expit(z)).astype(float)
    fitted = fit_temperature("binary", y, expit(2.5 * z))
    assert fitted.value == pytest.approx(2.5, rel=0.03)
    assert fitted.after < fitted.before
    np.testing.assert_allclose(apply_temperature("binary", expit(2.5 * z), 2.5), expit(z), atol=1e-5)


def test_temperature_of_several_classes_is_found_and_best(rng):
    z = rng.normal(0, 1, (8000, 3))
    y = np.array([rng.choice(3, p=row) for row in softmax(z, axis=1)])
    p = softmax(3 * z, axis=1)
    fitted = fit_temperature("multiclass", y, p)
    assert fitted.value == pytest.approx(3, rel=0.05)

    def loss(t):
        return -log_softmax(np.log(p) / t, axis=1)[np.arange(8000), y].mean()

    assert fitted.after == pytest.approx(loss(fitted.value))
    assert all(fitted.after <= loss(t) for t in (fitted.value * 0.99, fitted.value * 1.01, 1.0))
    np.testing.assert_allclose(apply_temperature("multiclass", p, 3.0), softmax(z, axis=1), atol=1e-6)


def test_one_temperature_for_all_labels(rng):
    z = rng.normal(0, 2, (5000, 2))
    y = (rng.random((5000, 2)) < expit(z)).astype(float)
    y[:500, 0] = np.nan
    fitted = fit_temperature("multilabel", y, expit(z / 2))
    assert fitted.value == pytest.approx(0.5, rel=0.05)
    assert fitted.n == 9500
    assert apply_temperature("multilabel", expit(z / 2), 0.5).shape == (5000, 2)


@pytest.mark.parametrize(
    ("y", "p"),
    [
        ([1, 1, 1], [0.6, 0.7, 0.9]),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]),
        ([0, 1], [0.5, 0.5]),
        ([1], [0.7]),
        ([0, 1], [0.5, np.nan]),
    ],
)
def test_temperatures_without_a_maximum_are_stated(y, p):
    fitted = fit_temperature("binary", y, p)
    assert fitted.value is None
    assert fitted.why


def test_mistakes_are_told():
    with pytest.raises(StatisticsError, match="above 0"):
        apply_temperature("binary", [0.5], 0.0)
    with pytest.raises(StatisticsError, match="must be one of"):
        fit_temperature("regression", [0.5], [0.5])
    with pytest.raises(StatisticsError, match='Did you mean "mass"'):
        reliability_curve([0, 1], [0.1, 0.2], by="mas")
    with pytest.raises(StatisticsError, match="bins"):
        reliability_curve([0, 1], [0.1, 0.2], bins=0)
