"""Transformers over slices: integrators, and published weights of every naming that they take."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from transformers import SwinConfig, SwinForMaskedImageModeling, ViTConfig, ViTForImageClassification

from slivit.errors import CheckpointError, ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model

VIT = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
SWIN = {"patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}


def vit(size=32, **args):
    return create_model("slice_vit", 2, slices=1, image_size=size, backbone_args=VIT, **args).eval()


def swin(depths=(2, 2, 2), size=32, window=4, **args):
    args = {"slices": 1, "image_size": size, "backbone_args": SWIN | {"depths": depths, "window_size": window}} | args
    return create_model("slice_swin", 2, **args).eval()


def images(size=32, channels=3):
    return torch.randn(2, channels, 1, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def features(model, channels=3):
    return model.forward_features(images(model.input_size[1], channels))


# ---- integrators


def test_slices_are_read_one_by_one_and_the_mean_and_attention_know_no_order():
    x = torch.randn(2, 3, 4, 32, 32)
    for integrator in ("mean", "queries", "attention"):
        model = create_model("slice_vit", 2, slices=4, image_size=32, integrator=integrator, backbone_args=VIT).eval()
        with torch.no_grad():
            torch.testing.assert_close(model(x), model(x.flip(2)))
            alone = model.forward_slices(x[:, :, 2:3])
            torch.testing.assert_close(model.forward_slices(x)[:, 2:3], alone)
    weights = model.attention_maps(x)
    assert weights.shape == (2, 1, 4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1))
    with torch.no_grad():
        by_hand = (weights[:, 0, :, None] * model.forward_slices(x)).sum(1)
        torch.testing.assert_close(model.forward_features(x), by_hand)


def test_slivit_s_integrator_knows_the_order_of_slices():
    sizes = {"vit_dim": 16, "vit_depth": 2, "vit_heads": 2, "dim_head": 8, "mlp_dim": 32}
    args = {"slices": 3, "image_size": 32, "integrator": "slivit", "backbone_args": SWIN, **sizes}
    model = create_model("slice_swin", 2, **args).eval()
    x = torch.randn(2, 3, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(model(x), model(x.flip(2)), atol=1e-4)
        assert model.attention_maps(x).shape == (2, 2, 2, 4, 4)


def test_learned_queries_are_attention_to_slices():
    sizes = {"queries": 3, "vit_dim": 12, "vit_heads": 2, "dim_head": 8}
    model = create_model(
        "slice_vit", 2, slices=5, image_size=32, integrator="queries", backbone_args=VIT, **sizes
    ).eval()
    x = torch.randn(2, 3, 5, 32, 32)
    with torch.no_grad():
        weights = model.attention_maps(x)
        assert weights.shape == (2, 2, 3, 5)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 3))
        slices, part = model.forward_slices(x), model.integrator
        values = part.value(part.norm(slices))
        mixed = torch.cat([weights[:, head] @ values[..., 8 * head : 8 * head + 8] for head in range(2)], -1)
        torch.testing.assert_close(model.forward_features(x), part.out(mixed.flatten(1)))


def test_each_plane_has_its_own_embedding_and_the_order_within_a_plane_is_free():
    args = {"image_size": 32, "integrator": "queries", "backbone_args": VIT, "vit_dim": 12, "vit_heads": 2}
    model = create_model("slice_vit", 2, slices=6, planes=3, **args).eval()
    x = torch.randn(2, 3, 6, 32, 32)
    with torch.no_grad():
        model.planes.normal_()
        torch.testing.assert_close(model(x), model(x[:, :, [1, 0, 3, 2, 4, 5]]))
        assert not torch.allclose(model(x), model(x[:, :, [2, 3, 0, 1, 4, 5]]), atol=1e-4)
    with pytest.raises(ModelError, match="slices must be a multiple of planes, got 4 and 3"):
        create_model("slice_vit", 2, slices=4, planes=3, **args)


def test_pooling_by_token_and_by_mean_read_what_timm_reads():
    for pool, theirs in (("token", "token"), ("mean", "avg")):
        model = vit(pool=pool)
        other = timm.create_model(
            "vit_small_patch16_224", img_size=32, num_classes=0, global_pool=theirs, fc_norm=False, **VIT
        ).eval()
        other.load_state_dict(model.backbone.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(features(model), other(images()[:, :, 0]))


def test_wrong_backbones_and_choices_are_told():
    with pytest.raises(ModelError, match="SwinTransformer; slice_vit takes a VisionTransformer"):
        create_model("slice_vit", 1, backbone="swin_tiny_patch4_window7_224")
    with pytest.raises(ModelError, match="vit_small_patch16_224"):
        create_model("slice_vit", 1, backbone="vit_smal_patch16_224")
    with pytest.raises(ModelError, match="pool: should be 'token' or 'mean', got 'max'"):
        vit(pool="max")
    with pytest.raises(ModelError, match="patch size 8, got 36"):
        vit(size=36)


# ---- published weights


def mae_file(model):
    """As mae_pretrain_vit_base.pth, with the decoder of its full version."""
    state = dict(model.backbone.state_dict())
    return {"model": state | {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 16)}}


def dino_file(model):
    """As DINO's full checkpoints, and others whose student and teacher lie beside each other."""
    state = {f"backbone.{k}": v for k, v in model.backbone.state_dict().items()}
    return {"epoch": 3, "teacher": state | {"head.mlp.0.weight": torch.zeros(4, 16)}}


