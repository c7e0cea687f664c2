"""SLIViT: slices tiled into one image, a 2D convolutional backbone, and a vision transformer over one token a slice.

Paper: Avram et al., Accurate prediction of disease-risk factors from volumetric medical scans by a deep vision model
pre-trained with 2D scans, Nature Biomedical Engineering 2024 (doi:10.1038/s41551-024-01257-9).
Origin: written for this project from the paper; the sizes are those of the released code, of which nothing is copied.
Licence: Apache-2.0 for this file; the weights that the authors released are under CC BY-NC-ND 4.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from slivit.errors import ModelError
from slivit.models._backbones import build_backbone, feature_map
from slivit.models._vit import Block, adjacent_mask, sincos_positions
from slivit.models._weights import Weights
from slivit.models.registry import check_tiled, register_model
from slivit.settings import Count, Share

TokenLayout = Literal["per_slice", "published"]
Tiling = Literal["vertical", "horizontal"]
Reach = Literal["global", "adjacent"]
Positions = Literal["sincos", "slice_number"]


@register_model(
    "slivit",
    input="tiled",
    size=(28, 256, 256),
    source="doi:10.1038/s41551-024-01257-9",
    licence="Apache-2.0 (definition); CC BY-NC-ND 4.0 (weights released by the authors)",
    parameters=48_383_585,
    weights="feature_extractor.pth or slivit.pth, released at https://github.com/cozygene/SLIViT",
    small={
        "backbone": "test_convnext",
        "slices": 3,
        "image_size": 32,
        "stride": 16,
        "vit_dim": 16,
        "vit_depth": 2,
        "vit_heads": 2,
        "dim_head": 8,
        "mlp_dim": 32,
    },
)
class SLIViT(nn.Module):
    """SLIViT: (B, 3, S*P, P) float32 tiled slices -> (B, out_dim) logits.

    The backbone sees the S slices as one (S*P, P) image, as in the paper, so that a token knows of its neighbours as
    much as the backbone's receptive field reaches over the border between two slices; BatchNorm, where a backbone has
    it, also shares its statistics among all slices while it trains.

    Args:
        out_dim: the number of outputs.
        backbone: a convolutional network of timm.
        slices: S, the number of slices that are tiled.
        image_size: P, rows and columns of a slice in pixels; a multiple of `stride`.
        stride: of the backbone's feature map, which chooses its stage. The paper's 32 makes 8 x 8 x 768 of a slice of
            256 x 256; small slices need a smaller one.
        backbone_args: further arguments of the timm network, such as `drop_path_rate`.
        pretrained: True downloads timm's weights of the backbone; a path loads a file or folder (see `load_backbone`).
        vit_dim: width of a token.
        vit_depth: number of transformer blocks.
        vit_heads: number of attention heads.
        dim_head: width of a head.
        mlp_dim: hidden width of a block's perceptron.
        dropout: probability, in attention and perceptrons.
        embedding_dropout: probability, of what enters the first block.
        token_layout: "per_slice" is the paper: a token is one slice's patch of the feature map. "published" is what
            the released code computes: the map reshaped in memory order, so that a token is a block of channels over
            all slices. Weights trained with one layout mean nothing in the other.
        tiling: how the backbone sees the slices: "vertical", from top to bottom, or "horizontal", side by side, as the
            released loaders of OCT, ultrasound and MRI tile them (that of MedMNIST tiles vertically). The model's input
            is tiled from top to bottom in both cases.
        attention: "global", or "adjacent": a slice looks at itself and its direct neighbours, the class token at all.
            The paper's variant with adjacent attention has a single layer: `vit_depth=1`.
        positions: what the trainable positions start from: "sincos", sines and cosines, or "slice_number", the paper's:
            the number of the slice in all of a token's width, which the first LayerNorm removes, so that an untrained
            network does not see the order of slices.

    Raises:
        ModelError: a value that is not allowed.

    Source: Avram et al. 2024, Methods, "Model specifications".
    """

    allowed: Tensor | None

    def __init__(
        self,
        out_dim: int,
        *,
        backbone: str = "convnext_tiny",
        slices: Count = 28,
        image_size: Count = 256,
        stride: Count = 32,
        backbone_args: Mapping[str, Any] | None = None,
        pretrained: bool | Weights = False,
        vit_dim: Count = 256,
        vit_depth: Count = 5,
        vit_heads: Count = 20,
        dim_head: Count = 64,
        mlp_dim: Count = 512,
        dropout: Share = 0.0,
        embedding_dropout: Share = 0.0,
        token_layout: TokenLayout = "per_slice",
        tiling: Tiling = "vertical",
        attention: Reach = "global",
        positions: Positions = "sincos",
    ) -> None:
        if token_layout == "published" and attention == "adjacent":
            raise ModelError('attention="adjacent" needs token_layout="per_slice": published tokens belong to no slice')
        super().__init__()
        self.input_size = (slices, image_size, image_size)
        self.token_layout, self.tiling = token_layout, tiling
        self.backbone, self.backbone_info = build_backbone(
            backbone, stride=stride, image_size=image_size, pretrained=pretrained, args=backbone_args
        )
        length = self.backbone_info.channels * (image_size // stride) ** 2
        self.embed = nn.Sequential(nn.LayerNorm(length), nn.Linear(length, vit_dim), nn.LayerNorm(vit_dim))
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, vit_dim))
        self.positions = nn.Parameter(first_positions(positions, 1 + slices, vit_dim)[None])
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.blocks = nn.ModuleList(Block(vit_dim, vit_heads, dim_head, mlp_dim, dropout) for _ in range(vit_depth))
        self.norm = nn.LayerNorm(vit_dim)
        self.head = nn.Linear(vit_dim, out_dim)
        self.register_buffer("allowed", adjacent_mask(slices) if attention == "adjacent" else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S*P, P) float32, slices from top to bottom -> (B, out_dim) logits."""
        return self.forward_head(self.forward_tokens(self.forward_features(x)))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, S*P, P) -> the backbone's feature map (B, C, S*h, h), where h = P / stride."""
        check_tiled(x, "slivit", self.input_size)
        x = side_by_side(x, self.input_size[0]) if self.tiling == "horizontal" else x
        # Convolutions run fastest with the channels last, and tokens are then cut from the map without a copy.
        x = feature_map(self.backbone, self.backbone_info.stage, x.contiguous(memory_format=torch.channels_last))
        return on_top(x, self.input_size[0]) if self.tiling == "horizontal" else x

    def pooled_features(self, x: Tensor) -> Tensor:
        """(B, 3, S*P, P) -> (B, C): the backbone's features, averaged over all slices."""
        return self.forward_features(x).mean((2, 3))

    def forward_tokens(self, features: Tensor) -> Tensor:
        """(B, C, S*h, h) -> (B, 1 + S, vit_dim): the class token and one token a slice, integrated and normed."""
        tokens = self.embed_slices(features)
        for block in self.blocks:
            tokens = block(tokens, self.allowed)
        return self.norm(tokens)

    def forward_head(self, tokens: Tensor) -> Tensor:
        """(B, 1 + S, vit_dim) -> (B, out_dim) logits, from the class token."""
        return self.head(tokens[:, 0])

    def embed_slices(self, features: Tensor) -> Tensor:
        """(B, C, S*h, h) -> (B, 1 + S, vit_dim): the tokens as they enter the transformer, with their positions."""
        slices = self.input_size[0]
        if self.token_layout == "per_slice":
            tokens = self.embed(slice_tokens(features, slices))
        else:
            features = side_by_side(features, slices) if self.tiling == "horizontal" else features
            tokens = self.embed(published_tokens(features, slices))
        tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return self.embedding_dropout(tokens + self.positions)

    def attention_maps(self, x: Tensor) -> Tensor:
        """How much each token looks at each: (B, depth, heads, 1 + S, 1 + S) probabilities, the class token first."""
        tokens = self.embed_slices(self.forward_features(x))
        maps = []
        for block in cast("Iterable[Block]", self.blocks):
            maps.append(block.attention.weights(tokens, self.allowed))
            tokens = block(tokens, self.allowed)
        return torch.stack(maps, dim=1)


