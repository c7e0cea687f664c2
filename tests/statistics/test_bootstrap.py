"""The counts that are drawn, and the values computed from them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from slivit.statistics import StatisticsError
from slivit.statistics.binary import BinarySample
from slivit.statistics.bootstrap import Plan, count_chunks, percentile, resample
from slivit.statistics.classification import BINARY
from slivit.statistics.multiclass import MulticlassSample
from slivit.statistics.regression import RegressionSample


def counts(n, plan, **options):
    return np.concatenate(list(count_chunks(n, plan, **options)))


def rows(weights):
    """The case numbers that each row of counts stands for."""
    return [np.repeat(np.arange(len(w)), w.astype(int)) for w in weights]


def test_counts_are_draws_with_replacement():
    drawn = counts(40, Plan(draws=4000, seed=1))
    assert (drawn.sum(axis=1) == 40).all()
    seen = np.bincount(drawn[:, 0].astype(int), minlength=8)[:8] / 4000
    assert seen == pytest.approx(stats.binom.pmf(np.arange(8), 40, 1 / 40), abs=0.03)
    assert np.cov(drawn[:, 0], drawn[:, 1])[0, 1] == pytest.approx(-1 / 40, abs=0.05)


@pytest.mark.parametrize("strata", [None, np.arange(30) % 3])
def test_chunks_do_not_change_what_is_drawn(strata):
    plan = Plan(draws=50, seed=7, strata=strata)
    whole = counts(30, plan)
    for cells in (1, 45, 301):
        np.testing.assert_array_equal(counts(30, plan, cells=cells), whole)


def test_chunks_are_bounded():
    assert max(c.size for c in count_chunks(100, Plan(draws=1000), cells=1000)) <= 1000


def test_patients_are_drawn_whole(rng):
    patients = rng.integers(0, 12, 50)
    drawn = counts(50, Plan(draws=200, groups=patients))
    for patient in np.unique(patients):
        scans = drawn[:, patients == patient]
        assert (scans == scans[:, :1]).all()
    one_scan_each = drawn[:, np.unique(patients, return_index=True)[1]]
    assert (one_scan_each.sum(axis=1) == len(np.unique(patients))).all()


def test_strata_keep_their_sizes(rng):
    y = (np.arange(60) < 7).astype(float)
    drawn = counts(60, Plan(draws=100, strata=y))
    assert (drawn[:, y == 1].sum(axis=1) == 7).all()
    assert (drawn.sum(axis=1) == 60).all()


def test_strata_within_patients_are_refused():
    with pytest.raises(StatisticsError, match="1 patients"):
        counts(4, Plan(draws=2, groups=["A", "A", "B", "B"], strata=[0, 1, 1, 1]))


def test_binary_draws_equal_a_scikit_learn_loop(rng):
    y = (rng.random(150) < 0.3).astype(float)
    p = np.round(rng.random(150) * 0.6 + 0.4 * y, 2)
    plan = Plan(draws=60, seed=2)
    got = resample(BinarySample(y, p, BINARY), plan).values
    for i, r in enumerate(rows(counts(150, plan))):
        assert got["roc_auc"][i] == pytest.approx(sk.roc_auc_score(y[r], p[r]), abs=1e-12)
        assert got["average_precision"][i] == pytest.approx(sk.average_precision_score(y[r], p[r]), abs=1e-12)
        assert got["mcc"][i] == pytest.approx(sk.matthews_corrcoef(y[r], p[r] >= 0.5), abs=1e-12)
        assert got["brier"][i] == pytest.approx(sk.brier_score_loss(y[r], p[r]), abs=1e-12)


def test_regression_draws_equal_a_scipy_loop(rng):
    y = np.round(rng.normal(size=80), 1)
    p = np.round(y + rng.normal(size=80), 1)
    plan = Plan(draws=40, seed=5, groups=np.arange(80) // 4)
    got = resample(RegressionSample(y, p), plan).values
    for i, r in enumerate(rows(counts(80, plan))):
        assert got["spearman"][i] == pytest.approx(stats.spearmanr(y[r], p[r])[0], abs=1e-12)
        assert got["pearson"][i] == pytest.approx(stats.pearsonr(y[r], p[r])[0], abs=1e-12)
        assert got["r2"][i] == pytest.approx(sk.r2_score(y[r], p[r]), abs=1e-12)
        assert got["limit_high"][i] == pytest.approx(
            (p - y)[r].mean() + stats.norm.ppf(0.975) * (p - y)[r].std(ddof=1), abs=1e-12
        )


def test_multiclass_draws_equal_a_scikit_learn_loop(rng):
    p = rng.dirichlet(np.ones(3), 90)
    y = np.array([rng.choice(3, p=row) for row in p])
    plan = Plan(draws=30, seed=5)
    got = resample(MulticlassSample(y, p, ["a", "b", "c"]), plan).values
    for i, r in enumerate(rows(counts(90, plan))):
        assert got["roc_auc"][i] == pytest.approx(sk.roc_auc_score(y[r], p[r], multi_class="ovr"), abs=1e-12)
        weighted = sk.average_precision_score(np.eye(3)[y[r]], p[r], average="weighted")
        assert got["average_precision_weighted"][i] == pytest.approx(weighted, abs=1e-12)
        assert got["mcc"][i] == pytest.approx(sk.matthews_corrcoef(y[r], p[r].argmax(axis=1)), abs=1e-12)


def test_draws_of_one_case_or_one_class_are_undefined():
    draws = resample(BinarySample([0, 1, 1], [0.2, 0.3, 0.9], BINARY), Plan(draws=300)).values
    for i, r in enumerate(rows(counts(3, Plan(draws=300)))):
        both = len(set(r) & {0}) == 1 and len(set(r) & {1, 2}) > 0
        assert np.isnan(draws["roc_auc"][i]) != both
        assert np.isnan(draws["average_precision"][i]) != both
    level = resample(BinarySample([0, 1, 1], [0.3, 0.3, 0.9], BINARY), Plan(draws=300)).values["roc_auc"]
    for i, r in enumerate(rows(counts(3, Plan(draws=300)))):
        assert np.isnan(level[i]) != (2 in r and 0 in r)


def test_percentile_interval_covers_the_truth_about_as_often_as_it_says(rng):
    truth = stats.norm.cdf(1 / np.sqrt(2))
    held = 0
    for seed in range(100):
        y = np.repeat([0.0, 1.0], 60)
        p = stats.norm.cdf(rng.normal(size=120) + y)
        auc = resample(BinarySample(y, p, {"roc_auc": BINARY["roc_auc"]}), Plan(draws=200, seed=seed))
        interval = auc.estimate("roc_auc", 120)
        held += interval.low <= truth <= interval.high
    assert 80 <= held <= 98


def test_percentile_is_numpys_quantile_of_the_defined_draws(rng):
    values = rng.normal(size=200)
    values[:3] = np.nan
    got = percentile(0.1, values, 50, level=0.8)
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(values[3:], [0.1, 0.9])))
    assert (got.draws, got.undefined, got.n) == (200, 3, 50)


def test_draws_on_one_side_of_the_value_are_told(rng):
    assert "to one side" in percentile(0.0, rng.random(100) + 1, 10).why
    assert "no width" in percentile(1.0, np.ones(100), 10).why
