"""Which patches of scans and masks train a network that segments: the settings, and the draws, alike for both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from slivit.settings import Count, NonNegative, Section, Share, Whole

if TYPE_CHECKING:
    from torch import Tensor

AXES = {"slices": -3, "rows": -2, "columns": -1}


class Patches(Section):
    """Which patches of the model's size train a segmentation, and how they are changed at random.

    Args:
        per_scan: patches that are cut out of a scan before the next one is taken.
        steps: batches an epoch, however many scans there are; 0 takes each scan once.
        foreground: the share of patches round a voxel of a label, all labels alike; others lie anywhere.
        mirror: the probability of a mirroring along each of `mirrored`.
        mirrored: the axes along which patches may be mirrored.
        turn: the probability of a turn by 90, 180 or 270 degrees in the plane of slices (where patches are square).
        rotate: up to this many degrees in the plane of slices, either way, with probability `bend`.
        zoom: up to this share larger or smaller, with probability `bend`.
        bend: the probability of `rotate` and `zoom`, which come together.
        scale: values are multiplied by 1 plus up to this much, either way, with probability `change`.
        shift: values are shifted by up to this much (of the range from 0 to 1, or of a standard deviation), likewise.
        gamma: values between 0 and 1 are raised to a power between 1 / (1 + gamma) and 1 + gamma, likewise.
        noise: the standard deviation of noise, at most, likewise.
        change: the probability of each change of values.
        overlap: of windows over validation scans, which are measured after every epoch.

    Example:
        >>> slivit.Patches(per_scan=4, foreground=0.5).steps
        0
    """

    per_scan: Count = 1
    steps: Whole = 0
    foreground: Share = 0.5
    mirror: Share = 0.0
    mirrored: tuple[Literal["slices", "rows", "columns"], ...] = ("slices", "rows", "columns")
    turn: Share = 0.0
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    bend: Share = 0.2
    scale: NonNegative = 0.0
    shift: NonNegative = 0.0
    gamma: NonNegative = 0.0
    noise: NonNegative = 0.0
    change: Share = 1.0
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.0


def drawn_place(places: npt.NDArray[np.int32], foreground: float) -> list[int] | None:
    """A voxel of a label that is drawn at random, all labels alike; none in the other share of the draws.

    Args:
        places: (n, 4), as `slivit.data.case.Case` has them.
        foreground: the share of draws that give one.
    """
    import torch

    if not len(places) or not _happens(foreground):
        return None
    numbers = np.unique(places[:, 0])
    own = places[places[:, 0] == numbers[int(torch.randint(len(numbers), ()))]]
    return [int(at) for at in own[int(torch.randint(len(own), ())), 1:]]


def draw_corner(shape: Sequence[int], size: Sequence[int], around: Sequence[int] | None) -> list[int]:
    """Where a patch begins: anywhere in a scan, or so that a voxel lies in it.

    Args:
        shape: (D, H, W) of the scan.
        size: (S, H, W) of the patch; where it is larger than the scan, the scan lies in its middle.
        around: the voxel; anywhere where None.

    Returns:
        The first voxel along each axis, negative where the patch is larger than the scan.
    """
    import torch

    corner = []
    for axis, (n, wanted) in enumerate(zip(shape, size, strict=True)):
        if n <= wanted:
            corner.append(-((wanted - n) // 2))
            continue
        low, high = 0, n - wanted
        if around is not None:
            low, high = max(0, int(around[axis]) - wanted + 1), min(high, int(around[axis]))
        corner.append(int(torch.randint(low, high + 1, ())))
    return corner


def cut(array: Tensor, corner: Sequence[int], size: Sequence[int], fill: float) -> Tensor:
    """A patch of a scan; what lies outside is filled.

    Args:
        array: (..., D, H, W).
        corner: from `draw_corner`.
        size: (S, H, W).
        fill: the value outside.
    """
    inside: Any = tuple(
        slice(max(c, 0), min(c + n, total)) for c, n, total in zip(corner, size, array.shape[-3:], strict=True)
    )
    part = array[(..., *inside)]
    if part.shape[-3:] == tuple(size):
        return part.clone()
    out = array.new_full((*array.shape[:-3], *size), fill)
    places: Any = (slice(max(-c, 0), max(-c, 0) + n) for c, n in zip(corner, part.shape[-3:], strict=True))
    out[(..., *places)] = part
    return out


def _happens(share: float) -> bool:
    import torch

    return share > 0 and float(torch.rand(())) < share


def _between(reach: float) -> float:
    import torch

    return (2 * float(torch.rand(())) - 1) * reach


def mirrored_and_turned(image: Tensor, mask: Tensor, settings: Patches) -> tuple[Tensor, Tensor]:
    """Mirror along axes and turn by quarters, (C, S, H, W) and (S, H, W) alike."""
    import torch

    axes = [axis for name, axis in AXES.items() if name in settings.mirrored and _happens(settings.mirror)]
    if axes:
        image, mask = image.flip(axes), mask.flip(axes)
    if _happens(settings.turn) and mask.shape[-1] == mask.shape[-2]:
        quarters = int(torch.randint(1, 4, ()))
        image, mask = image.rot90(quarters, (-2, -1)), mask.rot90(quarters, (-2, -1))
    return image, mask


def bent(image: Tensor, mask: Tensor, settings: Patches) -> tuple[Tensor, Tensor]:
    """Rotate in the plane of slices and zoom, image linearly and labels to the nearest; outside, borders go on."""
    from torch.nn.functional import affine_grid, grid_sample

    if not (settings.rotate or settings.zoom) or not _happens(settings.bend):
        return image, mask
    angle, zoom = math.radians(_between(settings.rotate)), 1 + _between(settings.zoom)
    depth, height, width = mask.shape
    cosine, sine, aspect = math.cos(angle) * zoom, math.sin(angle) * zoom, height / width
    along = zoom if depth > 1 else 1.0
    theta = image.new_tensor([[cosine, -sine * aspect, 0, 0], [sine / aspect, cosine, 0, 0], [0, 0, along, 0]])
    grid = affine_grid(theta[None], [1, 1, depth, height, width], align_corners=False)
    options: dict[str, Any] = {"align_corners": False, "padding_mode": "border"}
    image = grid_sample(image[None], grid, mode="bilinear", **options)[0]
    return image, grid_sample(mask[None, None].float(), grid, mode="nearest", **options)[0, 0].to(mask.dtype)


def changed_values(image: Tensor, settings: Patches, *, unit: bool) -> Tensor:
    """Scale, shift, gamma and noise of a patch's values, each by chance.

    Args:
        image: (C, S, H, W).
        settings: how much.
        unit: whether values lie between 0 and 1, where they stay; a power of others is taken over their own range.
    """
    import torch

    if settings.scale and _happens(settings.change):
        image = image * (1 + _between(settings.scale))
    if settings.shift and _happens(settings.change):
        image = image + _between(settings.shift)
    if settings.gamma and _happens(settings.change):
        power = (1 + settings.gamma) ** _between(1.0)
        low, high = (0.0, 1.0) if unit else (float(image.min()), float(image.max()))
        reach = max(high - low, 1e-8)
        image = ((image - low) / reach).clamp(0, 1) ** power * reach + low
    if settings.noise and _happens(settings.change):
        image = image + torch.randn_like(image) * settings.noise * float(torch.rand(()))
    return image
