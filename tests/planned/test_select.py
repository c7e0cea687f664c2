"""Greedy selection: never far behind the best model, better where models err differently, the same from run to run."""

import numpy as np
import pandas as pd
import pytest

from slivit.data.splits import k_folds
from slivit.planned.curve import curve_of, learning_curve
from slivit.planned.plan import Baseline, Plan
from slivit.planned.scans import Scans
from slivit.planned.select import calibrated, greedy, loss, temperature, weights_of
from slivit.targets.task import Task
from slivit.train.table_models import fit_table, outputs_of

REGRESSION = Task(kind="regression", targets=("a",))
BINARY = Task(kind="binary", targets=("a",))
CLASSES = Task(kind="multiclass", targets=("a",), classes=("x", "y", "z"))


def mixed(predictions, weights):
    return sum(share * predictions[name] for name, share in weights.items())


def test_models_that_err_differently_are_averaged(rng):
    y = rng.normal(size=(200, 1))
    predictions = {f"m{i}": y + rng.normal(size=y.shape) for i in range(4)} | {"noise": 3 * rng.normal(size=y.shape)}
    weights = greedy(REGRESSION, y, predictions)
    assert sum(weights.values()) == pytest.approx(1)
    assert weights.get("noise", 0) < 0.05
    assert loss(REGRESSION, y, mixed(predictions, weights)) < 0.5 * min(
        loss(REGRESSION, y, p) for p in predictions.values()
    )
    assert greedy(REGRESSION, y, dict(reversed(predictions.items()))) == weights


def test_one_good_model_keeps_nearly_all_weight(rng):
    y = (rng.random((300, 1)) < 0.4).astype(float)
    good = np.clip(0.1 + 0.8 * y + 0.02 * rng.normal(size=y.shape), 0, 1)
    predictions = {"good": good} | {f"bad{i}": rng.random(y.shape) for i in range(5)}
    weights = greedy(BINARY, y, predictions)
    assert weights["good"] > 0.9


def test_temperature_mends_what_is_too_sure(rng):
    logits = rng.normal(size=(4000, 1))
    y = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    too_sure = 1 / (1 + np.exp(-3 * logits))
    by = temperature(BINARY, y, too_sure)
    assert by == pytest.approx(3, rel=0.15)
    assert loss(BINARY, y, calibrated(BINARY, too_sure, by)) < loss(BINARY, y, too_sure)


def test_classes_stay_probabilities(rng):
    p = rng.dirichlet(np.ones(3), 50)
    np.testing.assert_allclose(calibrated(CLASSES, p, 2.5).sum(1), 1)
    np.testing.assert_array_equal(calibrated(CLASSES, p, 1.0), p)


def test_missing_labels_count_nowhere():
    y = np.array([[1.0, np.nan], [0.0, 1.0]])
    p = np.array([[0.9, 0.5], [0.1, 0.8]])
    assert loss(Task(kind="multilabel", targets=("a", "b")), y, p) == pytest.approx(-np.mean(np.log([0.9, 0.9, 0.8])))


def test_a_learning_curve_fits_nested_parts_of_the_training_scans():
    rng = np.random.default_rng(0)
    count = 200
    x = rng.normal(size=(count, 30)).astype(np.float32)
    y = (x[:, 0] + 0.5 * rng.normal(size=count))[:, None]
    frame = pd.DataFrame({"path": [f"{i}.nii" for i in range(count)], "patient": range(count), "t": y[:, 0]})
    task = Task(kind="regression", targets=("t",), loss="mse").fitted(frame.to_dict("records"))
    folds = np.asarray(k_folds(frame, task, k=3, seed=0))
    y = (y - np.array(task.center)) / np.array(task.spread)
    work = Scans(frame.assign(fold=folds), frame[:0], task, y, folds)
    plan = Plan.model_construct(folds=3, seed=0, baselines=(Baseline(name="b", features=("f",)),))
    whole = np.zeros_like(y)
    for fold in range(3):
        model = fit_table("linear", {"f": x.shape[1]}, x[folds != fold], y[folds != fold], task, 0)
        whole[folds == fold] = outputs_of(model, x[folds == fold], task)
    name, curve = learning_curve(plan, work, {"f": x}, {"b_linear": whole, "b_forest": np.zeros_like(y)})
    assert name == "b_linear"
    losses = [loss(task, y, curve[q]) for q in (1, 2, 4)]
    assert losses[0] > losses[2]
    points = curve_of(work, name, curve)["points"]
    assert [p["trained_on"] for p in points] == [33, 67, 133]
    assert points[0]["value"] < points[2]["value"]
    few = dict.fromkeys(("b_linear", "b_forest"), whole[:30])
    assert learning_curve(plan, work.only(np.arange(count) < 30), {"f": x[:30]}, few)[1] == {}


def test_few_scans_of_a_network_do_not_choose_among_the_others():
    rng = np.random.default_rng(1)
    y = rng.normal(size=(400, 1))
    whole = {f"m{i}": y + (0.5 + 0.05 * i) * rng.normal(size=y.shape) for i in range(8)}
    network = np.where(np.arange(400)[:, None] < 20, y + 0.3 * rng.normal(size=y.shape), np.nan)
    alone = greedy(REGRESSION, y, whole)
    both = weights_of(REGRESSION, y, {**whole, "network": network})
    assert sum(both.values()) == pytest.approx(1)
    assert both["network"] > 0.3
    for name, share in alone.items():  # as many scans as ever chose among them
        assert both[name] == pytest.approx(share * (1 - both["network"]))
    assert weights_of(REGRESSION, y, whole) == alone
    assert weights_of(REGRESSION, y, {**whole, "none": np.full_like(y, np.nan)}) == alone


def test_a_part_of_the_scans_is_worth_its_network_only_where_that_brings_much(rng):
    y = rng.normal(size=(1000, 1))
    whole = {"good": y + 0.5 * rng.normal(size=y.shape)}
    for scans, noise, taken in ((200, 0.4, True), (200, 1.8, False), (600, 1.8, True)):
        network = np.where(np.arange(1000)[:, None] < scans, y + noise * rng.normal(size=y.shape), np.nan)
        assert ("network" in weights_of(REGRESSION, y, {**whole, "network": network})) is taken
