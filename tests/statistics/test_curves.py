"""Curves: against scikit-learn, and bands against a loop of draws."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from slivit.statistics import Plan, StatisticsError, count_chunks, precision_recall_curve, roc_curve, summarise


@pytest.fixture
def cases(rng):
    y = (rng.random(150) < 0.4).astype(float)
    return y, np.round(np.clip(0.3 * y + 0.7 * rng.random(150), 0, 1), 2)


def test_roc_points_are_scikit_learns(cases):
    y, p = cases
    x, height, threshold = zip(*roc_curve(y, p, plan=Plan(draws=0)).points, strict=True)
    fpr, tpr, cuts = sk.roc_curve(y, p, drop_intermediate=False)
    np.testing.assert_allclose(x, fpr)
    np.testing.assert_allclose(height, tpr)
    assert threshold[0] is None
    np.testing.assert_allclose(threshold[1:], cuts[1:])


def test_precision_recall_points_are_scikit_learns(cases):
    y, p = cases
    x, height, threshold = zip(*precision_recall_curve(y, p, plan=Plan(draws=0)).points, strict=True)
    precision, recall, cuts = sk.precision_recall_curve(y, p)
    np.testing.assert_allclose(x, recall[:-1][::-1])
    np.testing.assert_allclose(height, precision[:-1][::-1])
    np.testing.assert_allclose(threshold, cuts[::-1])


def test_curves_hold_their_areas(cases):
    y, p = cases
    roc = roc_curve(y, p, grid=5001, plan=Plan(draws=0))
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(sk.roc_auc_score(y, p), abs=1e-3)
    pr = precision_recall_curve(y, p, grid=5001, plan=Plan(draws=0))
    assert np.mean(pr.y[1:]) == pytest.approx(sk.average_precision_score(y, p), abs=1e-3)


def test_the_roc_band_is_that_of_the_draws(cases):
    y, p = cases
    plan = Plan(draws=60, seed=9, level=0.8)
    got = roc_curve(y, p, grid=11, plan=plan)
    heights = []
    for w in np.concatenate(list(count_chunks(len(y), plan))):
        fpr, tpr, _ = sk.roc_curve(y, p, sample_weight=w, drop_intermediate=False)
        heights.append([np.interp(x, fpr, tpr) for x in got.x])
    np.testing.assert_allclose(got.low, np.quantile(heights, 0.1, axis=0), atol=1e-12)
    np.testing.assert_allclose(got.high, np.quantile(heights, 0.9, axis=0), atol=1e-12)
    assert all(low <= high for low, high in zip(got.low, got.high, strict=True))


def test_the_precision_band_is_that_of_the_draws(cases):
    y, p = cases
    plan = Plan(draws=40, seed=9, level=0.8)
    got = precision_recall_curve(y, p, grid=11, plan=plan)
    heights = []
    for w in np.concatenate(list(count_chunks(len(y), plan))):
        r = np.repeat(np.arange(len(y)), w.astype(int))
        precision, recall, _ = sk.precision_recall_curve(y[r], p[r])
        # The highest recall that is at least x, with the highest threshold that reaches it.
        precision, recall = precision[:-1][::-1], recall[:-1][::-1]
        heights.append([precision[np.argmax(recall >= max(x, 1e-9) - 1e-12)] for x in got.x])
    np.testing.assert_allclose(got.low, np.quantile(heights, 0.1, axis=0), atol=1e-12)
    np.testing.assert_allclose(got.high, np.quantile(heights, 0.9, axis=0), atol=1e-12)


def test_a_step_has_its_upper_end():
    curve = roc_curve([0, 1, 1], [0.2, 0.1, 0.9], grid=3, plan=Plan(draws=0))
    assert curve.x == (0.0, 0.5, 1.0)
    assert curve.y == (0.5, 0.5, 1.0)


def test_long_curves_are_thinned_and_keep_their_ends(rng):
    y, p = rng.integers(0, 2, 5000), rng.random(5000)
    points = roc_curve(y, p, grid=5, plan=Plan(draws=0)).points
    assert len(points) == 1000
    assert points[0][:2] == (0.0, 0.0)
    assert points[-1][:2] == (1.0, 1.0)


def test_draws_by_patient_widen_the_band(rng):
    patient = np.repeat(np.arange(40), 8)
    y = np.repeat((np.arange(40) % 2).astype(float), 8)
    p = 1 / (1 + np.exp(-(y + np.repeat(rng.normal(size=40), 8) + 0.1 * rng.normal(size=320))))
    scans = roc_curve(y, p, grid=11, plan=Plan(draws=200))
    patients = roc_curve(y, p, grid=11, plan=Plan(draws=200, groups=patient))
    width = [np.mean(np.subtract(c.high, c.low)) for c in (scans, patients)]
    assert width[1] > 1.5 * width[0]


@pytest.mark.parametrize("curve", [roc_curve, precision_recall_curve])
@pytest.mark.parametrize(
    ("y", "p", "reason"),
    [
        ([], [], "no case"),
        ([1], [0.3], "one case"),
        ([1, 1], [0.3, 0.4], "both classes"),
        ([0, 1], [0.3, 0.3], "differ"),
        ([0, 1], [0.3, np.nan], "finite"),
    ],
)
def test_degenerate_input_is_stated(curve, y, p, reason):
    got = curve(y, p, grid=5, plan=Plan(draws=10))
    assert got.points == ()
    assert got.y is None
    assert got.low is None
    assert reason in got.why
    json.dumps(got.to_dict(), allow_nan=False)


def test_a_curve_without_a_band_says_why():
    got = roc_curve([0, 1, 0, 0], [0.1, 0.9, 0.3, 0.4], grid=5, plan=Plan(draws=200))
    assert got.y is not None
    assert got.low is None
    assert f"{got.undefined} of 200" in got.why


def test_the_curve_and_the_summary_leave_out_the_same_draws():
    y, p = [0, 1, 0, 1, 0, 0], [0.1, 0.9, 0.3, 0.2, 0.5, 0.4]
    plan = Plan(draws=300, seed=1)
    assert roc_curve(y, p, plan=plan).undefined == summarise("binary", y, p, draws=300, seed=1)["roc_auc"].undefined
    with pytest.raises(StatisticsError, match="grid"):
        roc_curve(y, p, grid=1)
