import ast
import copy
import math
import pickle
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

import slivit
from slivit.errors import ManifestError
from slivit.report.page import PANELS
from slivit.report.summary import FINDINGS
from slivit.statistics import METRICS
from slivit.targets.kinds import Binary, Multiclass, Multilabel, Regression
from slivit.targets.task import Kind, Task

ROOT = Path(slivit.__file__).parent

NAN = float("nan")


def test_encoding_of_each_kind():
    assert Task(kind="binary", targets=("y",)).encode({"y": "1"}).tolist() == [1.0]
    task = Task(kind="multilabel", targets=("a", "b"))
    encoded = task.encode({"a": 1, "b": NAN})
    assert encoded[0] == 1
    assert math.isnan(encoded[1])
    grade = Task(kind="multiclass", targets=("g",), classes=("low", "high"))
    assert grade.encode({"g": "high"}) == 1
    assert Task(kind="regression", targets=("ef",)).encode({"ef": 61.5}).tolist() == [61.5]


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("binary", 2, "0 or 1"),
        ("binary", "", "is empty"),
        ("binary", "yes", "not a number"),
        ("multilabel", 0.5, "0 or 1"),
        ("regression", NAN, "is empty"),
        ("regression", "inf", "finite"),
    ],
)
def test_wrong_values_are_told(kind, value, told):
    with pytest.raises(ManifestError, match=told):
        Task(kind=kind, targets=("y",)).encode({"y": value})


def test_an_unknown_class_is_told():
    with pytest.raises(ManifestError, match="'mid'; allowed are"):
        Task(kind="multiclass", targets=("g",), classes=("low", "high")).encode({"g": "mid"})


def test_classes_are_found_in_training_rows_and_numbers_sort_as_numbers():
    task = Task(kind="multiclass", targets=("g",)).fitted([{"g": v} for v in (10, 2, "a", 2.0, "10")])
    assert task.classes == ("2", "10", "a")
    assert task.out_dim == 3
    assert task.prediction_columns == ("prob_2", "prob_10", "prob_a")


def test_regression_is_standardised_by_training_rows():
    rows = [{"a": v, "b": 5} for v in (1.0, 2.0, 3.0)]
    task = Task(kind="regression", targets=("a", "b")).fitted(rows)
    assert task.center == (2.0, 5.0)
    assert task.spread == (pytest.approx(np.std([1, 2, 3])), 1.0)
    assert task.prediction_columns == ("pred_a", "pred_b")


def test_what_the_user_gave_is_kept():
    task = Task(kind="multiclass", targets=("g",), classes=("b", "a"))
    assert task.fitted([{"g": "a"}]).classes == ("b", "a")
    task = Task(kind="regression", targets=("y",), center=(0.0,), spread=(10.0,))
    assert task.fitted([{"y": 3}]).center == (0.0,)


def test_balanced_weights():
    rows = [{"y": v} for v in (0, 0, 0, 1)]
    assert Task(kind="binary", targets=("y",), class_weights="balanced").fitted(rows).class_weights == (3.0,)
    task = Task(kind="multiclass", targets=("y",), class_weights="balanced").fitted(rows)
    assert task.class_weights == (pytest.approx(4 / 6), 2.0)
    rows = [{"a": 1, "b": NAN}, {"a": 0, "b": 1}, {"a": 0, "b": 0}]
    task = Task(kind="multilabel", targets=("a", "b"), class_weights="balanced").fitted(rows)
    assert task.class_weights == (2.0, 1.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "binary", "targets": ("a", "b")},
        {"kind": "binary", "targets": ()},
        {"kind": "binary", "targets": ("a",), "classes": ("x",)},
        {"kind": "multilabel", "targets": ("a", "a")},
        {"kind": "regression", "targets": ("a",), "class_weights": "balanced"},
        {"kind": "binary", "targets": ("a",), "class_weights": (1.0, 3.0)},
        {"kind": "multilabel", "targets": ("a", "b"), "class_weights": (3.0,)},
        {"kind": "multiclass", "targets": ("a",), "classes": ("x", "y"), "class_weights": (1.0, 2.0, 3.0)},
        {"kind": "multiclass", "targets": ("a",), "classes": ("x", "y"), "class_weights": (1.0, -2.0)},
        {"kind": "regression", "targets": ("a", "b"), "center": (1.0,), "spread": (2.0,)},
        {"kind": "regression", "targets": ("a",), "center": (1.0,)},
        {"kind": "regression", "targets": ("a",), "center": (1.0,), "spread": (0.0,)},
        {"kind": "segmentation", "targets": ("a",)},
    ],
)
def test_inconsistent_tasks(bad):
    with pytest.raises(ValidationError):
        Task(**bad)


def test_a_task_survives_json():
    task = Task(kind="multiclass", targets=("g",), classes=("a", "b"), class_weights=(1.0, 2.0))
    assert Task(**task.model_dump(mode="json")) == task


def test_weights_for_another_number_of_classes_than_the_rows_have_are_told():
    task = Task(kind="multiclass", targets=("g",), class_weights=(1.0, 2.0))
    assert task.fitted([{"g": "a"}, {"g": "b"}]).class_weights == (1.0, 2.0)
    with pytest.raises(ManifestError, match=r"class_weights has 2 numbers; give one a class, so 3.*rows have.*a.*b"):
        task.fitted([{"g": "a"}, {"g": "b"}, {"g": "c"}])


KINDS = {"binary": Binary, "multiclass": Multiclass, "multilabel": Multilabel, "regression": Regression}


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_is_of_the_class_of_its_kind_however_it_is_made(kind):
    class Recipe(BaseModel):
        task: Task

    task = Task(kind=kind, targets=("y",))
    made = [Task.model_validate(task.model_dump(mode="json")), Recipe(task=task.model_dump()).task, copy.deepcopy(task),
            pickle.loads(pickle.dumps(task)), task.model_copy(update={"unit": "mm"}),
            KINDS[kind](kind=kind, targets=("y",))]  # fmt: skip
    assert {type(t) for t in made} == {type(task)} == {KINDS[kind]}
    assert Recipe(task=task).model_dump()["task"] == task.model_dump()


def test_every_kind_has_a_class_and_is_measured():
    assert set(get_args(Kind)) == {*KINDS, "segmentation"} == set(METRICS)
    for name, kind in KINDS.items():
        chosen = {*kind.measures.main, *kind.measures.headlines, *kind.measures.logged, *kind.measures.by_group,
                  *kind.measures.by_output, kind.measures.gap}  # fmt: skip
        assert chosen <= set(METRICS[name])
        assert set(kind.panels) <= set(PANELS)
        assert set(kind.findings) <= set(FINDINGS)


def test_no_other_code_asks_for_a_kind():
    """Outside of the kinds' classes nothing is compared with the name of a kind, and nothing is looked up by it."""
    asking = [f"{path.relative_to(ROOT)}:{node.lineno}" for path in sorted(ROOT.rglob("*.py"))
              if path.parent.name != "targets" for node in ast.walk(ast.parse(path.read_text()))
              if names_of(node) & set(KINDS)]  # fmt: skip
    assert len(asking) <= 15, asking


def names_of(node):
    """The texts that a comparison compares, a dictionary has as keys, or a case matches."""
    parts = []
    if isinstance(node, ast.Compare):
        parts = [part for side in (node.left, *node.comparators) for part in ast.walk(side)]
    elif isinstance(node, ast.Dict):
        parts = node.keys
    elif isinstance(node, ast.MatchValue):
        parts = [node.value]
    return {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}
