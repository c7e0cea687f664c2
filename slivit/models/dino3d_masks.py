"""Segmentation on 3DINO-ViT: the 3D ViT-Adapter, UNETR, and a linear decoder.

Papers: Xu et al. 2025 (3DINO, arXiv:2501.11755), Methods, segmentation; Chen et al. 2023 (ViT-Adapter,
arXiv:2205.08534); Hatamizadeh et al. 2022 (UNETR, arXiv:2103.10504).
Origin: written for this project from the papers and from numbers that the released code computes; the decoders' blocks
are MONAI's own (Apache-2.0), imported when a model is made.
Licence: Apache-2.0 for this file; the weights that the authors released are under CC BY-NC-ND 4.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.models._dino3d_vit import VisionTransformer3d, grid_of
from slivit.models._masks import MaskModel, PatchSettings, UnetrDecoder
from slivit.models._vit_adapter import PATCHES, STAGES, AdapterSettings, AdapterUNet
from slivit.models._weights import WeightRules, start_from
from slivit.models.dino3d import SIZES, Size, check_sizes, weight_rules
from slivit.models.registry import register_model
from slivit.settings import Count, NonNegative, Positive, Share

LINEAR_LAYERS = 4


class Unetr(MaskModel):
    """A 3DINO-ViT whose tokens behind four blocks a UNETR's decoder joins with the volume; axes as in `AdapterUNet`."""

    def __init__(
        self,
        backbone: VisionTransformer3d,
        rules: WeightRules,
        out_dim: int,
        patches: PatchSettings,
        decoder_width: int,
    ) -> None:
        super().__init__(backbone, rules, patches, PATCHES)
        self.merges = nn.ModuleList(nn.Linear(self.in_chans * backbone.dim, backbone.dim) for _ in range(STAGES))
        self.decoder = UnetrDecoder(self.name, self.in_chans, backbone.dim, decoder_width)
        self.head = nn.Conv3d(decoder_width, out_dim, 1)
        start_from(self, patches.pretrained)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) float32 -> (B, K, S, H, W) logits."""
        self.check(x)
        grid = grid_of(x)[::-1]
        every = len(self.backbone.blocks) // STAGES
        layers = self.backbone.forward_layers(x.flatten(0, 1)[:, None], STAGES, every=every)
        maps = [
            F.gelu(merge(channels_last(tokens[:, 1:], len(x)))).mT.unflatten(2, grid)
            for merge, tokens in zip(self.merges, layers, strict=True)
        ]
        return self.head(self.decoder(x.transpose(2, 4), maps)).transpose(2, 4)


class LinearMasks(MaskModel):
    """A 3DINO-ViT and a linear layer over the patch tokens of its last four blocks, made as large as the volume."""

    def __init__(self, backbone: VisionTransformer3d, rules: WeightRules, out_dim: int, patches: PatchSettings) -> None:
        super().__init__(backbone, rules, patches, PATCHES)
        self.merge = nn.Linear(self.in_chans * backbone.dim, backbone.dim)
        self.norm = nn.BatchNorm3d(LINEAR_LAYERS * backbone.dim)
        self.head = nn.Conv3d(LINEAR_LAYERS * backbone.dim, out_dim, 1)
        start_from(self, patches.pretrained)

    def forward_low(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) -> (B, K, S / 16, H / 16, W / 16) logits."""
        layers = self.backbone.forward_layers(x.flatten(0, 1)[:, None], LINEAR_LAYERS)
        merged = torch.cat([F.gelu(self.merge(channels_last(tokens[:, 1:], len(x)))) for tokens in layers], dim=2)
        return self.head(self.norm(merged.mT.unflatten(2, grid_of(x)[::-1]))).transpose(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) float32 -> (B, K, S, H, W) logits."""
        self.check(x)
        return F.interpolate(self.forward_low(x), size=x.shape[2:], mode="trilinear")


def channels_last(tokens: Tensor, batch: int) -> Tensor:
    """(B * C, P, dim) -> (B, P, C * dim): the tokens of a scan's channels one behind the other."""
    return tokens.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2)


