"""Weights from elsewhere into a backbone."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from slivit.errors import CheckpointError
from slivit.models._weights import load_backbone, read_weights
from slivit.models.registry import create_model, model_spec

SMALL = {**model_spec("slivit").small, "backbone": "convnext_atto", "stride": 32}


def new_model(**args: Any) -> nn.Module:
    return create_model("slivit", 1, **{**SMALL, **args}).eval()


@pytest.fixture(scope="module")
def hugging_face() -> Any:
    """A small ConvNeXt of Hugging Face with random weights, as wide and deep as timm's atto."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 6, 2], num_labels=4)
    torch.manual_seed(3)
    model = ConvNextForImageClassification(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    return model


def layouts(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The same weights under the names of the files in which they are met."""
    bare = {k.removeprefix("convnext."): v for k, v in state.items() if k.startswith("convnext.")}
    parts = {
        re.sub("^encoder.", "feature_extractor.1.", re.sub("^embeddings.", "feature_extractor.0.", k)): v
        for k, v in bare.items()
        if not k.startswith("layernorm")
    }
    return {
        "hugging face": state,
        "hugging face, no classifier": bare,
        "feature_extractor.pth": {f"model.{k}": v for k, v in state.items()},
        "slivit.pth": {**parts, "cls_token": torch.zeros(1, 1, 8), "mlp_head.weight": torch.zeros(1, 8)},
        "parallel training": {f"module.{k}": v for k, v in state.items()},
    }


@pytest.mark.parametrize(
    "layout",
    ["hugging face", "hugging face, no classifier", "feature_extractor.pth", "slivit.pth", "parallel training"],
)
def test_a_convnext_computes_the_same_map_after_renaming(hugging_face: Any, layout: str) -> None:
    model = new_model()
    load_backbone(model, layouts(hugging_face.state_dict())[layout])
    x = torch.randn(model.spec.batch_shape(1))
    with torch.no_grad():
        expected = hugging_face.convnext(x).last_hidden_state
        torch.testing.assert_close(model.forward_features(x), expected, rtol=1e-3, atol=1e-3)


def test_what_is_dropped_is_told(hugging_face: Any) -> None:
    dropped = load_backbone(new_model(), hugging_face.state_dict())
    assert sorted(dropped) == [
        "classifier.bias",
        "classifier.weight",
        "convnext.layernorm.bias",
        "convnext.layernorm.weight",
    ]
    deeper = load_backbone(new_model(stride=16), hugging_face.state_dict())
    assert {k.split(".")[3] for k in set(deeper) - set(dropped)} == {"3"}


def test_a_folder_of_hugging_face_is_read(hugging_face: Any, tmp_path: Path) -> None:
    hugging_face.save_pretrained(tmp_path)
    model = new_model(pretrained=str(tmp_path))
    assert torch.equal(model.backbone.stem[0].weight, hugging_face.convnext.embeddings.patch_embeddings.weight)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_timm_weights_are_read(tmp_path: Path, suffix: str) -> None:
    network = timm.create_model("convnext_atto", num_classes=7)
    path = tmp_path / f"weights.{suffix}"
    save_file(network.state_dict(), path) if suffix == "safetensors" else torch.save(network.state_dict(), path)
    model = new_model()
    assert len(load_backbone(model, path)) == 4
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in model.backbone.state_dict().items())


def test_a_checkpoint_of_this_project_is_read(tmp_path: Path) -> None:
    trained, model = new_model(slices=2), new_model(vit_dim=24)
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    save_file(trained.backbone.state_dict(), tmp_path / "backbone.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors", tmp_path / "backbone.safetensors"):
        load_backbone(model, path)
        assert all(torch.equal(t, trained.backbone.state_dict()[k]) for k, t in model.backbone.state_dict().items())
        model = new_model(vit_dim=24)


def test_another_architecture_is_told_and_nothing_is_loaded() -> None:
    model = new_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    swin = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=24, depths=(1, 1, 1, 1))
    with pytest.raises(CheckpointError) as caught:
        load_backbone(model, swin.state_dict())
    for told in ("a Swin Transformer was given", "convnext_atto", "stages.0.blocks.0.gamma", "attn.qkv.weight"):
        assert told in str(caught.value)
    with pytest.raises(CheckpointError, match=r"blocks\.0\.gamma has shape \(48,\), the model's has \(40,\)"):
        load_backbone(model, timm.create_model("convnext_femto").state_dict())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Untrusted:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must not run",))


def test_bad_files_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Untrusted()))
    torch.save({"model": Untrusted()}, tmp_path / "code.pth")
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    torch.save({"epoch": 3}, tmp_path / "nothing.pth")
    whole = tmp_path / "whole.safetensors"
    save_file({"weight": torch.zeros(100)}, whole)
    for name in ("cut.safetensors", "cut.pth"):
        (tmp_path / name).write_bytes(whole.read_bytes()[:100])
    files = ("absent.pth", "empty", "pickle.pth", "code.pth", "tensor.pth", "nothing.pth", "cut.safetensors", "cut.pth")
    for name in files:
        with pytest.raises(CheckpointError, match=name):
            read_weights(tmp_path / name)
    assert "this must not run" not in capsys.readouterr().out


def test_missing_pretrained_weights_are_never_made_up(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such weight file"):
        new_model(pretrained=str(tmp_path / "absent.safetensors"))
