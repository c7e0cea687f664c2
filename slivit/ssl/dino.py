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
from slivit.settings import Count, NonNegative, Positive, Share
from slivit.ssl._images import feature_dim, frozen_features, grey, image_features, image_spec, to_model
from slivit.ssl.collapse import (
    ENTROPY,
    EVENNESS,
    SPREAD,
    WatchCollapse,
    feature_spread,
    prototype_entropy,
    target_entropy,
)
from slivit.ssl.heads import DinoHead
from slivit.ssl.losses.dino import multi_crop_loss
from slivit.ssl.pretext import Pretext
from slivit.ssl.registry import register_pretext
from slivit.ssl.teacher import Centring, Distillation, FollowStudent, FreezeLast, Targets, WarmTemperature
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

    def measured(self, out: Outputs) -> dict[str, Tensor]:
        """What of `forward`'s outputs tells a collapse."""
        return {
            SPREAD: feature_spread(out["features"]),
            ENTROPY: prototype_entropy(out["scores"], self.targets.temperature),
            EVENNESS: target_entropy(out["targets"]),
        }


@dataclass(frozen=True)
class Change:
    """How crops are changed beside their place: how probable it is, of the first, the second and the small ones.

    Args:
        flip: a left-right mirroring.
        strength: of the changes of brightness and contrast.
        blur: by kind of crop.
        solarise: of the second alone.
    """

    flip: float
    strength: float
    blur: tuple[float, float, float]
    solarise: float


class ImageCrops:
    """Two large and some small crops of each image, changed at random: the views of DINO.

    Args:
        spec: of the model; large crops have its size.
        change: how they are changed.
        large: smallest and largest area of a large crop, as a fraction of the image.
        small: those of a small one.
        small_size: side of a small crop, in pixels.
        count: small crops an image; 0 for none.

    Source: Caron et al. 2021, section 3.1 and appendix C.
    """

    def __init__(
        self, spec: ModelSpec, change: Change, *, large: Range, small: Range, small_size: int, count: int
    ) -> None:
        self.spec, self.change, self.count = spec, change, count
        self.kinds = ((large, spec.size[1]), (large, spec.size[1]), (small, small_size))

    def __call__(self, batch: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(B, 1, H, W) uint8 -> what `DinoPair` takes, and the numbers of the images."""
        images = grey(batch)
        crops = {"large": torch.cat([self._crop(images, kind) for kind in range(LARGE)])}
        if self.count:
            crops["small"] = torch.cat([self._crop(images, LARGE) for _ in range(self.count)])
        return crops, torch.arange(len(batch), device=batch.device)

    def _crop(self, images: Tensor, kind: int) -> Tensor:
        area, size = self.kinds[kind]
        cut = random_crop(images, size, scale=area, flip=self.change.flip)
        cut = blur(jitter(cut, self.change.strength), self.change.blur[kind])
        return to_model(solarise(cut, self.change.solarise if kind == 1 else 0), self.spec)


@register_pretext
def dino(
    model: nn.Module,
    *,
    large_crop: Range = (0.4, 1.0),
    small_crop: Range = (0.05, 0.4),
    small_size: Count = 96,
    small_crops: Annotated[int, Field(ge=0)] = 8,
    flip: Share = 0.5,
    strength: Annotated[float, Field(ge=0, lt=1)] = 0.4,
    blur_probability: tuple[Share, Share, Share] = (1.0, 0.1, 0.5),
    solarise_probability: Share = 0.2,
    prototypes: Count = 65_536,
    head_layers: Count = 3,
    head_hidden: Count = 2048,
    bottleneck: Count = 256,
    fixed_scale: bool = True,
    centring: Centring = "softmax",
    student_temperature: Positive = 0.1,
    teacher_temperature: tuple[Positive, Positive] = (0.04, 0.07),
    temperature_warmup: NonNegative = 30.0,
    momentum: tuple[Share, Share] = (0.996, 1.0),
    freeze_last: NonNegative = 1.0,
) -> Pretext:
    """DINO for any model of single images: ViT, Swin, ConvNeXt or ResNet; the teacher's backbone is kept.

    Args:
        model: a registered model of single images; it must take crops of `small_size` pixels too.
        large_crop: smallest and largest area of the two global crops, as a fraction of the image.
        small_crop: that of the local crops.
        small_size: side of the local crops in pixels.
        small_crops: how many an image; 0 for none.
        flip: probability of a left-right mirroring; 0 where sides matter.
        strength: of the changes of brightness and contrast.
        blur_probability: of the first and second global crop, and of the local ones.
        solarise_probability: of the second global crop.
        prototypes: outputs of the head.
        head_layers: linear layers of the head's perceptron.
        head_hidden: their width.
        bottleneck: the width of the last of them.
        fixed_scale: keep the prototypes at length 1; steadier, and False is better for small ViTs.
        centring: of the teacher's logits, "softmax" (a running mean is taken off) or "sinkhorn" (Sinkhorn-Knopp).
        student_temperature: of the student.
        teacher_temperature: of the teacher: at first, and after the warm-up.
        temperature_warmup: epochs of that warm-up.
        momentum: of the teacher, at first and in the end.
        freeze_last: epochs in which the head's last layer stays as it is.

    Raises:
        ModelError: a model that does not take single images, or not of `small_size`.

    Source: Caron et al. 2021, section 3 and appendices A and D.
    """
    spec = image_spec(model, "dino")
    if small_crops:
        _check_size(model, spec, small_size)
    head = DinoHead(feature_dim(model), prototypes, layers=head_layers, hidden=head_hidden, bottleneck=bottleneck)
    head.last_layer.parametrizations.weight.original0.requires_grad_(not fixed_scale)
    pair = DinoPair(ImageBranch(model, head), prototypes, centring)
    change = Change(flip, strength, blur_probability, solarise_probability)
    parts = dict.fromkeys((SPREAD, ENTROPY, EVENNESS), float("nan"))
    return Pretext(
        name="dino",
        model=pair,
        views=ImageCrops(spec, change, large=large_crop, small=small_crop, small_size=small_size, count=small_crops),
        loss=partial(pair_loss, temperature=student_temperature),
        encoder=pair.teacher.encoder,
        features=partial(frozen_features, pair.teacher.encoder, spec),
        callbacks=[
            WarmTemperature([pair.targets], *teacher_temperature, temperature_warmup),
            FreezeLast([pair.student.head.last_layer], freeze_last),
            FollowStudent(pair, *momentum),
            WatchCollapse(pair.measured, parts),
        ],
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


@torch.no_grad()
def _check_size(model: nn.Module, spec: ModelSpec, size: int) -> None:
    """Run one blank small crop, so that a size that does not fit is told before the training."""
    training = model.training
    try:
        image_features(model.eval(), to_model(torch.zeros(1, 1, size, size), spec))
    except (RuntimeError, AssertionError, ValueError, ModelError) as error:
        raise ModelError(
            f"dino: {spec.name} does not take crops of small_size = {size} pixels ({error}). A Swin takes any size "
            "with model.backbone_args = { dynamic_img_size = true }; choose another size, or small_crops = 0."
        ) from error
    finally:
        model.train(training)
