"""3D ResNet-18 and ResNet-50 over volumes of one channel or several, to be trained from scratch.

Paper: Hara et al. 2018 (arXiv:1711.09577), after He et al. 2016. Origin: written for this project; the parameters have
the names that torchvision gave those of the 2D ResNet, as the authors' have. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.models._volume import VolumeModel
from slivit.models._weights import WeightRules, Weights
from slivit.models.registry import register_model
from slivit.settings import Count, Share


class BasicBlock(nn.Module):
    """Two 3 x 3 x 3 convolutions beside a shortcut, which is a convolution where shapes change."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(out)
        self.conv2 = nn.Conv3d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(out)
        changes = stride != 1 or channels != out
        self.downsample = (
            nn.Sequential(nn.Conv3d(channels, out, 1, stride, bias=False), nn.BatchNorm3d(out)) if changes else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x) if self.downsample else x
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class Bottleneck(nn.Module):
    """A 3 x 3 x 3 convolution between two of 1 x 1 x 1, beside a shortcut; four times as many channels come out."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, out, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(out)
        self.conv2 = nn.Conv3d(out, out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(out)
        self.conv3 = nn.Conv3d(out, 4 * out, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(4 * out)
        changes = stride != 1 or channels != 4 * out
        self.downsample = (
            nn.Sequential(nn.Conv3d(channels, 4 * out, 1, stride, bias=False), nn.BatchNorm3d(4 * out))
            if changes
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x) if self.downsample else x
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)) + shortcut, inplace=True)


class ResNet3d(nn.Module):
    """(B, C, S, H, W) -> (B, features, S / 16, H / 32, W / 32), rounded up: a stem and four stages.

    Args:
        depths: blocks of the four stages.
        width: channels of the stem.
        in_chans: C.
        block: of which the stages are made.
        along: slices that the stem's kernel covers, beside 7 rows and columns.
    """

    def __init__(
        self, depths: Sequence[int], width: int, in_chans: int, block: type[BasicBlock | Bottleneck], along: int = 7
    ) -> None:
        super().__init__()
        self.block, self.expansion = block, 4 if block is Bottleneck else 1
        self.conv1 = nn.Conv3d(in_chans, width, (along, 7, 7), (1, 2, 2), (along // 2, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        self.features = width
        for stage, depth in enumerate(depths):
            self.add_module(f"layer{stage + 1}", self._stage(width * 2**stage, depth, 1 if stage == 0 else 2))

    def _stage(self, out: int, depth: int, stride: int) -> nn.Sequential:
        first = self.block(self.features, out, stride)
        self.features = self.expansion * out
        return nn.Sequential(first, *(self.block(self.features, out, 1) for _ in range(depth - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet3d(
    name: str,
    out_dim: int,
    *,
    slices: Count = 28,
    image_size: Count = 256,
    in_chans: Count = 1,
    depths: Sequence[Count] = (2, 2, 2, 2),
    width: Count = 64,
    dropout: Share = 0.0,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """3D ResNet: (B, C, S, P, P) float32 volumes -> (B, out_dim) logits.

    Args:
        name: "resnet3d_18", of basic blocks, or "resnet3d_50", of bottlenecks.
        out_dim: the number of outputs.
        slices: S.
        image_size: P, rows and columns in pixels.
        in_chans: C. Weights of one channel are divided among several, so that equal channels give what one gave.
        depths: residual blocks of the four stages; 3, 4, 6 and 3 of the 50.
        width: channels of the stem and of the first stage; each further stage has twice as many.
        dropout: of the pooled features.
        pretrained: the path of weights with these names; those over three channels have their first layer summed.

    Raises:
        ModelError: a value that is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.

    Source: Hara et al. 2018, section 3.2 and Table 1 (shortcuts of type B).
    """
    if len(depths) != 4:
        raise ModelError(f"{name}: depths has one number for each of the four stages, got {tuple(depths)}")
    network = ResNet3d(depths, width, in_chans, Bottleneck if name == "resnet3d_50" else BasicBlock)
    network.apply(_initialise)
    rules, size = WeightRules(architecture=name, first=("conv1.weight",)), (slices, image_size, image_size)
    return VolumeModel(
        network, rules, out_dim, network.features, size, in_chans=in_chans, dropout=dropout, pretrained=pretrained
    )


for _name, _depths, _parameters, _width in (
    ("resnet3d_18", (2, 2, 2, 2), 33_160_513, 8),
    ("resnet3d_50", (3, 4, 6, 3), 46_157_121, 4),
):
    register_model(
        _name,
        input="volume",
        size=(28, 256, 256),
        mean=(0.5,),
        std=(0.5,),
        source="arXiv:1711.09577",
        licence="Apache-2.0 (definition)",
        parameters=_parameters,
        small={"slices": 8, "image_size": 32, "depths": (1, 1, 1, 1), "width": _width},
    )(partial(resnet3d, _name, depths=_depths))
