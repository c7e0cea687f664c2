"""EchoNet: a 2D Inception-ResNet-v1 over single frames, averaged over the frames of a video.

Papers: Ghorbani et al. 2020 (doi:10.1038/s41746-019-0216-8), which trains it from scratch; the network is that of
Szegedy et al. 2017 (arXiv:1602.07261). Origin: written for this project from the papers. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.models._volume import VolumeModel
from slivit.models._weights import WeightRules, Weights
from slivit.models.registry import register_model
from slivit.settings import Count, Share

SMALLEST = 75  # pixels, of which one is left behind the last stage
SCALES = (0.17, 0.10, 0.20)  # of the residual branches


class Conv(nn.Sequential):
    """A convolution, a norm and a ReLU; `same` pads so that the size stays."""

    def __init__(
        self, channels: int, out: int, kernel: int | tuple[int, int], stride: int = 1, same: bool = False
    ) -> None:
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if same else 0
        super().__init__(
            nn.Conv2d(channels, out, sides, stride, padding, bias=False),
            nn.BatchNorm2d(out, eps=1e-3),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Branches side by side, brought back to the input's channels, scaled down and added to it."""

    def __init__(self, channels: int, branches: Sequence[nn.Module], joined: int, scale: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.join = nn.Conv2d(joined, channels, 1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([branch(x) for branch in self.branches], dim=1)
        return F.relu(x + self.scale * self.join(joined))


class Reduction(nn.Module):
    """Max pooling and strided branches side by side: half the size, the channels of all of them."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.max_pool2d(x, 3, 2), *(branch(x) for branch in self.branches)], dim=1)


class InceptionResNet(nn.Module):
    """Inception-ResNet-v1: (N, 1, H, W) -> (N, 56 * width), pooled.

    Args:
        depths: residual blocks of the three stages; 5, 10 and 5 in the paper.
        width: channels of the first convolution; 32 in the paper.
    """

    def __init__(self, depths: Sequence[int], width: int) -> None:
        super().__init__()
        self.features = 56 * width
        self.stem = nn.Sequential(
            Conv(1, width, 3, 2),
            Conv(width, width, 3),
            Conv(width, 2 * width, 3, same=True),
            nn.MaxPool2d(3, 2),
            Conv(2 * width, 5 * width // 2, 1),
            Conv(5 * width // 2, 6 * width, 3),
            Conv(6 * width, 8 * width, 3, 2),
        )
        self.stage1 = nn.Sequential(*(_block_a(width) for _ in range(depths[0])))
        self.reduce1 = _reduction_a(width)
        self.stage2 = nn.Sequential(*(_block_b(width) for _ in range(depths[1])))
        self.reduce2 = _reduction_b(width)
        self.stage3 = nn.Sequential(*(_block_c(width) for _ in range(depths[2])))

    def forward(self, x: Tensor) -> Tensor:
        for stage in (self.stem, self.stage1, self.reduce1, self.stage2, self.reduce2, self.stage3):
            x = stage(x)
        return x.mean((2, 3))


def _block_a(w: int) -> Residual:
    """Szegedy et al. 2017, Figure 10."""
    same, entry = partial(Conv, w, w, 3, same=True), partial(Conv, 8 * w, w, 1)
    branches = [entry(), nn.Sequential(entry(), same()), nn.Sequential(entry(), same(), same())]
    return Residual(8 * w, branches, 3 * w, SCALES[0])


def _reduction_a(w: int) -> Reduction:
    """Szegedy et al. 2017, Figure 7 and Table 1: k = l = 192, m = 256, n = 384."""
    deep = nn.Sequential(Conv(8 * w, 6 * w, 1), Conv(6 * w, 6 * w, 3, same=True), Conv(6 * w, 8 * w, 3, 2))
    return Reduction([Conv(8 * w, 12 * w, 3, 2), deep])


def _block_b(w: int) -> Residual:
    """Szegedy et al. 2017, Figure 11."""
    inner, channels = 4 * w, 28 * w
    rows, columns = Conv(inner, inner, (1, 7), same=True), Conv(inner, inner, (7, 1), same=True)
    branches = [Conv(channels, inner, 1), nn.Sequential(Conv(channels, inner, 1), rows, columns)]
    return Residual(channels, branches, 2 * inner, SCALES[1])


def _reduction_b(w: int) -> Reduction:
    """Szegedy et al. 2017, Figure 12."""
    inner, channels = 8 * w, 28 * w
    wide = nn.Sequential(Conv(channels, inner, 1), Conv(inner, 12 * w, 3, 2))
    plain = nn.Sequential(Conv(channels, inner, 1), Conv(inner, inner, 3, 2))
    deep = nn.Sequential(Conv(channels, inner, 1), Conv(inner, inner, 3, same=True), Conv(inner, inner, 3, 2))
    return Reduction([wide, plain, deep])


def _block_c(w: int) -> Residual:
    """Szegedy et al. 2017, Figure 13."""
    inner, channels = 6 * w, 56 * w
    rows, columns = Conv(inner, inner, (1, 3), same=True), Conv(inner, inner, (3, 1), same=True)
    branches = [Conv(channels, inner, 1), nn.Sequential(Conv(channels, inner, 1), rows, columns)]
    return Residual(channels, branches, 2 * inner, SCALES[2])


class EchoNet(VolumeModel):
    """The head is linear, so that the mean of the frames' features gives the mean of the frames' logits."""

    def forward_frames(self, x: Tensor) -> Tensor:
        """(B, 1, S, H, W) -> (B, S, features) of each frame by itself."""
        self.check(x)
        return self.backbone(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (x.shape[0], -1))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.forward_frames(x).mean(1)


@register_model(
    input="volume",
    size=(20, 299, 299),
    mean=(0.5,),
    std=(0.5,),
    source="doi:10.1038/s41746-019-0216-8",
    licence="Apache-2.0 (definition)",
    parameters=20_964_545,
    small={"slices": 2, "image_size": SMALLEST, "depths": (1, 1, 1), "width": 4},
)
def echonet(
    out_dim: int,
    *,
    slices: Count = 20,
    image_size: Count = 299,
    depths: Sequence[Count] = (5, 10, 5),
    width: Count = 32,
    dropout: Share = 0.2,
    pretrained: bool | Weights = False,
) -> EchoNet:
    """EchoNet: (B, 1, S, P, P) float32 frames -> (B, out_dim) logits, the average of those of the frames.

    Args:
        out_dim: the number of outputs.
        slices: S, frames.
        image_size: P, rows and columns in pixels, at least 75.
        depths: residual blocks of the three stages.
        width: channels of the first convolution, an even number.
        dropout: of the pooled features.
        pretrained: the path of weights of this model, see `load_backbone`.

    Raises:
        ModelError: a value that is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.

    Source: Ghorbani et al. 2020, Methods, "EchoNet development and training".
    """
    if image_size < SMALLEST or len(depths) != 3 or width % 2:
        raise ModelError(
            f"echonet: image_size must be at least {SMALLEST}, depths three numbers and width even; "
            f"got {image_size}, {tuple(depths)} and {width}"
        )
    network = InceptionResNet(depths, width)
    rules, size = WeightRules(architecture="echonet", first=("stem.0.0.weight",)), (slices, image_size, image_size)
    return EchoNet(network, rules, out_dim, network.features, size, dropout=dropout, pretrained=pretrained)
