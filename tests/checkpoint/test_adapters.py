"""Adapters from a recipe to a prediction elsewhere: nothing of the backbone is saved, and no other one is taken."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from slivit.checkpoint import load_checkpoint
from slivit.errors import CheckpointError, RecipeError
from slivit.models.registry import create_model
from slivit.predict.command import run as predict
from slivit.recipe import check_recipe, finetune
from slivit.sharing.command import run as export
from slivit.train.recipe import FinetuneRecipe

VIT = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
MODEL = {"name": "slice_vit", "slices": 4, "image_size": 32, "backbone_args": VIT}


def recipe(out, scans, weights, **changes):
    fit = {"epochs": 1, "lr": 1e-2, "batch_size": 8, "precision": "float32", "adapt": "lora", "lora": {"rank": 2}}
    values = {
        "out": str(out),
        "data": {"manifest": str(scans), "workers": 0},
        "task": {"kind": "binary", "targets": ["bright"]},
        "model": MODEL | {"weights": str(weights)},
        "fit": fit | changes,
        "testing": {"draws": 20, "baselines": False},
    }
    return check_recipe(FinetuneRecipe, values, "test")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.manual_seed(4)
    model = create_model("slice_vit", 1, **{k: v for k, v in MODEL.items() if k != "name"})
    path = tmp_path_factory.mktemp("weights") / "foundation.safetensors"
    save_file(model.backbone.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def adapted(blob_scans, backbone, tmp_path_factory):
    return finetune(recipe(tmp_path_factory.mktemp("lora") / "run", blob_scans, backbone))


def test_the_checkpoint_holds_adapters_and_head_alone(adapted, backbone):
    kept = load_file(adapted / "checkpoint" / "model.safetensors")
    assert {name.rpartition(".")[2] for name in kept if name.startswith("backbone.")} == {"lora_a", "lora_b"}
    assert any(kept[name].abs().sum() > 0 for name in kept if name.endswith("lora_b"))
    config = json.loads((adapted / "checkpoint" / "config.json").read_text())
    assert config["adapter"]["start"] == str(backbone)
    assert len(config["adapter"]["sha256"]) == 64
    whole = load_checkpoint(adapted).model.state_dict()
    for name, tensor in load_file(backbone).items():
        torch.testing.assert_close(whole[f"backbone.{name}"], tensor)


def test_an_export_predicts_with_the_backbone_from_a_path_and_refuses_another(adapted, backbone, tmp_path, blob_scans):
    scan = str(next(blob_scans.parent.rglob("*.nii*")))
    wanted = predict(adapted, [scan], progress=False, precision="float32")
    made = export(adapted, tmp_path / "shared", most=2)
    moved = tmp_path / "elsewhere.safetensors"
    shutil.copy(backbone, moved)
    config = json.loads((made.folder / "config.json").read_text())
    assert config["adapter"]["start"] == "foundation.safetensors"
    assert sum(f.stat().st_size for f in made.folder.glob("*.safetensors")) < 0.35 * backbone.stat().st_size
    got = predict(made.folder, [scan], progress=False, precision="float32", backbone=str(moved))
    assert got["prob_bright"].item() == pytest.approx(wanted["prob_bright"].item(), abs=1e-6)
    with pytest.raises(CheckpointError, match="--backbone PATH, or put it into the folder that SLIVIT_WEIGHTS names"):
        predict(made.folder, [scan], progress=False)
    state = load_file(backbone)
    save_file(state | {"norm.bias": state["norm.bias"] + 1}, other := tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"its adapters are for vit_small_patch16_224 with the digest"):
        predict(made.folder, [scan], progress=False, backbone=str(other))


def test_the_folder_of_weights_is_looked_into(adapted, backbone, tmp_path, monkeypatch):
    made = export(adapted, tmp_path / "shared", most=1)
    monkeypatch.setenv("SLIVIT_WEIGHTS", str(backbone.parent))
    assert load_checkpoint(made.folder).task.targets == ("bright",)


def test_several_tasks_share_one_backbone(adapted):
    one = load_checkpoint(adapted)
    two = load_checkpoint(adapted, backbone=one)
    assert two.model.backbone.norm.weight.data_ptr() == one.model.backbone.norm.weight.data_ptr()
    assert two.model.head.weight.data_ptr() != one.model.head.weight.data_ptr()
    x = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(two.model(x), one.model(x))


def test_a_model_without_adapters_takes_no_backbone(blob_run, backbone):
    with pytest.raises(CheckpointError, match="holds its whole network"):
        load_checkpoint(blob_run, backbone=backbone)


def test_what_would_do_nothing_is_told(blob_scans, backbone, tmp_path):
    with pytest.raises(RecipeError, match=r"freeze_backbone leaves nothing for adapt"):
        recipe(tmp_path, blob_scans, backbone, freeze_backbone=True)
    with pytest.raises(RecipeError, match=r"lora.rank would do nothing"):
        recipe(tmp_path, blob_scans, backbone, adapt="", lora={"rank": 2})
    with pytest.raises(RecipeError, match=r"model.weights or model.pretrained"):
        finetune(recipe(tmp_path / "none", blob_scans, ""))
