"""Probing: every kind of task, what is chosen and measured, checkpoints that predict the same, and the command line."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from slivit.checkpoint import load_checkpoint, load_encoder, save_backbone, save_checkpoint
from slivit.cli import app
from slivit.data.preprocessing import Preprocessing
from slivit.errors import RecipeError
from slivit.models.registry import create_model, model_spec
from slivit.predict.engine import predict_table
from slivit.probing import command as probe
from slivit.probing.recipe import Linear, ProbeRecipe
from slivit.recipe import check_recipe
from slivit.statistics.summary import point_metrics
from slivit.targets.task import Task

DINO = {**model_spec("dino3d_vit_small").small, "depth": 5}
SLIVIT = {"name": "slivit", **model_spec("slivit").small}
TASKS = {
    "binary": ("bright",),
    "multiclass": ("grade",),
    "multilabel": ("bright", "both"),
    "regression": ("size",),
}


def recipe(manifest, out, *, kind="binary", **values):
    plain = {"out": str(out), "page": False, "data": {"manifest": str(manifest), "workers": 0},
             "task": {"kind": kind, "targets": TASKS[kind]}, "linear": {"iterations": 150, "rates": (0.001, 0.05)},
             "testing": {"draws": 20}, **values}  # fmt: skip
    return check_recipe(ProbeRecipe, plain, "a test")


def command(*args, expect=0):
    done = CliRunner().invoke(app, [str(a) for a in args])
    assert done.exit_code == expect, (done.output, done.exception)
    return done.output


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A folder of features that all tests share, so that each network reads the scans once."""
    return {"folder": str(tmp_path_factory.mktemp("features"))}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The checkpoint of a pre-trained backbone; its blocks count, while those of a network at random hardly do."""
    torch.manual_seed(3)
    model = create_model("dino3d_vit_small", 1, **DINO)
    for name, parameter in model.backbone.named_parameters():
        if "gamma" in name:
            torch.nn.init.ones_(parameter)
    folder = tmp_path_factory.mktemp("network") / "run"
    save_backbone(folder / "checkpoint", model, Preprocessing(size=model.spec.size, sampling="resample"))
    return str(folder)


@pytest.fixture(scope="module")
def probed(blob_scans, features, network, tmp_path_factory):
    out = tmp_path_factory.mktemp("probed") / "probe"
    knn = {"run": True, "neighbours": (3, 5)}
    return probe.run(recipe(blob_scans, out, checkpoint=network, features=features, knn=knn, page=True))


def test_the_best_head_on_validation_is_measured_on_test(probed):
    grid = pd.read_csv(probed / "grid.csv")
    assert len(grid) == 4 * 2
    chosen = grid[grid["chosen"]]
    assert len(chosen) == 1
    assert chosen["roc_auc"].item() == grid["roc_auc"].max()
    table = pd.read_csv(probed / "predictions.csv")
    assert table["split"].value_counts().to_dict() == {"val": 8, "test": 8}
    metrics = json.loads((probed / "metrics.json").read_text())["splits"]
    for split, part in table.groupby("split"):
        auc = point_metrics("binary", part["target_bright"], part["prob_bright"], metrics=["roc_auc"])["roc_auc"]
        assert metrics[split]["metrics"]["roc_auc"]["value"] == pytest.approx(auc)
    assert metrics["val"]["metrics"]["roc_auc"]["value"] == pytest.approx(chosen["roc_auc"].item())
    assert metrics["test"]["metrics"]["roc_auc"]["low"] is not None
    assert "prob_bright" in (probed / "predictions.csv").read_text()
    assert (probed / "report" / "index.html").is_file()


def test_nearest_neighbours_have_results_of_their_own(probed):
    grid = pd.read_csv(probed / "knn" / "grid.csv")
    assert sorted(grid["neighbours"].unique()) == [3, 5]
    assert set(json.loads((probed / "knn" / "metrics.json").read_text())["splits"]) == {"val", "test"}
    assert pd.read_csv(probed / "knn" / "predictions.csv")["prob_bright"].between(0, 1).all()
    told = json.loads((probed / "probe.json").read_text())
    assert told["knn"]["chosen"]["neighbours"] in (3, 5)
    assert told["network"]["folder"].endswith("checkpoint")
    assert told["linear"]["heads"] == 8


def test_the_checkpoint_predicts_what_the_probe_did(probed):
    loaded = load_checkpoint(probed)
    table = pd.read_csv(probed / "predictions.csv")
    rows = table[["path", "patient"]].to_dict("records")
    again = predict_table(loaded.model, rows, loaded.task, loaded.preprocessing)
    np.testing.assert_allclose(again["prob_bright"], table["prob_bright"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(loaded.model.head.weight.detach(), load_file(probed / "head.safetensors")["weight"])
    assert loaded.training["stage"] == "probe"


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
def test_other_tasks(kind, blob_scans, features, network, tmp_path):
    out = probe.run(
        recipe(blob_scans, tmp_path / "probe", kind=kind, checkpoint=network, features=features, knn={"run": True})
    )
    table = pd.read_csv(out / "predictions.csv")
    loaded = load_checkpoint(out)
    columns = list(loaded.task.prediction_columns)
    assert np.isfinite(table[columns].to_numpy()).all()
    again = predict_table(loaded.model, table[["path"]].to_dict("records"), loaded.task, loaded.preprocessing)
    np.testing.assert_allclose(again[columns], table[columns], rtol=1e-3, atol=1e-3)
    assert json.loads((out / "probe.json").read_text())["features"]["computed"] == 0
    metric = "r2" if kind == "regression" else "roc_auc"
    for folder in (out, out / "knn"):
        assert metric in json.loads((folder / "metrics.json").read_text())["splits"]["test"]["metrics"]
        assert metric in pd.read_csv(folder / "grid.csv")


def test_a_network_whose_head_reads_other_features_keeps_the_head_alone(blob_scans, tmp_path):
    out = probe.run(recipe(blob_scans, tmp_path / "probe", model=SLIVIT, random_init=True))
    assert not (out / "checkpoint").exists()
    head = load_file(out / "head.safetensors")
    told = json.loads((out / "probe.json").read_text())["features"]
    assert told["sets"] == {"pooled": ["pooled"]}
    assert head["weight"].shape == (1, told["parts"]["pooled"])


def test_a_checkpoint_is_probed_with_its_own_preprocessing(blob_scans, features, network, probed, tmp_path):
    assert load_checkpoint(probed).preprocessing.sampling == "resample"
    pretrained = load_encoder(network)
    task = Task(kind="binary", targets=("bright",))
    save_checkpoint(tmp_path / "tuned", pretrained.model, task, pretrained.preprocessing)
    own = ("linear.iterations=20", f"features.folder={features['folder']}", "page=false")
    options = ("data.workers=0", "testing.draws=20", *own)
    command("probe", tmp_path / "tuned", blob_scans, *options)
    first, second = (json.loads((p / "probe.json").read_text()) for p in (probed, tmp_path / "tuned" / "probe"))
    assert first["weights"] == second["weights"]
    assert (first["features"]["computed"], second["features"]["computed"]) == (40, 0)
    other = probe.run(recipe(blob_scans, tmp_path / "even", checkpoint=network, preprocessing={"sampling": "even"}))
    assert load_checkpoint(other).preprocessing.sampling == "even"
    with pytest.raises(RecipeError, match="--kind binary --target"):
        probe.run(ProbeRecipe(checkpoint=network, out="x", data={"manifest": str(blob_scans)}))


def test_published_weights_and_weights_at_random(blob_scans, features, tmp_path):
    torch.manual_seed(5)
    weights = create_model("dino3d_vit_small", 1, **DINO).backbone.state_dict()
    torch.save({"teacher": {f"backbone.{key}": tensor for key, tensor in weights.items()}}, tmp_path / "published.pth")
    shared = [blob_scans, "--model", "dino3d_vit_small", "--kind", "binary", "--target", "bright", "data.workers=0",
              "testing.draws=20", "linear.iterations=20", "page=false", f"features.folder={features['folder']}",
              *(f"model.{key}={value}" for key, value in DINO.items())]  # fmt: skip
    command(
        "probe",
        *shared,
        "--weights",
        tmp_path / "published.pth",
        "--out",
        tmp_path / "a",
        "knn.run=true",
        "knn.neighbours=[3,5]",
    )
    command("probe", *shared, "--random-init", "--seed", 1, "--out", tmp_path / "b", "features.standardise=false")
    found = [json.loads((tmp_path / name / "probe.json").read_text()) for name in "ab"]
    assert found[0]["network"]["file"] == "published.pth"
    assert found[0]["knn"]["chosen"]["neighbours"] in (3, 5)
    assert found[1]["network"] == {"model": "dino3d_vit_small", "args": DINO, "random_init": True, "seed": 1}
    assert found[0]["weights"] != found[1]["weights"]


def test_the_same_recipe_gives_the_same_heads(blob_scans, features, network, probed, tmp_path):
    again = probe.run(recipe(blob_scans, tmp_path / "probe", checkpoint=network, features=features))
    assert (again / "grid.csv").read_text() == (probed / "grid.csv").read_text()
    fewer = probe.run(
        recipe(blob_scans, tmp_path / "few", checkpoint=network, features={**features, "sets": ("last4",)})
    )
    assert set(pd.read_csv(fewer / "grid.csv")["features"]) == {"last4"}


def test_mistakes_are_told(blob_scans, features, network, probed, tmp_path):
    target = ("--kind", "binary", "--target", "bright")
    assert "give CHECKPOINT and MANIFEST" in command("probe", blob_scans, expect=2)
    assert "give MANIFEST alone" in command("probe", "run", blob_scans, "--model", "slivit", expect=2)
    assert "has no weights" in command("probe", blob_scans, "--model", "slivit", *target, expect=2)
    assert "exclude each other" in command("probe", "m.csv", "--model", "slivit", "--weights", "x", "--random-init",
                                           expect=2)  # fmt: skip
    assert "knn.neighbours" in command("probe", tmp_path, blob_scans, "knn.neighbours=a", expect=2)
    assert "no checkpoint" in command("probe", tmp_path, blob_scans, *target, expect=2)
    with pytest.raises(RecipeError, match=r'no features "last9".*"last4"'):
        probe.run(recipe(blob_scans, tmp_path / "x", checkpoint=network, features={**features, "sets": ("last9",)}))
    with pytest.raises(RecipeError, match=r'not chosen by "r2".*"roc_auc"'):
        probe.run(recipe(blob_scans, tmp_path / "y", checkpoint=network, choose_by="r2"))
    with pytest.raises(RecipeError, match="is not empty"):
        probe.run(recipe(blob_scans, probed, checkpoint=network))


def test_the_defaults_are_those_of_the_papers():
    from slivit.probing.linear import ITERATIONS, LEARNING_RATES

    assert Linear().iterations == ITERATIONS == 12_500
    assert (LEARNING_RATES[0], LEARNING_RATES[-1], len(LEARNING_RATES)) == (1e-4, 0.5, 13)
