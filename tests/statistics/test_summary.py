"""summarise: against scikit-learn, SciPy and a loop of scikit-learn calls; degenerate input; reproducible draws."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from slivit.statistics import StatisticsError, point_metrics, summarise


@pytest.fixture
def binary(rng):
    y = (rng.random(300) < 0.3).astype(float)
    p = np.round(1 / (1 + np.exp(-(rng.normal(size=300) + 1.5 * y - 1))), 2)  # rounded, so that there are ties
    return y, p


@pytest.fixture
def multiclass(rng):
    p = rng.dirichlet(np.ones(4), 400)
    return np.array([rng.choice(4, p=row) for row in p]), p


def value(estimates, name):
    return estimates[name].value


def test_binary_metrics_agree_with_scikit_learn(binary):
    y, p = binary
    call = p >= 0.4
    got = summarise("binary", y, p, draws=0, threshold=0.4)
    expected = {
        "roc_auc": sk.roc_auc_score(y, p),
        "average_precision": sk.average_precision_score(y, p),
        "accuracy": sk.accuracy_score(y, call),
        "balanced_accuracy": sk.balanced_accuracy_score(y, call),
        "sensitivity": sk.recall_score(y, call),
        "specificity": sk.recall_score(1 - y, ~call),
        "ppv": sk.precision_score(y, call),
        "npv": sk.precision_score(1 - y, ~call),
        "f1": sk.f1_score(y, call),
        "mcc": sk.matthews_corrcoef(y, call),
        "false_negative_rate": 1 - sk.recall_score(y, call),
        "brier": sk.brier_score_loss(y, p),
    }
    for name, reference in expected.items():
        assert value(got, name) == pytest.approx(reference, abs=1e-12), name


def test_multiclass_metrics_agree_with_scikit_learn(multiclass):
    y, p = multiclass
    call, onehot = p.argmax(axis=1), np.eye(4)[y]
    got = summarise("multiclass", y, p, draws=0, names=["a", "b", "c", "d"])
    expected = {
        "roc_auc": sk.roc_auc_score(y, p, multi_class="ovr"),
        "roc_auc_weighted": sk.roc_auc_score(y, p, multi_class="ovr", average="weighted"),
        "roc_auc/c": sk.roc_auc_score(y == 2, p[:, 2]),
        "average_precision": sk.average_precision_score(onehot, p),
        "average_precision_weighted": sk.average_precision_score(onehot, p, average="weighted"),
        "accuracy": sk.accuracy_score(y, call),
        "balanced_accuracy": sk.balanced_accuracy_score(y, call),
        "sensitivity": sk.recall_score(y, call, average="macro"),
        "ppv/b": sk.precision_score(y == 1, call == 1),
        "f1": sk.f1_score(y, call, average="macro"),
        "f1_weighted": sk.f1_score(y, call, average="weighted"),
        "mcc": sk.matthews_corrcoef(y, call),
        "brier": ((p - onehot) ** 2).sum(axis=1).mean(),
    }
    for name, reference in expected.items():
        assert value(got, name) == pytest.approx(reference, abs=1e-12), name


def test_multilabel_leaves_missing_labels_out(rng):
    p = rng.random((200, 3))
    y = (rng.random((200, 3)) < p).astype(float)
    y[rng.random((200, 3)) < 0.2] = np.nan
    got = summarise("multilabel", y, p, draws=20, names=["a", "b", "c"], threshold=[0.5, 0.3, 0.7])
    known = [~np.isnan(y[:, i]) for i in range(3)]
    aucs = [sk.roc_auc_score(y[k, i], p[k, i]) for i, k in enumerate(known)]
    assert [value(got, f"roc_auc/{n}") for n in "abc"] == pytest.approx(aucs, abs=1e-12)
    assert value(got, "roc_auc") == pytest.approx(np.mean(aucs), abs=1e-12)
    assert [got[f"roc_auc/{n}"].n for n in "abc"] == [int(k.sum()) for k in known]
    full = np.logical_and.reduce(known)
    call = p[full] >= [0.5, 0.3, 0.7]
    assert value(got, "subset_accuracy") == pytest.approx(sk.accuracy_score(y[full], call), abs=1e-12)
    assert got["subset_accuracy"].n == full.sum()


def test_a_mean_over_labels_says_which_it_leaves_out(rng):
    y = np.stack([rng.integers(0, 2, 50), np.zeros(50)], axis=1)
    got = summarise("multilabel", y, rng.random((50, 2)), draws=50, names=["edema", "mass"])
    assert got["roc_auc/mass"].value is None
    assert "0 positive" in got["roc_auc/mass"].why
    assert got["roc_auc"].value == got["roc_auc/edema"].value
    assert "mean over 1 of 2" in got["roc_auc"].why
    assert '"mass"' in got["roc_auc"].why


def test_regression_metrics_agree_with_scipy_and_scikit_learn(rng):
    y = np.round(rng.normal(60, 10, 250))
    p = np.round(y + rng.normal(2, 5, 250))
    got = summarise("regression", y, p, draws=0)
    d = p - y
    sd = d.std(ddof=1)
    ccc = 2 * np.cov(y, p, ddof=0)[0, 1] / (y.var() + p.var() + d.mean() ** 2)
    expected = {
        "r2": sk.r2_score(y, p),
        "mae": sk.mean_absolute_error(y, p),
        "rmse": sk.root_mean_squared_error(y, p),
        "pearson": stats.pearsonr(y, p)[0],
        "spearman": stats.spearmanr(y, p)[0],
        "concordance": ccc,
        "bias": d.mean(),
        "limit_low": d.mean() - stats.norm.ppf(0.975) * sd,
        "limit_high": d.mean() + stats.norm.ppf(0.975) * sd,
    }
    assert set(got) == set(expected)
    for name, reference in expected.items():
        assert value(got, name) == pytest.approx(reference, abs=1e-11), name


@pytest.mark.parametrize(
    ("kind", "y", "p", "reason"),
    [
        ("binary", [], [], "no case"),
        ("binary", [np.nan, np.nan], [0.2, 0.3], "no case"),
        ("binary", [1], [0.7], "one case"),
        ("binary", [0, 1, 1, 0], [0.1, np.nan, 0.3, 0.2], "1 of 4 predictions"),
        ("binary", [0, 1, 1, 0], [0.1, np.inf, 0.3, 0.2], "1 of 4 predictions"),
        ("binary", [1, 1, 1], [0.1, 0.2, 0.3], "both classes"),
        ("binary", [0, 1, 1, 0], [0.4] * 4, "same prediction"),
        ("multiclass", [1, 1, 1], [[0.5, 0.5], [0.4, 0.6], [0.1, 0.9]], "both classes"),
        ("multilabel", [[1, 0]], [[0.5, 0.5]], "one case"),
        ("regression", [1.0], [1.0], "one case"),
        ("regression", [1.0, np.nan, 2.0], [1.0, 5.0, np.nan], "1 of 2 predictions"),
        ("regression", [2.0, 2.0, 2.0], [1.0, 5.0, 3.0], "that differ"),
        ("regression", [1.0, 2.0, 3.0], [0.1, 0.1, 0.1], "that differ"),
    ],
)
def test_degenerate_input_is_stated_never_a_number(kind, y, p, reason):
    got = summarise(kind, y, p, draws=100)
    first = got["pearson" if kind == "regression" else "roc_auc"]
    assert first.value is None
    assert first.low is None
    assert reason in first.why
    json.dumps({name: e.to_dict() for name, e in got.items()}, allow_nan=False)


def test_undefined_draws_are_counted_and_too_many_leave_no_interval():
    one_positive = summarise("binary", [1, 0, 0, 0, 0, 0], [0.9, 0.1, 0.2, 0.3, 0.4, 0.95], draws=500)["roc_auc"]
    assert one_positive.value == pytest.approx(0.8)
    assert one_positive.undefined > 100  # about (5/6)**6 of the draws have no positive
    assert one_positive.low is None
    assert f"{one_positive.undefined} of 500 draws" in one_positive.why


def test_one_patient_has_no_interval(binary):
    y, p = binary
    got = summarise("binary", y, p, groups=["P1"] * len(y), draws=50)["roc_auc"]
    assert got.value is not None
    assert got.low is None
    assert "one patient" in got.why


def test_missing_labels_take_their_patients_along(binary):
    y, p = binary
    patients = [f"P{i // 3}" for i in range(len(y))]
    gone = np.arange(len(y)) < 30
    kept = summarise("binary", y[~gone], p[~gone], groups=patients[30:], draws=50)
    assert summarise("binary", np.where(gone, np.nan, y), p, groups=patients, draws=50) == kept
    assert kept["roc_auc"].patients == 90


def test_seeds_reproduce_and_levels_nest(binary):
    y, p = binary
    first, again = (summarise("binary", y, p, draws=200, seed=3)["roc_auc"] for _ in range(2))
    wider = summarise("binary", y, p, draws=200, seed=3, level=0.95)["roc_auc"]
    other = summarise("binary", y, p, draws=200, seed=4)["roc_auc"]
    assert first == again
    assert first != other
    assert wider.low <= first.low < first.value < first.high <= wider.high


def test_stratified_draws_keep_the_classes(binary):
    y = np.array([1.0] + [0.0] * 20)
    p = np.linspace(1, 0, 21)
    plain = summarise("binary", y, p, draws=200)["roc_auc"]
    kept = summarise("binary", y, p, draws=200, stratified=True)["roc_auc"]
    assert plain.undefined > 0
    assert kept.undefined == 0
    assert kept.low is not None


def test_stratified_draws_of_patients_keep_those_with_a_finding():
    patients = np.repeat(np.arange(12), 2)
    y = np.where((patients < 2) & (np.arange(24) % 2 == 0), 1.0, 0.0)  # a healthy scan too, of each of two patients
    got = summarise("binary", y, np.linspace(1, 0, 24), groups=patients, draws=200, stratified=True)["roc_auc"]
    assert (got.undefined, got.patients) == (0, 12)


def test_a_class_without_cases_is_left_out_of_the_mean_and_said(rng):
    p = rng.dirichlet(np.ones(3), 60)
    y = rng.integers(0, 2, 60)
    got = summarise("multiclass", y, p, names=["a", "b", "c"], draws=30)
    assert got["roc_auc/c"].value is None
    assert got["roc_auc"].value == pytest.approx(np.mean([got["roc_auc/a"].value, got["roc_auc/b"].value]))
    assert "mean over 2 of 3" in got["roc_auc"].why
    shares = np.bincount(y, minlength=2) / 60
    weighted = shares @ [got["roc_auc/a"].value, got["roc_auc/b"].value]
    assert got["roc_auc_weighted"].value == pytest.approx(weighted)


def test_chosen_metrics_are_the_same_as_among_all(multiclass):
    y, p = multiclass
    everything = summarise("multiclass", y, p, draws=30)
    for name in ("balanced_accuracy", "roc_auc_weighted", "mcc", "ppv"):
        few = summarise("multiclass", y, p, draws=30, metrics=name)
        assert {k.partition("/")[0] for k in few} == {name}
        assert few[name] == everything[name]


@pytest.mark.parametrize(
    ("kind", "y", "p", "options", "words"),
    [
        ("binry", [0, 1], [0.1, 0.2], {}, 'Did you mean "binary"'),
        ("binary", [0, 2], [0.1, 0.2], {}, "0, 1 or NaN"),
        ("binary", [0, 1], [-3.0, 0.2], {}, "sigmoid"),
        ("binary", [0, 1, 1], [0.1, 0.2], {}, "each of the 3 cases"),
        ("binary", [0, 1], [0.1, 0.2], {"metrics": ["auc"]}, "roc_auc"),
        ("binary", [0, 1], [0.1, 0.2], {"level": 90}, "between 0 and 1"),
        ("binary", [0, 1], [0.1, 0.2], {"draws": -1}, "whole number"),
        ("binary", [0, 1], [0.1, 0.2], {"groups": ["P1", None]}, "1 of 2 are missing"),
        ("binary", [0, 1], [0.1, 0.2], {"seed": -1}, "seed"),
        ("binary", [0, 1], [0.1, 0.2], {"bins": 0}, "bins"),
        ("binary", [0, 1], [0.1, 0.2], {"threshold": [0.1, 0.2]}, "threshold"),
        ("multilabel", [[0, 1]], [[0.1, 0.2]], {"threshold": [0.1, 0.2, 0.3]}, "each of 2"),
        ("multiclass", [0, 3], [[0.5, 0.5], [0.5, 0.5]], {}, "from 0 to 1"),
        ("multiclass", [0, 1], [[0.5, 0.9], [0.5, 0.5]], {}, "sum to 1"),
        ("multilabel", [[0, 1]], [[0.5, 0.9]], {"names": ["a"]}, "2 different names"),
        ("regression", ["x"], [0.5], {}, "numbers"),
        ("regression", [1.0, 2.0], [0.5, 1.0], {"stratified": True}, "stratified"),
    ],
)
def test_mistakes_are_told(kind, y, p, options, words):
    with pytest.raises(StatisticsError, match=words):
        summarise(kind, y, p, **options)


def test_point_metrics_are_the_values_without_intervals(binary):
    y, p = binary
    column = point_metrics("binary", y[:, None], p[:, None].astype(np.float32), metrics=["roc_auc"])
    assert column == {"roc_auc": pytest.approx(sk.roc_auc_score(y, p))}
    assert point_metrics("binary", [1, 1], [0.2, np.nan]) == dict.fromkeys(summarise("binary", y, p, draws=0))
