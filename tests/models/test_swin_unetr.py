"""Swin Transfer and Swin Random: MONAI's own network, the published file's names, and what is refused."""

import pytest
import torch

from slivit.errors import CheckpointError, ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec

pytest.importorskip("monai", reason="MONAI is not installed (the extra baselines)")
SMALL = model_spec("swin_transfer").small


def new_model(name="swin_transfer", seed=0, **args):
    torch.manual_seed(seed)
    return create_model(name, 2, **{**SMALL, **args}).eval()


def volume():
    return torch.rand(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(1))


def published(model):
    """The layout of model_swinvit.pt: the encoder alone, older names of perceptrons, a norm and heads beside it."""
    state = {key.removeprefix("swinViT."): tensor for key, tensor in model.backbone.state_dict().items()}
    state = {f"module.{key.replace('linear', 'fc')}": tensor for key, tensor in state.items()}
    beside = ("norm.weight", "norm.bias", "rotation_head.weight", "contrastive_head.bias", "conv.weight")
    return {"epoch": 1, "state_dict": state | {f"module.{key}": torch.zeros(3) for key in beside}}


def test_features_are_those_of_monais_swin_unetr():
    from monai.networks.nets import SwinUNETR

    torch.manual_seed(0)
    whole = SwinUNETR(1, 2, feature_size=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4)).eval()
    model = new_model(width=24, heads=(1, 2, 2, 4))
    dropped = load_backbone(model, whole.state_dict())
    assert {key.split(".")[0] for key in dropped} >= {"encoder1", "decoder5", "out"}
    x = volume()
    with torch.no_grad():
        stages = whole.swinViT(x.transpose(2, 4), whole.normalize)
        torch.testing.assert_close(model.patch_map(x), stages[-1].transpose(2, 4))
        torch.testing.assert_close(model.forward_features(x), stages[-1].mean((2, 3, 4)))


def test_the_published_file_loads_strictly(tmp_path):
    trained = new_model(seed=7)
    torch.save(published(trained), tmp_path / "model_swinvit.pt")
    model = new_model(pretrained=str(tmp_path / "model_swinvit.pt"))
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(volume()), trained.forward_features(volume()))
    assert "norm.weight" in load_backbone(model, tmp_path / "model_swinvit.pt")
    cut = published(trained)
    del cut["state_dict"]["module.layers3.0.blocks.0.mlp.fc1.weight"]
    with pytest.raises(CheckpointError, match=r"missing.*layers3\.0\.blocks\.0\.mlp\.linear1"):
        load_backbone(model, cut)
    with pytest.raises(CheckpointError, match="no published weights of that name"):
        load_backbone(model, "model_swin.pt")


def test_axes_are_those_of_the_published_weights():
    """A volume whose slices and columns are exchanged gives what MONAI's network gives for it as it is."""
    model, x = new_model(), volume()
    with torch.no_grad():
        turned = model.backbone.swinViT(x)[-1].mean((2, 3, 4))
        torch.testing.assert_close(model.forward_features(x.transpose(2, 4)), turned)


def test_the_size_of_the_published_weights():
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in create_model("swin_transfer", 1).backbone.state_dict().items()}
    assert shapes["swinViT.patch_embed.proj.weight"] == (48, 1, 2, 2, 2)
    assert shapes["swinViT.layers4.0.downsample.reduction.weight"] == (768, 3072)
    assert shapes["swinViT.layers1.0.blocks.1.attn.relative_position_bias_table"] == (2197, 3)


def test_what_makes_no_network_is_told():
    for args in ({"slices": 40}, {"image_size": 16}, {"heads": (5, 1, 1, 1)}, {"depths": (1, 1, 1)}, {"width": 0}):
        with pytest.raises(ModelError, match="swin_transfer"):
            new_model(**args)
    with pytest.raises(ModelError, match="swin_transfer is the same network"):
        new_model("swin_random", pretrained=True)


def test_without_monai_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "monai.networks.nets.swin_unetr", None)
    with pytest.raises(ModelError, match=r"\[baselines\]"):
        new_model()


def test_the_contrastive_head_reads_the_second_token_of_the_last_stage():
    trained = new_model(seed=7, slices=64, reads="contrastive")
    state = {f"module.{key.removeprefix('swinViT.')}": tensor for key, tensor in trained.backbone.state_dict().items()}
    model = new_model(slices=64, reads="contrastive", pretrained={"state_dict": state})
    x = torch.rand(2, 1, 64, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        second = model.patch_map(x)[:, :, 1, 0, 0]
        expected = torch.nn.functional.linear(
            second, *(state[f"module.contrastive_head.{p}"] for p in ("weight", "bias"))
        )
        torch.testing.assert_close(model.forward_features(x), expected)
    assert model.head.in_features == 512
    with pytest.raises(CheckpointError, match=r"missing.*contrastive_head"):
        load_backbone(model, published(new_model(slices=64)))
    with pytest.raises(ModelError, match="the input makes one"):
        new_model(reads="contrastive")
