"""Referral: against scikit-learn on predictions that were replaced by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score

from slivit.statistics import Plan, StatisticsError, count_chunks, referral_curve, resample
from slivit.statistics.referral import ReferralSample


def answered(y, p, uncertainty, percent):
    p = p.copy()
    referred = np.argsort(-uncertainty, kind="stable")[: int(np.floor(percent / 100 * len(y) + 0.5))]
    p[referred] = y[referred]
    return p


@pytest.fixture
def cases(rng):
    y = (rng.random(300) < 0.3).astype(float)
    return y, np.round(expit(rng.normal(size=300) + 1.2 * y - 0.8), 2)


def test_referred_cases_have_their_true_label(cases):
    y, p = cases
    curve = referral_curve(y, p, plan=Plan(draws=0))
    assert [point.percent for point in curve] == [0, 5, 10, 15, 20, 25]
    for point in curve:
        together = answered(y, p, -np.abs(p - 0.5), point.percent)
        assert point.roc_auc.value == pytest.approx(roc_auc_score(y, together), abs=1e-12)
        assert point.average_precision.value == pytest.approx(average_precision_score(y, together), abs=1e-12)
        assert point.referred == round(point.percent / 100 * 300)


def test_each_draw_refers_its_own_cases(cases, rng):
    y, p = cases[0][:60], cases[1][:60]
    uncertainty = rng.random(60)  # all different, so that copies of a case are the only ties
    plan = Plan(draws=25, seed=4)
    got = resample(ReferralSample(y, p, uncertainty, [0, 10, 25]), plan).values
    for i, w in enumerate(np.concatenate(list(count_chunks(60, plan)))):
        r = np.repeat(np.arange(60), w.astype(int))
        for k, percent in enumerate([0, 10, 25]):
            together = answered(y[r], p[r], uncertainty[r], percent)
            assert got[f"roc_auc {k}"][i] == pytest.approx(roc_auc_score(y[r], together), abs=1e-12)


def test_the_shape_of_the_published_curve(rng):
    # A rare finding, and a model that is unsure of nearly all who have it: from about 0.78 to nearly 1 with a quarter
    # referred, as in the comparison of pre-training strategies (0.7809 to 0.9972).
    y = (rng.random(4000) < 0.05).astype(float)
    p = expit(np.where(y == 1, rng.normal(-0.9, 0.2, 4000), rng.normal(-3.0, 2.6, 4000)))
    curve = [point.roc_auc.value for point in referral_curve(y, p, plan=Plan(draws=0))]
    assert curve[0] == pytest.approx(0.78, abs=0.02)
    assert curve[-1] > 0.98
    assert (np.diff(curve) > 0).all()


def test_all_referred_is_perfect_and_bands_narrow(cases):
    none, half, whole = referral_curve(*cases, [0, 50, 100], plan=Plan(draws=200))
    assert whole.roc_auc.value == 1
    assert half.roc_auc.high - half.roc_auc.low < none.roc_auc.high - none.roc_auc.low
    assert none.roc_auc.low < none.roc_auc.value < none.roc_auc.high


def test_a_given_uncertainty_follows_its_cases_when_labels_are_missing(cases, rng):
    y, p = cases
    uncertainty = rng.random(300)
    gone = np.arange(300) % 7 == 0
    got = referral_curve(np.where(gone, np.nan, y), p, [20], uncertainty=uncertainty, plan=Plan(draws=0))
    kept = answered(y[~gone], p[~gone], uncertainty[~gone], 20)
    assert got[0].roc_auc.value == pytest.approx(roc_auc_score(y[~gone], kept), abs=1e-12)


@pytest.mark.parametrize(
    ("y", "p", "reason"),
    [([1, 1], [0.2, 0.3], "both classes"), ([], [], "no case"), ([0, 1], [0.1, np.nan], "finite"), ([1], [0.2], "one")],
)
def test_degenerate_input_is_stated(y, p, reason):
    for point in referral_curve(y, p, [0, 20], plan=Plan(draws=20)):
        assert point.roc_auc.value is None
        assert reason in point.roc_auc.why


def test_mistakes_are_told():
    with pytest.raises(StatisticsError, match="between 0 and 100"):
        referral_curve([0, 1], [0.1, 0.2], [120])
    with pytest.raises(StatisticsError, match="uncertainty"):
        referral_curve([0, 1], [0.1, 0.2], uncertainty=[0.1])