@pytest.mark.parametrize("made", [mae_file, dino_file])
def test_a_vit_takes_mae_s_and_dino_s_names(made):
    source, target = vit(), vit()
    dropped = load_backbone(target, made(source))
    assert all("mask" in name or "decoder" in name or "head" in name for name in dropped)
    torch.testing.assert_close(features(target), features(source))


def test_a_fine_tuned_mae_s_last_norm_has_another_name():
    source, target = vit(pool="mean"), vit(pool="mean")
    state = {re.sub(r"^norm\.", "fc_norm.", k): v for k, v in source.backbone.state_dict().items()}
    load_backbone(target, {"model": state | {"head.weight": torch.zeros(5, 16)}})
    torch.testing.assert_close(features(target), features(source))


OLD_VIT = (  # names as in files written by transformers 4
    (r"^vit\.layers\.", "vit.encoder.layer."),
    (r"\.attention\.q_proj", ".attention.attention.query"),
    (r"\.attention\.k_proj", ".attention.attention.key"),
    (r"\.attention\.v_proj", ".attention.attention.value"),
    (r"\.attention\.o_proj", ".attention.output.dense"),
    (r"\.mlp\.fc1", ".intermediate.dense"),
    (r"\.mlp\.fc2", ".output.dense"),
)
OLD_SWIN = (
    (r"\.attention\.q_proj", ".attention.self.query"),
    (r"\.attention\.k_proj", ".attention.self.key"),
    (r"\.attention\.v_proj", ".attention.self.value"),
    (r"\.attention\.relative_position_bias\.", ".attention.self."),
    *OLD_VIT[4:],
)


def renamed(state, names):
    for pattern, new in names:
        state = {re.sub(pattern, new, key): value for key, value in state.items()}
    return state


