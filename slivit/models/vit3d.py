"""3D ViT: ViViT's factorised encoder over grey volumes, to be trained from scratch.

Paper: Arnab et al. 2021 (arXiv:2103.15691), model 2. Origin: written for this project from the paper; smaller than the
paper's, as volumes are few. Licence: Apache-2.0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slivit.errors import ModelError
from slivit.models._vit import Block
from slivit.models._volume import VolumeModel
from slivit.models._weights import WeightRules, Weights
from slivit.models.registry import register_model
from slivit.settings import Count, Share


class Encoder(nn.Module):
    """Learned positions, a class token and transformer blocks: (B, N, dim) -> (B, dim), the class token."""

    def __init__(self, tokens: int, dim: int, depth: int, heads: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + tokens, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, dim // heads, mlp_dim, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return self.norm(self.blocks(tokens + self.positions))[:, 0]


class FactorisedEncoder(nn.Module):
    """(B, 1, S, H, W) -> (B, dim): a transformer within each layer of tubelets, then one along the layers.

    Args:
        grid: tubelets along slices, rows and columns.
        tubelet: slices, rows and columns of one.
        dims: width of a token within layers, and along them; where they differ, a linear layer stands between.
        depths: blocks within layers, and along them.
        heads: attention heads.
        mlp_dim: hidden width of a block's perceptron.
        dropout: probability, in attention and perceptrons.
    """

    def __init__(
        self,
        grid: tuple[int, int, int],
        tubelet: tuple[int, int, int],
        dims: tuple[int, int],
        depths: tuple[int, int],
        heads: int,
        mlp_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv3d(1, dims[0], tubelet, tubelet)
        self.spatial = Encoder(grid[1] * grid[2], dims[0], depths[0], heads, mlp_dim, dropout)
        self.between = nn.Linear(*dims) if dims[0] != dims[1] else nn.Identity()
        self.temporal = Encoder(grid[0], dims[1], depths[1], heads, mlp_dim, dropout)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).permute(0, 2, 3, 4, 1).flatten(2, 3)
        layers = self.spatial(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return self.temporal(self.between(layers))


@register_model(
    input="volume",
    size=(28, 256, 256),
    mean=(0.5,),
    std=(0.5,),
    source="arXiv:2103.15691",
    licence="Apache-2.0 (definition)",
    parameters=21_583_873,
    small={
        "slices": 4,
        "image_size": 32,
        "patch_size": 8,
        "dim": 16,
        "spatial_depth": 2,
        "temporal_depth": 1,
        "heads": 2,
        "mlp_dim": 32,
    },
)
def vit3d(
    out_dim: int,
    *,
    slices: Count = 28,
    image_size: Count = 256,
    tubelet_size: Count = 2,
    patch_size: Count = 16,
    dim: Count = 384,
    temporal_dim: Count | None = None,
    spatial_depth: Count = 8,
    temporal_depth: Count = 4,
    heads: Count = 6,
    mlp_dim: Count = 1536,
    dropout: Share = 0.0,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """3D ViT with a factorised encoder: (B, 1, S, P, P) float32 volumes -> (B, out_dim) logits.

    Args:
        out_dim: the number of outputs.
        slices: S, a multiple of `tubelet_size`.
        image_size: P, rows and columns in pixels, a multiple of `patch_size`.
        tubelet_size: slices of a token.
        patch_size: rows and columns of a token, in pixels.
        dim: width of a token within the layers, a multiple of `heads`.
        temporal_dim: width of a token along the layers, a multiple of `heads`; that of `dim` where None.
        spatial_depth: blocks within each layer of tokens.
        temporal_depth: blocks along the layers.
        heads: attention heads.
        mlp_dim: hidden width of a block's perceptron.
        dropout: probability, in attention, perceptrons and before the head.
        pretrained: the path of weights of this model, see `load_backbone`.

    Raises:
        ModelError: a value that is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.

    Source: Arnab et al. 2021, section 3.3, model 2.
    """
    dims = dim, temporal_dim or dim
    if slices % tubelet_size or image_size % patch_size or any(width % heads for width in dims):
        raise ModelError(
            f"vit3d: slices must be a multiple of tubelet_size, image_size of patch_size and dim of heads; "
            f"got {slices} and {tubelet_size}, {image_size} and {patch_size}, {dims} and {heads}"
        )
    side = image_size // patch_size
    backbone = FactorisedEncoder(
        (slices // tubelet_size, side, side),
        (tubelet_size, patch_size, patch_size),
        dims,
        (spatial_depth, temporal_depth),
        heads,
        mlp_dim,
        dropout,
    )
    rules, size = WeightRules(architecture="vit3d"), (slices, image_size, image_size)
    return VolumeModel(backbone, rules, out_dim, dims[1], size, dropout=dropout, pretrained=pretrained)
