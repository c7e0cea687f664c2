"""AutoAugment's ImageNet policy for volumes: drawn once a volume, and applied alike to all of its slices.

The sub-policies and the operations on pixels are torchvision's; this file makes a volume of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

Operation = tuple[str, float]
"""The name of an operation, and its magnitude."""

_STRENGTHS = 10  # steps on which the policy's magnitudes are counted, from the weakest (0) to the strongest (9)
_BY_SLICE = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Sharpness")
_SIGNED = {
    **dict.fromkeys(("ShearX", "ShearY"), 0.3),
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), 0.9),
    "Rotate": 30.0,
}
_SHIFT = 150 / 331  # the strongest shift, as a fraction of the image's side


def draw_policy(height: int, width: int, generator: Generator | None = None) -> tuple[Operation, ...]:
    """Draw one of the 25 sub-policies, and which of its two operations are applied, in which direction.

    Args:
        height: rows of a slice; shifts are a fraction of it.
        width: columns of a slice.
        generator: a torch generator; the global one by default.

    Returns:
        None to two operations.

    Source: Cubuk et al. 2019 (arXiv:1805.09501), Table 9.
    """
    import torch
    from torchvision.transforms import AutoAugment

    policies = AutoAugment().policies
    chosen = int(torch.randint(len(policies), (1,), generator=generator))
    chances = torch.rand(2, generator=generator)
    signs = torch.randint(2, (2,), generator=generator)
    drawn = []
    for (name, chance, step), draw, sign in zip(policies[chosen], chances, signs, strict=True):
        if draw <= chance:
            drawn.append((name, _magnitude(name, step or 0, bool(sign == 0), height, width)))
    return tuple(drawn)


def _magnitude(name: str, step: int, negative: bool, height: int, width: int) -> float:
    """How strong an operation is at a step, in the operation's unit.

    Source: Cubuk et al. 2019 (arXiv:1805.09501), Table 6: the range of each operation.
    """
    part = step / (_STRENGTHS - 1)
    strongest = {**_SIGNED, "TranslateX": _SHIFT * width, "TranslateY": _SHIFT * height}
    if name in strongest:
        return -part * strongest[name] if negative else part * strongest[name]
    return {"Posterize": 8.0 - round(4 * part), "Solarize": 255 * (1 - part)}.get(name, 0.0)


def apply_policy(volume: Tensor, operations: tuple[Operation, ...]) -> Tensor:
    """Apply a draw to a volume.

    What depends on an image's own intensities (equalising them, say) is computed over the whole volume, so that one
    grey value becomes the same in all slices.

    Args:
        volume: (S, H, W) uint8.
        operations: from `draw_policy`.

    Returns:
        (S, H, W) uint8.
    """
    slices, height, width = volume.shape
    for name, magnitude in operations:
        shape = (slices, 1, height, width) if name in _BY_SLICE else (1, slices * height, width)
        volume = _operations()[name](volume.reshape(shape), magnitude)
    return volume.reshape(slices, height, width)


@lru_cache(maxsize=1)
def _operations() -> Mapping[str, Callable[[Tensor, float], Tensor]]:
    """What each operation does to an image (..., 1, H, W) uint8 at a magnitude, which some have no use for."""
    from torchvision.transforms import functional as tv

    affine = partial(tv.affine, angle=0.0, scale=1.0)
    slope = lambda m: math.degrees(math.atan(m))  # noqa: E731
    return {
        "ShearX": lambda x, m: affine(x, translate=[0, 0], shear=[slope(m), 0.0], center=[0, 0]),
        "ShearY": lambda x, m: affine(x, translate=[0, 0], shear=[0.0, slope(m)], center=[0, 0]),
        "TranslateX": lambda x, m: affine(x, translate=[int(m), 0], shear=[0.0, 0.0]),
        "TranslateY": lambda x, m: affine(x, translate=[0, int(m)], shear=[0.0, 0.0]),
        "Rotate": tv.rotate,
        "Brightness": lambda x, m: tv.adjust_brightness(x, 1 + m),
        "Color": lambda x, m: tv.adjust_saturation(x, 1 + m),
        "Contrast": lambda x, m: tv.adjust_contrast(x, 1 + m),
        "Sharpness": lambda x, m: tv.adjust_sharpness(x, 1 + m),
        "Posterize": lambda x, m: tv.posterize(x, int(m)),
        "Solarize": tv.solarize,
        "AutoContrast": lambda x, _: tv.autocontrast(x),
        "Equalize": lambda x, _: tv.equalize(x),
        "Invert": lambda x, _: tv.invert(x),
    }
