"""Merlin's image encoder: a ResNet-152 inflated to 3D, which learned from abdominal CT, reports and diagnoses.

Paper: Blankemeier et al. 2024, Merlin (arXiv:2406.06512).
Origin: written for this project from the paper, the names and shapes of the released weights, and the window, spacing
and order of axes in the package merlin-vlm 0.0.7 (MIT). Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from slivit.models._volume import VolumeModel
from slivit.models._weights import WeightRules, Weights
from slivit.models.registry import register_model
from slivit.models.resnet3d import Bottleneck, ResNet3d
from slivit.settings import Count

DEPTHS = (3, 8, 36, 3)


class InflatedResNet(ResNet3d):
    """(B, 1, S, H, W) axial slices -> (B, 32 * width, S / 16, W / 32, H / 32).

    The published network reads rows from the patient's left to right and columns from back to front; slices here run
    from front to back and from right to left, and are turned before it sees them.

    Args:
        width: of the first convolution.
        depths: blocks of the four stages.
    """

    def __init__(self, width: int, depths: Sequence[int]) -> None:
        super().__init__(depths, width, 3, Bottleneck, along=3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(-1, -2).flip(-1, -2).expand(-1, 3, -1, -1, -1))


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
) -> VolumeModel:
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
    return VolumeModel(InflatedResNet(width, depths), rules, out_dim, 32 * width, size, pretrained=pretrained)
