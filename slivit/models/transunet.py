"""TransUNet: a ResNet-50 whose map a ViT-B reads, and a decoder that joins the ResNet's finer maps; for single slices.

Paper: Chen et al. 2021 (arXiv:2102.04306); a baseline of VIS-MAE (arXiv:2402.01034).
Origin: written for this project from the paper; ResNet and ViT are timm's own (Apache-2.0), with the published weights
of Dosovitskiy et al. 2021 (arXiv:2010.11929), R50+ViT-B/16 on ImageNet-21k. Licence: Apache-2.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers.hybrid_embed import HybridEmbed
from timm.layers.std_conv import StdConv2dSame
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import CheckpointError, ModelError, nearest
from slivit.models._backbones import create_timm
from slivit.models._vit_weights import fit_vit
from slivit.models._weights import State, WeightRules, Weights, start_from
from slivit.models.registry import check_tiled, register_model
from slivit.settings import Count, Share

IDENTIFIER = "vit_base_r50_s16_224.orig_in21k"
STRIDE = 16
STEM = 64
SMALL: dict[str, Any] = {
    "image_size": 32,
    "layers": (1, 1, 1),
    "channels": (128, 128, 128),
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 32,
    "decoder": (16, 16, 8, 8, 4),
}


class HybridEncoder(nn.Module):
    """timm's hybrid of a ResNet and a ViT under its own names; (B, 3, P, P) -> tokens as a map, and the finer maps."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.patch_embed, self.pos_embed = network.patch_embed, network.pos_embed
        self.blocks, self.norm = network.blocks, network.norm

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The normed tokens (B, dim, P / 16, P / 16), and maps at 1/8, 1/4 and 1/2, in this order."""
        resnet = self.patch_embed.backbone
        maps = [resnet.stem.norm(resnet.stem.conv(images))]
        x = resnet.stem.pool(maps[0])
        for stage in resnet.stages:
            x = stage(x)
            maps.append(x)
        projected = self.patch_embed.proj(resnet.norm(maps.pop()))
        tokens = self.norm(self.blocks(projected.flatten(2).mT + self.pos_embed))
        return tokens.mT.unflatten(2, projected.shape[2:]), maps[::-1]


class CascadedUpsampler(nn.Module):
    """Four times: twice the sides, joined with a finer map where there is one, convolutions of 3 x 3.

    Each convolution has a batch norm and ReLU behind it, and there are two a step, which gives the network's published
    number of parameters (105.3 million); the text speaks of one.

    Args:
        dim: channels of the tokens.
        skips: channels of the finer maps at 1/8, 1/4 and 1/2.
        widths: channels at 1/16, 1/8, 1/4, 1/2 and of the full size.

    Source: Chen et al. 2021, section 3.2, cascaded upsampler, and figure 1.
    """

    def __init__(self, dim: int, skips: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.first = _conv(dim, widths[0])
        joined = [old + skip for old, skip in zip(widths, (*skips, 0), strict=False)]
        self.steps = nn.ModuleList(
            nn.Sequential(_conv(old, new), _conv(new, new)) for old, new in zip(joined, widths[1:], strict=True)
        )

    def forward(self, tokens: Tensor, maps: Sequence[Tensor]) -> Tensor:
        x = self.first(tokens)
        for index, step in enumerate(self.steps):
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
            x = step(torch.cat([x, maps[index]], dim=1) if index < len(maps) else x)
        return x


def _conv(old: int, new: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(old, new, 3, padding=1, bias=False), nn.BatchNorm2d(new), nn.ReLU(inplace=True))


@register_model(
    "transunet",
    input="tiled",
    output="mask",
    size=(1, 224, 224),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    parameters=105_275_921,
    source="arXiv:2102.04306",
    licence="Apache-2.0",
    weights=f"{IDENTIFIER} (ImageNet-21k), which timm downloads with pretrained = true",
    small=SMALL,
)
class TransUNet(nn.Module):
    """TransUNet over single slices: (B, 3, P, P) float32 -> (B, out_dim, P, P) logits.

    Args:
        out_dim: K, the number of outputs.
        image_size: P, rows and columns in pixels, a multiple of 16.
        layers: blocks of the ResNet's three stages.
        channels: of the three stages, multiples of 128.
        dim: width of a token, a multiple of `heads`.
        depth: transformer blocks.
        heads: attention heads a block.
        mlp_dim: hidden width of a block's perceptron.
        decoder: channels at 1/16, 1/8, 1/4, 1/2 and of the full size.
        dropout: probability in the transformer's perceptrons and projections.
        pretrained: True downloads R50+ViT-B/16's weights of ImageNet-21k; a path loads a file or folder of timm's. The
            class token, which this network has not, is left out; positions of another grid are resampled.

    Raises:
        ModelError: a value is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.

    Source: Chen et al. 2021, section 3 and 4.2.
    """

    def __init__(
        self,
        out_dim: int,
        *,
        image_size: Count = 224,
        layers: Sequence[Count] = (3, 4, 9),
        channels: Sequence[Count] = (256, 512, 1024),
        dim: Count = 768,
        depth: Count = 12,
        heads: Count = 12,
        mlp_dim: Count = 3072,
        decoder: Sequence[Count] = (512, 256, 128, 64, 16),
        dropout: Share = 0.1,
        pretrained: bool | Weights = False,
    ) -> None:
        _check(image_size, layers, channels, dim, heads, decoder)
        resnet = ResNetV2(
            layers=list(layers),
            channels=(*channels,),
            num_classes=0,
            global_pool="",
            stem_chs=STEM,
            stem_type="same",
            preact=False,
            conv_layer=partial(StdConv2dSame, eps=1e-8),
        )
        network = VisionTransformer(
            img_size=image_size,
            patch_size=1,
            embed_dim=dim,
            depth=depth,
            num_heads=heads,
            mlp_ratio=mlp_dim / dim,
            proj_drop_rate=dropout,
            class_token=False,
            global_pool="",
            num_classes=0,
            embed_layer=partial(HybridEmbed, backbone=resnet),
        )
        super().__init__()
        self.input_size, self.backbone = (1, image_size, image_size), HybridEncoder(network)
        self.backbone_info = WeightRules(
            architecture="transunet",
            drop=(r"^cls_token$",),
            adapt=_without_class_position,
            hub=_timms,
            default=IDENTIFIER,
        )
        self.decoder = CascadedUpsampler(dim, (channels[1], channels[0], STEM), decoder)
        self.head = nn.Conv2d(decoder[-1], out_dim, 3, padding=1)
        start_from(self, pretrained)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, P, P) float32 -> (B, K, P, P) logits."""
        check_tiled(x, "transunet", self.input_size)
        return self.head(self.decoder(*self.backbone(x)))


