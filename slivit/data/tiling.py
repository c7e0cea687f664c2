"""Slices to one elongated image, and back. Pure functions for NumPy arrays and torch tensors alike."""

from __future__ import annotations

from typing import TypeVar

from slivit.errors import SlivitError

Array = TypeVar("Array")


def tile_slices(slices: Array) -> Array:
    """Tile slices from top to bottom into one elongated image.

    Args:
        slices: (..., S, H, W), of any dtype.

    Returns:
        (..., S*H, W): rows s*H to (s+1)*H are slice s. A view where the memory layout allows it.

    Raises:
        SlivitError: fewer than three dimensions.

    Source: Avram et al. 2024, Methods, "Model specifications"; Figure 1.

    Example:
        >>> import numpy as np
        >>> tile_slices(np.zeros((28, 256, 256))).shape
        (7168, 256)
    """
    shape = tuple(slices.shape)  # type: ignore[attr-defined]
    if len(shape) < 3:
        raise SlivitError(f"tile_slices needs (..., S, H, W), got shape {shape}")
    *batch, depth, height, width = shape
    return slices.reshape(*batch, depth * height, width)  # type: ignore[attr-defined]


def untile_slices(image: Array, slices: int) -> Array:
    """Cut an elongated image back into its slices: the inverse of `tile_slices`.

    Args:
        image: (..., S*H, W).
        slices: the number S of slices.

    Returns:
        (..., S, H, W).

    Raises:
        SlivitError: fewer than two dimensions, or a height that S does not divide.

    Example:
        >>> stack = np.arange(4 * 8 * 8).reshape(4, 8, 8)
        >>> bool((slivit.untile_slices(slivit.tile_slices(stack), 4) == stack).all())
        True
    """
    shape = tuple(image.shape)  # type: ignore[attr-defined]
    if len(shape) < 2 or slices < 1 or shape[-2] % slices:
        raise SlivitError(f"an image of shape {shape} cannot be cut into {slices} slices of equal height")
    *batch, rows, width = shape
    return image.reshape(*batch, slices, rows // slices, width)  # type: ignore[attr-defined]
