"""The vision transformer that integrates the slices: pre-norm blocks over a class token and one token a slice.

Origin: written for this project after Dosovitskiy et al. 2021 (arXiv:2010.11929) and the sizes of Avram et al. 2024
(doi:10.1038/s41551-024-01257-9). Licence: Apache-2.0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHORT = 128
"""Tokens below which torch's gradient of attention on a processor takes 3 to 8 times as long in half precision."""


def attend(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention; few tokens that train in half precision on a processor are computed in float32.

    Args:
        query: (B, heads, N, D).
        key: (B, heads, M, D).
        value: (B, heads, M, D).
        allowed: (N, M) bool, True where a query may look at a key; all may where it is None.
        dropout: of the attention's weights.

    Returns:
        (B, heads, N, D) in the type of the queries.
    """
    slow = query.device.type == "cpu" and query.dtype.itemsize < 4 and query.requires_grad and key.shape[2] < SHORT
    if not slow:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)
    with torch.autocast("cpu", enabled=False):
        exact = query.float(), key.float(), value.float()
        return F.scaled_dot_product_attention(*exact, attn_mask=allowed, dropout_p=dropout).to(query.dtype)


class Attention(nn.Module):
    """Multi-head self-attention whose heads have a width of their own (heads * dim_head need not equal dim)."""

    def __init__(self, dim: int, heads: int, dim_head: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.out = nn.Linear(heads * dim_head, dim)

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, N, dim) -> (3, B, heads, N, dim_head): queries, keys and values."""
        qkv = self.qkv(self.norm(tokens))
        return qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, tokens: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(B, N, dim) -> (B, N, dim); `allowed` (N, N) bool is True where a row may look at a column."""
        query, key, value = self._split(tokens)
        dropout = self.dropout if self.training else 0.0
        mixed = attend(query, key, value, allowed, dropout)
        return F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)

    def weights(self, tokens: Tensor, allowed: Tensor | None = None) -> Tensor:
        """The attention probabilities (B, heads, N, N) that `forward` uses; each row sums to 1."""
        query, key, _ = self._split(tokens)
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        return scores.softmax(dim=-1)


class Block(nn.Module):
    """Attention, then a two-layer perceptron with GELU, each after a LayerNorm and round a residual connection."""

    def __init__(self, dim: int, heads: int, dim_head: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dim_head, dropout)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, mlp_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor, allowed: Tensor | None = None) -> Tensor:
        tokens = tokens + self.attention(tokens, allowed)
        return tokens + self.mlp(tokens)


def sincos_positions(count: int, dim: int) -> Tensor:
    """Sines and cosines of the positions 0 to count - 1, (count, dim) float32 in [-1, 1]."""
    frequencies = 10_000 ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angles = torch.arange(count, dtype=torch.float32)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :dim]


def adjacent_mask(slices: int) -> Tensor:
    """Who may look at whom where attention is local: (1 + slices, 1 + slices) bool, the class token first.

    A slice looks at itself and at its direct neighbours. The class token looks at every token. No slice looks at the
    class token, through which distant slices would otherwise reach it from the second layer on.
    """
    index = torch.arange(slices)
    allowed = torch.zeros(1 + slices, 1 + slices, dtype=torch.bool)
    allowed[1:, 1:] = (index[:, None] - index[None, :]).abs() <= 1
    allowed[0] = True
    return allowed