def _check(
    image_size: int, layers: Sequence[int], channels: Sequence[int], dim: int, heads: int, decoder: Sequence[int]
) -> None:
    if image_size % STRIDE or dim % heads or any(width % 128 for width in channels):
        raise ModelError(
            f"transunet: image_size must be a multiple of {STRIDE}, dim of heads, and channels of 128; "
            f"got {image_size}, {dim} of {heads} and {tuple(channels)}"
        )
    if (len(layers), len(channels), len(decoder)) != (3, 3, 5):
        raise ModelError(
            "transunet: layers and channels have three numbers, decoder has five; "
            f"got {tuple(layers)}, {tuple(channels)} and {tuple(decoder)}"
        )


def _without_class_position(state: State, wanted: State) -> State:
    """Leave out the class token's position, which comes first, and resample the others to this network's grid."""
    positions = state.get("pos_embed")
    if (
        positions is not None
        and positions.ndim == 3
        and math.isqrt(positions.shape[1] - 1) ** 2 + 1 == positions.shape[1]
    ):
        state = state | {"pos_embed": positions[:, 1:]}
    return fit_vit(state, wanted, prefix=0)


def _timms(identifier: str) -> Mapping[str, Any]:
    """timm's weights by their identifier."""
    if identifier != IDENTIFIER:
        raise CheckpointError(
            f'transunet: there is no such weight file or folder "{identifier}", and no published weights of that name.'
            f'{nearest(identifier, [IDENTIFIER])} There is "{IDENTIFIER}".'
        )
    weights: dict[str, Any] = create_timm(identifier, {}, pretrained=True, num_classes=0).state_dict()
    return weights
