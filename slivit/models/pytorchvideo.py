"""Slow-R50, SlowFast-R50, R(2+1)D-R50 and CSN-R101, which load PyTorchVideo's Kinetics-400 weights.

Papers: Feichtenhofer et al. 2019 (arXiv:1812.03982), Tran et al. 2018 (arXiv:1711.11248), Tran et al. 2019
(arXiv:1904.02811). Origin: written for this project from the papers, and from the names and shapes in the published
checkpoints. Licence: Apache-2.0 for this file and for the published weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.models._hub import fetch_url
from slivit.models._resnet_video import Conv2plus1d, Plan, Stage, VideoResNet, conv3d, depthwise, in_slice
from slivit.models._volume import VolumeModel, check_channels, check_sizes
from slivit.models._weights import WeightRules, Weights, first_layers
from slivit.models.registry import register_model

URL = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"
HUB_NAME = "KINETICS400"
MEAN, STD = (0.45,) * 3, (0.225,) * 3
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


def _model(
    name: str,
    network: nn.Module,
    out_dim: int,
    *,
    features: int,
    blocks: int,
    file: str,
    slices: int,
    image_size: int,
    in_chans: int,
    **options: Any,
) -> VolumeModel:
    """`blocks` is the number of published blocks before the classifier, the pooling among them."""
    check_sizes(name, {"slices": slices, "image_size": image_size})
    check_channels(name, in_chans)
    rules = WeightRules(
        architecture=name,
        drop=(rf"^blocks\.{blocks}\.proj\.",),
        first=first_layers(network),
        hub=partial(fetch_url, name, {HUB_NAME: f"{URL}/{file}"}),
        default=HUB_NAME,
    )
    size = (slices, image_size, image_size)
    return VolumeModel(network, rules, out_dim, features=features, size=size, in_chans=in_chans, **options)


def _check_depths(name: str, depths: Sequence[int], width: int) -> None:
    check_sizes(name, {"depths": tuple(depths), "width": width})
    if len(depths) != 4:
        raise ModelError(f"{name}: depths has one number for each of the four stages, got {tuple(depths)}")


@register_model(
    input="clip",
    size=(8, 224, 224),
    mean=MEAN,
    std=STD,
    source="arXiv:1812.03982",
    licence="Apache-2.0",
    weights=f"KINETICS400: {URL}/SLOW_8x8_R50.pyth",
    small={"slices": 4, "image_size": 32, "depths": (1, 1, 1, 1), "width": 8},
)
def slow_r50(
    out_dim: int,
    *,
    slices: int = 8,
    image_size: int = 224,
    depths: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
    in_chans: int = 3,
    dropout: float = 0.0,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """SlowFast's slow pathway alone, ResNet-50: (B, 3, S, P, P) float32 clips -> (B, out_dim) logits.

    Args:
        out_dim: the number of outputs.
        slices: S; the published weights were trained with 8.
        image_size: P, rows and columns in pixels.
        depths: residual blocks of the four stages.
        width: channels of the stem.
        in_chans: 3, or 1 for grey input with a summed first layer.
        dropout: of the pooled features (0.5 in the paper).
        pretrained: True or "KINETICS400" downloads PyTorchVideo's weights; a path loads them (see `load_backbone`).

    Source: Feichtenhofer et al. 2019, Table 1, Slow pathway.
    """
    _check_depths("slow_r50", depths, width)
    plan = Plan(depths, width, (1, 7, 7), True, (1, 1, 3, 3), ((1, 1), (1, 2), (1, 2), (1, 2)), in_slice)
    return _model(
        "slow_r50",
        VideoResNet(plan),
        out_dim,
        features=plan.channels(3),
        blocks=5,
        file="SLOW_8x8_R50.pyth",
        slices=slices,
        image_size=image_size,
        in_chans=in_chans,
        dropout=dropout,
        pretrained=pretrained,
    )


@register_model(
    input="clip",
    size=(32, 224, 224),
    mean=MEAN,
    std=STD,
    source="arXiv:1812.03982",
    licence="Apache-2.0",
    weights=f"KINETICS400: {URL}/SLOWFAST_8x8_R50.pyth",
    small={"slices": 8, "image_size": 32, "depths": (1, 1, 1, 1), "width": 16},
)
def slowfast_r50(
    out_dim: int,
    *,
    slices: int = 32,
    image_size: int = 224,
    depths: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
    in_chans: int = 3,
    dropout: float = 0.0,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """SlowFast 8x8, ResNet-50: (B, 3, S, P, P) float32 clips -> (B, out_dim) logits.

    The slow pathway takes every fourth of the slices that the fast one takes.

    Args:
        slices: S, a multiple of 4; the published weights were trained with 32.
        width: channels of the slow pathway's stem, a multiple of 8; the fast pathway has an eighth.
        out_dim, image_size, depths, in_chans, dropout, pretrained: see `slow_r50`.

    Source: Feichtenhofer et al. 2019, section 3 and Table 1.
    """
    _check_depths("slowfast_r50", depths, width)
    if slices % SLOWER or width % NARROWER:
        raise ModelError(
            f"slowfast_r50: slices must be a multiple of {SLOWER} and width one of {NARROWER}, got {slices} and {width}"
        )
    thin, strides = width // NARROWER, ((1, 1), (1, 2), (1, 2), (1, 2))
    fast = Plan(depths, thin, (5, 7, 7), True, (3, 3, 3, 3), strides, in_slice)
    fused = [FUSED * fast.channels(index - 1) for index in range(4)]
    slow = Plan(depths, width, (1, 7, 7), True, (1, 1, 3, 3), strides, in_slice, fused)
    return _model(
        "slowfast_r50",
        SlowFast(slow, fast),
        out_dim,
        features=slow.channels(3) + fast.channels(3),
        blocks=6,
        file="SLOWFAST_8x8_R50.pyth",
        slices=slices,
        image_size=image_size,
        in_chans=in_chans,
        dropout=dropout,
        pretrained=pretrained,
    )


@register_model(
    input="clip",
    size=(16, 224, 224),
    mean=MEAN,
    std=STD,
    source="arXiv:1711.11248",
    licence="Apache-2.0",
    weights=f"KINETICS400: {URL}/R2PLUS1D_16x4_R50.pyth",
    small={"slices": 4, "image_size": 32, "depths": (1, 1, 1, 1), "width": 8},
)
def r2plus1d_r50(
    out_dim: int,
    *,
    slices: int = 16,
    image_size: int = 224,
    depths: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
    in_chans: int = 3,
    dropout: float = 0.0,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """R(2+1)D with the bottlenecks of ResNet-50: (B, 3, S, P, P) float32 clips -> (B, out_dim) logits.

    Args:
        slices: S; the published weights were trained with 16.
        out_dim, image_size, depths, width, in_chans, dropout, pretrained: see `slow_r50`.

    Source: Tran et al. 2018, section 3.5; with bottlenecks, as in PyTorchVideo's model zoo.
    """
    _check_depths("r2plus1d_r50", depths, width)
    plan = Plan(depths, width, (1, 7, 7), False, (1, 1, 1, 1), ((1, 2), (1, 2), (2, 2), (2, 2)), Conv2plus1d)
    return _model(
        "r2plus1d_r50",
        VideoResNet(plan),
        out_dim,
        features=plan.channels(3),
        blocks=5,
        file="R2PLUS1D_16x4_R50.pyth",
        slices=slices,
        image_size=image_size,
        in_chans=in_chans,
        dropout=dropout,
        pretrained=pretrained,
    )


@register_model(
    input="clip",
    size=(32, 224, 224),
    mean=MEAN,
    std=STD,
    source="arXiv:1904.02811",
    licence="Apache-2.0",
    weights=f"KINETICS400: {URL}/CSN_32x2_R101.pyth",
    small={"slices": 8, "image_size": 32, "depths": (1, 1, 1, 1), "width": 8},
)
def csn_r101(
    out_dim: int,
    *,
    slices: int = 32,
    image_size: int = 224,
    depths: Sequence[int] = (3, 4, 23, 3),
    width: int = 64,
    in_chans: int = 3,
    dropout: float = 0.0,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """Channel-separated network (ir-CSN), ResNet-101: (B, 3, S, P, P) float32 clips -> (B, out_dim) logits.

    Args:
        slices: S; the published weights were trained with 32.
        out_dim, image_size, depths, width, in_chans, dropout, pretrained: see `slow_r50`.

    Source: Tran et al. 2019, section 3.2 and Table 1.
    """
    _check_depths("csn_r101", depths, width)
    plan = Plan(depths, width, (3, 7, 7), True, (1, 1, 1, 1), ((1, 1), (2, 2), (2, 2), (2, 2)), depthwise)
    return _model(
        "csn_r101",
        VideoResNet(plan),
        out_dim,
        features=plan.channels(3),
        blocks=5,
        file="CSN_32x2_R101.pyth",
        slices=slices,
        image_size=image_size,
        in_chans=in_chans,
        dropout=dropout,
        pretrained=pretrained,
    )
