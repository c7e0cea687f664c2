"""Slow-R50, SlowFast-R50, R(2+1)D-R50 and CSN-R101, which load PyTorchVideo's Kinetics-400 weights.

Papers: Feichtenhofer et al. 2019 (arXiv:1812.03982), Tran et al. 2018 (arXiv:1711.11248), Tran et al. 2019
(arXiv:1904.02811). Origin: written for this project from the papers, and from the names and shapes in the published
checkpoints. Licence: Apache-2.0 for this file and for the published weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.models._hub import fetch_url
from slivit.models._resnet_video import Conv2plus1d, Plan, Stage, VideoResNet, conv3d, depthwise, in_slice
from slivit.models._volume import Channels, VolumeModel
from slivit.models._weights import WeightRules, Weights, first_layers
from slivit.models.registry import register_model
from slivit.settings import Count, Share

URL = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"
HUB_NAME = "KINETICS400"
IN_SLICE = ((1, 1), (1, 2), (1, 2), (1, 2))
SLOWER, NARROWER, FUSED = 4, 8, 2


class SlowFast(nn.Module):
    """Two ResNets over one clip, few slices with many channels and many slices with few, joined after each block.

    Args:
        slow: the plan of the pathway that takes every fourth slice.
        fast: the plan of the one that takes all.
    """

    def __init__(self, slow: Plan, fast: Plan) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Pathways(slow.stem(), fast.stem(), fast.channels(-1))])
        for index in range(4):
            fused = fast.channels(index) if index < 3 else None
            self.blocks.append(Pathways(Stage(slow, index), Stage(fast, index), fused))
        self.features = slow.channels(3) + fast.channels(3)

    def forward_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, H, W) -> the last maps of both pathways, (B, 2048, S / 4, h, w) and (B, 256, S, h, w)."""
        chosen = torch.linspace(0, x.shape[2] - 1, x.shape[2] // SLOWER, device=x.device).long()
        slow, fast = x[:, :, chosen], x
        for block in self.blocks:
            slow, fast = block(slow, fast)
        return slow, fast

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) -> (B, 2304): both maps, pooled."""
        return torch.cat([pathway.mean((2, 3, 4)) for pathway in self.forward_map(x)], dim=1)


class Pathways(nn.Module):
    """One block of each pathway, and the fusion behind them where there is one."""

    def __init__(self, slow: nn.Module, fast: nn.Module, fused: int | None) -> None:
        super().__init__()
        self.multipathway_blocks = nn.ModuleList([slow, fast])
        self.multipathway_fusion = Fusion(fused) if fused else None

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        slow, fast = self.multipathway_blocks[0](slow), self.multipathway_blocks[1](fast)
        return (self.multipathway_fusion(slow, fast) if self.multipathway_fusion else slow), fast


class Fusion(nn.Module):
    """The fast map, brought to the slow one's slices by a convolution, joins its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_fast_to_slow = conv3d(channels, FUSED * channels, (7, 1, 1), (SLOWER, 1, 1))
        self.norm = nn.BatchNorm3d(FUSED * channels)

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        fused = F.relu(self.norm(self.conv_fast_to_slow(fast)), inplace=True)
        return torch.cat([slow, fused], dim=1)


@dataclass(frozen=True)
class Member:
    """What tells one network of the family from another.

    Args:
        network: makes it of its depths and width.
        file: of its published weights.
        classifier: the published name of the classifier, which is left out.
    """

    network: Callable[[Sequence[int], int], nn.Module]
    file: str
    classifier: str = "blocks.5.proj."


def _slow(depths: Sequence[int], width: int) -> nn.Module:
    """Feichtenhofer et al. 2019, Table 1, Slow pathway: convolutions along the slices in the last two stages."""
    return VideoResNet(Plan(depths, width, (1, 7, 7), True, (1, 1, 3, 3), IN_SLICE, in_slice))


