"""DINO: a network of images that learns without labels by distilling itself, over crops of two sizes.

Paper: Caron et al. 2021, Emerging Properties in Self-Supervised Vision Transformers (arXiv:2104.14294).
Origin: written for this project. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from slivit.errors import ModelError
from slivit.models.registry import ModelSpec
from slivit.settings import Count, Share
from slivit.ssl._images import feature_dim, frozen, frozen_features, grey, image_features, image_spec, to_model
from slivit.ssl.collapse import ENTROPY, EVENNESS, SPREAD
from slivit.ssl.heads import DinoHead
from slivit.ssl.losses.dino import multi_crop_loss
from slivit.ssl.pretext import Pretext
from slivit.ssl.registry import register_pretext
from slivit.ssl.teacher import Centring, Distillation, Distilling, Targets
from slivit.ssl.views import Range, blur, jitter, random_crop, solarise
from slivit.train.schedules import block_depth

LARGE = 2

Outputs = dict[str, Tensor]


class ImageBranch(nn.Module):
    """An encoder of images and a head over its features; student and teacher are one each.

    Args:
        encoder: a registered model of single images; its classification head is left alone.
        head: from its features to logits over prototypes.
    """

    def __init__(self, encoder: nn.Module, head: DinoHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        encoder.get_submodule("head").requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ...) images in the encoder's layout -> (B, D) features and (B, K) logits."""
        features = image_features(self.encoder, images)
        return features, self.head(features)


class DinoPair(Distillation):
    """Student and teacher over the crops of a batch of images.

    Args:
        student: what is trained.
        prototypes: of its head.
        centring: see `Targets`.
    """

    student: ImageBranch
    teacher: ImageBranch

    def __init__(self, student: ImageBranch, prototypes: int, centring: Centring) -> None:
        super().__init__(student)
        self.targets = Targets(prototypes, centring)

    def forward(self, crops: Mapping[str, Tensor]) -> Outputs:
        """What the loss takes.

        Args:
            crops: "large" (2 * B, ...), the first crops of all images before the second ones, and "small" (n * B, ...),
                where there are any.

        Returns:
            The student's logits "large" (2 * B, K) and "small" (n * B, K); the teacher's probabilities "targets" (2 *
            B, K), its logits "scores" and its "features" (2 * B, D).
        """
        large = self.student(crops["large"])[1]
        small = self.student(crops["small"])[1] if "small" in crops else large[:0]
        with torch.no_grad():
            features, scores = self.teacher(crops["large"])
            targets = self.targets(scores)
        return {"large": large, "small": small, "targets": targets, "scores": scores, "features": features}


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """Two large and some small crops of each image, and how they are changed.

    Args:
        large_crop: smallest and largest area of the two global crops, as a fraction of the image.
        small_crop: that of the local crops.
        small_size: side of the local crops in pixels.
        small_crops: how many an image; 0 for none.
        flip: probability of a left-right mirroring; 0 where sides matter.
        strength: of the changes of brightness and contrast.
        blur_probability: of the first and second global crop, and of the local ones.
        solarise_probability: of the second global crop.
    """

    large_crop: Range = (0.4, 1.0)
    small_crop: Range = (0.05, 0.4)
    small_size: Count = 96
    small_crops: Annotated[int, Field(ge=0)] = 8
    flip: Share = 0.5
    strength: Annotated[float, Field(ge=0, lt=1)] = 0.4
    blur_probability: tuple[Share, Share, Share] = (1.0, 0.1, 0.5)
    solarise_probability: Share = 0.2


class ImageCrops:
    """The views of DINO.

    Args:
        spec: of the model; large crops have its size.
        settings: what crops there are.

    Source: Caron et al. 2021, section 3.1 and appendix C.
    """

    def __init__(self, spec: ModelSpec, settings: CropSettings) -> None:
        self.spec, self.settings = spec, settings
        large, small = (settings.large_crop, spec.size[1]), (settings.small_crop, settings.small_size)
        self.kinds = (large, large, small)

    def __call__(self, batch: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(B, 1, H, W) uint8 -> what `DinoPair` takes, and the numbers of the images."""
        images = grey(batch)
        crops = {"large": torch.cat([self._crop(images, kind) for kind in range(LARGE)])}
        if self.settings.small_crops:
            crops["small"] = torch.cat([self._crop(images, LARGE) for _ in range(self.settings.small_crops)])
        return crops, torch.arange(len(batch), device=batch.device)

    def _crop(self, images: Tensor, kind: int) -> Tensor:
        (area, size), settings = self.kinds[kind], self.settings
        cut = random_crop(images, size, scale=area, flip=settings.flip)
        cut = blur(jitter(cut, settings.strength), settings.blur_probability[kind])
        return to_model(solarise(cut, settings.solarise_probability if kind == 1 else 0), self.spec)


@register_pretext
def dino(model: nn.Module, *, crops: CropSettings, distilling: Distilling, fixed_scale: bool = True) -> Pretext:
    """DINO for any model of single images: ViT, Swin, ConvNeXt or ResNet; the teacher's backbone is kept.

    Args:
        model: a registered model of single images; it must take crops of `small_size` pixels too.
        crops: settings of the views.
        distilling: settings of head, teacher and student.
        fixed_scale: keep the prototypes at length 1; steadier, and False is better for small ViTs.

    Raises:
        ModelError: a model that does not take single images, or not of `small_size`.

    Source: Caron et al. 2021, section 3 and appendices A and D.
    """
    spec = image_spec(model, "dino")
    if crops.small_crops:
        _check_size(model, spec, crops.small_size)
    head = distilling.head(feature_dim(model))
    head.last_layer.parametrizations.weight.original0.requires_grad_(not fixed_scale)
    pair = DinoPair(ImageBranch(model, head), distilling.prototypes, distilling.centring)
    parts = dict.fromkeys((SPREAD, ENTROPY, EVENNESS), float("nan"))
    return Pretext(
        name="dino",
        model=pair,
        views=ImageCrops(spec, crops),
        loss=partial(pair_loss, temperature=distilling.student_temperature),
        encoder=pair.teacher.encoder,
        features=partial(frozen_features, pair.teacher.encoder, spec),
        callbacks=distilling.callbacks(pair, [pair.targets], [pair.student.head], parts),
        parts=parts,
        depth_of=_depths(model),
    )


def pair_loss(out: Outputs, _: Any, temperature: float) -> Tensor:
    """The loss of what `DinoPair` gives; `temperature` is the student's."""
    return multi_crop_loss(out["large"], out["small"], out["targets"], temperature)


def _depths(model: nn.Module) -> Any:
    """The layers of a vision transformer, for rates by layer; None for other networks."""
    blocks = getattr(model.get_submodule("backbone"), "blocks", None)
    return block_depth(len(blocks)) if isinstance(blocks, nn.ModuleList | nn.Sequential) else None


def _check_size(model: nn.Module, spec: ModelSpec, size: int) -> None:
    """Run one blank small crop, so that a size that does not fit is told before the training."""
    try:
        with frozen(model):
            image_features(model, to_model(torch.zeros(1, 1, size, size), spec))
    except (RuntimeError, AssertionError, ValueError, ModelError) as error:
        raise ModelError(
            f"dino: {spec.name} does not take crops of small_size = {size} pixels ({error}). A Swin takes any size "
            "with model.backbone_args = { dynamic_img_size = true }; choose another size, or small_crops = 0."
        ) from error
