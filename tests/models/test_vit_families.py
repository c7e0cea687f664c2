"""Every family of ViT in slice_vit: created, run, reloaded strictly, and started from its publishers' names."""

from __future__ import annotations

import re

import pytest
import torch
import transformers as hf
from huggingface_hub import constants

from slivit.errors import CheckpointError, ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model
from slivit.ssl._patches import transformer_of

TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2}
FAMILIES = {  # backbone, and how a slice is pooled
    "vit_small_patch16_224": ("token", "mean"),
    "vit_small_patch14_dinov2": ("token", "mean"),
    "vit_small_patch14_reg4_dinov2": ("token", "mean"),
    "vit_small_patch16_dinov3": ("token", "mean"),
    "vit_small_patch16_dinov3_qkvb": ("token", "mean"),
    "vit_small_plus_patch16_dinov3_qkvb": ("token", "mean"),
    "eva02_tiny_patch14_224": ("token", "mean"),
    "vit_base_patch16_siglip_224": ("mean",),
    "vit_base_patch16_siglip_gap_224": ("mean",),
}


def network(backbone, cells=2, **args):
    patch = 14 if "patch14" in backbone else 16
    size = {"slices": 1, "image_size": patch * cells}
    tiny = TINY | args.pop("tiny", {})
    return create_model("slice_vit", 2, backbone=backbone, backbone_args=tiny, **size | args).eval()


