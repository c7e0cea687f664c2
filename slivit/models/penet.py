"""PENet: 3D bottlenecks with squeeze-and-excitation and group normalisation, for pulmonary embolism in chest CT.

Paper: Huang et al. 2020 (doi:10.1038/s41746-020-0266-y). Origin: written for this project from the paper and from the
sizes and parameter names of the released code, of which nothing is copied. Licence: Apache-2.0 for this file.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slivit.errors import ModelError
from slivit.models._volume import Channels, VolumeModel
from slivit.models._weights import WeightRules, Weights, first_layers
from slivit.models.registry import register_model
from slivit.settings import Count, Share

GROUP = 16  # channels that are normalised together
EXPANSION, REDUCTION = 2, 16


class SqueezeExcite(nn.Module):
    """Weigh each channel by a two-layer perceptron over all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // REDUCTION
        self.excite = nn.Sequential(
            nn.Linear(channels, inner), nn.LeakyReLU(inplace=True), nn.Linear(inner, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(x.mean((2, 3, 4)))[:, :, None, None, None]


class Bottleneck(nn.Module):
    """A grouped bottleneck with squeeze-and-excitation, left out at random in training.

    Args:
        channels: that enter.
        width: in the middle; twice as many leave.
        groups: of the middle convolution.
        stride: of the middle convolution, in all directions.
        skip: probability to be left out of a training step, for the whole batch.
    """

    def __init__(self, channels: int, width: int, groups: int, stride: int, skip: float) -> None:
        super().__init__()
        out = EXPANSION * width
        self.skip = skip
        self.conv1 = nn.Conv3d(channels, width, 1, bias=False)
        self.norm1 = norm(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.norm2 = norm(width)
        self.conv3 = nn.Conv3d(width, out, 1, bias=False)
        self.norm3 = norm(out)
        self.se_block = SqueezeExcite(out)
        self.relu = nn.LeakyReLU(inplace=True)
        changes = stride != 1 or channels != out
        self.down_sample = (
            nn.Sequential(nn.Conv3d(channels, out, 1, stride, bias=False), norm(out)) if changes else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.down_sample(x) if self.down_sample else x
        if self.training and self.skip and torch.rand(()) < self.skip:
            return shortcut
        x = self.relu(self.norm1(self.conv1(x)))
        x = self.relu(self.norm2(self.conv2(x)))
        return self.relu(self.se_block(self.norm3(self.conv3(x))) + shortcut)


class Encoder(nn.Module):
    """The bottlenecks of one stage."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.penet_blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.penet_blocks(x)


class PENetBackbone(nn.Module):
    """(B, 3, S, H, W) -> (B, features, S / 16, H / 32, W / 32), rounded up: a 7 x 7 x 7 stem and four stages."""

    def __init__(self, depths: Sequence[int], width: int, groups: int, drop_path: float) -> None:
        super().__init__()
        channels = width // 2
        self.in_conv = nn.Sequential(
            nn.Conv3d(3, channels, 7, (1, 2, 2), 3, bias=False), norm(channels), nn.LeakyReLU(inplace=True)
        )
        self.max_pool = nn.MaxPool3d(3, 2, 1)
        skips = iter([drop_path * i / sum(depths) for i in range(sum(depths))])
        self.encoders = nn.ModuleList()
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                stride = 2 if i == 0 and stage > 0 else 1
                blocks.append(Bottleneck(channels, width * 2**stage, groups, stride, next(skips)))
                channels = EXPANSION * width * 2**stage
            self.encoders.append(Encoder(blocks))
        self.features = channels
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        x = self.max_pool(self.in_conv(x))
        for encoder in self.encoders:
            x = encoder(x)
        return x


def norm(channels: int) -> nn.GroupNorm:
    """Normalise 16 channels at a time, whatever the size of the batch."""
    return nn.GroupNorm(channels // GROUP, channels)


def _initialise(module: nn.Module) -> None:
    """He's weights; the last norm of a block starts at 0, so that the block starts as its shortcut."""
    if isinstance(module, nn.Conv3d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, Bottleneck):
        nn.init.zeros_(module.norm3.weight)


@register_model(
    input="clip",
    size=(24, 192, 192),
    mean=(0.15897,) * 3,
    std=(1.0,) * 3,
    source="doi:10.1038/s41746-020-0266-y",
    licence="Apache-2.0 (definition); the released weights state none",
    weights="a .pth.tar checkpoint, linked in the README of https://github.com/marshuang80/penet",
    parameters=28_398_705,
    small={
        "slices": 4,
        "image_size": 32,
        "depths": (1, 1, 1, 1),
        "width": 32,
        "groups": 4,
        "drop_path": 0.0,
    },
)
def penet(
    out_dim: int,
    *,
    slices: Count = 24,
    image_size: Count = 192,
    depths: Sequence[Count] = (3, 4, 6, 3),
    width: Count = 128,
    groups: Count = 32,
    drop_path: Share = 0.5,
    in_chans: Channels = 3,
    dropout: Share = 0.0,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """PENet's classifier: (B, 3, S, P, P) float32 clips of CT slices -> (B, out_dim) logits.

    Its normalisation is that of CT clipped to -100 ... 900 HU: set `preprocessing.window` to those.

    Args:
        out_dim: the number of outputs.
        slices: S.
        image_size: P, rows and columns in pixels.
        depths: bottlenecks of the four stages.
        width: channels in the middle of the first stage's bottlenecks, a multiple of 32; each stage doubles them.
        groups: of the bottlenecks' middle convolutions; they divide `width`.
        drop_path: probability that the bottleneck behind the last would be left out of a training step; it rises from
            0 at the first. The outputs of those that stay are not scaled, as in the released code.
        in_chans: 3, or 1 for grey input with a summed first layer.
        dropout: of the pooled features.
        pretrained: the path of a checkpoint, see `load_backbone`.

    Raises:
        ModelError: a value that is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.

    Source: Huang et al. 2020, Methods, "Model development".
    """
    if width % (2 * GROUP) or width % groups:
        raise ModelError(f"penet: width must be a multiple of {2 * GROUP} and of groups, got {width} and {groups}")
    backbone = PENetBackbone(depths, width, groups, drop_path)
    rules = WeightRules(architecture="penet", rename=(("xnet_blocks", "penet_blocks"),), first=first_layers(backbone))
    size = (slices, image_size, image_size)
    return VolumeModel(
        backbone, rules, out_dim, backbone.features, size, in_chans=in_chans, dropout=dropout, pretrained=pretrained
    )
