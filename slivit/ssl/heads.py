"""Heads that stand between a network and its loss in self-supervised pre-training.

Origin: written for this project after Caron et al. 2021 (arXiv:2104.14294) and Oquab et al. 2023 (arXiv:2304.07193).
Licence: Apache-2.0.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from slivit.errors import ModelError


class DinoHead(nn.Module):
    """A perceptron to a bottleneck of length 1, then its products with prototypes of length 1 times a trained scale.

    The names are those of released heads (`dino_head.*`, `ibot_head.*`), which load as they are.

    Args:
        dim: width of a token.
        prototypes: K, the number of outputs.
        layers: linear layers of the perceptron.
        hidden: their width.
        bottleneck: the width of the last of them.

    Raises:
        ModelError: fewer than 1 layer.

    Source: Oquab et al. 2023, section 4; Xu et al. 2025, Methods (separate heads for both losses).
    """

    def __init__(
        self, dim: int, prototypes: int = 65_536, *, layers: int = 3, hidden: int = 2048, bottleneck: int = 256
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ModelError(f"DinoHead: layers must be at least 1, got {layers}")
        widths = [dim, *[hidden] * (layers - 1), bottleneck]
        parts: list[nn.Module] = []
        for before, behind in pairwise(widths):
            parts += [nn.Linear(before, behind), nn.GELU()]
        self.mlp = nn.Sequential(*parts[:-1])
        self.mlp.apply(_initialise)
        self.last_layer = weight_norm(nn.Linear(bottleneck, prototypes, bias=False))
        nn.init.ones_(self.last_layer.parametrizations.weight.original0)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., dim) tokens -> (..., K) logits."""
        # In float32, because squares of small numbers vanish in half precision.
        return self.last_layer(F.normalize(self.mlp(tokens).float(), dim=-1))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
