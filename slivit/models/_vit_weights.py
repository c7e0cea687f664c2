"""Published weights of vision transformers under timm's names: ViT, MAE, DINO, DINOv2, DINOv3, SigLIP, EVA-02.

The names are those of the files that timm, Meta (DINO, DINOv2, DINOv3, MAE), and Hugging Face's transformers (versions
4 and 5) write. Origin: written for this project from the names and shapes of those files. Licence: Apache-2.0.
"""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

import torch

from slivit.models._weights import State

NO_PART = (r"^decoder", r"mask_token$", r"^pooler\.", r"relative_position_index$", r"attn_mask$")

# Hugging Face's names before and since its version 5.
SHARED_NAMES = (
    (r"^(vit|deit|swin)\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"\.attention\.(attention|self)\.", ".attention."),
    (r"\.attention\.(query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(relative_position_bias\.)?relative_position", ".attn.relative_position"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
VIT_NAMES = (
    *SHARED_NAMES,
    (r"^(embeddings\.)?(register_tokens|storage_tokens)$", "reg_token"),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embeddings?\.", "patch_embed.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.mlp\.(w12|weights_in)\.", ".mlp.fc1."),
    (r"\.mlp\.(w3|weights_out|down_proj)\.", ".mlp.fc2."),
    (r"^(encoder\.layers?|layers?|model\.layer)\.(?=\d+\.(attn|mlp|norm\d|ls\d)\.)", "blocks."),
    (r"^(fc_norm|post_layernorm)\.", "norm."),
)
VIT_NO_PART = (*NO_PART, r"^attn_pool\.", r"^rope", r"\.bias_mask$", r"^local_cls_norm\.")

# Published on Hugging Face's hub for transformers; the same network under timm's name.
TRANSFORMERS_BACKBONES = {
    **{f"facebook/dinov2-{size}": f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large", "giant")},
    **{
        f"facebook/dinov2-with-registers-{size}": f"vit_{size}_patch14_reg4_dinov2"
        for size in ("small", "base", "large", "giant")
    },
    "facebook/dinov3-vits16-pretrain-lvd1689m": "vit_small_patch16_dinov3_qkvb",
    "facebook/dinov3-vits16plus-pretrain-lvd1689m": "vit_small_plus_patch16_dinov3_qkvb",
    "facebook/dinov3-vitb16-pretrain-lvd1689m": "vit_base_patch16_dinov3_qkvb",
    "facebook/dinov3-vitl16-pretrain-lvd1689m": "vit_large_patch16_dinov3_qkvb",
    "facebook/dinov3-vith16plus-pretrain-lvd1689m": "vit_huge_plus_patch16_dinov3_qkvb",
    "facebook/dinov3-vit7b16-pretrain-lvd1689m": "vit_7b_patch16_dinov3",
}


def vit_rules(name: str, published: str, network: Any) -> dict[str, Any]:
    """The fields of `WeightRules` for a ViT.

    Args:
        name: the architecture, for messages.
        published: its weights on Hugging Face's hub; empty where none are known.
        network: timm's.
    """
    from slivit.models._hub import fetch_hugging_face

    return {
        "drop": VIT_NO_PART,
        "rename": VIT_NAMES,
        "adapt": partial(fit_vit, prefix=0 if network.no_embed_class else network.num_prefix_tokens),
        "parts": ("teacher",),
        "prefixes": ("vision_model.",),
        "hub": partial(fetch_hugging_face, name, published) if published else None,
        "default": published,
    }


def published_name(name: str, network: Any) -> str:
    """The identifier on Hugging Face's hub of a backbone's own weights; empty where none are known."""
    if name in TRANSFORMERS_BACKBONES:
        return name
    return str(network.pretrained_cfg.get("hf_hub_id") or "") if hasattr(network, "pretrained_cfg") else ""


def fit_vit(state: State, wanted: State, *, prefix: int) -> State:
    """Fuse queries, keys and values, and resample positions to the grid of the model.

    Args:
        state: renamed tensors.
        wanted: those of the backbone.
        prefix: tokens with a position that stand before those of the patches.
    """
    from timm.layers.pos_embed import resample_abs_pos_embed

    state = _timm_s_scales(fused_attention(_eva_biases(_gates(state, wanted), wanted)), wanted)
    positions, like = state.get("pos_embed"), wanted.get("pos_embed")
    if positions is None or like is None or positions.shape[-1] != like.shape[2]:
        return state
    positions = positions.reshape(1, -1, like.shape[2])
    if not prefix and _side(positions.shape[1]) is None and _side(positions.shape[1] - 1):
        # Published beside a class token that has a position, which timm adds to the token itself.
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        positions = positions[:, 1:]
    old, new = _side(positions.shape[1] - prefix), _side(like.shape[1] - prefix)
    if old and new and old != new:
        positions = resample_abs_pos_embed(positions, [new, new], num_prefix_tokens=prefix)
    return state | {"pos_embed": positions}


def _side(cells: int) -> int | None:
    """The side of a square grid of so many cells; None where they make none."""
    side = math.isqrt(max(cells, 0))
    return side if side and side**2 == cells else None


def fused_attention(state: State) -> State:
    """Queries, keys and values that are kept apart as the one matrix `qkv` of timm."""
    fused = {name: tensor for name, tensor in state.items() if not re.search(r"\.attn\.[qkv]\.", name)}
    for name in state:
        if ".attn.q." in name:
            parts = [state.get(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
            if all(part is not None for part in parts):
                fused[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([part for part in parts if part is not None])
    return fused


def _eva_biases(state: State, wanted: State) -> State:
    """The biases of queries, keys and values as timm's Eva has them: of queries and values, or of none.

    A bias is left out only where it is 0 throughout: what is published as zeros computes the same without.
    """
    if any(name.endswith(".attn.qkv.bias") for name in wanted):
        return state
    apart: State = {}
    for name, tensor in state.items():
        if name.endswith(".attn.qkv.bias"):
            stem = name.removesuffix("qkv.bias")
            apart |= {f"{stem}{part}_bias": t for part, t in zip("qkv", tensor.nan_to_num().chunk(3), strict=True)}
        else:
            apart[re.sub(r"\.attn\.([qkv])\.bias$", r".attn.\1_bias", name)] = tensor
    idle = re.compile(r"\.attn\.[qkv]_bias$")
    return {name: t for name, t in apart.items() if name in wanted or not idle.search(name) or t.count_nonzero()}


def _gates(state: State, wanted: State) -> State:
    """The two halves of a gated perceptron, kept apart, as one matrix or under timm's two names."""
    apart = any(".mlp.fc1_g." in name for name in wanted)
    out: State = {}
    for name, tensor in state.items():
        gate, up = (name.replace(".mlp.up_proj.", f".mlp.{part}.") for part in ("gate_proj", "up_proj"))
        if ".mlp.up_proj." in name and gate not in state:
            out[name.replace(".up_proj.", ".fc1.")] = tensor
        elif ".mlp.up_proj." in name and not apart:
            out[up.replace(".up_proj.", ".fc1.")] = torch.cat([state[gate], tensor])
        elif apart or ".mlp.gate_proj." not in name:
            renamed = name.replace(".mlp.gate_proj.", ".mlp.fc1_g.").replace(".mlp.up_proj.", ".mlp.fc1_x.")
            out[renamed] = tensor
    return _split_gates(out, wanted) if apart else out


def _split_gates(state: State, wanted: State) -> State:
    """A gated perceptron's one matrix as timm's two."""
    out: State = {}
    for name, tensor in state.items():
        gate, up = name.replace(".mlp.fc1.", ".mlp.fc1_g."), name.replace(".mlp.fc1.", ".mlp.fc1_x.")
        out |= (
            dict(zip((gate, up), tensor.chunk(2), strict=True)) if gate != name and gate in wanted else {name: tensor}
        )
    return out


def _timm_s_scales(state: State, wanted: State) -> State:
    """The scales of a block's two branches under the name that this network of timm has for them."""
    if not any(name.endswith(".gamma_1") for name in wanted):
        return state
    return {re.sub(r"\.ls(\d)\.gamma$", r".gamma_\1", name): tensor for name, tensor in state.items()}
