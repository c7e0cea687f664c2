"""Greedy selection: never far behind the best model, better where models err differently, the same from run to run."""

import numpy as np
import pytest

from slivit.planned.select import calibrated, greedy, loss, temperature
from slivit.targets.task import Task

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