@dataclass(frozen=True, kw_only=True)
class Dino3dSettings(PatchSettings):
    """The 3DINO-ViT of the networks here, and the patches that it takes.

    Args:
        vit: its size: "small", "base", or "large", for which weights are released.
        slices: S of a patch, a multiple of 16; the network itself takes any multiples of 16.
        image_size: P, rows and columns of a patch, a multiple of 16.
        in_chans: C. Each channel goes through the backbone by itself.
        dim: width of a token, where it is not the size's.
        depth: number of blocks, a multiple of 4, where it is not the size's.
        heads: attention heads a block, where they are not the size's.
        mlp_ratio: hidden width of a block's perceptron, in widths of a token.
        position_size: side in voxels of the cube over which positions are trained.
        resize_positions: see `slivit.models.dino3d.Dino3d`.
        layer_scale: value from which the scale of each residual branch is trained.
        pretrained: a path loads weights into the backbone (see `load_backbone`).
    """

    vit: Size = "large"
    slices: Count = 112
    image_size: Count = 112
    dim: Count | None = None
    depth: Count | None = None
    heads: Count | None = None
    mlp_ratio: Positive = 4.0
    position_size: Count = 112
    resize_positions: bool = False
    layer_scale: NonNegative = 1e-5

    def made(self, name: str, drop_path: float, *, norm: bool = True) -> tuple[VisionTransformer3d, WeightRules]:
        """The network, and how weights become its own.

        Args:
            name: of the model, for messages.
            drop_path: share of the volumes that skip a residual branch in training.
            norm: whether the last norm is used; where not, it is no part of the network.
        """
        own = {key: value for key in ("dim", "depth", "heads") if (value := getattr(self, key)) is not None}
        counts = SIZES[self.vit] | own
        sides = {key: getattr(self, key) for key in ("slices", "image_size", "position_size")}
        check_sizes(name, sides, counts | {"last_layers": 1}, drop_path)
        if counts["depth"] % STAGES:
            raise ModelError(
                f"{name}: depth must be a multiple of {STAGES}, the stages that are read; got {counts['depth']}"
            )
        network = VisionTransformer3d(
            **counts,
            mlp_ratio=self.mlp_ratio,
            position_size=self.position_size,
            layer_scale=self.layer_scale,
            drop_path=drop_path,
        )
        if not norm:
            network.norm = nn.Identity()  # type: ignore[assignment]
        return network, weight_rules(name, False, self.resize_positions, norm=norm)


COMMON: dict[str, Any] = {
    "input": "volume",
    "output": "mask",
    "size": (112, 112, 112),
    "mean": (0.5,),
    "std": (0.5,),
    "source": "arXiv:2501.11755, Methods, segmentation",
    "licence": "Apache-2.0 (definition); CC BY-NC-ND 4.0 (weights released by the authors)",
    "weights": "the backbone released for dino3d_vit_large; docs/dino3d.md",
}
SIDES = {"slices": 32, "image_size": 32, "position_size": 32}
SMALL: dict[str, Any] = SIDES | {"dim": 32, "depth": 4, "heads": 2, "decoder_width": 4}


@register_model(**COMMON, parameters=349_881_153, small=SMALL | {"prior_width": 4})
def dino3d_adapter(
    out_dim: int, *, backbone: Dino3dSettings, vit_drop_path: Share = 0.0, adapter: AdapterSettings
) -> AdapterUNet:
    """3DINO-ViT with the 3D ViT-Adapter and a U-Net's decoder: (B, C, S, H, W) float32 -> (B, out_dim, S, H, W) logits.

    In the paper the backbone is frozen and the rest is trained. The blocks' activations are computed again for the
    gradients, as these run through a frozen backbone too.

    Args:
        out_dim: K, the number of outputs.
        backbone: its settings, and those of the patches.
        vit_drop_path: share of the volumes that skip a residual branch of the backbone in training.
        adapter: settings of the adapter, which reads the mean of the channels, and of the decoder.

    Raises:
        ModelError: MONAI is not installed, or a value is not allowed.
        CheckpointError: weights that do not fit.

    Source: Xu et al. 2025, Methods, segmentation; Chen et al. 2023, section 3.
    """
    network, rules = backbone.made("dino3d_adapter", vit_drop_path, norm=False)
    return AdapterUNet(network, rules, out_dim, network.dim, backbone, adapter)


def dino3d_decoder(
    name: str, out_dim: int, *, backbone: Dino3dSettings, drop_path: Share = 0.0, decoder_width: Count = 32
) -> Unetr | LinearMasks:
    """3DINO-ViT with a plain decoder: (B, C, S, H, W) float32 -> (B, out_dim, S, H, W) logits.

    Args:
        name: "dino3d_unetr", the paper's Random: the normed tokens behind each quarter of the blocks (6, 12, 18 and 24
            of the large one) and the volume itself through UNETR's decoder; or "dino3d_linear": the patch tokens of the
            last four blocks, their channels merged, through GELU, batch norm and one linear layer, whose logits of
            patches are interpolated to voxels.
        out_dim: K, the number of outputs.
        backbone: its settings, and those of the patches.
        drop_path: share of the volumes that skip a residual branch in training.
        decoder_width: channels of UNETR's decoder at full size.

    Raises:
        ModelError: MONAI is not installed, or a value is not allowed.
        CheckpointError: weights that do not fit.

    Source: Xu et al. 2025, Methods, segmentation; Hatamizadeh et al. 2022, section 3.1.
    """
    network, rules = backbone.made(name, drop_path)
    if name == "dino3d_unetr":
        return Unetr(network, rules, out_dim, backbone, decoder_width)
    return LinearMasks(network, rules, out_dim, backbone)


for _name, _parameters in (("dino3d_unetr", 325_995_425), ("dino3d_linear", 307_971_073)):
    register_model(_name, **COMMON, parameters=_parameters, small=SMALL)(partial(dino3d_decoder, _name))
