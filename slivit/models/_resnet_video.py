"""3D bottleneck ResNets under PyTorchVideo's names, from which Slow, SlowFast, R(2+1)D and CSN are put together.

Origin: written for this project from the papers, and from the names and shapes in the published checkpoints.
Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Plan:
    """What tells one of these networks from another, stage by stage.

    Args:
        depths: blocks a stage.
        width: channels of the stem and, in the middle of a block, of the first stage; each stage doubles them, and
            four times as many leave it.
        stem_kernel: of the first convolution, whose stride is (1, 2, 2).
        stem_pool: whether max pooling halves rows and columns behind it.
        kernels_a: along the slices, of each stage's first convolution in a block.
        strides: (slices, rows and columns) of each stage.
        middle: makes a block's middle convolution from its width and stride.
        fused: channels that join those of the network before each stage.
    """

    depths: Sequence[int]
    width: int
    stem_kernel: Triple
    stem_pool: bool
    kernels_a: Sequence[int]
    strides: Sequence[tuple[int, int]]
    middle: Callable[[int, Triple], nn.Module]
    fused: Sequence[int] = (0, 0, 0, 0)

    def channels(self, index: int) -> int:
        """The channels that leave a stage; those of the stem for index -1."""
        return 4 * self.width * 2**index if index >= 0 else self.width

    def stem(self) -> Stem:
        """The network's first block, over three channels."""
        return Stem(3, self.width, self.stem_kernel, self.stem_pool)


class Stem(nn.Module):
    """The first convolution: (B, C, S, H, W) -> (B, width, S, H / 2, W / 2), or a quarter with pooling."""

    def __init__(self, channels: int, width: int, kernel: Triple, pool: bool) -> None:
        super().__init__()
        self.conv = conv3d(channels, width, kernel, (1, 2, 2))
        self.norm = nn.BatchNorm3d(width)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.relu(self.norm(self.conv(x)), inplace=True))


class Bottleneck(nn.Module):
    """Reduce the channels, convolve in the middle, expand again; a norm behind each."""

    def __init__(self, channels: int, out: int, kernel_a: int, middle: nn.Module) -> None:
        super().__init__()
        inner = out // 4
        self.conv_a = conv3d(channels, inner, (kernel_a, 1, 1))
        self.norm_a = nn.BatchNorm3d(inner)
        self.conv_b = middle
        self.norm_b = nn.BatchNorm3d(inner)
        self.conv_c = conv3d(inner, out, (1, 1, 1))
        self.norm_c = nn.BatchNorm3d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm_a(self.conv_a(x)), inplace=True)
        x = F.relu(self.norm_b(self.conv_b(x)), inplace=True)
        return self.norm_c(self.conv_c(x))


class ResBlock(nn.Module):
    """A bottleneck (`branch2`) beside a shortcut, which is a convolution (`branch1`) where shapes change."""

    def __init__(self, channels: int, out: int, stride: Triple, bottleneck: Bottleneck) -> None:
        super().__init__()
        if channels != out or stride != (1, 1, 1):
            self.branch1_conv = conv3d(channels, out, (1, 1, 1), stride)
            self.branch1_norm = nn.BatchNorm3d(out)
        self.branch2 = bottleneck

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.branch1_norm(self.branch1_conv(x)) if hasattr(self, "branch1_conv") else x
        return F.relu(shortcut + self.branch2(x), inplace=True)


class Stage(nn.Module):
    """Residual blocks of one width, the first of which may shrink the map."""

    def __init__(self, plan: Plan, index: int) -> None:
        super().__init__()
        channels, out = plan.channels(index - 1) + plan.fused[index], plan.channels(index)
        along, across = plan.strides[index]
        blocks = []
        for i in range(plan.depths[index]):
            stride = (along, across, across) if i == 0 else (1, 1, 1)
            bottleneck = Bottleneck(channels, out, plan.kernels_a[index], plan.middle(out // 4, stride))
            blocks.append(ResBlock(channels, out, stride, bottleneck))
            channels = out
        self.res_blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.res_blocks(x)


class VideoResNet(nn.Module):
    """(B, C, S, H, W) -> (B, 32 * width, s, h, w): a stem and four stages."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([plan.stem(), *(Stage(plan, index) for index in range(4))])
        self.features = plan.channels(3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Conv2plus1d(nn.Module):
    """A convolution along the slices, a norm, then one within them."""

    def __init__(self, width: int, stride: Triple) -> None:
        super().__init__()
        self.conv_t = conv3d(width, width, (3, 1, 1), (stride[0], 1, 1))
        self.norm = nn.BatchNorm3d(width)
        self.conv_xy = conv3d(width, width, (1, 3, 3), (1, *stride[1:]))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_xy(F.relu(self.norm(self.conv_t(x)), inplace=True))


def conv3d(channels: int, out: int, kernel: Triple, stride: Triple = (1, 1, 1), groups: int = 1) -> nn.Conv3d:
    """A convolution that keeps the size where its stride is 1."""
    padding = tuple(k // 2 for k in kernel)
    return nn.Conv3d(channels, out, kernel, stride, padding, groups=groups, bias=False)  # type: ignore[arg-type]


def in_slice(width: int, stride: Triple) -> nn.Module:
    """Slow's middle convolution, within the slices."""
    return conv3d(width, width, (1, 3, 3), stride)


def depthwise(width: int, stride: Triple) -> nn.Module:
    """CSN's middle convolution, each channel for itself."""
    return conv3d(width, width, (3, 3, 3), stride, groups=width)
