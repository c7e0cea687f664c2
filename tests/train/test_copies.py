"""Training by folds and from several seeds: every scan is tested once, runs go on, and the average is one model."""

import numpy as np
import pandas as pd
import pytest
import torch

import slivit
from slivit.data.splits import fold_tested, given_folds
from slivit.errors import ManifestError, RecipeError
from slivit.recipe import check_recipe, recipe_class
from slivit.targets.task import Task
from slivit.train.run import run

SMALL = {"name": "resnet3d_18", "slices": 4, "image_size": 32, "width": 4, "depths": [1, 1, 1, 1]}
BRIGHT = Task(kind="binary", targets=("bright",))


def recipe_for(manifest, out, task, *, folds=0, seeds=1, **testing):
    values = {"out": str(out), "data": {"manifest": str(manifest), "workers": 0, "folds": folds}, "task": task}
    fit = {"epochs": 1, "lr": 1e-3, "seeds": seeds, "precision": "float32"}
    return check_recipe(
        recipe_class("finetune"),
        values | {"model": SMALL, "fit": fit, "testing": {"draws": 20, "baselines": False, **testing}},
        "test",
    )


@pytest.fixture(scope="module")
def folded(blob_scans, tmp_path_factory):
    """A regression by two folds, which died in its second fold and went on."""
    out = tmp_path_factory.mktemp("folds") / "run"
    task = {"kind": "regression", "targets": ["size"], "unit": "mm"}
    recipe = recipe_for(blob_scans, out, task, folds=2)
    run(recipe)
    before = pd.read_csv(out / "predictions.csv")
    for file in ("metrics.json", "predictions.csv", "checkpoint/config.json", "copies/fold_1/metrics.json"):
        (out / file).unlink()
    first = (out / "copies" / "fold_0" / "metrics.json").stat().st_mtime_ns
    run(recipe, resume=True)
    assert (out / "copies" / "fold_0" / "metrics.json").stat().st_mtime_ns == first
    return out, before


def test_every_scan_is_tested_once_by_who_never_saw_its_patient(folded):
    out, before = folded
    table = pd.read_csv(out / "predictions.csv")
    pd.testing.assert_frame_equal(table, before)
    tested = table[table["split"] == "test"]
    assert len(tested) == tested["path"].nunique() == 40
    for fold in (0, 1):
        csv = pd.read_csv(out / "copies" / f"fold_{fold}.csv")
        seen = set(csv["patient"][csv["split"] != "test"])
        assert not seen & set(tested["patient"][tested["fold"] == fold])
    assert slivit.Run(out).metrics["splits"]["test"]["scans"] == 40


def test_the_kept_model_averages_the_folds_in_the_targets_unit(folded):
    out, _ = folded
    places = [out, *sorted(p for p in (out / "copies").iterdir() if p.is_dir())]
    scan = pd.read_csv(out / "split.csv")["path"][0]
    predicted = []
    for place in places:
        loaded = slivit.load_checkpoint(place)
        table = slivit.predict_table(loaded.model, [{"path": scan}], loaded.task, loaded.preprocessing)
        predicted.append(table["pred_size"][0])
    assert predicted[0] == pytest.approx(np.mean(predicted[1:]), abs=1e-3)


def test_seeds_are_averaged_on_the_tables_own_splits(blob_scans, tmp_path):
    task = BRIGHT.model_dump()
    run(recipe_for(blob_scans, tmp_path / "run", task, seeds=2, operating_point="youden"))
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert dict(table["split"].value_counts()) == {"val": 8, "test": 8}
    single = [pd.read_csv(tmp_path / "run" / "copies" / f"seed_{i}" / "predictions.csv") for i in (0, 1)]
    assert not np.allclose(single[0]["prob_bright"], single[1]["prob_bright"])
    np.testing.assert_allclose(table["prob_bright"], (single[0]["prob_bright"] + single[1]["prob_bright"]) / 2)
    loaded = slivit.load_checkpoint(tmp_path / "run")
    with torch.inference_mode():
        assert loaded.model(torch.rand(1, 1, 4, 32, 32)).shape == (1, 1)


def test_a_tables_own_folds_are_kept():
    frame = pd.DataFrame({"patient": list("aabbcc"), "bright": [0, 0, 1, 1, 0, 0], "fold": list("113322")})
    assert given_folds(frame, BRIGHT, 3).tolist() == [0, 0, 2, 2, 1, 1]
    with pytest.raises(ManifestError, match=r"set data\.folds = 3"):
        given_folds(frame, BRIGHT, 5)
    with pytest.raises(ManifestError, match="'a' is in 2 folds"):
        given_folds(frame.assign(fold=list("123123")), BRIGHT, 3)


def test_a_tested_fold_leaves_a_tenth_for_the_best_epoch():
    frame = pd.DataFrame({"patient": [f"p{i}" for i in range(100)], "bright": [0, 1] * 50})
    frame["fold"] = given_folds(frame, BRIGHT, 5)
    counts = fold_tested(frame, BRIGHT, 2).value_counts()
    assert counts.to_dict() == {"train": 72, "test": 20, "val": 8}


def test_what_folds_leave_without_effect_is_refused(blob_scans, tmp_path):
    recipe = recipe_for(blob_scans, tmp_path, BRIGHT.model_dump(), folds=3)
    external = recipe.model_copy(update={"data": recipe.data.model_copy(update={"test_manifest": "other.csv"})})
    with pytest.raises(RecipeError, match=r"data\.test_manifest would do nothing"):
        external.check()
    with pytest.raises(RecipeError, match=r"data\.folds is 1"):
        recipe.model_copy(update={"data": recipe.data.model_copy(update={"folds": 1})}).check()