@pytest.mark.parametrize("names", [(), OLD_VIT])
def test_a_vit_takes_hugging_face_s_weights(names):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    theirs = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, layer_norm_eps=1e-6)).eval()
    model = vit()
    load_backbone(model, renamed(theirs.state_dict(), names))
    with torch.no_grad():
        wanted = theirs.vit(images()[:, :, 0]).last_hidden_state[:, 0]
    torch.testing.assert_close(features(model), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", [(), OLD_SWIN])
def test_a_swin_takes_hugging_face_s_weights(names):
    config = SwinConfig(image_size=32, **{k: list(v) if isinstance(v, tuple) else v for k, v in SWIN.items()})
    theirs = SwinForMaskedImageModeling(config).eval()
    model = swin()
    load_backbone(model, renamed(theirs.state_dict(), names))
    with torch.no_grad():
        wanted = theirs.swin(images()[:, :, 0]).last_hidden_state.mean(1)
    torch.testing.assert_close(features(model), wanted, rtol=1e-4, atol=1e-5)


def microsoft(state):
    """timm's Swin names as Microsoft's: patches are merged at the end of a stage, and buffers are kept."""
    moved = {re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", k): v
             for k, v in state.items()}  # fmt: skip
    return moved | {"layers.0.blocks.1.attn_mask": torch.zeros(1), "head.weight": torch.zeros(4, 32)}


def test_a_swin_takes_microsoft_s_and_simmim_s_names():
    source = swin()
    state = microsoft(source.backbone.state_dict())
    simmim = {f"encoder.{k}": v for k, v in state.items() if not k.startswith("head")}
    simmim |= {"encoder.mask_token": torch.zeros(1, 1, 8), "decoder.0.weight": torch.zeros(4, 32, 1, 1)}
    for given in ({"model": state}, {"model": simmim}):
        target = swin()
        load_backbone(target, given)
        torch.testing.assert_close(features(target), features(source))


def test_positions_and_windows_of_another_size_are_resampled():
    source, target = vit(size=32), vit(size=64)
    load_backbone(target, source.backbone.state_dict())
    assert target.backbone.pos_embed.shape == (1, 65, 16)
    torch.testing.assert_close(target.backbone.pos_embed[:, 0], source.backbone.pos_embed[:, 0])
    source, target = swin(size=32, window=4), swin(size=64, window=8)
    load_backbone(target, source.backbone.state_dict())
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    assert target.backbone.state_dict()[table].shape == (225, 1)
    torch.testing.assert_close(
        target.backbone.layers[0].blocks[0].attn.qkv.weight, source.backbone.layers[0].blocks[0].attn.qkv.weight
    )


def test_a_deeper_swin_grows_from_a_shallower_one_where_that_is_asked_for(caplog):
    source, deep = swin(), swin(depths=(2, 6, 2))
    with pytest.raises(CheckpointError, match=r"layers\.1\.blocks\.2"):
        load_backbone(deep, source.backbone.state_dict())
    assert "with grow = true it starts from them, but for layers.1.blocks.2, layers.1.blocks.3" in caplog.text
    caplog.clear()
    deep = swin(depths=(2, 6, 2), grow=True)
    before = {k: v.clone() for k, v in deep.backbone.state_dict().items()}
    load_backbone(deep, source.backbone.state_dict())
    assert [f"layers.1.blocks.{i}" in caplog.text for i in range(6)] == [False, False, True, True, True, True]
    for name, tensor in deep.backbone.state_dict().items():
        new = bool(re.match(r"layers\.1\.blocks\.[2-5]\.", name))
        torch.testing.assert_close(tensor, before[name] if new else source.backbone.state_dict()[name])
    incomplete = {k: v for k, v in source.backbone.state_dict().items() if "layers.0.blocks.0.attn.proj" not in k}
    with pytest.raises(CheckpointError, match=r'missing: "layers\.0\.blocks\.0\.'):
        load_backbone(swin(depths=(2, 6, 2), grow=True), incomplete)


def test_vis_mae_s_released_names_have_no_last_norm(caplog):
    source, target = swin(), swin(grow=True)
    state = {
        k: v for k, v in microsoft(source.backbone.state_dict()).items() if k.split(".")[0] not in ("norm", "head")
    }
    state |= {"mask_token": torch.zeros(1, 1, 8), "pos_embed": torch.zeros(1, 256, 8)}
    state |= {"layers_up.0.blocks.0.norm1.weight": torch.zeros(8), "first_patch_expanding.norm.weight": torch.zeros(8)}
    load_backbone(target, {"model": state})
    torch.testing.assert_close(features(target), features(source))
    assert "left at random: norm" in caplog.text


def test_grey_weights_become_colour_weights_and_back():
    grey, colour, copied = vit(in_chans=1), vit(), vit(channel_weights="copy")
    load_backbone(colour, grey.backbone.state_dict())
    x = images(channels=1)
    with torch.no_grad():
        torch.testing.assert_close(colour.forward_features(x.repeat(1, 3, 1, 1, 1)), grey.forward_features(x))
    load_backbone(copied, grey.backbone.state_dict())
    weight = grey.backbone.patch_embed.proj.weight
    torch.testing.assert_close(copied.backbone.patch_embed.proj.weight, weight.expand(-1, 3, -1, -1))
    source = swin()
    summed, averaged = swin(in_chans=1), swin(in_chans=1, channel_weights="copy")
    for target, wanted in ((summed, source.backbone.patch_embed.proj.weight.sum(1, keepdim=True)),
                           (averaged, source.backbone.patch_embed.proj.weight.mean(1, keepdim=True))):  # fmt: skip
        load_backbone(target, source.backbone.state_dict())
        torch.testing.assert_close(target.backbone.patch_embed.proj.weight, wanted)


def test_another_architecture_is_named_with_the_keys_that_differ():
    convnext = create_model("image_classifier", 1, backbone="convnext_atto", image_size=64)
    with pytest.raises(
        CheckpointError, match=r"(?s)a Swin Transformer was given.*convnext_atto.*missing.*stages\.0.*layers\.0"
    ):
        load_backbone(convnext, swin().backbone.state_dict())
    with pytest.raises(CheckpointError, match=r"(?s)a ConvNeXt was given.*swin_tiny.*missing.*layers\.0"):
        load_backbone(swin(grow=True), convnext.backbone.state_dict())
    with pytest.raises(CheckpointError, match=r"(?s)a Swin Transformer was given.*vit_small"):
        load_backbone(vit(), swin().backbone.state_dict())
