"""Frozen features: what weights may be named, how closely scans are looked at, and the same values in the ensemble."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import slivit
from slivit.data.preprocessing import Preprocessing
from slivit.errors import CheckpointError, RecipeError
from slivit.models._frozen import FrozenNetwork
from slivit.planned import frozen as rooms
from slivit.planned.frozen import Frozen, frozen_features, plan_frozen
from slivit.planned.plan import Plan, minutes_of
from slivit.recipe import check_recipe, resolved_toml
from slivit.targets.task import Task

VIT = {"backbone_args": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}}
SMALL = {"slices": 6, "image_size": 16, **VIT}
SLIVIT = str(Path(sys.executable).with_name("slivit"))


@pytest.fixture
def a_run(tmp_path):
    """A run of one's own: a small ViT over slices."""
    torch.manual_seed(0)
    model = slivit.create_model("slice_vit", 1, **SMALL)
    task = Task(kind="binary", targets=("a",))
    slivit.save_checkpoint(tmp_path / "vit" / "checkpoint", model, task, Preprocessing(size=(6, 16, 16)), {})
    return tmp_path / "vit"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(rooms, "seconds_each", lambda frozen: frozen.args.get("slices", 1) * 0.1)


@pytest.fixture
def nothing_at_hand(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("SLIVIT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_a_volume_is_seen_from_three_sides():
    network = FrozenNetwork("slice_vit", SMALL, planes=3)
    volume = torch.rand(2, 1, 5, 12, 9)
    turned = volume.permute(0, 1, 3, 2, 4)  # rows become slices: the first two planes change places
    first, second = (network(x).unflatten(1, (3, 3, 16)) for x in (volume, turned))
    torch.testing.assert_close(first[:, :, 0], second[:, :, 1])
    torch.testing.assert_close(first[:, :, 1], second[:, :, 0])
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.train().training


@pytest.mark.usefixtures("quick")
def test_scans_are_looked_at_as_closely_as_the_time_allows():
    def looked(seconds):
        found, reasons = plan_frozen(["dinov3-small=" + __file__], volume=True, scans=100, seconds=seconds)
        return [(f.planes, f.args["slices"], f.args["image_size"]) for f in found], reasons

    assert looked(4 * 240 + 1) == ([(3, 24, 224)], [])
    assert looked(4 * 120 + 1) == ([(3, 12, 112)], [])
    assert looked(4 * 40 + 1) == ([(1, 4, 112)], [])
    (none, (reason,)) = looked(100)
    assert not none
    assert "dinov3-small is left out" in reason


@pytest.mark.usefixtures("quick", "nothing_at_hand")
def test_weights_that_are_not_there_are_told_with_the_way_to_them(tmp_path):
    with pytest.raises(CheckpointError, match=r"Fetch it from https://huggingface.co/.*put it into .*weights"):
        plan_frozen(["dinov2-small"], volume=True, scans=10, seconds=600)
    with pytest.raises(CheckpointError, match=r'Did you mean "dinov3-small"'):
        plan_frozen(["dinov3-smal"], volume=True, scans=10, seconds=600)
    none, (reason,) = plan_frozen([], volume=True, scans=10, seconds=600)
    assert not none
    assert "slivit weights get dinov2-small" in reason


def test_features_are_kept_and_the_ensemble_computes_the_same(a_run, tmp_path):
    (frozen,), _ = plan_frozen([str(a_run)], volume=True, scans=3, seconds=6000)
    assert (frozen.name, frozen.model) == ("vit", "slice_vit")
    stacks = [np.random.default_rng(i).integers(0, 256, (4, 32, 32), np.uint8) for i in range(3)]
    made = frozen_features([frozen], stacks, tmp_path)[frozen.feature]
    assert made.shape == (3, 48)
    again = frozen_features([frozen.model_copy(update={"weights": "gone"})], stacks, tmp_path)[frozen.feature]
    np.testing.assert_array_equal(made, again)
    described = {"feature": frozen.feature, "name": frozen.model, "args": frozen.args}
    member = {"kind": "linear", "features": [frozen.feature], "width": 48}
    model = slivit.create_model(
        "ensemble", 1, slices=4, image_size=32, members=[member], frozen=[described], activation="identity"
    )
    model.frozen[0].load_state_dict(rooms.load_frozen(frozen).state_dict())
    with torch.no_grad():
        model.backbone[0].scale.fill_(1.0)
        model.backbone[0].weight.fill_(1.0)
        x = torch.from_numpy(np.stack(stacks))[:, None].float() / 255
        np.testing.assert_allclose(model(x)[:, 0], made.sum(1), rtol=1e-4)


@pytest.mark.slow
def test_frozen_features_of_a_published_name_end_in_the_checkpoint(blob_scans, tmp_path):
    start = slivit.create_model("slice_vit", 1, backbone="vit_small_patch16_dinov3_qkvb", slices=1, image_size=32)
    weights = tmp_path / "dinov3.safetensors"
    save_file(start.backbone.state_dict(), weights)
    frame = pd.read_csv(blob_scans)[["path", "patient", "bright"]]
    frame["path"] = [str(blob_scans.parent / p) for p in frame["path"]]
    frame.to_csv(tmp_path / "scans.csv", index=False)
    plan = Frozen(name="dinov3-small", model="slice_vit", planes=3, weights=str(weights), licence="its own terms",
                  args={"backbone": "vit_small_patch16_dinov3_qkvb", "slices": 3, "image_size": 32})  # fmt: skip
    values = {
        "out": "elsewhere",
        "source": "scans.csv",
        "minutes": 1.0,
        "task": {"kind": "binary", "targets": ["bright"]},
        "folds": 2,
        "keep": 0,
        "workers": 1,
        "preprocessing": {"size": (4, 32, 32), "fit": "pad"},
        "augmentation": {},
        "frozen": [plan.model_dump()],
        "baselines": [{"name": "dinov3-small", "features": [plan.feature]}],
        "candidates": [],
    }
    (tmp_path / "plan.toml").write_text(resolved_toml(check_recipe(Plan, values, "plan")))
    done = subprocess.run(
        [SLIVIT, "auto", "scans.csv", "--plan", "plan.toml", "--out", "run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "run" / "auto.json").read_text())
    assert {"dinov3-small_linear", "dinov3-small_forest"} <= set(facts["leaderboard"])
    assert any("its own terms" in sentence for sentence in facts["sentences"])
    again = subprocess.run(
        [SLIVIT, "predict", "run", frame["path"][0], "--out", "p.csv"], capture_output=True, text=True, cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("text", ["3s", "", "-5m", "nan", "inf", "soon"])
def test_what_is_no_time_is_told(text):
    with pytest.raises(RecipeError, match="such as 45m or 2h"):
        minutes_of(text)
