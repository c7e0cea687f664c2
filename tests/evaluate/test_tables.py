"""Tables of predictions, read back as they were written, or as another program wrote them."""

import numpy as np
import pandas as pd
import pytest

from slivit.errors import ManifestError
from slivit.evaluate.tables import read_baseline, read_predictions, task_of
from slivit.targets.task import Task


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_a_table_comes_back_to_the_last_digit(made_up_predictions, tmp_path, kind):
    table, task = made_up_predictions(kind)
    table.to_csv(tmp_path / "p.csv", index=False)
    again, found = read_predictions(tmp_path / "p.csv")
    assert (found.kind, found.targets, found.classes) == (task.kind, task.targets, task.classes)
    pd.testing.assert_frame_equal(again, table, check_exact=True, check_dtype=False)


def test_classes_named_like_missing_values_stay(tmp_path):
    pd.DataFrame(
        {"path": ["a", "b"], "target_x": ["None", "NA"], "prob_None": [0.9, 0.2], "prob_NA": [0.1, 0.8]}
    ).to_csv(tmp_path / "p.csv", index=False)
    table, task = read_predictions(tmp_path / "p.csv")
    assert table["target_x"].tolist() == ["None", "NA"]
    assert task.classes == ("None", "NA")
    assert table["split"].tolist() == ["test", "test"]
    assert table["patient"].nunique() == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [(["path", "y", "p"], "has target_NAME columns"), (["target_a", "target_b", "prob_c"], "do not match")],
)
def test_columns_of_no_task(columns, message):
    with pytest.raises(ManifestError, match=message):
        task_of(columns)


def test_tables_that_cannot_be_used(tmp_path):
    with pytest.raises(ManifestError, match="there is no such file"):
        read_predictions(tmp_path / "absent.csv")
    pd.DataFrame({"pred_x": [1.0], "path": ["a"]}).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(ManifestError, match='column "target_x" is missing'):
        read_predictions(tmp_path / "p.csv")
    pd.DataFrame({"target_x": np.empty(0), "pred_x": np.empty(0)}).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(ManifestError, match="no row below"):
        read_predictions(tmp_path / "p.csv")
    pd.DataFrame({"target_x": [1], "pred_x": ["much"]}).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(ManifestError, match='row 2: pred_x is "much"'):
        read_predictions(tmp_path / "p.csv")


def test_values_whose_squares_are_no_numbers_are_refused(tmp_path):
    (tmp_path / "p.csv").write_text("path,target_y,pred_y\na,1,2\nb,1e308,-1e308\n")
    with pytest.raises(ManifestError, match=r"row 3: target_y is 1e\+308; up to 1e\+100 is allowed"):
        read_predictions(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", 'column "path" is missing'),
        ("path,split,prob_x\na,test,much\n", "not a number"),
    ],
)
def test_a_damaged_table_of_a_baseline_is_named(tmp_path, content, message):
    (tmp_path / "baseline.csv").write_text(content)
    with pytest.raises(ManifestError, match=f"baseline.csv.*(\n.*)?{message}"):
        read_baseline(tmp_path / "baseline.csv", Task(kind="binary", targets=("x",)))
