"""MONAI-ViT: a plain 3D vision transformer, through MONAI, and what its self-supervised pre-training trains.

Papers: Dosovitskiy et al. 2021 (arXiv:2010.11929); over volumes in Hatamizadeh et al. 2022 (UNETR, arXiv:2103.10504);
a baseline of Xu et al. 2025 (3DINO, arXiv:2501.11755).
Origin: the network is MONAI's own (Apache-2.0), imported when a model is made; this file averages its tokens, or
adds a class token, and translates the names of published weights.
Licence: Apache-2.0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slivit.errors import ModelError
from slivit.models._masks import PatchSettings, monai
from slivit.models._vit_adapter import STAGES, AdapterSettings, AdapterUNet
from slivit.models._volume import TokenModel
from slivit.models._weights import Grid, State, WeightRules, regrid
from slivit.models.registry import register_model
from slivit.settings import Count, Share

POSITIONS = "patch_embedding.position_embeddings"
PATCHES = "patch_embedding.patch_embeddings.weight"
# UNETR keeps the network as "vit", the pre-training of its authors as "transformer".
PREFIXES = ("vit.", "transformer.")
PUBLISHED_NAMES = ((r"^patch_embedding\.(\w+)_3d\b", r"patch_embedding.\1"),)
# The decoder of ViTAutoEnc, and what blocks and embeddings of several versions of MONAI hold and never use.
DROPPED = (
    r"^conv3d_transpose(_1)?\.",
    r"^blocks\.\d+\.(norm_)?cross_attn\.",
    r"^patch_embedding\.cls_token$",
    r"^classification_head\.",
)


class PlainViT(nn.Module):
    """The parts of MONAI's ViT under their own names; (B, C, S, H, W) -> (B, dim), its class token or the mean of all.

    Published weights were trained on volumes whose axes run columns, rows, slices, so volumes are turned round.

    Args:
        network: MONAI's ViT without a class token and without dropout.
        patch: side of a patch in voxels.
        class_token: put one, which has no position, before the tokens of the patches.
    """

    def __init__(self, network: Any, patch: int, class_token: bool = False) -> None:
        super().__init__()
        self.patch_embedding, self.blocks, self.norm = network.patch_embedding, network.blocks, network.norm
        self.patch = patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, *network.norm.normalized_shape)) if class_token else None
        self.prefix = int(class_token)  # tokens that stand before those of the patches
        for block in self.blocks:
            # For decoders alone; here they would be parameters that never learn.
            block.cross_attn = block.norm_cross_attn = nn.Identity()
            # torch's own attention, of the same result. MONAI offers it in the block, not in the network.
            block.attn.use_flash_attention = True

    def embed_patches(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) -> (B, prefix + P, dim): the tokens as they enter the blocks, the slice varying fastest."""
        tokens = self.patch_embedding(x.transpose(2, 4))
        if self.cls_token is None:
            return tokens
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], dim=1)

    def forward_both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, H, W) -> what stands for the volume (B, dim), and the tokens of `forward_map`."""
        tokens = self.embed_patches(x)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        patches = tokens[:, self.prefix :]
        grid = [side // self.patch for side in x.shape[:1:-1]]
        return tokens[:, 0] if self.prefix else patches.mean(1), patches.mT.unflatten(2, grid).transpose(2, 4)

    def forward_map(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) -> the tokens (B, dim, S / patch, H / patch, W / patch) after the last norm."""
        return self.forward_both(x)[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_both(x)[0]


@dataclass(frozen=True, kw_only=True)
class ViTSettings(PatchSettings):
    """MONAI's ViT, and the volumes that it takes.

    Args:
        slices: S.
        image_size: P, rows and columns.
        in_chans: C. Weights of one channel are divided among several, so that equal channels give what one gave.
        dim: width of a token, a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads a block.
        mlp_dim: hidden width of a block's perceptron.
        class_token: a token of its own stands for the volume, as in MONAI's ViT for classes, not the mean.
        qkv_bias: queries, keys and values have a bias, as in weights that were trained with it.
        pretrained: the path of a state dict of MONAI's ViT, ViTAutoEnc or UNETR; trained positions of another cube are
            interpolated (see `load_backbone`).
    """

    dim: Count = 768
    depth: Count = 12
    heads: Count = 12
    mlp_dim: Count = 3072
    class_token: bool = False
    qkv_bias: bool = False

    def made(self, name: str, patch: int = 16, embedding: str = "conv") -> tuple[PlainViT, WeightRules]:
        """The network, and how weights become its own; see `monai_vit`."""
        if self.slices % patch or self.image_size % patch or self.dim % self.heads:
            raise ModelError(
                "monai_vit: slices and image_size must be multiples of patch_size, and dim of heads; "
                f"got {self.slices} and {self.image_size} of {patch}, {self.dim} of {self.heads}"
            )
        network = monai("monai_vit", "nets.vit").ViT(
            in_channels=self.in_chans,
            img_size=self.size[::-1],
            patch_size=(patch,) * 3,
            hidden_size=self.dim,
            mlp_dim=self.mlp_dim,
            num_layers=self.depth,
            num_heads=self.heads,
            proj_type=embedding,
            qkv_bias=self.qkv_bias,
        )
        side = self.image_size // patch
        rules = WeightRules(
            architecture=name,
            prefixes=PREFIXES,
            rename=PUBLISHED_NAMES,
            drop=DROPPED,
            first=(PATCHES,) if embedding == "conv" else (),
            adapt=partial(resize_positions, (side, side, self.slices // patch)),
        )
        return PlainViT(network, patch, self.class_token), rules


@register_model(
    input="volume",
    size=(96, 96, 96),
    mean=(0.0,),
    std=(1.0,),
    parameters=88_341_505,
    source="arXiv:2010.11929",
    licence="Apache-2.0",
    weights="none needed; it takes state dicts of MONAI's ViTAutoEnc and UNETR",
    small={"slices": 32, "image_size": 32, "dim": 16, "depth": 2, "heads": 2, "mlp_dim": 32},
)
def monai_vit(
    out_dim: int,
    *,
    vit: ViTSettings,
    patch_size: Count = 16,
    embedding: Literal["conv", "perceptron"] = "conv",
    dropout: Share = 0.0,
) -> TokenModel:
    """MONAI's ViT over volumes: (B, C, S, P, P) float32 volumes from 0 to 1 -> (B, out_dim) logits.

    Args:
        out_dim: the number of outputs.
        vit: settings of the network; sides are multiples of `patch_size`.
        patch_size: side in voxels of a token.
        embedding: of patches, "conv" as in ViTAutoEnc or "perceptron" as in the first UNETR; MONAI's `proj_type`.
        dropout: probability of a feature to be dropped before the head in training.

    Raises:
        ModelError: MONAI is not installed, or a value is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.

    Source: Dosovitskiy et al. 2021, section 3.1; Hatamizadeh et al. 2022, section 3.1.
    """
    network, rules = vit.made("monai_vit", patch_size, embedding)
    return TokenModel(
        network, rules, out_dim, vit.dim, vit.size, in_chans=vit.in_chans, dropout=dropout, pretrained=vit.pretrained
    )


def resize_positions(grid: Grid, state: State, wanted: State) -> State:
    """Trained positions of another cube, interpolated to this network's grid.

    Args:
        grid: the network's patches along columns, rows and slices.
        state: renamed weights.
        wanted: the network's own.
    """
    given = state.get(POSITIONS)
    if given is None or given.ndim != 3 or given.shape == wanted[POSITIONS].shape:
        return state
    side = round(given.shape[1] ** (1 / 3))
    if side**3 != given.shape[1]:
        return state
    return state | {POSITIONS: regrid(given, (side, side, side), grid, prefix=0)}


@register_model(
    input="volume",
    output="mask",
    size=(96, 96, 96),
    mean=(0.0,),
    std=(1.0,),
    parameters=117_982_273,
    source="arXiv:2501.11755, Methods, segmentation",
    licence="Apache-2.0",
    weights="none needed; the backbone takes what monai_vit takes",
    small={
        "slices": 32,
        "image_size": 32,
        "dim": 32,
        "depth": 4,
        "heads": 2,
        "mlp_dim": 32,
        "prior_width": 4,
        "decoder_width": 4,
    },
)
def monai_vit_adapter(out_dim: int, *, vit: ViTSettings, adapter: AdapterSettings) -> AdapterUNet:
    """MONAI's ViT with the 3D ViT-Adapter and a U-Net's decoder: (B, C, S, P, P) -> (B, out_dim, S, P, P) logits.

    Args:
        out_dim: K, the number of outputs.
        vit: settings of the network; its sides are multiples of 16, and it takes no other ones. Weights with a class
            token need it here, too. Each channel goes through it by itself.
        adapter: settings of adapter and decoder.

    Raises:
        ModelError: MONAI is not installed, or a value is not allowed.
        CheckpointError: weights that do not fit.

    Source: Xu et al. 2025, Methods, segmentation.
    """
    name = "monai_vit_adapter"
    if vit.depth % STAGES:
        raise ModelError(f"{name}: depth must be a multiple of {STAGES}, the stages that are read; got {vit.depth}")
    network, rules = replace(vit, in_chans=1).made(name)
    network.norm = nn.Identity()
    rules = replace(rules, drop=(*rules.drop, r"^norm\."))
    return AdapterUNet(network, rules, out_dim, vit.dim, vit, adapter, fixed=True)
