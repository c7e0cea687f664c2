"""SLIVER-net: slices tiled into one image, a 2D network, pooling slice by slice, 1D convolutions over the slices.

Paper: Rakocz, Chiang et al. 2021 (doi:10.1038/s41746-021-00411-w). Origin: written for this project from the paper and
the sizes of public implementations, of which nothing is copied. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.models._backbones import build_backbone, feature_map
from slivit.models._weights import Weights
from slivit.models.registry import check_tiled, register_model
from slivit.settings import Count

STRIDE, KERNEL, POOL = 32, 3, 4


@register_model(
    "slivernet",
    input="tiled",
    size=(19, 256, 256),
    source="doi:10.1038/s41746-021-00411-w",
    licence="Apache-2.0 (definition); weights as their backbone's",
    weights="resnet18.tv_in1k (ImageNet-1k), which timm downloads with pretrained = true; none for OCT is published",
    parameters=11_228_065,
    small={
        "slices": 5,
        "image_size": 32,
        "width": 4,
        "hidden": 8,
        "backbone_args": {"layers": (1, 1, 1, 1), "channels": (8, 16, 32, 64)},
    },
)
class SliverNet(nn.Module):
    """SLIVER-net: (B, 3, S*P, P) float32 tiled slices -> (B, out_dim) logits.

    Args:
        out_dim: the number of outputs.
        backbone: a convolutional network of timm.
        slices: S, at least 5 (20 where `deep`), which the convolutions along the slices need.
        image_size: P, rows and columns of a slice in pixels, a multiple of 32.
        width: channels of the first convolution along the slices; each further one has twice as many.
        hidden: units of the layer before the head.
        deep: two further convolutions behind a pooling of four neighbours, for long volumes.
        pretrained: True downloads timm's weights; a path loads a file or folder (see `load_backbone`).
        backbone_args: further arguments of the timm network.

    Raises:
        ModelError: a value that is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.

    Source: Rakocz et al. 2021, Methods, "SLIVER-net".
    """

    def __init__(
        self,
        out_dim: int,
        *,
        backbone: str = "resnet18.tv_in1k",
        slices: Count = 19,
        image_size: Count = 256,
        width: Count = 16,
        hidden: Count = 24,
        deep: bool = False,
        pretrained: bool | Weights = False,
        backbone_args: Mapping[str, Any] | None = None,
    ) -> None:
        least = 20 if deep else 5
        if slices < least:
            raise ModelError(f"slivernet: slices must be at least {least} (deep={deep}), got {slices}")
        super().__init__()
        self.input_size = (slices, image_size, image_size)
        self.backbone, self.backbone_info = build_backbone(
            backbone, stride=STRIDE, image_size=image_size, pretrained=pretrained, args=backbone_args
        )
        widths = [2 * self.backbone_info.channels, width, 2 * width]
        self.near = _convolutions(widths)
        self.far = _convolutions([2 * width, 4 * width, 8 * width]) if deep else None
        self.hidden = nn.Linear((8 if deep else 2) * width, hidden)
        self.head = nn.Linear(hidden, out_dim)

    def forward_slices(self, x: Tensor) -> Tensor:
        """(B, 3, S*P, P) -> (B, 2C, S): the maximum and the mean of each slice's part of the feature map."""
        check_tiled(x, "slivernet", self.input_size)
        images = x.contiguous(memory_format=torch.channels_last)
        features = feature_map(self.backbone, self.backbone_info.stage, images)
        cells = features.unflatten(2, (self.input_size[0], -1)).transpose(3, 4).flatten(3)
        return torch.cat([cells.amax(3), cells.mean(3)], dim=1)

    def pooled_features(self, x: Tensor) -> Tensor:
        """(B, 3, S*P, P) -> (B, 2C): the backbone's features of each slice, averaged over slices."""
        return self.forward_slices(x).mean(2)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, S*P, P) -> (B, hidden): what the convolutions find most of along the slices."""
        along = self.near(self.forward_slices(x))
        if self.far:
            along = self.far(F.max_pool1d(along, POOL, POOL, POOL // 2))
        return F.relu(self.hidden(along.amax(2)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S*P, P) float32, slices from top to bottom -> (B, out_dim) logits."""
        return self.head(self.forward_features(x))


def _convolutions(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels, out in pairwise(widths):
        layers += [nn.Conv1d(channels, out, KERNEL), nn.ReLU()]
    return nn.Sequential(*layers)