def first_positions(kind: Positions, length: int, dim: int) -> Tensor:
    """(length, dim): what positions are before training; see `slivit`."""
    if kind == "sincos":
        return sincos_positions(length, dim)
    return torch.arange(length, dtype=torch.float32)[:, None].repeat(1, dim)


def side_by_side(x: Tensor, slices: int) -> Tensor:
    """(B, C, S*h, h), slices from top to bottom -> (B, C, h, S*h), slices from left to right."""
    return x.unflatten(2, (slices, -1)).transpose(2, 3).flatten(3)


def on_top(x: Tensor, slices: int) -> Tensor:
    """(B, C, h, S*h), slices from left to right -> (B, C, S*h, h), slices from top to bottom."""
    return x.unflatten(3, (slices, -1)).transpose(2, 3).flatten(2, 3)


def slice_tokens(features: Tensor, slices: int) -> Tensor:
    """(B, C, S*h, h) -> (B, S, h*h*C): the map is cut where the slices meet, one patch a slice.

    Source: Avram et al. 2024, Methods, "Model specifications".
    """
    return features.permute(0, 2, 3, 1).reshape(features.shape[0], slices, -1)


def published_tokens(features: Tensor, slices: int) -> Tensor:
    """(B, C, S*h, h) or (B, C, h, S*h) -> (B, S, C*h*h) in memory order: a token is a block of C / S channels.

    This is what the released code computes, and what weights trained with it need; no token belongs to one slice.
    """
    return features.contiguous().reshape(features.shape[0], slices, -1)
