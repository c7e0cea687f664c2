"""A transformer block with LayerScale and stochastic depth, under the names of DINOv2's and 3DINO's weights.

Papers: Touvron et al. 2021 (arXiv:2103.17239) for LayerScale, Huang et al. 2016 (arXiv:1603.09382) for stochastic
depth, Oquab et al. 2023 (arXiv:2304.07193), section 5, for computing only what is not skipped.
Origin: written for this project. Licence: Apache-2.0.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from slivit.models._vit import attend

EPSILON = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention: (B, N, dim) -> (B, N, dim)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self._split(x)
        mixed = attend(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def of_first(self, x: Tensor) -> Tensor:
        """How the first token's attention is shared out: (B, N, dim) -> (B, heads, N) probabilities."""
        query, key, _ = self._split(x)
        scores = query[:, :, :1] @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        return scores.softmax(dim=-1)[:, :, 0]

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (3, B, heads, N, dim / heads): queries, keys and values."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)


class LayerScale(nn.Module):
    """A trained factor for each channel."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention, then a two-layer perceptron with GELU, each behind a LayerNorm and round a residual connection.

    Args:
        dim: width of a token.
        heads: attention heads.
        mlp_ratio: hidden width of the perceptron, in widths of a token.
        layer_scale: value from which the scale of each residual branch is trained.
        drop_path: share of the volumes that skip a residual branch in training.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, layer_scale: float, drop_path: float) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=EPSILON)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=EPSILON)
        layers = {"fc1": nn.Linear(dim, hidden), "act": nn.GELU(), "fc2": nn.Linear(hidden, dim)}
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ls2 = LayerScale(dim, layer_scale)
        self.drop_path = drop_path
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        x = self._add(x, self.attend)
        return self._add(x, lambda tokens: self.ls2(self.mlp(self.norm2(tokens))))

    def attend(self, x: Tensor) -> Tensor:
        """What the attention adds to the tokens: (B, N, dim) -> (B, N, dim)."""
        return self.ls1(self.attn(self.norm1(x)))

    def class_attention(self, x: Tensor) -> Tensor:
        """How the class token's attention is shared out: (B, N, dim) -> (B, heads, N) probabilities."""
        return self.attn.of_first(self.norm1(x))

    def _add(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """Add a residual branch; in training to a random part of the batch, scaled up to the same expectation."""
        if not self.training or not self.drop_path:
            return x + branch(x)
        kept = 1 - self.drop_path
        # Rounded up or down at random, so that the expectation holds for batches of any size.
        count = math.floor(len(x) * kept + float(torch.rand(())))
        chosen = torch.randperm(len(x), device=x.device)[: max(count, 1)]
        # One volume runs with weight 0 where none was drawn: every parameter has its gradient in every step.
        scale = min(count, 1) / kept
        return x.index_add(0, chosen, branch(x[chosen]).to(x.dtype), alpha=scale)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
