"""Random changes of training volumes: one draw a volume, applied alike to all of its slices.

Drawing and applying are apart, so that a change can be recorded and replayed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slivit.data.policy import Operation, apply_policy, draw_policy

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Augmentation(BaseModel):
    """Which random changes training volumes undergo; everything is off by default.

    Args:
        flip_horizontal: flip columns with probability 1/2.
        flip_vertical: flip rows with probability 1/2.
        flip_slices: reverse the order of slices with probability 1/2.
        rotate90: turn by a random multiple of 90 degrees (square slices only).
        rotate: turn by up to this many degrees, either way.
        translate: shift by up to this fraction of height and width, either way.
        zoom: (low, high) factor of magnification.
        crop: (low, high) fraction of the area that a random resized crop keeps, or None.
        crop_ratio: (low, high) aspect ratio of that crop.
        shift_slices: shift by up to this many slices, either way; the outermost slice is repeated.
        policy: "imagenet" applies AutoAugment's ImageNet policy, before all else.

    Source: Avram et al. 2024, Methods, "Per-task fine-tuning" (horizontal flip, random resized crop).

    Example:
        >>> slivit.Augmentation(flip_horizontal=True, crop=(0.8, 1.0)).active
        True
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    flip_horizontal: bool = False
    flip_vertical: bool = False
    flip_slices: bool = False
    rotate90: bool = False
    rotate: float = Field(default=0.0, ge=0, le=180)
    translate: float = Field(default=0.0, ge=0, le=0.5)
    zoom: tuple[float, float] = (1.0, 1.0)
    crop: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    shift_slices: int = Field(default=0, ge=0)
    policy: Literal["", "imagenet"] = ""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("zoom", "crop", "crop_ratio"):
            pair = getattr(self, name)
            if pair is not None and not 0 < pair[0] <= pair[1]:
                raise ValueError(f"{name} must be (low, high) with 0 < low <= high, got {pair}")
        if self.crop and self.crop[1] > 1:
            raise ValueError(f"crop is a fraction of the area, at most 1, got {self.crop}")
        return self

    @property
    def active(self) -> bool:
        """Whether anything is switched on."""
        return self != Augmentation()


@dataclass(frozen=True)
class Draw:
    """One random draw for a batch of B volumes of S slices.

    Args:
        theta: (B, 2, 3) float32, affine maps from output to input positions, both from -1 to 1 over the image.
        slices: (B, S) int64, which input slice each output slice takes.
        policies: the operations of AutoAugment for each volume; empty where there are none.
    """

    theta: Tensor
    slices: Tensor
    policies: tuple[tuple[Operation, ...], ...] = ()


def draw_augmentation(
    settings: Augmentation,
    batch: int,
    slices: int,
    generator: Generator | None = None,
    size: tuple[int, int] = (224, 224),
) -> Draw:
    """Draw the parameters of a random change for every volume of a batch.

    Args:
        settings: which changes.
        batch: the number B of volumes.
        slices: the number S of slices.
        generator: a torch generator; the global one by default.
        size: (H, W) of a slice, on which the shifts of `policy` and turns of slices that are not square depend.
    """
    import torch

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, generator=generator) * (high - low) + low

    def coin(on: bool) -> Tensor:
        return (torch.rand(batch, generator=generator) < 0.5) & on

    quarter = torch.randint(0, 4, (batch,), generator=generator) * (math.pi / 2 if settings.rotate90 else 0.0)
    angle = torch.deg2rad(uniform(-settings.rotate, settings.rotate)) + quarter
    scale = torch.stack(_crop_size(settings, uniform), 1) / uniform(*settings.zoom)[:, None]
    flips = torch.stack([coin(settings.flip_horizontal), coin(settings.flip_vertical)], 1)
    room = (1 - torch.stack(_clamped(scale), 1)).clamp(min=0)
    shift = torch.stack([uniform(-1, 1), uniform(-1, 1)], 1)
    move = torch.stack([uniform(-1, 1), uniform(-1, 1)], 1) * (2 * settings.translate)
    theta = _affine(angle, scale * torch.where(flips, -1.0, 1.0), shift * room + move, size[1] / size[0])
    order = _slice_order(settings, slices, coin(settings.flip_slices), uniform)
    policies = [draw_policy(*size, generator) for _ in range(batch)] if settings.policy else ()
    return Draw(theta, order, tuple(policies))


def _crop_size(settings: Augmentation, uniform) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Width and height, as fractions of the image, of a crop of random area and aspect ratio."""
    import torch

    if settings.crop is None:
        one = torch.ones_like(uniform(0, 1))
        return one, one
    area = uniform(*settings.crop)
    ratio = torch.exp(uniform(math.log(settings.crop_ratio[0]), math.log(settings.crop_ratio[1])))
    return (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)


def _clamped(scale: Tensor) -> tuple[Tensor, Tensor]:
    return scale[:, 0].clamp(max=1), scale[:, 1].clamp(max=1)


def _affine(angle: Tensor, scale: Tensor, shift: Tensor, aspect: float) -> Tensor:
    """(B, 2, 3): a turn by `angle`, after a change of size by `scale` (x, y), centred on `shift`.

    Positions run from -1 to 1 along both sides of a slice, whose width is `aspect` times its height: without it a turn
    would shear what it turns.
    """
    import torch

    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * scale[:, 0], -sin / aspect * scale[:, 1], shift[:, 0]], 1),
        torch.stack([sin * aspect * scale[:, 0], cos * scale[:, 1], shift[:, 1]], 1),
    ]
    return torch.stack(rows, 1)


def _slice_order(settings: Augmentation, slices: int, reverse: Tensor, uniform) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
    import torch

    order = torch.arange(slices)
    order = torch.where(reverse[:, None], order.flip(0), order)
    if settings.shift_slices:
        reach = settings.shift_slices + 0.5
        order = order + uniform(-reach, reach).round().long()[:, None]
    return order.clamp(0, slices - 1)


def apply_augmentation(volumes: Tensor, draw: Draw) -> Tensor:
    """Apply a draw to a batch of volumes.

    Args:
        volumes: (B, S, H, W) or (B, C, S, H, W), uint8 or float; all channels of a volume are changed alike.
        draw: from `draw_augmentation`, for this B and S.

    Returns:
        float32 of the same shape, in the range of the input; what comes from outside the image is 0.
    """
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    if volumes.ndim == 5:
        one = [apply_augmentation(channel, draw) for channel in volumes.unbind(1)]
        return torch.stack(one, 1)
    if draw.policies:
        grey = volumes if volumes.dtype == torch.uint8 else volumes.round().clamp(0, 255).to(torch.uint8)
        volumes = torch.stack([apply_policy(v, p) for v, p in zip(grey, draw.policies, strict=True)])
    order = draw.slices.to(volumes.device)
    ordered = volumes[torch.arange(len(volumes), device=volumes.device)[:, None], order].float()
    identity = torch.eye(2, 3, device=draw.theta.device)  # compared where it was drawn: a GPU would be waited for
    if torch.equal(draw.theta, identity.expand_as(draw.theta)):
        return ordered
    grid = affine_grid(draw.theta.to(volumes.device), [len(volumes), 1, *volumes.shape[2:]], align_corners=False)
    return grid_sample(ordered, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
