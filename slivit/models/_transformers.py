"""2D transformers of timm as backbones of slices, and the names that their weights have in published files.

Dosovitskiy et al. 2021 (ViT, arXiv:2010.11929), Liu et al. 2021 (Swin, arXiv:2103.14030). Weights are taken under the
names of timm, MAE, DINO, DeiT and Hugging Face (ViT), and of timm, Microsoft, SimMIM, VIS-MAE and Hugging Face (Swin).
Origin: written for this project. Licence: Apache-2.0.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import ModelError, one_of
from slivit.models._backbones import create_timm
from slivit.models._weights import ChannelWeights, State, WeightRules

log = logging.getLogger(__name__)

Family = Literal["vit", "swin"]
Windows = Literal["swin", "vis_mae"]
FAMILIES = {"vit": "VisionTransformer", "swin": "SwinTransformer"}
PATCHES = "patch_embed.proj.weight"
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
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^(encoder\.layer|layers)\.(?=\d+\.(attn|mlp|norm\d)\.)", "blocks."),
    (r"^fc_norm\.", "norm."),
)
# SimMIM and Hugging Face put "encoder." before the stages; VIS-MAE has positions that are not used.
SWIN_NAMES = (*SHARED_NAMES, (r"^embeddings\.norm\.", "patch_embed.norm."), (r"^encoder\.", ""))
SWIN_NO_PART = (*NO_PART, r"^pos_embed$", r"^first_patch_expanding\.", r"^layers_up\.", r"^norm_up\.")


@dataclass(frozen=True, kw_only=True)
class TransformerInfo(WeightRules):
    """What is known of a transformer over slices beside its parameters, which keep timm's own names.

    Args:
        family: "vit" or "swin".
        channels: the width of its tokens.
        patch: rows and columns of a patch, in pixels.
    """

    family: Family
    channels: int
    patch: int


def build_transformer(
    family: Family,
    name: str,
    *,
    image_size: int,
    pretrained: bool = False,
    args: Mapping[str, Any] | None = None,
    grow: bool = False,
    channel_weights: ChannelWeights = "output",
    windows: Windows = "swin",
    no_norm: bool = False,
) -> tuple[nn.Module, TransformerInfo]:
    """Create a ViT or Swin of timm without its pooling and head.

    Args:
        family: which of them `name` must be.
        name: a timm architecture; `arch.tag` names its weights too.
        image_size: P of the P x P slices, in pixels.
        pretrained: download timm's weights.
        args: further arguments of the timm network, such as `patch_size`, `depths` or `drop_path_rate`.
        grow: see `fit_swin`.
        channel_weights: see `WeightRules`.
        windows: "swin", or "vis_mae" (see `shift_always`).
        no_norm: leave out the last norm.

    Raises:
        ModelError: no such network, or arguments and a size that it does not take.
        CheckpointError: timm's weights cannot be had.
    """
    vit = family == "vit"
    # A ViT takes crops of other sizes too, by resampling its positions.
    fixed: dict[str, Any] = {"num_classes": 0, "global_pool": "", "img_size": image_size}
    fixed |= {"dynamic_img_size": True} if vit else {}
    fixed |= ALWAYS_SHIFTED if windows == "vis_mae" else {}
    network = create_timm(name, args or {}, pretrained=pretrained, listed=f"{family}_*", **fixed)
    _check(family, name, network, image_size)
    if windows == "vis_mae":
        shift_always(network.layers)
    if no_norm:
        network.norm = nn.Identity()
    info = TransformerInfo(
        architecture=name,
        drop=(*(NO_PART if vit else SWIN_NO_PART), *((r"^norm\.",) if no_norm else ())),
        rename=VIT_NAMES if vit else SWIN_NAMES,
        adapt=partial(fit_vit, prefix=network.num_prefix_tokens) if vit else partial(fit_swin, grow=grow),
        parts=("teacher",),
        first=(PATCHES,),
        channel_weights=channel_weights,
        family=family,
        channels=network.num_features,
        patch=network.patch_embed.patch_size[0],
    )
    return network, info


def _check(family: Family, name: str, network: Any, image_size: int) -> None:
    if type(network).__name__ != FAMILIES[family]:
        raise ModelError(
            f"backbone {name} is timm's {type(network).__name__}; slice_{family} takes a {FAMILIES[family]}, such as "
            f"{one_of(('vit_small_patch16_224', 'vit_base_patch16_224') if family == 'vit' else SWINS)}"
        )
    if family == "vit" and (network.pos_embed is None or network.no_embed_class or network.cls_token is None):
        raise ModelError(f"backbone {name}: slice_vit takes a ViT with a class token and positions for all its tokens")
    patch = network.patch_embed.patch_size[0]
    if image_size % patch:
        raise ModelError(f"image_size must be a multiple of the backbone's patch size {patch}, got {image_size}")


SWINS = ("swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224")


ALWAYS_SHIFTED: dict[str, Any] = {"always_partition": True, "norm_layer": partial(nn.LayerNorm, eps=1e-6)}
"""Arguments of timm's Swin, or of one of its stages, for the windows of VIS-MAE."""


