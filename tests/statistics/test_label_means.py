"""Means over labels: against those of each label, and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from slivit.statistics import Plan, StatisticsError, label_rates, label_referral, rates_by_threshold, referral_curve

NAMES = ["edema", "effusion", "fracture"]


@pytest.fixture
def labels(rng):
    y = (rng.random((120, 3)) < (0.5, 0.3, 0.1)).astype(float)
    p = np.clip(0.3 * y + 0.7 * rng.random((120, 3)), 0, 1)
    y[:10, 1] = np.nan
    return y, p


def test_rates_are_the_means_of_each_labels(labels):
    y, p = labels
    row = label_rates(y, p, NAMES, [0.4], plan=Plan(draws=50))[0]
    own = [rates_by_threshold(y[:, i], p[:, i], [0.4], plan=Plan(draws=0))[0] for i in range(3)]
    assert row.false_negative_rate.value == pytest.approx(np.mean([r.false_negative_rate.value for r in own]))
    assert row.false_positive_rate.value == pytest.approx(np.mean([r.false_positive_rate.value for r in own]))
    known = ~np.isnan(y)
    right = [accuracy_score(y[known[:, i], i], p[known[:, i], i] >= 0.4) for i in range(3)]
    assert row.accuracy.value == pytest.approx(np.mean(right))
    full = known.all(1)
    assert row.subset_accuracy.value == pytest.approx(accuracy_score(y[full], p[full] >= 0.4))
    assert row.subset_accuracy.n == 110
    assert row.accuracy.low < row.accuracy.value < row.accuracy.high


def test_a_label_without_a_case_is_left_out_and_named(labels):
    y, p = labels
    y[:, 2] = 0
    row = label_rates(y, p, NAMES, [0.5], plan=Plan(draws=0))[0]
    assert 'mean over 2 of 3, not defined in "fracture"' in row.false_negative_rate.why
    assert len(label_rates(y, p, NAMES, plan=Plan(draws=0))) == 19


def test_referral_is_the_mean_of_each_labels(labels, rng):
    y, p = labels
    unsure = rng.random(p.shape)
    for given in (None, unsure):
        points = label_referral(y, p, NAMES, [0, 20], uncertainty=given, plan=Plan(draws=0))
        own = [
            referral_curve(
                y[:, i], p[:, i], [0, 20], uncertainty=None if given is None else given[:, i], plan=Plan(draws=0)
            )
            for i in range(3)
        ]
        for k, point in enumerate(points):
            assert point.roc_auc.value == pytest.approx(np.mean([curve[k].roc_auc.value for curve in own]))
            assert point.referred == sum(curve[k].referred for curve in own)
    with pytest.raises(StatisticsError):
        label_rates(y[:, 0], p[:, 0], NAMES)
