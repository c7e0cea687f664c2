"""Every training is compared with what size and grey levels alone predict of the same scans, and says so."""

import json

import pandas as pd
import pytest

from slivit.data import blocks, cache
from slivit.data.preprocessing import load_slices
from slivit.predict import batching as predicted
from slivit.recipe import check_recipe, recipe_class
from slivit.report.summary import no_better
from slivit.targets.task import Task
from slivit.train import baselines as train_baselines
from slivit.train import scans
from slivit.train.run import run

SMALL = {"name": "resnet3d_18", "slices": 4, "image_size": 32, "width": 4, "depths": [1, 1, 1, 1]}
SIZE = Task(kind="regression", targets=("size",), center=(0.0,), spread=(1.0,))


def recipe_for(manifest, out, **testing):
    values = {"out": str(out), "data": {"manifest": str(manifest), "workers": 0}, "model": SMALL}
    values |= {"task": {"kind": "binary", "targets": ["bright"]}, "fit": {"epochs": 1, "lr": 1e-3}}
    return check_recipe(recipe_class("finetune"), values | {"testing": {"draws": 50, **testing}}, "test")


def test_a_run_says_whether_it_is_better_and_is_measured_again_with_it(blob_scans, tmp_path, caplog):
    caplog.set_level("INFO")
    run(recipe_for(blob_scans, tmp_path / "run"))
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())["baseline"]
    assert (found["split"], found["scans"], found["names"]) == ("test", 8, ["model", "size and histogram"])
    assert found["difference"] == pytest.approx(found["first"] - found["second"])
    assert "better than size and histogram alone, on the same scans" in caplog.text
    table = pd.read_csv(tmp_path / "run" / "baseline.csv")
    assert len(table) == 16
    assert table["prob_bright"].between(0, 1).all()
    assert table["prob_bright"].nunique() > 1
    run(recipe_for(blob_scans, tmp_path / "run", level=0.8), resume=True)
    again = json.loads((tmp_path / "run" / "metrics.json").read_text())["baseline"]
    assert (again["level"], again["second"]) == (0.8, found["second"])


@pytest.mark.parametrize("room", [True, False])
def test_a_scan_is_decoded_once_in_a_run(blob_scans, tmp_path, monkeypatch, caplog, room):
    caplog.set_level("INFO")
    read = []

    def counted(path, settings):
        read.append(path)
        return load_slices(path, settings)

    for module in (cache, blocks, predicted, train_baselines):
        monkeypatch.setattr(module, "load_slices", counted)
    monkeypatch.setattr(scans, "room_in_memory", lambda *args, **kwargs: room)
    recipe = recipe_for(blob_scans, tmp_path / "run")
    fit = recipe.fit.model_copy(update={"epochs": 3})
    run(recipe.model_copy(update={"fit": fit}))
    assert len(read) == len(set(read)) == len(pd.read_csv(blob_scans))
    assert ("slices are kept in" in caplog.text) is not room
    assert not (tmp_path / "run" / "slices").exists()


def test_it_can_be_left_out(blob_scans, tmp_path):
    run(recipe_for(blob_scans, tmp_path / "run", baselines=False))
    assert "baseline" not in json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert not (tmp_path / "run" / "baseline.csv").exists()


@pytest.mark.parametrize(
    ("low", "difference", "interval", "said"),
    [
        (-0.1, 0.1, (-0.2, 0.4), ["not shown to be better than the mean", "not shown to be better than size"]),
        (0.3, 0.4, (0.2, 0.6), ["is better than size"]),
        (0.3, -0.4, (-0.6, -0.2), ["is worse than size"]),
        (0.3, None, (None, None), []),
    ],
)
def test_the_answer_in_words(low, difference, interval, said):
    split = {"metrics": {"r2": {"value": 0.5, "low": low, "high": 0.9}}}
    found = {"first": 0.5, "second": 0.1, "difference": difference, "low": interval[0], "high": interval[1]}
    found["names"] = ["model", "size and histogram"]
    sentences = list(no_better(found | {"level": 0.9, "p_value": 0.03}, split, SIZE))
    assert len(sentences) == len(said)
    for sentence, part in zip(sentences, said, strict=True):
        assert part in sentence
