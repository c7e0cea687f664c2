"""torchvision's video networks: R3D-18, R(2+1)D-18, MC3-18, S3D, MViT v1-B and v2-S, Video Swin-T, -S and -B.

Origin: the networks are torchvision's own (BSD 3-Clause), and so are the names of their parameters; this file cuts off
the classifier and opens the sizes. The Kinetics-400 weights are torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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

from slivit.errors import ModelError
from slivit.models._hub import fetch_torchvision
from slivit.models._mvit import build_mvit, resize_positions
from slivit.models._volume import Channels, VolumeModel
from slivit.models._weights import WeightRules, Weights, first_layers
from slivit.models.registry import register_model
from slivit.settings import Count, Share, Whole

STAGES = 4
HUB_NAME = "KINETICS400_V1"
COMMON: dict[str, Any] = {
    "input": "clip",
    "licence": "BSD 3-Clause",
    "weights": f"{HUB_NAME}, which torchvision downloads",
}
KINETICS: dict[str, Any] = {"mean": (0.43216, 0.394666, 0.37645), "std": (0.22803, 0.22145, 0.216989)}


def video_resnet(
    name: str,
    out_dim: int,
    *,
    slices: Count = 16,
    image_size: Count = 112,
    depths: Sequence[Whole] = (2, 2, 2, 2),
    in_chans: Channels = 3,
    dropout: Share = 0.0,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """ResNet-18 for video: (B, 3, S, P, P) float32 clips -> (B, out_dim) logits.

    Args:
        name: "r3d_18" has 3D convolutions, "mc3_18" in its first stage alone, "r2plus1d_18" splits them.
        out_dim: the number of outputs.
        slices: S.
        image_size: P, rows and columns in pixels.
        depths: residual blocks of the four stages; 0 leaves out a stage and those behind it, with their weights.
        in_chans: 3, or 1 for grey input with a summed first layer.
        dropout: of the pooled features.
        pretrained: True or "KINETICS400_V1" downloads torchvision's weights; a path loads them (see `load_backbone`).

    Source: Tran et al. 2018, section 3.
    """

    kept = _kept_stages(name, depths)
    network = ShortenedResNet(name, depths)
    rules = _rules(name, network, drop=tuple(rf"^layer{stage + 1}\." for stage in range(kept, STAGES)))
    size = (slices, image_size, image_size)
    return VolumeModel(
        network, rules, out_dim, network.inplanes, size, in_chans=in_chans, dropout=dropout, pretrained=pretrained
    )


def _kept_stages(name: str, depths: Sequence[int]) -> int:
    kept = depths.index(0) if 0 in depths else len(depths)
    if len(depths) != STAGES or any(depths[kept:]) or not kept:
        raise ModelError(f"{name}: depths has {STAGES} numbers, and 0 for the last stages alone; got {depths}")
    return kept


for _name, _parameters in (("r3d_18", 33_166_785), ("mc3_18", 11_490_753), ("r2plus1d_18", 31_300_638)):
    register_model(
        _name,
        parameters=_parameters,
        **COMMON,
        **KINETICS,
        size=(16, 112, 112),
        source="arXiv:1711.11248",
        small={"slices": 4, "image_size": 16, "depths": (1, 1, 0, 0)},
    )(partial(video_resnet, _name))


@register_model(
    **COMMON,
    **KINETICS,
    size=(16, 224, 224),
    source="arXiv:1712.04851",
    parameters=7_911_073,
    small={"slices": 8, "image_size": 17},
)
def s3d(
    out_dim: int,
    *,
    slices: Count = 16,
    image_size: Count = 224,
    in_chans: Channels = 3,
    dropout: Share = 0.2,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """Separable 3D Inception: (B, 3, S, P, P) float32 clips -> (B, out_dim) logits.

    The published pooling window of (2, 7, 7) shrinks to the feature map where the input is smaller than 16 x 224 x 224.

    Args:
        slices: S, at least 8: with 5 to 7, oneDNN's gradient of the first convolution is wrong.
        image_size: P, at least 17.
        out_dim, in_chans, dropout, pretrained: see `video_resnet`.

    Source: Xie et al. 2018, section 4.
    """
    from torchvision.models.video import S3D

    if slices < 8 or image_size < 17:
        raise ModelError(f"s3d: slices must be at least 8 and image_size at least 17, got {slices} and {image_size}")
    network: Any = S3D()
    along, across = -(-slices // 4) // 2, -(-image_size // 16) // 2
    network.avgpool = nn.AvgPool3d((min(2, along), min(7, across), min(7, across)), stride=1)
    network.classifier = nn.Identity()
    size = (slices, image_size, image_size)
    return VolumeModel(
        network, _rules("s3d", network), out_dim, 1024, size, in_chans=in_chans, dropout=dropout, pretrained=pretrained
    )


def mvit(
    name: str,
    out_dim: int,
    *,
    slices: Count = 16,
    image_size: Count = 224,
    depths: Sequence[Count] = (1, 2, 11, 2),
    width: Count = 96,
    drop_path: Share = 0.2,
    in_chans: Channels = 3,
    dropout: Share = 0.5,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """Multiscale vision transformer: (B, 3, S, P, P) float32 clips -> (B, out_dim) logits.

    Args:
        name: "mvit_v1_b" or "mvit_v2_s".
        slices: S, an even number; positions of the published weights (16 slices) are interpolated.
        image_size: P, a multiple of 32; positions of the published weights (224 pixels) are interpolated.
        depths: blocks of each stage.
        width: channels of the first stage; each further one has twice as many.
        drop_path: probability of the last block to be skipped in training; it rises from 0 at the first.
        out_dim, in_chans, dropout, pretrained: see `video_resnet`.

    Source: Fan et al. 2021 (v1-B), section 3 and Table 2; Li et al. 2022 (v2-S), section 4 and Table 7.
    """
    if slices % 2 or image_size % 32 or sum(depths) < 2:
        raise ModelError(
            f"{name}: slices must be even, image_size a multiple of 32 and depths at least 2 blocks together; "
            f"got {slices}, {image_size} and {depths}"
        )
    size = (slices, image_size, image_size)
    network = build_mvit(2 if "v2" in name else 1, size, depths, width, drop_path)
    network.head = nn.Identity()
    features = network.norm.normalized_shape[0]
    rules = _rules(name, network, adapt=resize_positions)
    return VolumeModel(
        network, rules, out_dim, features, size, in_chans=in_chans, dropout=dropout, pretrained=pretrained
    )


for _name, _parameters, _source in (
    ("mvit_v1_b", 36_303_841, "arXiv:2104.11227"),
    ("mvit_v2_s", 34_230_913, "arXiv:2112.01526"),
):
    register_model(
        _name,
        parameters=_parameters,
        **COMMON,
        mean=(0.45,) * 3,
        std=(0.225,) * 3,
        size=(16, 224, 224),
        source=_source,
        small={"slices": 4, "image_size": 32, "depths": (1, 1, 2, 1), "width": 8},
    )(partial(mvit, _name))


def swin3d(
    name: str,
    out_dim: int,
    *,
    slices: Count = 32,
    image_size: Count = 224,
    embed_dim: Count = 96,
    depths: Sequence[Count] = (2, 2, 18, 2),
    num_heads: Sequence[Count] = (3, 6, 12, 24),
    drop_path: Share = 0.1,
    in_chans: Channels = 3,
    dropout: Share = 0.0,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """Video Swin: (B, 3, S, P, P) float32 clips -> (B, out_dim) logits.

    Args:
        name: "swin3d_t", "swin3d_s" or "swin3d_b".
        slices: S, any number; the published weights were trained with 32.
        image_size: P, any size.
        embed_dim: channels of the first stage; each further one has twice as many.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        drop_path: probability of the last block to be skipped in training; it rises from 0 at the first.
        out_dim, in_chans, dropout, pretrained: see `video_resnet`.

    Source: Liu et al. 2022, section 3.3.
    """
    from torchvision.models.video import SwinTransformer3d

    if len(depths) != len(num_heads) or sum(depths) < 2 or any(embed_dim * 2**i % n for i, n in enumerate(num_heads)):
        raise ModelError(
            f"{name}: depths and num_heads have one number a stage, and a stage's heads divide its channels; "
            f"got depths {depths}, num_heads {num_heads} and embed_dim {embed_dim}"
        )
    network: Any = SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=embed_dim,
        depths=list(depths),
        num_heads=list(num_heads),
        window_size=[8, 7, 7],
        stochastic_depth_prob=drop_path,
    )
    network.head = nn.Identity()
    features, size = network.num_features, (slices, image_size, image_size)
    return VolumeModel(
        network,
        _rules(name, network),
        out_dim,
        features,
        size,
        in_chans=in_chans,
        dropout=dropout,
        pretrained=pretrained,
    )


SWIN_B = {"weights": f"{HUB_NAME} or KINETICS400_IMAGENET22K_V1, which torchvision downloads"}
SWIN_SIZES: tuple[tuple[str, int, dict[str, Any], dict[str, Any]], ...] = (
    ("swin3d_t", 27_851_239, {"depths": (2, 2, 6, 2)}, {}),
    ("swin3d_s", 49_509_847, {}, {}),
    ("swin3d_b", 87_640_009, {"embed_dim": 128, "num_heads": (4, 8, 16, 32)}, SWIN_B),
)
for _name, _parameters, _sizes, _more in SWIN_SIZES:
    register_model(
        _name,
        **(COMMON | _more),
        parameters=_parameters,
        size=(32, 224, 224),
        source="arXiv:2106.13230",
        small={"slices": 4, "image_size": 32, "embed_dim": 12, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)},
    )(partial(swin3d, _name, **_sizes))


def _rules(name: str, network: nn.Module, **rules: Any) -> WeightRules:
    return WeightRules(
        architecture=name, first=first_layers(network), hub=partial(fetch_torchvision, name), default=HUB_NAME, **rules
    )


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