def images(model):
    return torch.randn(2, 3, *model.input_size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def features(model):
    return model.forward_features(images(model))


@pytest.mark.parametrize(("backbone", "pool"), [(b, pool) for b, pools in FAMILIES.items() for pool in pools])
def test_every_family_runs_and_is_reloaded_strictly(backbone, pool):
    model, again = (network(backbone, pool=pool) for _ in range(2))
    dropped = load_backbone(again, model.backbone.state_dict())
    assert dropped == ()
    torch.testing.assert_close(features(again), features(model))
    model.train()(images(model)).sum().backward()
    idle = {name for name, p in model.backbone.named_parameters() if p.grad is None}
    assert idle == set()


def test_a_slice_is_its_class_token_or_the_mean_of_its_patches_without_registers():
    for backbone in ("vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3", "vit_base_patch16_siglip_224"):
        model = network(backbone, pool="mean")
        with torch.no_grad():
            tokens = model.backbone.forward_features(images(model)[:, :, 0])
        assert tokens.shape[1] == 4 + model.backbone.num_prefix_tokens
        torch.testing.assert_close(features(model), tokens[:, -4:].mean(1))
    token = network("vit_small_patch16_dinov3")
    with torch.no_grad():
        tokens = token.backbone.forward_features(images(token)[:, :, 0])
    torch.testing.assert_close(features(token), tokens[:, 0])
    with pytest.raises(ModelError, match='vit_base_patch16_siglip_224 has no class token; set pool = "mean"'):
        network("vit_base_patch16_siglip_224")


def test_a_larger_image_resamples_the_positions_that_there_are():
    for backbone, pools in FAMILIES.items():
        small, large = network(backbone, pool=pools[0]), network(backbone, cells=3, pool=pools[0])
        load_backbone(large, small.backbone.state_dict())
        assert features(large).shape == (2, 16)
        if (positions := large.backbone.pos_embed) is not None:
            ahead = 0 if large.backbone.no_embed_class else large.backbone.num_prefix_tokens
            assert positions.shape == (1, 9 + ahead, 16)
            torch.testing.assert_close(positions[:, :ahead], small.backbone.pos_embed[:, :ahead])


def test_the_publishers_normalisation_is_that_of_the_input():
    assert network("vit_base_patch16_siglip_224", pool="mean").spec.mean == (0.5, 0.5, 0.5)
    assert network("eva02_tiny_patch14_224").spec.mean == (0.48145466, 0.4578275, 0.40821073)
    grey = network("vit_base_patch16_siglip_224", pool="mean", in_chans=1)
    assert (grey.spec.mean, grey.spec.std) == ((0.5,), (0.5,))
    assert network("vit_small_patch16_224").spec.mean == (0.485, 0.456, 0.406)


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def dinov2(**args):
    return hf.Dinov2Model(hf.Dinov2Config(**SIZES, image_size=28, patch_size=14, mlp_ratio=4, **args))


def dinov2_registers():
    config = hf.Dinov2WithRegistersConfig(**SIZES, image_size=28, patch_size=14, mlp_ratio=4)
    return hf.Dinov2WithRegistersModel(config)


def dinov3(gated=False):
    wide = 96 if gated else 64
    if not hasattr(hf, "DINOv3ViTConfig"):
        pytest.skip(f"transformers {hf.__version__} has no DINOv3")
    config = hf.DINOv3ViTConfig(
        **SIZES, image_size=32, patch_size=16, intermediate_size=wide, num_register_tokens=4, use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
    )  # fmt: skip
    return hf.DINOv3ViTModel(config)


def older(state):
    """Names as transformers 4 wrote them, as the files on the hub have them."""
    names = (
        (r"\.attention\.q_proj", ".attention.attention.query"),
        (r"\.attention\.k_proj", ".attention.attention.key"),
        (r"\.attention\.v_proj", ".attention.attention.value"),
        (r"\.attention\.o_proj", ".attention.output.dense"),
    )
    for pattern, new in names:
        state = {re.sub(pattern, new, key): value for key, value in state.items()}
    return state


def scrambled(theirs):
    """Their network with weights that hide nothing: no zeros, no ones."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return theirs.eval()


@pytest.mark.parametrize(
    ("theirs", "backbone", "args"),
    [
        (dinov2, "facebook/dinov2-small", {}),
        (dinov2_registers, "facebook/dinov2-with-registers-small", {}),
        (lambda: dinov2(use_swiglu_ffn=True), "facebook/dinov2-giant", {"tiny": {"mlp_ratio": 6}}),
        (dinov3, "facebook/dinov3-vits16-pretrain-lvd1689m", {}),
        (lambda: dinov3(True), "facebook/dinov3-vits16plus-pretrain-lvd1689m", {"tiny": {"mlp_ratio": 6}}),
    ],
)
def test_transformers_networks_compute_the_same_under_timm_s_name(theirs, backbone, args):
    torch.manual_seed(0)
    theirs, pixels = scrambled(theirs()), {"patch14": 28, "patch16": 32}
    probe = create_model("slice_vit", 1, slices=1, backbone=backbone, backbone_args=TINY | args.get("tiny", {}),
                         image_size=pixels["patch14" if "dinov2" in backbone else "patch16"]).eval()  # fmt: skip
    state = theirs.state_dict()
    for given in (state, older(state)) if "dinov2" in backbone else (state,):
        load_backbone(probe, given)
        with torch.no_grad():
            wanted = theirs(images(probe)[:, :, 0]).last_hidden_state[:, 0]
        torch.testing.assert_close(features(probe), wanted, rtol=1e-4, atol=1e-5)


def test_siglip_s_files_hold_a_text_tower_and_a_pooling_head_that_are_left_out():
    # timm has the exact GELU where transformers has an approximation of it by default.
    config = hf.SiglipVisionConfig(**SIZES, image_size=32, patch_size=16, intermediate_size=64, hidden_act="gelu")
    theirs = scrambled(hf.SiglipVisionModel(config))
    state = {f"vision_model.{k.removeprefix('vision_model.')}": v for k, v in theirs.state_dict().items()}
    model = network("vit_base_patch16_siglip_224", pool="mean")
    dropped = load_backbone(model, state | {"text_model.embeddings.token_embedding.weight": torch.zeros(4, 16)})
    assert {name.split(".")[1] for name in dropped} == {"head", "embeddings"}
    with torch.no_grad():
        wanted = theirs(images(model)[:, :, 0]).last_hidden_state.mean(1)
    torch.testing.assert_close(features(model), wanted, rtol=1e-4, atol=1e-5)


def test_meta_s_names_of_dinov2_and_dinov3_are_taken():
    source = network("vit_small_patch14_reg4_dinov2")
    source.backbone.cls_token.data.normal_()
    state = dict(source.backbone.state_dict())
    meta = {"register_tokens": state.pop("reg_token"), "mask_token": torch.zeros(1, 16), **state}
    ahead = torch.randn(1, 1, 16)
    meta |= {"pos_embed": torch.cat([ahead, state["pos_embed"]], 1), "cls_token": state["cls_token"] - ahead}
    target = network("vit_small_patch14_reg4_dinov2")
    load_backbone(target, meta)
    torch.testing.assert_close(features(target), features(source))

    source = network("vit_small_patch16_dinov3_qkvb")
    target = network("vit_small_patch16_dinov3_qkvb")
    load_backbone(target, meta_dinov3(source))
    torch.testing.assert_close(features(target), features(source))


def meta_dinov3(source):
    """As dinov3_vits16_pretrain_lvd1689m: fused biases with nothing for keys, and a period of rotary positions."""
    state = dict(source.backbone.state_dict())
    out = {"storage_tokens": state.pop("reg_token"), "rope_embed.periods": torch.ones(4)}
    for block in range(2):
        stem = f"blocks.{block}.attn."
        q, v = state.pop(f"{stem}q_bias"), state.pop(f"{stem}v_bias")
        q.normal_(), v.normal_()
        out |= {f"{stem}qkv.bias": torch.cat([q, torch.full_like(q, torch.nan), v])}
        out |= {f"{stem}qkv.bias_mask": torch.zeros(48)}
        out |= {f"blocks.{block}.ls{n}.gamma": state.pop(f"blocks.{block}.gamma_{n}") for n in (1, 2)}
    return out | state


def test_biases_are_left_out_only_where_they_are_zero():
    biased, plain = network("vit_small_patch16_dinov3_qkvb"), network("vit_small_patch16_dinov3")
    state = biased.backbone.state_dict()
    load_backbone(plain, state)  # a network at random has no biases yet
    torch.testing.assert_close(features(plain), features(biased))
    with pytest.raises(CheckpointError, match=r"not in the model: .*q_bias"):
        load_backbone(plain, state | {"blocks.0.attn.q_bias": torch.ones(16)})


def test_masked_methods_tell_which_vits_they_take():
    with pytest.raises(ModelError, match=r"mae pre-trains a ViT with a class token(.|\n)*vit_small_patch16_dinov3 is"):
        transformer_of(network("vit_small_patch16_dinov3"), "mae", ("vit",))


def test_weights_by_the_name_of_the_backbone_tell_what_to_do_without_a_network(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for backbone in ("facebook/dinov2-small", "vit_small_patch14_dinov2"):
        with pytest.raises(CheckpointError, match=r"dinov2(.|\n)*Where there is no network"):
            create_model("slice_vit", 1, slices=1, image_size=28, backbone=backbone, pretrained=True)
