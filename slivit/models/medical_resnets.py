"""Published 3D encoders of MONAI's definitions: MedicalNet's ResNets, and CT-FM's SegResEncoder.

Papers: Chen et al. 2019 (Med3D, arXiv:1904.00625); Pai et al. 2025 (CT-FM, arXiv:2501.09001). MONAI's ResNet strides in
its last two stages where MedicalNet's own code dilates; names and shapes of the weights are the same.
Origin: the networks are MONAI's own (Apache-2.0), imported when a model is made. Licence: Apache-2.0.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from slivit.models._masks import monai
from slivit.models._volume import VolumeModel
from slivit.models._weights import WeightRules, Weights
from slivit.models.registry import register_model
from slivit.settings import Count

RESNETS: dict[int, dict[str, Any]] = {
    18: {"shortcut_type": "A", "bias_downsample": True},
    50: {"shortcut_type": "B", "bias_downsample": False},
}
"""How the shortcuts of MedicalNet's published networks are made."""


class ResNetMaps(nn.Module):
    """MONAI's ResNet up to its last feature map, under its own names."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.conv1, self.bn1 = network.conv1, network.bn1
        self.layer1, self.layer2, self.layer3, self.layer4 = (getattr(network, f"layer{i}") for i in range(1, 5))
        self.pool = nn.MaxPool3d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, S, H, W) -> (B, n, S / 32, H / 32, W / 32)."""
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def medicalnet(
    name: str,
    depth: int,
    out_dim: int,
    *,
    slices: Count = 64,
    image_size: Count = 128,
    width: Count = 64,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """MedicalNet's 3D ResNet: (B, 1, S, P, P) float32 -> (B, out_dim) logits.

    Args:
        name: the registered name.
        depth: layers.
        out_dim: the number of outputs.
        slices: S.
        image_size: P, rows and columns in pixels.
        width: channels of the first layer; 64 as published.
        pretrained: a published name ("medicalnet-18"), or a file; its decoder is left out.

    Source: Chen et al. 2019, section 3.
    """
    options: dict[str, Any] = {"spatial_dims": 3, "n_input_channels": 1, "num_classes": 1, "conv1_t_stride": 2}
    options["widen_factor"] = width / 64
    network = getattr(monai(name, "nets.resnet"), f"resnet{depth}")(**options, **RESNETS[depth])
    rules = WeightRules(architecture=name, drop=(r"^conv_seg\.",), default=name.replace("_", "-"))
    features, size = width * (8 if depth < 50 else 32), (slices, image_size, image_size)
    return VolumeModel(ResNetMaps(network), rules, out_dim, features, size, pretrained=pretrained)


for _depth, _parameters in ((18, 32_986_689), (50, 46_157_121)):
    register_model(
        f"medicalnet_{_depth}",
        input="volume",
        size=(64, 128, 128),
        mean=(0.5,),
        std=(0.5,),
        parameters=_parameters,
        source="arXiv:1904.00625",
        licence="Apache-2.0 (definition); MIT (weights)",
        weights=f"medicalnet-{_depth}: resnet_{_depth}_23dataset.pth of TencentMedicalNet on Hugging Face's hub",
        small={"slices": 16, "image_size": 32, "width": 4},
    )(partial(medicalnet, f"medicalnet_{_depth}", _depth))


@register_model(
    input="volume",
    size=(64, 128, 128),
    mean=(0.0,),
    std=(1.0,),
    parameters=77_761_505,
    source="arXiv:2501.09001",
    licence="Apache-2.0",
    weights="ct-fm: model.safetensors of project-lighter/ct_fm_feature_extractor on Hugging Face's hub",
    small={"slices": 16, "image_size": 32, "width": 4},
)
def ct_fm(
    out_dim: int,
    *,
    slices: Count = 64,
    image_size: Count = 128,
    width: Count = 32,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """CT-FM's encoder: (B, 1, S, P, P) float32 from 0 to 1 -> (B, out_dim) logits.

    It was trained on CT from -1,024 to 2,048 HU; weights by the name "ct-fm" set that window.

    Args:
        out_dim: the number of outputs.
        slices: S, a multiple of 16.
        image_size: P, rows and columns in pixels, a multiple of 16.
        width: channels of the first stage; 32 in the published network.
        pretrained: "ct-fm", or a file, of which a decoder is left out.

    Source: Pai et al. 2025, Methods.
    """
    network = monai("ct_fm", "nets.segresnet_ds").SegResEncoder
    encoder = network(spatial_dims=3, in_channels=1, init_filters=width, blocks_down=(1, 2, 2, 4, 4))
    rules = WeightRules(architecture="ct_fm", prefixes=("encoder.",), drop=(r"^(up_layers|heads?)\.",), default="ct-fm")
    return VolumeModel(encoder, rules, out_dim, 16 * width, (slices, image_size, image_size), pretrained=pretrained)
