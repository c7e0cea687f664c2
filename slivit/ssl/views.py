"""Random views of a batch of grey images, drawn apart for each image and made for the whole batch at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Range = tuple[float, float]


def uniform(batch: int, low: float | Tensor, high: float | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """(batch,) uniform numbers, drawn on the CPU so that every device gets the same ones; limits may be (batch,)."""
    return (torch.rand(batch) * (high - low) + low).to(device)


def random_crop(
    images: Tensor, size: int, scale: Range = (0.2, 1.0), ratio: Range = (3 / 4, 4 / 3), flip: float = 0.5
) -> Tensor:
    """Cut a part of random area and aspect ratio out of each image, resize it, and mirror some of them.

    No side is longer than the image's: the larger a part, the nearer it is to the image's own aspect ratio. A part that
    is larger than the crop is averaged, so that a pattern too fine for the crop fades and makes no false one.

    Args:
        images: (B, C, H, W) float.
        size: P of the (B, C, P, P) crops.
        scale: smallest and largest area, as a fraction of the image.
        ratio: smallest and largest width over height.
        flip: probability of a left-right mirroring.

    Source: Szegedy et al. 2015; Chen et al. 2020 (SimCLR), appendix A.
    """
    count = len(images)
    area = uniform(count, *scale)
    narrowest, widest = (area.log().clamp(min=math.log(ratio[0])), (-area.log()).clamp(max=math.log(ratio[1])))
    aspect = uniform(count, narrowest, widest).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    mirror = torch.where(torch.rand(count) < flip, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * mirror, height
    theta[:, 0, 2] = uniform(count, -1, 1) * (1 - width)
    theta[:, 1, 2] = uniform(count, -1, 1) * (1 - height)
    longest = max(float(width.max()) * images.shape[3], float(height.max()) * images.shape[2])
    finer = max(1, math.ceil(longest / size - 1e-3))
    shape = [count, images.shape[1], finer * size, finer * size]
    grid = F.affine_grid(theta.to(images.device), shape, align_corners=False)
    cut = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(cut, finer) if finer > 1 else cut


def jitter(images: Tensor, strength: float, probability: float = 0.8) -> Tensor:
    """Change brightness and contrast of some images by random factors from 1 - strength to 1 + strength.

    Args:
        images: (B, C, H, W) from 0 to 1.
        strength: below 1.
        probability: that an image is changed.
    """
    if not strength:
        return images
    shape, device, count = (-1, 1, 1, 1), images.device, len(images)
    on = (torch.rand(count) < probability).view(shape).to(device)
    brightness = uniform(count, 1 - strength, 1 + strength, device).view(shape)
    contrast = uniform(count, 1 - strength, 1 + strength, device).view(shape)
    changed = (images * brightness).clamp(0, 1)
    mean = changed.mean((1, 2, 3), keepdim=True)
    return torch.where(on, (mean + (changed - mean) * contrast).clamp(0, 1), images)


def blur(images: Tensor, probability: float, sigma: Range = (0.1, 2.0)) -> Tensor:
    """Blur some images by a Gaussian of a random width in pixels.

    Args:
        images: (B, C, H, W).
        probability: that an image is blurred.
        sigma: smallest and largest standard deviation, in pixels.
    """
    if not probability:
        return images
    count = len(images)
    widths, on = uniform(count, *sigma), torch.rand(count) < probability
    reach = min(max(1, math.ceil(3 * sigma[1])), min(images.shape[-2:]) - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernels = torch.exp(-0.5 * (offsets / widths[:, None]) ** 2)
    kernels = torch.where(on[:, None], kernels / kernels.sum(1, keepdim=True), (offsets == 0).float())
    kernels = kernels.repeat_interleave(images.shape[1], 0).to(images.device)
    flat = F.pad(images.reshape(1, -1, *images.shape[-2:]), (reach,) * 4, mode="reflect")
    groups = len(kernels)
    flat = F.conv2d(flat, kernels[:, None, :, None], groups=groups)
    return F.conv2d(flat, kernels[:, None, None, :], groups=groups).view_as(images)


def solarise(images: Tensor, probability: float, threshold: float = 0.5) -> Tensor:
    """Invert the bright pixels of some images.

    Args:
        images: (B, C, H, W) from 0 to 1.
        probability: that an image is changed.
        threshold: what counts as bright.
    """
    if not probability:
        return images
    on = (torch.rand(len(images)) < probability).view(-1, 1, 1, 1).to(images.device)
    return torch.where(on & (images >= threshold), 1 - images, images)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(B, 1, H, W) grey from 0 to 1 -> (B, C, H, W) as a model takes it, C the length of `mean`."""
    shape = (1, -1, 1, 1)
    scale = torch.tensor(std, device=images.device).view(shape)
    return (images - torch.tensor(mean, device=images.device).view(shape)) / scale
