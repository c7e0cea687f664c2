"""From one vector a slice to one vector a volume: mean, gated attention, learned queries, or SLIViT's transformer.

Ilse et al. 2018 (arXiv:1802.04712), section 2.4 (gated attention); learned queries over slices as in AnyMC3D
(arXiv:2512.12887), after Lee et al. 2019 (arXiv:1810.00825), section 3.2; Avram et al. 2024
(doi:10.1038/s41551-024-01257-9).
Origin: written for this project from the papers. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, cast

import torch
from torch import Tensor, nn

from slivit.models._vit import Block, sincos_positions

Integrator = Literal["slivit", "attention", "mean", "queries"]


class MeanIntegrator(nn.Module):
    """(B, S, D) -> (B, D): the mean over slices."""

    def forward(self, slices: Tensor) -> Tensor:
        return slices.mean(1)


class GatedAttention(nn.Module):
    """(B, S, D) -> (B, D): a mean whose weights a small gated network gives, whatever the order of the slices.

    Args:
        dim: D.
        hidden: width of that network.

    Source: Ilse et al. 2018, equations 8 and 9.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(dim, hidden), nn.Linear(dim, hidden)
        self.score = nn.Linear(hidden, 1)

    def weights(self, slices: Tensor) -> Tensor:
        """(B, S, D) -> (B, 1, S) probabilities."""
        return self.score(self.value(slices).tanh() * self.gate(slices).sigmoid()).softmax(1).mT

    def forward(self, slices: Tensor) -> Tensor:
        return (self.weights(slices) @ slices)[:, 0]


class QueryIntegrator(nn.Module):
    """(B, S, D) -> (B, dim): learned queries look at the slices, whatever their order; what they see is joined.

    Args:
        features: D.
        queries: how many look.
        dim: width of a query, and of the vector of a volume.
        heads: of their attention.
        dim_head: width of a head.

    Source: Lee et al. 2019, section 3.2 (pooling by attention to learned seeds).
    """

    def __init__(self, features: int, queries: int, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Parameter(0.02 * torch.randn(queries, heads * dim_head))
        self.norm = nn.LayerNorm(features)
        self.key, self.value = (nn.Linear(features, heads * dim_head) for _ in range(2))
        self.out = nn.Sequential(nn.Linear(queries * heads * dim_head, dim), nn.LayerNorm(dim))

    def _split(self, x: Tensor) -> Tensor:
        """(..., N, heads * dim_head) -> (..., heads, N, dim_head)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def weights(self, slices: Tensor) -> Tensor:
        """(B, S, D) -> (B, heads, queries, S) probabilities."""
        query, key = self._split(self.queries), self._split(self.key(self.norm(slices)))
        return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)

    def forward(self, slices: Tensor) -> Tensor:
        seen = self.weights(slices) @ self._split(self.value(self.norm(slices)))
        return self.out(seen.transpose(1, 2).flatten(1))


class SlivitIntegrator(nn.Module):
    """(B, S, D) -> (B, dim): SLIViT's transformer over a class token and one token a slice, with positions.

    A token is made of a slice's vector, where SLIViT itself makes it of the whole feature map of a slice.

    Args:
        features: D.
        slices: S.
        dim: width of a token.
        depth: transformer blocks.
        heads: of their attention.
        dim_head: width of a head.
        mlp_dim: hidden width of a block's perceptron.
        dropout: probability, in attention and perceptrons.

    Source: Avram et al. 2024, Methods, "Model specifications".
    """

    def __init__(
        self, features: int, slices: int, dim: int, depth: int, heads: int, dim_head: int, mlp_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, dim), nn.LayerNorm(dim))
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.positions = nn.Parameter(sincos_positions(1 + slices, dim)[None])
        self.blocks = nn.ModuleList(Block(dim, heads, dim_head, mlp_dim, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def tokens(self, slices: Tensor) -> Tensor:
        """(B, S, D) -> (B, 1 + S, dim), as they enter the blocks, the class token first."""
        tokens = self.embed(slices)
        return torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions

    def weights(self, slices: Tensor) -> Tensor:
        """(B, S, D) -> (B, depth, heads, 1 + S, 1 + S) probabilities, the class token first."""
        tokens, maps = self.tokens(slices), []
        for block in cast("Iterable[Block]", self.blocks):
            maps.append(block.attention.weights(tokens))
            tokens = block(tokens)
        return torch.stack(maps, dim=1)

    def forward(self, slices: Tensor) -> Tensor:
        tokens = self.tokens(slices)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 0]