class PaddedFirst(SwinTransformerBlock):
    """timm's block, but what windows lack is added before they are shifted, not after."""

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        rows, columns = self.window_size
        padded = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        attended: Tensor = super()._attn(padded)
        return attended[:, :height, :width]


def shift_always(stages: Any) -> None:
    """Make stages of timm's Swin, created with ALWAYS_SHIFTED, those of VIS-MAE.

    Every second block shifts its windows, also where one window holds the whole grid; a grid that windows do not
    divide is padded before it is shifted, with zeros that attention sees; norms have an epsilon of 1e-6.

    Source: Liu et al. 2024 (VIS-MAE), the released code.
    """
    for stage in stages:
        for block in stage.blocks:
            block.__class__ = PaddedFirst  # timm's stage makes its blocks itself


def patch_tokens(network: Any, family: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, P, P) -> the normed class token (B, D), or the mean of all tokens where there is none, and (B, N, D)."""
    tokens = network.forward_features(images)
    if family == "swin":
        tokens = tokens.flatten(1, 2)
        return tokens.mean(1), tokens
    return tokens[:, 0], tokens[:, network.num_prefix_tokens :]


def fit_vit(state: State, wanted: State, *, prefix: int) -> State:
    """Fuse queries, keys and values, and resample positions to the grid of the model.

    Args:
        state: renamed tensors.
        wanted: those of the backbone.
        prefix: tokens that stand before those of the patches.
    """
    from timm.layers.pos_embed import resample_abs_pos_embed

    state = fused_attention(state)
    positions, like = state.get("pos_embed"), wanted["pos_embed"]
    if positions is None or positions.ndim != 3 or positions.shape[2] != like.shape[2]:
        return state
    sides = [math.isqrt(t.shape[1] - prefix) for t in (positions, like)]
    if sides[0] != sides[1] and sides[0] ** 2 == positions.shape[1] - prefix:
        state["pos_embed"] = resample_abs_pos_embed(positions, [sides[1]] * 2, num_prefix_tokens=prefix)
    return state


def fit_swin(state: State, wanted: State, *, grow: bool) -> State:
    """Bring published Swin weights into timm's order, and their tables of relative positions to the model's windows.

    Args:
        state: renamed tensors.
        wanted: those of the backbone.
        grow: take the weights of a shallower network too: blocks that follow its last block of a stage, and a last
            norm that it has not, stay as they are in the model, and the log names them.
    """
    state = _merging_first(fused_attention(state))
    for name, table in state.items():
        like = wanted.get(name)
        if name.endswith("relative_position_bias_table") and like is not None and like.shape[1] == table.shape[1]:
            state[name] = _resized(table, like)
    new = {name: tensor for name, tensor in wanted.items() if _is_new(name, state)}
    blocks = ", ".join(sorted({_block(name) for name in new}))
    if new and grow:
        log.warning("not in the weights, and left at random: %s", blocks)
        return state | new
    if new and new.keys() == wanted.keys() - state.keys():
        log.warning("these weights are of a shallower Swin; with grow = true it starts from them, but for %s", blocks)
    return state


def fused_attention(state: State) -> State:
    """Queries, keys and values that are kept apart as the one matrix `qkv` of timm."""
    fused = {name: tensor for name, tensor in state.items() if not re.search(r"\.attn\.[qkv]\.", name)}
    for name in state:
        if ".attn.q." in name:
            parts = [state.get(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
            if all(part is not None for part in parts):
                fused[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([part for part in parts if part is not None])
    return fused


def _merging_first(state: State) -> State:
    """timm merges patches at the start of a stage, all others at the end of the one before."""
    if "layers.0.downsample.reduction.weight" not in state:
        return state
    return {
        re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name): tensor
        for name, tensor in state.items()
    }


def _resized(table: Tensor, like: Tensor) -> Tensor:
    from timm.layers.pos_embed_rel import resize_rel_pos_bias_table

    window = (math.isqrt(like.shape[0]) + 1) // 2
    return resize_rel_pos_bias_table(table, (window, window), tuple(like.shape))


def _is_new(name: str, state: State) -> bool:
    if name in state:
        return False
    if name.startswith("norm."):
        return not any(key.startswith("norm.") for key in state)
    found = re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name)
    if not found:
        return False
    pattern = rf"layers\.{found[1]}\.blocks\.(\d+)\."
    present = [int(match[1]) for key in state if (match := re.match(pattern, key))]
    return bool(present) and int(found[2]) > max(present)


def _block(name: str) -> str:
    return ".".join(name.split(".")[: 4 if name.startswith("layers.") else 1])
