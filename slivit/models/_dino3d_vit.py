"""The 3D vision transformer of 3DINO, under the names of its published weights.

Paper: Xu et al., A generalizable 3D framework and model for self-supervised learning in medical imaging, npj Digital
Medicine 2025 (arXiv:2501.11755), after DINOv2 (Oquab et al. 2023, arXiv:2304.07193).
Origin: written for this project from the papers and from the names and shapes of the released weights.
Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from slivit.errors import ModelError
from slivit.models._dino3d_block import EPSILON, Block
from slivit.models._steady import of_patches

Grid = tuple[int, int, int]

PATCH = 16
# The released network scales its grid of positions by (n + 0.1) / m, so that rounding never loses a patch. The scale
# itself, not the ratio of the sizes, places the samples: weights trained with it expect that small shift.
SCALE_OFFSET = 0.1


class VisionTransformer3d(nn.Module):
    """A class token and a token for each patch of 16 x 16 x 16 voxels, through pre-norm transformer blocks.

    Volumes come in as (B, 1, S, H, W), as everywhere in this project. The published weights were trained on volumes
    whose axes run the other way round (columns, rows, slices), so tokens are numbered in that order: the slice varies
    fastest. `patch_map` brings tokens back to the order of the volume.

    Args:
        dim: width of a token.
        depth: number of blocks.
        heads: attention heads a block.
        mlp_ratio: hidden width of a block's perceptron, in widths of a token.
        position_size: side in voxels of the cube whose patches have a trained position each, a multiple of 16; for
            inputs of other sizes the positions are interpolated.
        layer_scale: value from which the scale of each residual branch is trained.
        drop_path: share of the volumes that skip a residual branch in training, alike for all blocks.
        mask_token: whether there is a token that stands for masked patches; needed for pre-training alone.

    Source: Xu et al. 2025, Methods, "3DINO-ViT".
    """

    mask_token: nn.Parameter | None
    prefix = 1  # tokens that stand before those of the patches

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        position_size: int = 96,
        layer_scale: float = 1e-5,
        drop_path: float = 0.0,
        mask_token: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.checkpointing = dim, False
        self.patch_embed = PatchEmbed3d(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (position_size // PATCH) ** 3, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim)) if mask_token else None
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, layer_scale, drop_path) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=EPSILON)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """All tokens after the last norm.

        Args:
            x: (B, 1, S, H, W) float32, each of S, H and W a multiple of 16.
            mask: (B, P) bool, True where a patch is replaced by the mask token; P patches in the order of the tokens.

        Returns:
            (B, 1 + P, dim), the class token first.

        Raises:
            ModelError: a volume or a mask of another shape.
        """
        return self.forward_layers(x, mask=mask)[0]

    def forward_layers(self, x: Tensor, last: int = 1, mask: Tensor | None = None, *, every: int = 1) -> list[Tensor]:
        """The tokens behind some of the blocks, in their order and each normed; see `forward`.

        Args:
            x: see `forward`.
            last: how many of the blocks, the last one among them.
            mask: see `forward`.
            every: take n-th block alone, counted from the last one.
        """
        tokens = self.embed(x, mask)
        kept = []
        for left, block in zip(range(len(self.blocks) - 1, -1, -1), self.blocks, strict=True):
            tokens = self._run(block, tokens)
            if left % every == 0 and left // every < last:
                kept.append(self.norm(tokens))
        return kept

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """In training keep only what enters each block, and compute the rest again for the gradients (timm's name)."""
        self.checkpointing = enable

    def _run(self, block: nn.Module, tokens: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, tokens, use_reentrant=False)
        return block(tokens)

    def embed(self, x: Tensor, mask: Tensor | None = None, *, exact: bool = False) -> Tensor:
        """(B, 1, S, H, W) -> (B, 1 + P, dim): the tokens as they enter the first block, with their positions.

        Args:
            x: see `forward`.
            mask: see `forward`.
            exact: of `interpolate_positions`.
        """
        tokens = self.patch_embed(x)
        if mask is not None:
            tokens = self._masked(tokens, mask)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return tokens + interpolate_positions(self.pos_embed, grid_of(x), exact=exact).to(tokens.dtype)

    def embed_patches(self, x: Tensor) -> Tensor:
        """As `embed`, with exact positions: what an adapter for segmentation starts from."""
        return self.embed(x, exact=True)

    def attention_maps(self, x: Tensor) -> Tensor:
        """How much the class token looks at each patch in the last block.

        Args:
            x: (B, 1, S, H, W).

        Returns:
            (B, heads, S / 16, H / 16, W / 16) probabilities; with the class token's look at itself they sum to 1.
        """
        tokens = self.embed(x)
        *earlier, last = cast("Iterable[Block]", self.blocks)
        for block in earlier:
            tokens = block(tokens)
        weights = last.class_attention(tokens)[..., 1:]
        return patch_map(weights.transpose(1, 2), grid_of(x))

    def _masked(self, tokens: Tensor, mask: Tensor) -> Tensor:
        if self.mask_token is None:
            raise ModelError("the network has no mask token; create it with mask_token=True")
        if mask.shape != tokens.shape[:2] or mask.dtype != torch.bool:
            raise ModelError(
                f"the mask must be bool of shape {tuple(tokens.shape[:2])}; got {mask.dtype} {tuple(mask.shape)}"
            )
        return torch.where(mask[..., None], self.mask_token.to(tokens.dtype), tokens)


class PatchEmbed3d(nn.Module):
    """A linear projection of each patch of 16 x 16 x 16 voxels: (B, 1, S, H, W) -> (B, P, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, dim, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or x.shape[1] != 1 or any(side == 0 or side % PATCH for side in x.shape[2:]):
            raise ModelError(
                f"the network takes (B, 1, S, H, W): one channel, slices, rows and columns, the last three each a "
                f"multiple of {PATCH}; got {tuple(x.shape)}"
            )
        # Reversing the axes of the kernels costs less than reversing those of the volumes.
        patches = of_patches(x, self.proj.weight.transpose(2, 4), self.proj.bias)
        return patches.transpose(2, 4).flatten(2).transpose(1, 2)


def interpolate_positions(positions: Tensor, grid: Grid, *, exact: bool = False) -> Tensor:
    """Positions for another grid, trilinear between the patches of the trained one.

    Args:
        positions: (1, 1 + n*n*n, dim), the class token's first.
        grid: numbers of patches along slices, rows and columns.
        exact: scale by the ratio of the sizes, as the released segmentation does, without the small shift.

    Returns:
        (1, 1 + P, dim), in the order of the tokens; `positions` itself where the grid is the trained one.
    """
    side = round((positions.shape[1] - 1) ** (1 / 3))
    if grid == (side, side, side):
        return positions
    cube = positions[:, 1:].float().reshape(1, side, side, side, -1).permute(0, 4, 1, 2, 3)
    if exact:
        resized = F.interpolate(cube, size=grid[::-1], mode="trilinear")
    else:
        scale = [(n + SCALE_OFFSET) / side for n in reversed(grid)]
        resized = F.interpolate(cube, scale_factor=scale, mode="trilinear")
    return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)


def grid_of(x: Tensor) -> Grid:
    """The numbers of patches along slices, rows and columns of (B, C, S, H, W)."""
    slices, rows, columns = x.shape[-3:]
    return slices // PATCH, rows // PATCH, columns // PATCH


def patch_map(tokens: Tensor, grid: Grid) -> Tensor:
    """Bring what belongs to patches, in the order of the tokens, into the order of the volume.

    Args:
        tokens: (B, P, C), without the class token.
        grid: numbers of patches along slices, rows and columns.

    Returns:
        (B, C, *grid).
    """
    return tokens.unflatten(1, grid[::-1]).permute(0, 4, 3, 2, 1)
