"""Merlin's image encoder: a ResNet-152 inflated to 3D, which learned from abdominal CT, reports and diagnoses.

Paper: Blankemeier et al. 2024, Merlin (arXiv:2406.06512).
Origin: written for this project from the paper, the names and shapes of the released weights, and the window, spacing
and order of axes in the package merlin-vlm 0.0.7 (MIT). Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from slivit.models._weights import WeightRules, Weights
from slivit.models.medical_resnets import VolumeEncoder
from slivit.models.registry import register_model
from slivit.settings import Count

DEPTHS = (3, 8, 36, 3)


class Bottleneck(nn.Module):
    """1 x 1 x 1, 3 x 3 x 3 and 1 x 1 x 1 convolutions round a shortcut, under ResNet's names.

    Args:
        old: channels that come in.
        width: of the middle; four times as many go out.
        stride: of the middle convolution, along all axes.
    """

    def __init__(self, old: int, width: int, stride: int) -> None:
        super().__init__()
        new = 4 * width
        self.conv1, self.bn1 = nn.Conv3d(old, width, 1, bias=False), nn.BatchNorm3d(width)
        self.conv2, self.bn2 = nn.Conv3d(width, width, 3, stride, 1, bias=False), nn.BatchNorm3d(width)
        self.conv3, self.bn3 = nn.Conv3d(width, new, 1, bias=False), nn.BatchNorm3d(new)
        changed = stride > 1 or old != new
        shortcut = (nn.Conv3d(old, new, 1, stride, bias=False), nn.BatchNorm3d(new))
        self.downsample = nn.Sequential(*shortcut) if changed else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, old, s, h, w) -> (B, 4 * width, s', h', w')."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return (self.bn3(self.conv3(x)) + shortcut).relu()


class InflatedResNet(nn.Module):
    """(B, 1, S, H, W) axial slices -> (B, 32 * width, S / 16, W / 32, H / 32).

    The published network reads rows from the patient's left to right and columns from back to front; slices here run
    from front to back and from right to left, and are turned before it sees them.

    Args:
        width: of the first convolution.
        depths: blocks of the four stages.
    """

    def __init__(self, width: int, depths: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        old = width
        for stage, depth in enumerate(depths):
            wide = width * 2**stage
            first = Bottleneck(old, wide, 2 if stage else 1)
            old = 4 * wide
            rest = (Bottleneck(old, wide, 1) for _ in range(depth - 1))
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(-1, -2).flip(-1, -2).expand(-1, 3, -1, -1, -1)
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x


@register_model(
    input="volume",
    size=(160, 224, 224),
    mean=(0.0,),
    std=(1.0,),
    parameters=117_368_257,
    source="arXiv:2406.06512",
    licence="Apache-2.0 (definition); MIT (weights)",
    weights="merlin: the checkpoint of stanfordmimi/Merlin on Hugging Face's hub, of which the image encoder is taken",
    small={"slices": 16, "image_size": 32, "width": 4, "depths": (1, 1, 1, 1)},
)
def merlin(
    out_dim: int,
    *,
    slices: Count = 160,
    image_size: Count = 224,
    width: Count = 64,
    depths: tuple[Count, Count, Count, Count] = DEPTHS,
    pretrained: bool | Weights = False,
) -> VolumeEncoder:
    """Merlin's image encoder: (B, 1, S, P, P) float32 from 0 to 1 -> (B, out_dim) logits.

    It was trained on CT of 3 x 1.5 x 1.5 mm from -1,000 to 1,000 HU; weights by the name "merlin" set both.

    Args:
        out_dim: the number of outputs.
        slices: S.
        image_size: P, rows and columns in pixels.
        width: of the first convolution; 64 in the published network.
        depths: blocks of the four stages.
        pretrained: "merlin", or the file; the text encoder and both heads are left out.

    Source: Blankemeier et al. 2024, Methods, model architecture.
    """
    rules = WeightRules(
        architecture="merlin",
        prefixes=("encode_image.i3_resnet.",),
        drop=(r"^contrastive_head\.",),
        default="merlin",
    )
    size = (slices, image_size, image_size)
    return VolumeEncoder("merlin", InflatedResNet(width, depths), 32 * width, out_dim, size, rules, pretrained)
