"""MONAI-ViT: MONAI's own network, its published layouts, positions of another cube, and what is refused."""

import sys

import pytest
import torch

from slivit.errors import CheckpointError, ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec

pytest.importorskip("monai", reason="MONAI is not installed (the extra baselines)")
SMALL = model_spec("monai_vit").small
SIZES = {"hidden_size": 16, "mlp_dim": 32, "num_layers": 2, "num_heads": 2}


def new_model(seed=0, **args):
    torch.manual_seed(seed)
    return create_model("monai_vit", 2, **{**SMALL, **args}).eval()


def volume(slices=32):
    return torch.rand(2, 1, slices, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_tokens_are_those_of_monais_vit_on_the_volume_turned_round():
    from monai.networks.nets import ViT

    torch.manual_seed(0)
    network = ViT(1, (32, 32, 48), (16, 16, 16), **SIZES).eval()
    model, x = new_model(slices=48), volume(48)
    load_backbone(model, network.state_dict())
    tokens, _ = network(x.transpose(2, 4))
    torch.testing.assert_close(model.patch_map(x), tokens.mT.unflatten(2, (2, 2, 3)).transpose(2, 4))
    torch.testing.assert_close(model.forward_features(x), tokens.mean(1))


def test_vitautoenc_loads_strictly_but_for_its_decoder(tmp_path):
    from monai.networks.nets import ViTAutoEnc

    network = ViTAutoEnc(1, (32,) * 3, (16,) * 3, **SIZES)
    older = network.state_dict() | {"blocks.0.cross_attn.to_q.weight": torch.zeros(16, 16)}
    torch.save({"state_dict": {f"module.{k}": v for k, v in older.items()}}, tmp_path / "vit.pt")
    model = new_model(pretrained=str(tmp_path / "vit.pt"))
    dropped = {key.split(".")[0] for key in load_backbone(model, older) if "cross_attn" not in key}
    assert dropped == {"conv3d_transpose", "conv3d_transpose_1"}
    assert torch.equal(model.backbone.blocks[1].attn.qkv.weight, network.blocks[1].attn.qkv.weight)
    del older["blocks.1.mlp.linear1.weight"]
    with pytest.raises(CheckpointError, match=r"missing.*blocks\.1\.mlp\.linear1"):
        load_backbone(model, older)


def test_the_network_in_a_unetr_is_found():
    from monai.networks.nets import UNETR

    whole = UNETR(1, 2, (32,) * 3, feature_size=4, hidden_size=16, mlp_dim=32, num_heads=2, proj_type="perceptron")
    model = new_model(depth=12, embedding="perceptron")
    assert all(not key.startswith("vit.") or "cross_attn" in key for key in load_backbone(model, whole.state_dict()))
    older = {f"transformer.{k}": v for k, v in model.backbone.state_dict().items()}
    older = {k.replace("embeddings", "embeddings_3d"): v for k, v in older.items()}
    older["transformer.patch_embedding.cls_token_3d"] = torch.zeros(1, 1, 16)
    assert load_backbone(model, older) == ("transformer.patch_embedding.cls_token_3d",)


def test_a_class_token_is_never_left_out_in_silence():
    from monai.networks.nets import ViT

    network = ViT(1, (32,) * 3, (16,) * 3, **SIZES, classification=True)
    with pytest.raises(CheckpointError, match=r"not in the model.*cls_token"):
        load_backbone(new_model(), network.state_dict())


def test_positions_of_another_cube_are_interpolated():
    trained, model = new_model(), new_model(slices=16, image_size=64)
    name = "patch_embedding.position_embeddings"
    ramp = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1])[None, :, None].expand(1, 8, 16)  # along the columns
    load_backbone(model, trained.backbone.state_dict() | {name: ramp})
    columns = model.backbone.state_dict()[name].unflatten(1, (4, 4, 1)).mean((0, 2, 3, 4))
    torch.testing.assert_close(columns, torch.tensor([0.0, 0.25, 0.75, 1.0]))


@pytest.mark.parametrize(
    "wrong", [{"slices": 40}, {"image_size": 24}, {"heads": 3}, {"depth": 0}, {"embedding": "mean"}]
)
def test_what_makes_no_network_is_told(wrong):
    with pytest.raises(ModelError, match="monai_vit"):
        new_model(**wrong)


def test_without_monai_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets.vit", None)
    with pytest.raises(ModelError, match=r"\[baselines\]"):
        new_model()


def test_a_class_token_stands_for_the_volume_as_in_monais_vit():
    from monai.networks.nets import ViT

    torch.manual_seed(3)
    size = {"hidden_size": 16, "mlp_dim": 32, "num_layers": 2, "num_heads": 2}
    whole = ViT(1, (32, 32, 32), (16, 16, 16), classification=True, num_classes=2, post_activation="", **size).eval()
    torch.nn.init.normal_(whole.cls_token)
    model = create_model("monai_vit", 1, **SMALL, class_token=True).eval()
    dropped = load_backbone(model, whole.state_dict())
    assert "classification_head.weight" in dropped
    x = torch.rand(2, 1, 32, 32, 32)
    with torch.no_grad():
        logits, _ = whole(x.transpose(2, 4))
        torch.testing.assert_close(whole.classification_head(model.forward_features(x)), logits)
        assert model.patch_map(x).shape == (2, 16, 2, 2, 2)
    adapter = create_model("monai_vit_adapter", 2, **model_spec("monai_vit_adapter").small, class_token=True)
    assert adapter.backbone.prefix == 1
    with torch.no_grad():
        assert adapter(torch.rand(1, 1, 32, 32, 32)).shape == (1, 2, 32, 32, 32)
