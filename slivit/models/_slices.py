"""What 2D networks over slices share: the settings of their input, a backbone over each slice, a linear head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from slivit.models._volume import Channels
from slivit.models._weights import WeightRules, Weights, start_from, sum_first_layers
from slivit.settings import Count


@dataclass(frozen=True, kw_only=True)
class Slices:
    """The slices of a scan that a 2D network sees one by one, and what it starts from.

    Args:
        slices: S; 1 for single images.
        image_size: P, rows and columns in pixels, a multiple of the patch size or stride.
        in_chans: 3, or 1 for grey input with a summed first layer.
        pretrained: True downloads timm's weights; a path loads a file or folder (see `load_backbone`).
        backbone_args: further arguments of the timm network.
    """

    slices: Count = 32
    image_size: Count = 224
    in_chans: Channels = 3
    pretrained: bool | Weights = False
    backbone_args: Mapping[str, Any] | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """(S, P, P)."""
        return self.slices, self.image_size, self.image_size


class SliceModel(nn.Module):
    """A 2D backbone over each slice by itself, and a linear head over the vector that is made of them.

    Args:
        name: for messages.
        built: the backbone, with timm's weights where it starts from these, and how published weights become its own.
        over: the settings of its input.
    """

    head: nn.Linear

    def __init__(self, name: str, built: tuple[nn.Module, WeightRules], over: Slices) -> None:
        super().__init__()
        self.name, self.input_size, self.in_chans = name, over.size, over.in_chans
        self.backbone, self.backbone_info = built
        if over.in_chans == 1:
            sum_first_layers(self.backbone)
        if over.pretrained is not True:
            start_from(self, over.pretrained)

    def slice_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, H, W) -> a vector of each slice (B, S, n), and one of each of its places (B, S, N, n)."""
        raise NotImplementedError

    def forward_slices(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) -> (B, S, n): the backbone's vector of each slice."""
        return self.slice_tokens(x)[0]

    def pooled_features(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) -> (B, n): the backbone's vectors, averaged over slices."""
        return self.forward_slices(x).mean(1)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) -> (B, n): one vector a volume, which the head reads."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) float32 -> (B, out_dim) logits."""
        return self.head(self.forward_features(x))
