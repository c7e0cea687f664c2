"""Comparisons: against loops, SciPy and published tables; what their p-values do when models are alike."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from slivit.statistics import (
    Comparison,
    Plan,
    StatisticsError,
    adjust_comparisons,
    adjust_p_values,
    compare_models,
    count_chunks,
    delong_test,
    mcnemar_test,
)


@pytest.fixture
def models(rng):
    y = (rng.random(120) < 0.4).astype(float)
    good, fair = (stats.norm.cdf(rng.normal(size=120) + shift * y) for shift in (2.0, 0.8))
    return y, {"good": good, "fair": fair, "again": fair}


def test_the_difference_is_drawn_in_pairs(models):
    y, predictions = models
    plan = Plan(draws=80, seed=3, level=0.8)
    got = compare_models("binary", y, predictions, metrics=["roc_auc"], plan=plan)[0]
    a, b = predictions["good"], predictions["fair"]
    loop = []
    for w in np.concatenate(list(count_chunks(len(y), plan))):
        r = np.repeat(np.arange(len(y)), w.astype(int))
        loop.append(roc_auc_score(y[r], a[r]) - roc_auc_score(y[r], b[r]))
    assert got.names == ("good", "fair")
    assert got.difference == pytest.approx(roc_auc_score(y, a) - roc_auc_score(y, b), abs=1e-12)
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(loop, [0.1, 0.9])), abs=1e-12)
    assert got.p_value == pytest.approx(2 * (np.sum(np.array(loop) <= 0) + 1) / 81)


def test_all_pairs_and_metrics_are_corrected_together(models):
    y, predictions = models
    found = compare_models("binary", y, predictions, metrics=["roc_auc", "mcc"], plan=Plan(draws=100))
    assert [c.names for c in found if c.metric == "mcc"] == [("good", "fair"), ("good", "again"), ("fair", "again")]
    assert [c.adjusted for c in found] == adjust_p_values([c.p_value for c in found], "holm")
    same = found[2]
    assert (same.difference, same.p_value, same.adjusted) == (0.0, 1.0, 1.0)
    json.dumps([c.to_dict() for c in found], allow_nan=False)


def test_the_papers_t_test_shrinks_with_the_number_of_draws_and_ours_does_not(rng):
    y = np.repeat([0.0, 1.0], 60)
    a, b = (stats.norm.cdf(rng.normal(size=120) + y) for _ in range(2))  # two models that are equally good
    paper, ours = (
        [
            compare_models("binary", y, {"a": a, "b": b}, metrics=["roc_auc"], plan=Plan(draws=n), method=method)[0]
            for n in (50, 2000)
        ]
        for method in ("slivit_t_test", "bootstrap")
    )
    assert paper[1].p_value < 1e-6 * paper[0].p_value
    assert "too small" in paper[1].why
    assert ours[1].p_value == pytest.approx(ours[0].p_value, abs=0.2)
    assert ours[1].p_value > 0.05


def test_the_papers_t_test_is_scipys_paired_t_test_on_the_draws(models):
    y, predictions = models
    plan = Plan(draws=50)
    got = compare_models("binary", y, predictions, metrics=["roc_auc"], plan=plan, method="slivit_t_test")[0]
    draws = {"good": [], "fair": []}
    for w in np.concatenate(list(count_chunks(len(y), plan))):
        r = np.repeat(np.arange(len(y)), w.astype(int))
        for model, values in draws.items():
            values.append(roc_auc_score(y[r], predictions[model][r]))
    expected = stats.ttest_rel(draws["good"], draws["fair"])
    assert got.statistic == pytest.approx(expected.statistic)
    assert got.p_value == pytest.approx(expected.pvalue)


def test_delongs_test_of_every_pair_is_corrected(models):
    y, predictions = models
    found = compare_models("binary", y, predictions, method="delong", adjustment="bonferroni")
    first = delong_test(y, predictions["good"], predictions["fair"], level=0.9)
    assert found[0].names == ("good", "fair")
    assert found[0].p_value == first.p_value
    assert found[0].adjusted == pytest.approx(2 * first.p_value)  # the third pair has no variance and no p-value
    assert found[2].adjusted is None
    with pytest.raises(StatisticsError, match="DeLong"):
        compare_models("binary", y, predictions, method="delong", metrics=["mcc"])
    with pytest.raises(StatisticsError, match="DeLong"):
        compare_models("binary", y, predictions, method="delong", plan=Plan(groups=np.arange(120)))


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
def test_every_kind_can_be_compared(rng, kind):
    p = rng.dirichlet(np.ones(3), 80)
    if kind == "multiclass":
        y, metric = rng.integers(0, 3, 80), "roc_auc/b"
    else:
        y, metric = (rng.random((80, 3)) < p).astype(float), "r2/b" if kind == "regression" else "roc_auc/b"
    predictions = {"one": p, "two": p[:, [1, 2, 0]]}
    found = compare_models(kind, y, predictions, metrics=[metric], names=["a", "b", "c"], plan=Plan(draws=40))
    assert found[0].difference == pytest.approx(found[0].first - found[0].second)
    assert found[0].p_value is not None


def test_comparisons_that_are_not_defined_are_stated(models):
    y, predictions = models
    (one_class,) = compare_models(
        "binary", np.ones(120), {"a": predictions["good"], "b": predictions["fair"]}, metrics=["roc_auc"]
    )
    assert one_class.p_value is None
    assert one_class.difference is None
    assert "both classes" in one_class.why
    broken = np.where(np.arange(120) == 3, np.nan, predictions["fair"])
    (missing,) = compare_models("binary", y, {"a": predictions["good"], "b": broken}, metrics=["roc_auc"])
    assert missing.first is not None
    assert missing.second is None
    assert "b: 1 of 120" in missing.why
    (no_draws,) = compare_models(
        "binary", y, {"a": predictions["good"], "b": predictions["fair"]}, metrics=["roc_auc"], plan=Plan(draws=0)
    )
    assert no_draws.difference is not None
    assert "without bootstrap draws" in no_draws.why


def test_mistakes_are_told(models):
    y, predictions = models
    with pytest.raises(StatisticsError, match="two models"):
        compare_models("binary", y, {"a": predictions["good"]})
    with pytest.raises(StatisticsError, match='Did you mean "roc_auc"'):
        compare_models("binary", y, predictions, metrics=["roc_aux"])
    with pytest.raises(StatisticsError, match="each of the 120 cases"):
        compare_models("binary", y, {"a": predictions["good"], "b": predictions["fair"][1:]})
    with pytest.raises(StatisticsError, match="must be one of"):
        compare_models("multiclass", [0, 1], {m: [[0.5, 0.5], [0.1, 0.9]] for m in "ab"}, metrics=["roc_auc/7"])


def agresti():
    """Approval of the prime minister at two surveys: Agresti, Categorical Data Analysis, table 10.1."""
    return np.repeat([1, 1, 0, 0], [794, 150, 86, 570]), np.repeat([1, 0, 1, 0], [794, 150, 86, 570])


def test_mcnemar_agrees_with_published_values():
    first, second = agresti()
    # Agresti gives z**2 = 17.36 without correction; (|150 - 86| - 1)**2 / 236 with it.
    corrected = mcnemar_test(np.ones(1600), first, second, exact=False)
    assert corrected.statistic == pytest.approx(63**2 / 236)
    assert corrected.p_value == pytest.approx(stats.chi2.sf(63**2 / 236, 1))
    exact = mcnemar_test(np.ones(1600), first, second)
    assert exact.p_value == pytest.approx(2 * stats.binom.cdf(86, 236, 0.5))
    assert exact.difference == pytest.approx((150 - 86) / 1600)
    assert (exact.first, exact.second) == (944 / 1600, 880 / 1600)


def test_mcnemar_takes_classes_and_missing_labels():
    got = mcnemar_test([0, 1, 2, np.nan, 2], [0, 1, 2, 0, 2], [1, 1, 0, 0, 0])
    assert (got.n, got.first, got.second) == (4, 1.0, 0.25)
    assert got.p_value == pytest.approx(0.25)


@pytest.mark.parametrize(("y", "a", "b"), [([], [], []), ([1], [1], [0]), ([0, 1], [0, 1], [0, 1])])
def test_mcnemar_without_disagreement_is_stated(y, a, b):
    got = mcnemar_test(y, a, b)
    assert got.p_value is None
    assert got.why


def test_mcnemar_refuses_missing_calls():
    with pytest.raises(StatisticsError, match="second must be known"):
        mcnemar_test([0, 1], [0, 1], [0, np.nan])


def test_holm_and_bonferroni_by_hand():
    p = [0.01, 0.04, None, 0.03, 0.005]
    assert adjust_p_values(p, "bonferroni") == pytest.approx([0.04, 0.16, None, 0.12, 0.02])
    # Holm: sorted 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1, never falling.
    assert adjust_p_values(p, "holm") == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert adjust_p_values(p, "none") == p
    assert adjust_p_values([0.9, 0.8], "bonferroni") == [1.0, 1.0]
    assert adjust_p_values([]) == []


def test_holm_is_never_weaker_than_bonferroni(rng):
    p = rng.random(20).tolist()
    holm, bonferroni = adjust_p_values(p, "holm"), adjust_p_values(p, "bonferroni")
    assert all(raw <= h <= b for raw, h, b in zip(p, holm, bonferroni, strict=True))
    assert (np.diff(np.array(holm)[np.argsort(p)]) >= 0).all()


def test_adjusting_leaves_what_is_not_defined():
    found = adjust_comparisons(
        [Comparison("DeLong", "roc_auc", p_value=0.02), Comparison("DeLong", "roc_auc", why="one class only")],
        "bonferroni",
    )
    assert [(c.adjusted, c.adjustment) for c in found] == [(0.02, "bonferroni"), (None, None)]
    with pytest.raises(StatisticsError, match="p-values"):
        adjust_p_values([1.2])
