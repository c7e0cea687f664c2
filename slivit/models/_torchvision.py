"""torchvision's video ResNets with stages left out; imported where a network is made, as torchvision loads slowly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torchvision.models.video.resnet import (
    BasicBlock,
    BasicStem,
    Conv2Plus1D,
    Conv3DNoTemporal,
    Conv3DSimple,
    R2Plus1dStem,
    VideoResNet,
)

STAGES = 4


class ShortenedResNet(VideoResNet):
    """torchvision's network without its classifier, and without the stages that have no blocks."""

    def __init__(self, name: str, depths: Sequence[int]) -> None:
        stem, convolutions = _parts(name)
        super().__init__(BasicBlock, convolutions, list(depths), stem)
        self.fc = nn.Identity()

    def _make_layer(self, block: Any, conv_builder: Any, planes: int, blocks: int, stride: int = 1) -> Any:
        return super()._make_layer(block, conv_builder, planes, blocks, stride) if blocks else nn.Identity()


def _parts(name: str) -> tuple[Any, list[Any]]:
    """The stem, and each stage's kind of convolution."""
    if name == "r2plus1d_18":
        return R2Plus1dStem, [Conv2Plus1D] * STAGES
    later = Conv3DNoTemporal if name == "mc3_18" else Conv3DSimple
    return BasicStem, [Conv3DSimple] + [later] * (STAGES - 1)
