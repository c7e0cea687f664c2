"""Covariates: from columns and the geometry of scans, through training, to all that predicts."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import slivit
from slivit.errors import CheckpointError, ManifestError, RecipeError
from slivit.evaluate import command as evaluate
from slivit.explanation import explain
from slivit.predict import command as predict
from slivit.probing.extract import extract
from slivit.recipe import check_recipe, recipe_class
from slivit.targets.covariates import Covariate, doubts, encoded, fit_covariates, rebased
from slivit.targets.task import Task
from slivit.train.run import run
from slivit.viewer.bench import Bench

SMALL = {"name": "resnet3d_18", "slices": 4, "image_size": 32, "width": 4, "depths": [1, 1, 1, 1]}
TASK = {"kind": "binary", "targets": ["bright"], "covariates": ["age", "sex", "geometry"]}


def recipe_for(manifest, out, *, windows=None, task=TASK, **data):
    values = {"out": str(out), "data": {"manifest": str(manifest), "workers": 0, **data}, "task": task, "model": SMALL}
    fit = {"epochs": 1, "lr": 1e-2, "precision": "float32", "batch_size": 4, "mixup": 0.2}
    values |= {"fit": fit, "testing": {"draws": 20, "precision": "float32"}}
    if windows:
        values |= {"preprocessing": {"windows": windows}}
    return check_recipe(recipe_class("finetune"), values, "test")


@pytest.fixture(scope="module")
def table(blob_scans):
    """The scans with age and sex, some of which are missing."""
    frame = pd.read_csv(blob_scans)
    frame["age"] = 40.0 + 20 * frame["bright"] + np.arange(len(frame)) % 7
    frame["sex"] = np.where(np.arange(len(frame)) % 3 == 0, "F", "M")
    frame["path"] = [str(blob_scans.parent / path) for path in frame["path"]]
    frame.loc[2, "age"], frame.loc[4, "sex"] = np.nan, None
    return frame


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("covariates")
    table.to_csv(folder / "scans.csv", index=False)
    run(recipe_for(folder / "scans.csv", folder / "run"))
    return folder


def test_numbers_are_standardised_and_texts_one_hot_with_an_indicator_of_missing_ones():
    rows = [{"age": 50.0, "sex": "F"}, {"age": 60.0, "sex": "M"}, {"age": None, "sex": "M"}]
    age, sex = fit_covariates(("age", "sex"), rows)
    assert (age.mean, age.spread, age.gaps, sex.levels, sex.gaps) == (55, 5, True, ("F", "M"), False)
    assert encoded((age, sex), rows[0]).tolist() == [-1, 0, 1, 0]
    assert encoded((age, sex), rows[2]).tolist() == [0, 1, 0, 1]
    assert list(doubts((age, sex), {"age": None, "sex": "F"})) == []
    unlike = list(doubts((age, sex), {"age": 50, "sex": "X"}))
    assert ["'X'" in unlike[0], "counts as none" in unlike[0]] == [True, True]
    assert encoded((age, sex), {"age": 50, "sex": "X"}).tolist() == [-1, 0, 0, 0]
    (known,) = fit_covariates(("age",), rows[:2])
    assert "the training mean, 55, stands in" in next(doubts((known,), {"age": ""}))


@pytest.mark.parametrize("missing", [False, True])
def test_one_standardisation_follows_from_another(missing):
    rows = [{"age": 40.0, "sex": "M"}, {"age": 60.0, "sex": "F"}, {"age": 90.0, "sex": "X"}]
    rows += [{"age": None, "sex": None}] * missing
    common, own = fit_covariates(("age", "sex"), rows), fit_covariates(("age", "sex"), rows[:2])
    weights, shift = rebased(own, common)
    for row in rows:
        np.testing.assert_allclose(weights @ encoded(common, row) + shift, encoded(own, row), atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"age": None}, {"age": ""}], "age is empty in all training rows"),
        ([{"age": f"P{i}"} for i in range(30)], "age has 30 different texts"),
    ],
)
def test_a_column_that_says_nothing_is_refused(rows, told):
    with pytest.raises(ManifestError, match=told):
        fit_covariates(("age",), rows)


@pytest.mark.parametrize("names", [["bright"], ["patient"], ["age", "age"]])
def test_what_is_no_covariate_is_refused(names):
    with pytest.raises(ValueError, match="is no covariate"):
        Task(kind="binary", targets=("bright",), covariates=names)
    with pytest.raises(ValueError, match="inputs are not those"):
        Task(kind="binary", targets=("bright",), covariates=("sex",), inputs=(Covariate(name="age"),))


def test_a_run_reads_them_and_keeps_how(trained):
    config = json.loads((trained / "run" / "checkpoint" / "config.json").read_text())
    widths = [Covariate(**c).width for c in config["task"]["inputs"]]
    assert config["model"]["args"]["covariates"] == sum(widths)
    kept = pd.read_csv(trained / "run" / "split.csv")
    assert kept[["geometry_z_mm", "geometry_y_mm", "geometry_slices"]].to_numpy().tolist() == [[18, 24, 6]] * 40
    model = slivit.load_checkpoint(trained / "run").model
    weight = next(p for n, p in model.named_parameters() if n.endswith("covariates.weight"))
    assert weight[:, 0].abs().min() > 0  # age is learned from


def test_a_config_whose_numbers_disagree_is_refused(trained, tmp_path):
    shutil.copytree(trained / "run" / "checkpoint", tmp_path / "told")
    config = json.loads((tmp_path / "told" / "config.json").read_text())
    config["task"]["inputs"][1]["levels"].append("X")
    (tmp_path / "told" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"the covariates of task.inputs are"):
        slivit.load_checkpoint(tmp_path / "told")


def test_a_run_says_whether_it_is_better_than_they_are_alone(trained):
    found = json.loads((trained / "run" / "metrics.json").read_text())["baseline"]
    assert found["names"][1] == "size, histogram, age, sex and geometry"
    assert [other["names"][1] for other in found["others"]] == ["age, sex and geometry"]
    assert found["others"][0]["second"] > 0.9  # age gives the answer away


def test_every_way_to_predict_gives_the_same(trained, table, tmp_path):
    table[table["split"] == "test"].to_csv(tmp_path / "new.csv", index=False)
    predicted = predict.run(
        trained / "run", [str(tmp_path / "new.csv")], precision="float32", progress=False, workers=0
    )
    stored = pd.read_csv(trained / "run" / "predictions.csv")
    stored = stored[stored["split"] == "test"]["prob_bright"]
    np.testing.assert_allclose(predicted["prob_bright"], stored, atol=1e-5)
    values = {"checkpoint": str(trained / "run"), "out": str(tmp_path / "out"), "page": False}
    values |= {
        "data": {"manifest": str(tmp_path / "new.csv"), "workers": 0},
        "testing": {"draws": 5, "precision": "float32"},
    }
    evaluate.run(check_recipe(recipe_class("evaluate"), values, "test"))
    np.testing.assert_allclose(pd.read_csv(tmp_path / "out" / "predictions.csv")["prob_bright"], stored, atol=1e-5)
    bench = Bench(trained / "run", tmp_path / "new.csv", device="cpu")
    near = 5e-3  # as near as half precision, where the processor has it
    np.testing.assert_allclose(bench.open_row(0).predictions["prob_bright"], stored.iloc[0], atol=near)
    row = table[table["split"] == "test"].iloc[0]
    one = explain(
        trained / "run", row["path"], covariates={"age": row["age"], "sex": row["sex"]}, methods=["occlusion"]
    )
    np.testing.assert_allclose(one.predictions["prob_bright"], stored.iloc[0], atol=near)


def test_other_covariates_give_another_prediction(trained, table, tmp_path):
    scan = table["path"][0]
    pd.DataFrame({"path": [scan], "age": [90.0], "sex": ["X"]}).to_csv(tmp_path / "old.csv", index=False)
    pd.DataFrame({"path": [scan], "age": [20.0], "sex": ["F"]}).to_csv(tmp_path / "young.csv", index=False)
    old, young = (
        predict.run(trained / "run", [str(tmp_path / name)], progress=False, workers=0)
        for name in ("old.csv", "young.csv")
    )
    assert old["prob_bright"][0] != young["prob_bright"][0]
    assert "sex is 'X'" in old["warnings"][0]


def test_columns_that_are_missing_are_named(trained, table, tmp_path):
    with pytest.raises(ManifestError, match="columns age, sex are missing; give scans as a table"):
        predict.run(trained / "run", [table["path"][0]], progress=False)
    with pytest.raises(ManifestError, match="column sex is missing"):
        explain(trained / "run", table["path"][0], covariates={"age": 50})
    table.drop(columns="age").to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(ManifestError, match="column age is missing"):
        run(recipe_for(tmp_path / "less.csv", tmp_path / "run"))
    pd.DataFrame({"path": [table["path"][0]], "age": ["old"], "sex": ["F"]}).to_csv(tmp_path / "text.csv", index=False)
    with pytest.raises(ManifestError, match="age is 'old'; training rows have numbers"):
        predict.run(trained / "run", [str(tmp_path / "text.csv")], progress=False)


@pytest.mark.slow
def test_windows_read_those_of_their_scan(table, tmp_path):
    table.assign(sex="F").to_csv(tmp_path / "scans.csv", index=False)
    run(recipe_for(tmp_path / "scans.csv", tmp_path / "run", windows={"stride": 1}))
    stored = pd.read_csv(tmp_path / "run" / "predictions.csv").set_index("path")["prob_bright"]
    paths = [str(tmp_path / "scans.csv")]
    found = predict.run(tmp_path / "run", paths, precision="float32", progress=False, workers=0)
    found = found.set_index("path")["prob_bright"]
    np.testing.assert_allclose(found[stored.index], stored, atol=1e-5)


@pytest.mark.slow
def test_folds_average_models_that_read_the_same_numbers(table, tmp_path):
    table.to_csv(tmp_path / "scans.csv", index=False)
    run(recipe_for(tmp_path / "scans.csv", tmp_path / "run", folds=2))
    places = [tmp_path / "run", *sorted(p for p in (tmp_path / "run" / "copies").iterdir() if p.is_dir())]
    rows = pd.read_csv(tmp_path / "run" / "split.csv").to_dict("records")[:2]
    predicted = []
    for place in places:
        loaded = slivit.load_checkpoint(place)
        found = slivit.predict_table(loaded.model, rows, loaded.task, loaded.preprocessing, device="cpu")
        predicted.append(found["prob_bright"].to_numpy())
    np.testing.assert_allclose(predicted[0], np.mean(predicted[1:], 0), atol=1e-5)


def test_features_do_not_depend_on_them(trained, table, tmp_path):
    loaded = slivit.load_checkpoint(trained / "run")
    found = extract(loaded.model, table["path"][:2].tolist(), loaded.preprocessing, tmp_path, device="cpu")
    assert torch.isfinite(next(iter(found.parts.values()))).all()


def test_they_are_refused_where_they_make_no_sense(table, tmp_path):
    with pytest.raises(ValueError, match="not by a segmentation"):
        Task(kind="segmentation", labels={"liver": 1}, covariates=("age",))
    one = {"data": {"manifest": "scans.csv"}, "task": TASK}
    mixed = {"out": "run", "method": "mixed", "sets": {"a": one, "b": one}}
    with pytest.raises(RecipeError, match="of several the backbone is kept"):
        check_recipe(recipe_class("mixed"), mixed, "test")
    values = {"out": "run", "method": "simclr", "data": {"manifest": "s.csv"}, "task": TASK}
    with pytest.raises(RecipeError, match=r"unknown key .task"):
        check_recipe(recipe_class("selfsupervised"), values, "test")
