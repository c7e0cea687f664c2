"""2D transformers of timm as backbones of slices, and the names that their weights have in published files.

Dosovitskiy et al. 2021 (ViT, arXiv:2010.11929), Liu et al. 2021 (Swin, arXiv:2103.14030). Weights are taken under the
names of timm, MAE, DINO, DeiT and Hugging Face (ViT; see `_vit_weights`), and of timm, Microsoft, SimMIM, VIS-MAE and
Hugging Face (Swin).
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

from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import CheckpointError, ModelError, one_of
from slivit.models._backbones import create_timm
from slivit.models._vit_weights import (
    NO_PART,
    SHARED_NAMES,
    TRANSFORMERS_BACKBONES,
    fused_attention,
    published_name,
    vit_rules,
)
from slivit.models._weights import ChannelWeights, State, WeightRules, load_by_rules

log = logging.getLogger(__name__)

Family = Literal["vit", "swin"]
Windows = Literal["swin", "vis_mae"]
FAMILIES = {"vit": ("VisionTransformer", "Eva"), "swin": ("SwinTransformer",)}
SWINS = ("swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224")
EXAMPLES = {
    "vit": ("vit_small_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch16_dinov3_qkvb"),
    "swin": SWINS,
}
PATCHES = "patch_embed.proj.weight"

# SimMIM and Hugging Face put "encoder." before the stages; VIS-MAE has positions that are not used.
SWIN_NAMES = (*SHARED_NAMES, (r"^embeddings\.norm\.", "patch_embed.norm."), (r"^encoder\.", ""))
SWIN_NO_PART = (*NO_PART, r"^pos_embed$", r"^first_patch_expanding\.", r"^layers_up\.", r"^norm_up\.")
SWIN_RULES: dict[str, Any] = {"drop": SWIN_NO_PART, "rename": SWIN_NAMES, "parts": ("teacher",)}


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
        name: a timm architecture; `arch.tag` names its weights too. DINOv2 and DINOv3 also by transformers' name.
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
    own = TRANSFORMERS_BACKBONES.get(name, name)
    network = create_timm(own, args or {}, pretrained=pretrained and not vit, listed=f"{family}_*", **fixed)
    _check(family, own, network, image_size)
    if windows == "vis_mae":
        shift_always(network.layers)
    if no_norm:
        network.norm = nn.Identity()
    rules = vit_rules(own, published_name(name, network), network) if vit else SWIN_RULES
    rules |= {} if vit else {"adapt": partial(fit_swin, grow=grow)}
    info = TransformerInfo(
        architecture=own,
        first=(PATCHES,),
        channel_weights=channel_weights,
        family=family,
        channels=network.num_features,
        patch=network.patch_embed.patch_size[0],
        **rules | {"drop": (*rules["drop"], *((r"^norm\.",) if no_norm else ()))},
    )
    if vit and pretrained:
        if not info.default:
            raise CheckpointError(f"{own}: no weights of it are published; leave out pretrained, or give a file")
        load_by_rules(network, info.default, info)
    return network, info


def _check(family: Family, name: str, network: Any, image_size: int) -> None:
    if type(network).__name__ not in FAMILIES[family]:
        raise ModelError(
            f"backbone {name} is timm's {type(network).__name__}; slice_{family} takes a "
            f"{' or '.join(FAMILIES[family])}, such as {one_of(EXAMPLES[family])}"
        )
    patch = network.patch_embed.patch_size[0]
    if image_size % patch:
        raise ModelError(f"image_size must be a multiple of the backbone's patch size {patch}, got {image_size}")


def is_plain(network: Any) -> bool:
    """Whether a ViT has a class token and learned positions for all its tokens, as masked pre-training needs them."""
    plain = type(network).__name__ == "VisionTransformer" and network.pos_embed is not None
    return plain and network.cls_token is not None and not network.no_embed_class


def own_normalisation(network: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The mean and std that the publishers of a ViT give; None for a plain one, which has ImageNet's here."""
    if is_plain(network) or type(network).__name__ not in FAMILIES["vit"]:
        return None
    return tuple(network.pretrained_cfg["mean"]), tuple(network.pretrained_cfg["std"])


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
    patches = tokens[:, network.num_prefix_tokens :]
    return tokens[:, 0] if network.cls_token is not None else patches.mean(1), patches


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
    block = re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name)
    if not block:
        return False
    pattern = rf"layers\.{block[1]}\.blocks\.(\d+)\."
    present = [int(match[1]) for key in state if (match := re.match(pattern, key))]
    return bool(present) and int(block[2]) > max(present)


def _block(name: str) -> str:
    return ".".join(name.split(".")[: 4 if name.startswith("layers.") else 1])
