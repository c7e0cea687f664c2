"""A model of this plugin: a small 3D network, with `.backbone` and `.head` as every model has them."""

import torch
from torch import nn

import slivit
from slivit.settings import Count


class CubeNet(nn.Module):
    """A convolution, its mean over the volume, and a linear head.

    Args:
        out_dim: the number of outputs.
        size: slices, rows and columns of its input.
        width: channels.
    """

    def __init__(self, out_dim: int, size: int, width: int) -> None:
        super().__init__()
        self.input_size = (size, size, size)
        self.backbone = nn.Sequential(
            nn.Conv3d(1, width, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()
        )
        self.head = nn.Linear(width, out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


@slivit.register_model(
    input="volume", size=(16, 16, 16), mean=(0.5,), std=(0.25,), licence="Apache-2.0", source="this plugin"
)
def cube_net(out_dim: int, *, size: Count = 16, width: Count = 8) -> nn.Module:
    """A small 3D network for cubes."""
    return CubeNet(out_dim, size, width)
