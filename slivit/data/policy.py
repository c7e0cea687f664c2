"""AutoAugment's ImageNet policy for volumes: drawn once a volume, and applied alike to all of its slices.

Draws and operations are torchvision's; this file makes a volume of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

Operation = tuple[str, float]
"""The name of an operation of torchvision's, and its magnitude."""

_STRENGTHS = 10  # steps on which the policy's magnitudes are counted
_BY_SLICE = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Sharpness")


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

    policy = AutoAugment()
    chosen = int(torch.randint(len(policy.policies), (1,), generator=generator))
    chances = torch.rand(2, generator=generator)
    signs = torch.randint(2, (2,), generator=generator)
    strengths = policy._augmentation_space(_STRENGTHS, (height, width))
    drawn = []
    for (name, chance, step), draw, sign in zip(policy.policies[chosen], chances, signs, strict=True):
        if draw <= chance:
            magnitudes, signed = strengths[name]
            magnitude = float(magnitudes[step]) if step is not None else 0.0
            drawn.append((name, -magnitude if signed and sign == 0 else magnitude))
    return tuple(drawn)


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
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import _apply_op

    slices, height, width = volume.shape
    for name, magnitude in operations:
        shape = (slices, 1, height, width) if name in _BY_SLICE else (1, slices * height, width)
        volume = _apply_op(volume.reshape(shape), name, magnitude, InterpolationMode.NEAREST, None)
    return volume.reshape(slices, height, width)
