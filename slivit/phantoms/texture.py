"""Noise and soft shapes that the made-up scans are painted with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from slivit.phantoms.cases import Generator

# float32 throughout; the looser type is what the checker makes of a product with a plain number.
Image = npt.NDArray[np.floating]


def white_noise(rng: Generator, shape: Sequence[int]) -> Image:
    """Gaussian noise of variance 1, float32."""
    return rng.standard_normal(tuple(shape), dtype=np.float32)


def smooth_noise(rng: Generator, shape: Sequence[int], cells: Sequence[float]) -> Image:
    """Gaussian noise of variance 1 that changes slowly: a coarse random grid seen through a Gaussian kernel.

    Args:
        rng: the source of randomness.
        shape: the shape of the result, of any number of dimensions.
        cells: how many grid cells span each dimension; 0 for no change along it.

    Returns:
        float32 array of that shape.
    """
    # Two nodes more on each side keep the border as lively as the middle.
    noise = white_noise(rng, [int(np.ceil(c)) + 5 for c in cells])
    for axis, (span, size) in enumerate(zip(cells, shape, strict=True)):
        places = 2 + np.linspace(0, span, size, dtype=np.float32)
        weights = np.exp(-0.5 * ((places[:, None] - np.arange(noise.shape[axis], dtype=np.float32)) / 0.6) ** 2)
        weights /= np.sqrt(np.sum(weights**2, axis=1, keepdims=True))
        noise = np.moveaxis(np.tensordot(weights, noise, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(noise)


def step(distance: npt.NDArray[np.floating], width: float) -> Image:
    """A soft edge: 0 where `distance` is well below 0, 1 well above, a straight ramp of `width` between."""
    return np.clip(distance / width + 0.5, 0, 1).astype(np.float32, copy=False)


def blur(image: Image, sigma_row: float, sigma_col: float) -> Image:
    """Gaussian blur of one (H, W) image, sigmas in pixels."""
    import cv2

    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigmaX=sigma_col, sigmaY=sigma_row), np.float32)


def to_bytes(image: Image) -> npt.NDArray[np.uint8]:
    """Grey values from [0, 1] as uint8; what lies outside is clipped, as on a scanner's screen."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
