"""Pre-training on several sets at once, by recipe, ending in a backbone that a volume model loads."""

import csv
import json

import cv2
import numpy as np
import pytest

from slivit.checkpoint import load_checkpoint
from slivit.errors import CheckpointError, RecipeError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model
from slivit.recipe import load_recipe
from slivit.recipe import pretrain as run

RECIPE = """
method = "mixed"
out = "{out}"
[sets.shapes.data]
manifest = "{shapes}"
workers = 0
[sets.shapes.task]
kind = "multiclass"
targets = ["label"]
[sets.signs.data]
manifest = "{signs}"
workers = 0
[sets.signs.task]
kind = "multilabel"
targets = ["left", "right"]
[model]
name = "image_classifier"
backbone = "convnext_atto"
image_size = 32
[fit]
epochs = 2
lr = 1e-3
batch_size = 6
[testing]
draws = 20
"""


def make_set(folder, rng, columns):
    """18 images of 32 x 32 pixels with their labels; returns the manifest."""
    folder.mkdir()
    with (folder / "scans.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "patient", "split", *columns(0)])
        for i in range(18):
            cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 255, (32, 32), dtype=np.uint8))
            split = ("train", "val", "test")[i % 3]
            table.writerow([f"{i}.png", i, split, *columns(i // 3).values()])
    return folder / "scans.csv"


@pytest.fixture
def recipe_file(tmp_path, rng):
    shapes = make_set(tmp_path / "shapes", rng, lambda i: {"label": "ABC"[i % 3], "odd": i % 2})
    signs = make_set(tmp_path / "signs", rng, lambda i: {"left": i % 2, "right": (i // 2) % 2})
    path = tmp_path / "mixed.toml"
    path.write_text(RECIPE.format(out=tmp_path / "run", shapes=shapes, signs=signs))
    return path


def test_both_sets_are_trained_and_measured_and_the_backbone_loads(recipe_file, tmp_path):
    folder = run(load_recipe("pretrain", recipe_file))
    config = json.loads((folder / "checkpoint" / "config.json").read_text())
    assert config["task"] is None
    assert config["training"]["outputs"] == {
        "shapes": ["prob_A", "prob_B", "prob_C"],
        "signs": ["prob_left", "prob_right"],
    }
    for name in ("shapes", "signs"):
        assert json.loads((folder / name / "metrics.json").read_text())["splits"]["test"]["scans"] == 6
    header = (folder / "history.csv").read_text().splitlines()[0]
    assert header == "epoch,train_loss,valid_loss,roc_auc_shapes,roc_auc_signs"
    volume = create_model(
        "slivit", 1, backbone="convnext_atto", image_size=32, slices=2, vit_dim=16, vit_depth=1, vit_heads=2
    )
    load_backbone(volume, folder)
    with pytest.raises(CheckpointError, match="pre-trained backbone and no head"):
        load_checkpoint(folder)


def test_the_operating_point_is_honoured_caches_are_each_set_s_own_and_the_range_is_kept(recipe_file, tmp_path):
    changes = ["sets.shapes.task.kind=binary", "sets.shapes.task.targets=['odd']", "testing.operating_point=youden"]
    changes += [f"sets.{name}.data.cache={tmp_path / name}_cache" for name in ("shapes", "signs")]
    folder = run(load_recipe("pretrain", recipe_file, [*changes, "fit.epochs=1", "fit.lr=[1e-3, 1e-4]"]))
    for name in ("shapes", "signs"):
        metrics = json.loads((folder / name / "metrics.json").read_text())
        assert metrics["operating_point"]["rule"] == "youden"
        assert metrics["data"]["run"]["train"]["scans"] == 6
        assert len(list((tmp_path / f"{name}_cache").rglob("*"))) > 18
    training = json.loads((folder / "checkpoint" / "config.json").read_text())["training"]
    assert training["scans_range"]["of"] == 12
    assert training["scans"] == {"train": 12, "val": 12, "test": 12}
    assert training["lr"] in (1e-3, 1e-4)
    assert len(json.loads((folder / "rates.json").read_text())["rates"]) == 2


def test_subgroups_that_are_not_there_are_told_before_training(recipe_file, tmp_path):
    with pytest.raises(RecipeError, match='the table of scans has no column "scanner"'):
        run(load_recipe("pretrain", recipe_file, ["testing.subgroups=['scanner']"]))
    assert not (tmp_path / "run").exists()


def test_a_mixture_in_a_folder_of_another_leaves_none_of_its_sets(recipe_file, tmp_path):
    first = run(load_recipe("pretrain", recipe_file, ["fit.epochs=1"]))
    (first / "evaluation").mkdir()
    text = recipe_file.read_text().replace("sets.signs", "sets.gestures")
    recipe_file.write_text(text)
    run(load_recipe("pretrain", recipe_file, ["fit.epochs=1"]), overwrite=True)
    assert not (first / "signs").exists()
    assert (first / "gestures" / "metrics.json").is_file()


def test_a_set_can_be_overridden_and_other_monitors_are_refused(recipe_file):
    recipe = load_recipe("pretrain", recipe_file, ["sets.signs.data.train_fraction=0.5"])
    assert recipe.sets["signs"].data.train_fraction == 0.5
    with pytest.raises(RecipeError, match=r"fit\.monitor must be valid_loss"):
        load_recipe("pretrain", recipe_file, ["fit.monitor=roc_auc"])
