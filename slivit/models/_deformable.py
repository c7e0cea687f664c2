"""Multi-scale deformable attention over volumes, in plain PyTorch: each query reads a few trained places of each map.

Papers: Zhu et al. 2021 (arXiv:2010.04159); in three dimensions Xu et al. 2025 (3DINO, arXiv:2501.11755), Methods,
segmentation. Origin: written for this project. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Grid = tuple[int, int, int]
ReferenceAxes = Literal["aligned", "published"]
"""Where a query at (i, j, k) of a grid looks first: there, or at (k, i, j) as in the code released with 3DINO."""


def in_order(axes: Sequence[Tensor], order: ReferenceAxes) -> Tensor:
    """Stack what belongs to the three axes of a map as coordinates of `grid_sample`, which has the last axis first.

    Args:
        axes: three tensors of one shape, for the first, second and third axis of the map.
        order: "aligned" gives (third, second, first). The released code gives (second, first, third), as if it had two
            dimensions and one behind them, so that `grid_sample` takes the second axis for the third.
    """
    first, second, third = axes
    return torch.stack([third, second, first] if order == "aligned" else [second, first, third], dim=-1)


def reference_points(grids: Sequence[Grid], order: ReferenceAxes, device: torch.device | None = None) -> Tensor:
    """The centre of each cell of each grid, cells in their order, as shares of the sides: (Q, 3) from 0 to 1."""
    points = []
    for grid in grids:
        centres = [(torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n for n in grid]
        points.append(in_order([axis.flatten() for axis in torch.meshgrid(*centres, indexing="ij")], order))
    return torch.cat(points)


def sample_levels(values: Tensor, grids: Sequence[Grid], places: Tensor, weights: Tensor) -> Tensor:
    """Read maps at places between their cells, trilinear and zero outside, and sum what was read.

    Args:
        values: (B, N, heads, c): the cells of all maps, one map behind the other.
        grids: the sides of the maps.
        places: (B, Q, heads, maps, points, 3) from 0 to 1, in the order of `grid_sample`: the last axis first.
        weights: (B, Q, heads, maps, points).

    Returns:
        (B, Q, heads * c).

    Source: Zhu et al. 2021, equation 3.
    """
    cells = [i * j * k for i, j, k in grids]
    total = torch.zeros((), device=values.device)
    for level, (grid, part) in enumerate(zip(grids, values.split(cells, dim=1), strict=True)):
        volume = part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, grid)
        at = 2 * places[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1  # B * heads, Q, points, 3
        share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]
        # grid_sample has no half precision on every device, and its places need the full one.
        read = F.grid_sample(volume.float(), at.float()[..., None, :], align_corners=False).squeeze(-1)
        total = total + (read * share).sum(-1)
    return total.unflatten(0, (values.shape[0], -1)).flatten(1, 2).transpose(1, 2).to(values.dtype)


class DeformableAttention3d(nn.Module):
    """Queries that read a few places of each of several maps, round the place where they stand.

    Args:
        dim: width of queries and of the maps' cells.
        levels: number of maps.
        heads: each reads places of its own; 8, the corners of a cube, is what the first offsets are made for.
        points: places a head and map.
        ratio: width of what is read, in widths of a query.
        order: see `ReferenceAxes`.

    Source: Zhu et al. 2021, section 4.1; Xu et al. 2025, Methods, segmentation.
    """

    def __init__(
        self, dim: int, levels: int, *, heads: int = 8, points: int = 4, ratio: float = 0.25, order: ReferenceAxes
    ) -> None:
        super().__init__()
        self.shape, self.order = (heads, levels, points), order
        width = int(dim * ratio)
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 3)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, width)
        self.output_proj = nn.Linear(width, dim)
        nn.init.zeros_(self.sampling_offsets.weight)
        self.sampling_offsets.bias.data = first_offsets(heads, levels, points).flatten()
        nn.init.zeros_(self.attention_weights.weight)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, reference: Tensor, cells: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Read the maps for each query.

        Args:
            query: (B, Q, dim).
            reference: (Q, 3), see `reference_points`.
            cells: (B, N, dim), the cells of all maps.
            grids: the sides of the maps.

        Returns:
            (B, Q, dim).
        """
        heads, levels, points = self.shape
        values = self.value_proj(cells).unflatten(2, (heads, -1))
        offsets = self.sampling_offsets(query).unflatten(2, (heads, levels, points, 3))
        weights = self.attention_weights(query).unflatten(2, (heads, -1)).softmax(-1).unflatten(3, (levels, points))
        sides = in_order(torch.tensor(grids, device=query.device, dtype=torch.float32).unbind(1), self.order)
        places = reference[:, None, None, None] + offsets.float() / sides[:, None]
        return self.output_proj(sample_levels(values, grids, places, weights))


def first_offsets(heads: int, levels: int, points: int) -> Tensor:
    """(heads, levels, points, 3): head by head towards the corners of a cube, the next point one cell further out."""
    corners = torch.tensor(list(product((-1.0, 1.0), repeat=3)))
    towards = corners[torch.arange(heads) % len(corners)][:, None, None]
    return (towards * torch.arange(1.0, points + 1)[:, None]).expand(-1, levels, -1, -1).contiguous()