def _slowfast(depths: Sequence[int], width: int) -> nn.Module:
    """Feichtenhofer et al. 2019, section 3 and Table 1."""
    if width % NARROWER:
        raise ModelError(f"slowfast_r50: width must be a multiple of {NARROWER}, got {width}")
    fast = Plan(depths, width // NARROWER, (5, 7, 7), True, (3, 3, 3, 3), IN_SLICE, in_slice)
    fused = [FUSED * fast.channels(index - 1) for index in range(4)]
    return SlowFast(Plan(depths, width, (1, 7, 7), True, (1, 1, 3, 3), IN_SLICE, in_slice, fused), fast)


def _r2plus1d(depths: Sequence[int], width: int) -> nn.Module:
    """Tran et al. 2018, section 3.5; with bottlenecks, as in PyTorchVideo's model zoo."""
    strides = ((1, 2), (1, 2), (2, 2), (2, 2))
    return VideoResNet(Plan(depths, width, (1, 7, 7), False, (1, 1, 1, 1), strides, Conv2plus1d))


def _csn(depths: Sequence[int], width: int) -> nn.Module:
    """Tran et al. 2019, section 3.2 and Table 1: interaction-reduced, so that only 3 x 3 x 3 kernels are depthwise."""
    strides = ((1, 1), (2, 2), (2, 2), (2, 2))
    return VideoResNet(Plan(depths, width, (3, 7, 7), True, (1, 1, 1, 1), strides, depthwise))


MEMBERS = {
    "slow_r50": Member(_slow, "SLOW_8x8_R50.pyth"),
    "slowfast_r50": Member(_slowfast, "SLOWFAST_8x8_R50.pyth", "blocks.6.proj."),
    "r2plus1d_r50": Member(_r2plus1d, "R2PLUS1D_16x4_R50.pyth"),
    "csn_r101": Member(_csn, "CSN_32x2_R101.pyth"),
}


def pytorchvideo(
    name: str,
    out_dim: int,
    *,
    slices: Count = 32,
    image_size: Count = 224,
    depths: Sequence[Count] = (3, 4, 6, 3),
    width: Count = 64,
    in_chans: Channels = 3,
    dropout: Share = 0.0,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """A bottleneck ResNet for video: (B, 3, S, P, P) float32 clips -> (B, out_dim) logits.

    Args:
        name: "slow_r50", "slowfast_r50", "r2plus1d_r50" or "csn_r101".
        out_dim: the number of outputs.
        slices: S. SlowFast's slow pathway takes every fourth, so that it needs a multiple of 4.
        image_size: P, rows and columns in pixels.
        depths: residual blocks of the four stages.
        width: channels of the (slow) stem; SlowFast's fast pathway has an eighth of them.
        in_chans: 3, or 1 for grey input with a summed first layer.
        dropout: of the pooled features (0.5 in the papers).
        pretrained: True or "KINETICS400" downloads PyTorchVideo's weights; a path loads them (see `load_backbone`).

    Raises:
        ModelError: a value that is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.
    """
    if len(depths) != 4:
        raise ModelError(f"{name}: depths has one number for each of the four stages, got {tuple(depths)}")
    if name == "slowfast_r50" and slices % SLOWER:
        raise ModelError(f"{name}: slices must be a multiple of {SLOWER}, got {slices}")
    member = MEMBERS[name]
    network: Any = member.network(depths, width)
    rules = WeightRules(
        architecture=name,
        drop=("^" + re.escape(member.classifier),),
        first=first_layers(network),
        hub=partial(fetch_url, name, {HUB_NAME: f"{URL}/{member.file}"}),
        default=HUB_NAME,
    )
    size = (slices, image_size, image_size)
    return VolumeModel(
        network, rules, out_dim, network.features, size, in_chans=in_chans, dropout=dropout, pretrained=pretrained
    )


def _register(name: str, slices: int, parameters: int, source: str, small: dict[str, Any], **args: Any) -> None:
    register_model(
        name,
        input="clip",
        size=(slices, 224, 224),
        mean=(0.45,) * 3,
        std=(0.225,) * 3,
        parameters=parameters,
        source=source,
        licence="Apache-2.0",
        weights=f"{HUB_NAME}: {URL}/{MEMBERS[name].file}",
        small={"image_size": 32, "depths": (1, 1, 1, 1), **small},
    )(partial(pytorchvideo, name, slices=slices, **args))


_register("slow_r50", 8, 31_636_545, "arXiv:1812.03982", {"slices": 4, "width": 8})
_register("slowfast_r50", 32, 33_646_793, "arXiv:1812.03982", {"slices": 8, "width": 16})
_register("r2plus1d_r50", 16, 27_290_049, "arXiv:1711.11248", {"slices": 4, "width": 8})
_register("csn_r101", 32, 21_396_225, "arXiv:1904.02811", {"slices": 8, "width": 8}, depths=(3, 4, 23, 3))
