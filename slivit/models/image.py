"""A 2D image classifier: the network in which a backbone is pre-trained before it reads volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from slivit.models._backbones import build_backbone, feature_map
from slivit.models._weights import Weights
from slivit.models.registry import check_tiled, register_model
from slivit.settings import Count, Share


@register_model(
    "image_classifier",
    input="tiled",
    size=(1, 256, 256),
    source="doi:10.1038/s41551-024-01257-9, Methods, pre-training",
    licence="Apache-2.0 (definition); weights as their backbone's",
    parameters=27_820_897,
    weights="timm downloads ImageNet weights with pretrained = true",
    small={"backbone": "test_convnext", "image_size": 64},
)
class ImageClassifier(nn.Module):
    """A 2D classifier (a backbone, pooling, a linear head) whose backbone SLIViT and other models of slices start from.

    Args:
        out_dim: the number of outputs.
        backbone: any convolutional network of timm.
        image_size: P of the P x P images, a multiple of the stride.
        stride: of the feature map; a model that is to take the backbone needs the same.
        dropout: of the pooled features.
        pretrained: True downloads timm's ImageNet weights, a path loads a file or folder.
        backbone_args: further arguments of the timm network.

    Raises:
        ModelError: a backbone or a size that does not fit.
        CheckpointError: weights that cannot be had, or that do not fit.
    """

    def __init__(
        self,
        out_dim: int,
        *,
        backbone: str = "convnext_tiny",
        image_size: Count = 256,
        stride: Count = 32,
        dropout: Share = 0.0,
        pretrained: bool | Weights = False,
        backbone_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.input_size = (1, image_size, image_size)
        self.backbone, self.backbone_info = build_backbone(
            backbone, stride=stride, image_size=image_size, pretrained=pretrained, args=backbone_args
        )
        self.norm = nn.LayerNorm(self.backbone_info.channels)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.backbone_info.channels, out_dim)

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, 3, P, P) -> (B, C) pooled and normalised features."""
        return self.norm(self.pooled_features(images))

    def pooled_features(self, images: Tensor) -> Tensor:
        """(B, 3, P, P) -> (B, C): the backbone's features before the norm that is trained with the head."""
        return feature_map(self.backbone, self.backbone_info.stage, images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, P, P) float32 -> (B, out_dim) logits."""
        check_tiled(images, "image_classifier", self.input_size)
        return self.head(self.dropout(self.forward_features(images)))
