"""What the networks over volumes and clips share: a checked input, a backbone, a linear head."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from slivit.models._weights import WeightRules, Weights, start_from, sum_first_layers
from slivit.models.registry import check_volume

Channels = Literal[1, 3]
"""Of an input: 3 for colour, or 1 for grey with a summed first layer."""


class VolumeModel(nn.Module):
    """A backbone that makes one vector of a volume, dropout, and a linear head.

    Args:
        backbone: (B, C, S, H, W) -> (B, features), or a map (B, features, s, h, w), whose mean is taken; the last one
            of several maps.
        rules: how published weights become the backbone's.
        out_dim: the number of outputs.
        features: the length of the vector.
        size: (S, H, W) of the input.
        in_chans: C. With 1, the first layer of a backbone that takes colour is summed, so that one grey channel gives
            what three copies of it gave.
        dropout: probability of a feature to be dropped in training.
        pretrained: see `start_from`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        rules: WeightRules,
        out_dim: int,
        features: int,
        size: tuple[int, int, int],
        *,
        in_chans: int = 1,
        dropout: float = 0.0,
        pretrained: bool | Weights = False,
    ) -> None:
        super().__init__()
        self.backbone, self.backbone_info = backbone, rules
        self.input_size, self.in_chans = size, in_chans
        if in_chans == 1 and rules.first:
            sum_first_layers(backbone)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, out_dim)
        start_from(self, pretrained)

    def check(self, x: Tensor) -> None:
        """Raise ModelError where `x` is not of the shape that this model takes."""
        check_volume(x, self.backbone_info.architecture, self.in_chans, self.input_size)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) float32 -> (B, features)."""
        self.check(x)
        out = self.backbone(x)
        out = out[-1] if isinstance(out, list | tuple) else out
        return out.mean((2, 3, 4)) if out.ndim == 5 else out

    def head_args(self, features: str) -> dict[str, Any]:
        """The arguments of a model whose head reads the pooled features that a probe reads: these are what it reads."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) float32 -> (B, out_dim) logits."""
        return self.head(self.dropout(self.forward_features(x)))


class TokenModel(VolumeModel):
    """As `VolumeModel`, with a transformer whose `forward_map` gives its tokens in their places."""

    def patch_map(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) -> the tokens of the last block (B, dim, s, h, w)."""
        self.check(x)
        return self.backbone.forward_map(x)  # type: ignore[operator]
