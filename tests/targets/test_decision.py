"""From probabilities to calls: thresholds, temperatures, and what stays as the model gave it."""

import numpy as np
import pandas as pd
import pytest

from slivit.statistics import apply_temperature
from slivit.targets.decision import Decision, Threshold, raw_probabilities
from slivit.targets.task import Task

BINARY = Task(kind="binary", targets=("x",))


def table(p):
    return pd.DataFrame({"path": [str(i) for i in range(len(p))], "prob_x": p, "notes": ""})


def test_calls_stand_beside_the_probability():
    found = Decision(thresholds={"x": Threshold(value=0.4)}).apply(table([0.39, 0.4, 0.9]), BINARY)
    assert list(found) == ["path", "prob_x", "call_x", "notes"]
    assert found["call_x"].tolist() == [0, 1, 1]


def test_without_a_prediction_there_is_no_call():
    found = Decision().apply(table([0.9, np.nan]), BINARY)
    assert found["call_x"][0] == 1
    assert found["call_x"].isna().tolist() == [False, True]
    assert found.to_csv(index=False).splitlines()[2] == "1,,,"


def test_a_temperature_scales_and_keeps_what_the_model_gave():
    decision = Decision(temperature=2.0)
    found = decision.apply(table([0.2, 0.8]), BINARY)
    np.testing.assert_allclose(found["prob_x"], apply_temperature("binary", [0.2, 0.8], 2.0))
    assert found["raw_prob_x"].tolist() == [0.2, 0.8]
    assert list(found)[1:4] == ["prob_x", "raw_prob_x", "call_x"]


@pytest.mark.parametrize("temperature", [None, 0.5])
def test_a_decision_applied_twice_is_applied_once(temperature):
    decision = Decision(temperature=temperature)
    once = decision.apply(table([0.2, 0.8, np.nan]), BINARY)
    pd.testing.assert_frame_equal(decision.apply(once, BINARY), once)


def test_another_decision_starts_from_what_the_model_gave():
    scaled = Decision(temperature=3.0).apply(table([0.1, 0.7]), BINARY)
    assert raw_probabilities(scaled, BINARY)[:, 0].tolist() == [0.1, 0.7]
    plain = Decision().apply(scaled, BINARY)
    assert plain["prob_x"].tolist() == [0.1, 0.7]
    assert "raw_prob_x" not in plain


def test_classes_are_called_by_name(made_up_predictions):
    rows, task = made_up_predictions("multiclass")
    found = Decision(temperature=1.7).apply(rows, task)
    columns = list(task.prediction_columns)
    assert (found["call_label"] == found[columns].idxmax(axis=1).str.removeprefix("prob_")).all()
    np.testing.assert_allclose(found[columns].sum(axis=1), 1)


def test_labels_have_a_threshold_each(made_up_predictions):
    rows, task = made_up_predictions("multilabel")
    found = Decision(thresholds={t: Threshold(value=0.1 * i) for i, t in enumerate(task.targets)}).apply(rows, task)
    for i, target in enumerate(task.targets):
        assert (found[f"call_{target}"] == (rows[f"prob_{target}"] >= 0.1 * i)).all()
