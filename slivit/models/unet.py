"""Plain convolutional networks for segmentation, through MONAI: nnU-Net's network (DynUNet) and a residual U-Net.

Papers: Isensee et al. 2021 (nnU-Net, doi:10.1038/s41592-020-01008-z; arXiv:1904.08128); Cicek et al. 2016 (3D U-Net,
arXiv:1606.06650); Kerfoot et al. 2018 (residual units, doi:10.1007/978-3-030-12029-0_40).
Origin: the networks are MONAI's own (Apache-2.0), imported when a model is made.
Licence: Apache-2.0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from slivit.errors import ModelError
from slivit.models._masks import MaskModel, PatchSettings, monai
from slivit.models._weights import WeightRules, start_from
from slivit.models.registry import register_model
from slivit.settings import Count, Share

Strides = Sequence[Count | Sequence[Count]]


class ConvolutionalUNet(MaskModel):
    """A U-Net without its last layer as the backbone, and that layer: (B, C, S, H, W) -> (B, K, S, H, W) logits.

    Args:
        name: the registered name.
        backbone: (B, C, S, H, W) -> (B, width, S, H, W).
        width: channels that the backbone gives.
        out_dim: K.
        patches: their size and channels, and what the backbone starts from.
        strides: of all levels, a number or one an axis each.
    """

    def __init__(
        self, name: str, backbone: nn.Module, width: int, out_dim: int, patches: PatchSettings, strides: Strides
    ) -> None:
        a, b, c = (math.prod(sides) for sides in zip(*(_axes(name, stride) for stride in strides), strict=True))
        super().__init__(backbone, WeightRules(architecture=name), patches, (a, b, c))
        self.head = nn.Conv3d(width, out_dim, 1)
        start_from(self, patches.pretrained)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) float32 -> (B, K, S, H, W) logits."""
        self.check(x)
        return self.head(self.backbone(x))


def _axes(name: str, stride: int | Sequence[int]) -> tuple[int, ...]:
    sides = (stride,) * 3 if isinstance(stride, int) else tuple(stride)
    if len(sides) != 3:
        raise ModelError(f"{name}: a stride or kernel is a number or three, of slices, rows and columns; got {stride}")
    return sides


class DynUNetBody(nn.Module):
    """MONAI's DynUNet without its output block, each parameter under one name: MONAI's own module keeps two."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.input_block, self.downsamples = network.input_block, network.downsamples
        self.bottleneck, self.upsamples = network.bottleneck, network.upsamples

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in (self.input_block, *self.downsamples):
            x = block(x)
            skips.append(x)
        x = self.bottleneck(x)
        for block in self.upsamples:
            x = block(x, skips.pop())
        return x


COMMON: dict[str, Any] = {
    "input": "volume",
    "output": "mask",
    "size": (96, 96, 96),
    "mean": (0.0,),
    "std": (1.0,),
    "licence": "Apache-2.0",
}


@register_model(
    **COMMON,
    parameters=16_543_617,
    source="arXiv:1904.08128",
    small={"slices": 16, "image_size": 16, "filters": (4, 8, 8), "strides": (1, 2, 2)},
)
def dynunet(
    out_dim: int,
    *,
    patches: PatchSettings,
    filters: Sequence[Count] = (32, 64, 128, 256, 320),
    strides: Strides = (1, 2, 2, 2, 2),
    kernels: Strides | None = None,
    residual: bool = False,
) -> ConvolutionalUNet:
    """nnU-Net's network without deep supervision: (B, C, S, H, W) float32 -> (B, out_dim, S, H, W) logits.

    Args:
        out_dim: K, the number of outputs.
        patches: their sides are multiples of the product of the strides; other such sides are taken too.
        filters: channels of each level, the finest first.
        strides: of each level, the first one 1; [1, 2, 2] halves rows and columns alone, for thick slices.
        kernels: side of each level's convolutions, or one an axis; 3 everywhere by default.
        residual: residual blocks.

    Raises:
        ModelError: MONAI is not installed, or a value is not allowed.
        CheckpointError: weights that do not fit.

    Source: Isensee et al. 2021, Methods, network architecture.
    """
    kernels = kernels or (3,) * len(strides)
    if not 3 <= len(strides) == len(filters) == len(kernels):
        raise ModelError(
            "dynunet: strides, filters and kernels have one entry a level, and there are 3 levels or more; got "
            f"{len(strides)}, {len(filters)} and {len(kernels)}"
        )
    for sides in (*strides, *kernels):
        _axes("dynunet", sides)
    body = monai("dynunet", "nets").DynUNet(
        3,
        patches.in_chans,
        out_dim,
        kernel_size=list(kernels),
        strides=list(strides),
        upsample_kernel_size=list(strides[1:]),
        filters=list(filters),
        res_block=residual,
    )
    return ConvolutionalUNet("dynunet", DynUNetBody(body), filters[0], out_dim, patches, strides)


@register_model(
    **COMMON,
    parameters=4_825_426,
    source="arXiv:1606.06650; residual units doi:10.1007/978-3-030-12029-0_40",
    small={"slices": 16, "image_size": 16, "filters": (4, 8, 8), "units": 1},
)
def unet(
    out_dim: int,
    *,
    patches: PatchSettings,
    filters: Sequence[Count] = (16, 32, 64, 128, 256),
    units: Count = 2,
    dropout: Share = 0.0,
) -> ConvolutionalUNet:
    """MONAI's plain residual U-Net and a last linear layer: (B, C, S, H, W) -> (B, out_dim, S, H, W) logits.

    Args:
        filters: channels of each level, the finest first; each level halves the sides, the first one too.
        units: convolutions of a residual unit.
        dropout: probability in every convolution.
        out_dim, patches: see `dynunet`.

    Raises:
        ModelError: MONAI is not installed, or a value is not allowed.
        CheckpointError: weights that do not fit.

    Source: Cicek et al. 2016; Kerfoot et al. 2018.
    """
    if len(filters) < 2:
        raise ModelError(f"unet: there are 2 levels or more in filters; got {len(filters)}")
    strides = (2,) * (len(filters) - 1)
    body = monai("unet", "nets").UNet(
        3, patches.in_chans, filters[0], tuple(filters), strides, num_res_units=units, dropout=dropout
    )
    return ConvolutionalUNet("unet", body, filters[0], out_dim, patches, strides)
