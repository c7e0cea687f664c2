"""Random intensities and mirrorings of a batch of volumes, drawn for each: what MONAI does to one at a time.

Origin: written for this project; the formulas are those of MONAI's transforms of the same names, with whose results
the tests compare them. Licence: Apache-2.0.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from slivit.errors import SlivitError, install_command
from slivit.settings import NonNegative, Positives, Share
from slivit.ssl.views import Range, uniform

POINTS = 10
"""Control points of the histogram's shift."""
RINGING: Range = (0.0, 1.0)
"""Smallest and largest strength of Gibbs ringing."""
BLUR: Range = (0.25, 1.5)
"""Smallest and largest width of a Gaussian blur in voxels, drawn for each axis."""
REACH, EDGE = 4.0, 0.5
"""How many of its widths a Gaussian reaches, and the width of a sharpening's second blur, both as in MONAI."""
FIRST_EDGE, EDGES = (0.5, 1.0), (10.0, 30.0)
"""Widths of a sharpening's first blur, drawn for each axis, and weights of what lies between the two."""


@dataclass(frozen=True, kw_only=True)
class Intensities:
    """What may happen to a crop.

    Args:
        change: probability that contrast, noise or histogram of a crop is changed, one of the three.
        gamma: smallest and largest exponent of the contrast.
        noise: largest standard deviation of the noise, in units of the scale from -1 to 1; each crop has its own.
        gibbs: probability of Gibbs ringing.
        flip: probability of a mirroring along each axis.
        smooth: probability of a Gaussian blur.
        sharpen: probability of a sharpening by the difference of two blurs.
        turn: probability of one to three quarter turns of the slices.
    """

    change: Share = 0.8
    gamma: Positives = (0.5, 2.0)
    noise: NonNegative = 0.002
    gibbs: Share = 0.2
    flip: Share = 0.3
    smooth: Share = 0.0
    sharpen: Share = 0.0
    turn: Share = 0.0


def change_batch(volumes: Tensor, settings: Intensities) -> Tensor:
    """Change a batch of crops.

    Args:
        volumes: (B, 1, S, H, W) float32; not changed itself.
        settings: what may happen.
    """
    volumes, device = volumes.clone(), volumes.device
    changes = (
        lambda x: contrast(x, uniform(len(x), *settings.gamma, device)),
        lambda x: with_noise(x, settings.noise),
        lambda x: histogram_shift(x, control_points(len(x), POINTS).to(device)),
    )
    chosen = torch.randint(len(changes), (len(volumes),))
    on = torch.rand(len(volumes)) < settings.change
    for number, change in enumerate(changes):
        _replace(volumes, on & (chosen == number), change)
    if settings.smooth:
        _replace(volumes, torch.rand(len(volumes)) < settings.smooth, lambda x: blur(x, _widths(x, BLUR)))
    if settings.sharpen:
        _replace(volumes, torch.rand(len(volumes)) < settings.sharpen, _sharpened)
    if settings.turn:
        turned = torch.rand(len(volumes)) < settings.turn
        quarters = torch.randint(1, 4, (len(volumes),))
        for number in (1, 2, 3):
            _replace(volumes, turned & (quarters == number), partial(torch.rot90, k=number, dims=(3, 4)))
    ringing = torch.rand(len(volumes)) < settings.gibbs
    _replace(volumes, ringing, lambda x: gibbs(x, uniform(len(x), *RINGING, device)))
    return flip(volumes, settings.flip)


def _replace(volumes: Tensor, on: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    if on.any():
        where = on.nonzero()[:, 0].to(volumes.device)
        volumes[where] = change(volumes[where])


def flip(volumes: Tensor, probability: float) -> Tensor:
    """Mirror each volume along each of its axes with a probability; changes (B, 1, S, H, W) in place."""
    turned = torch.rand(len(volumes), 3) < probability
    for chosen in itertools.product((False, True), repeat=3):
        axes = [axis for axis, on in enumerate(chosen, 2) if on]
        if axes:
            _replace(volumes, (turned == torch.tensor(chosen)).all(1), partial(torch.flip, dims=axes))
    return volumes


def contrast(volumes: Tensor, gamma: Tensor) -> Tensor:
    """Raise intensities, as a part of each volume's own range, to (B,) powers."""
    low, span = _range(volumes)
    return ((volumes - low) / (span + 1e-7)) ** _wide(gamma) * span + low


def with_noise(volumes: Tensor, largest: float) -> Tensor:
    """Add Gaussian noise, whose standard deviation is drawn for each volume from 0 to the largest."""
    widths = uniform(len(volumes), 0.0, largest, volumes.device)
    return volumes + _wide(widths) * torch.randn(volumes.shape).to(volumes.device)


def control_points(batch: int, points: int) -> Tensor:
    """(B, points) from 0 to 1, not falling: where evenly spaced intensities are moved to."""
    values = torch.linspace(0, 1, points).repeat(batch, 1)
    for i in range(1, points - 1):
        values[:, i] = values[:, i - 1] + (values[:, i + 1] - values[:, i - 1]) * torch.rand(batch)
    return values


def histogram_shift(volumes: Tensor, points: Tensor) -> Tensor:
    """Bend intensities along (B, K) control points, in lines between them."""
    low, span = _range(volumes)
    position = ((volumes - low) / span.clamp_min(1e-12)).flatten(1) * (points.shape[1] - 1)
    below = position.long().clamp_(0, points.shape[1] - 2)
    first, second = points.gather(1, below), points.gather(1, below + 1)
    bent = first + (position - below) * (second - first)
    return bent.view_as(volumes) * span + low


def gibbs(volumes: Tensor, alpha: Tensor) -> Tensor:
    """Cut the frequencies beyond a radius off, which rings at edges; (B,) strengths, 0 changes nothing."""
    axes = (2, 3, 4)
    radius = (1 - alpha) * max(volumes.shape[2:]) * math.sqrt(2) / 2
    grids = [torch.arange(side, device=volumes.device) - (side - 1) / 2 for side in volumes.shape[2:]]
    distance = torch.stack(torch.meshgrid(*grids, indexing="ij")).norm(dim=0)
    kept = torch.fft.ifftshift(distance <= _wide(radius), dim=axes).float()
    # The ball's centre lies between frequencies. Of what it makes of a volume the real part is taken; the mean of the
    # ball and its point reflection makes the same, and then half of the frequencies say it all.
    kept = ((kept + kept.flip(axes).roll((1, 1, 1), axes)) / 2)[..., : volumes.shape[-1] // 2 + 1]
    return torch.fft.irfftn(torch.fft.rfftn(volumes, dim=axes) * kept, s=volumes.shape[2:], dim=axes)


def blur(volumes: Tensor, widths: Tensor) -> Tensor:
    """Blur each volume by Gaussians of its own widths along its three axes, (B, 3) in voxels; beyond it all is 0."""
    x = volumes.transpose(0, 1)  # the volumes as channels, each with a kernel of its own
    for axis in range(3):
        sigma = widths[:, axis, None]
        tails = (REACH * sigma).clamp(min=0.5).add(0.5).long()
        tail = int(tails.max())
        places = torch.arange(-tail, tail + 1, device=volumes.device, dtype=torch.float32)
        scaled = math.sqrt(0.5) / sigma
        kernel = 0.5 * ((scaled * (places + 0.5)).erf() - (scaled * (places - 0.5)).erf()) * (places.abs() <= tails)
        shape = [len(volumes), 1, 1, 1, 1]
        shape[axis + 2] = -1
        padding = [tail if axis == i else 0 for i in range(3)]
        x = torch.nn.functional.conv3d(x, kernel.view(shape), padding=padding, groups=len(volumes))
    return x.transpose(0, 1)


def sharpen(volumes: Tensor, widths: Tensor, weights: Tensor) -> Tensor:
    """Add (B,) times what a further blur takes away to each volume blurred by its (B, 3) widths."""
    blurred = blur(volumes, widths)
    return blurred + _wide(weights) * (blurred - blur(blurred, torch.full_like(widths, EDGE)))


def _sharpened(volumes: Tensor) -> Tensor:
    weights = uniform(len(volumes), *EDGES, volumes.device)
    return sharpen(volumes, _widths(volumes, FIRST_EDGE), weights)


def _widths(volumes: Tensor, between: Range) -> Tensor:
    """(B, 3) widths in voxels."""
    return uniform(3 * len(volumes), *between, volumes.device).view(-1, 3)


def _range(volumes: Tensor) -> tuple[Tensor, Tensor]:
    low = volumes.amin((1, 2, 3, 4), keepdim=True)
    return low, volumes.amax((1, 2, 3, 4), keepdim=True) - low


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1, 1)


class MonaiChanges:
    """The same changes by MONAI's own transforms, for one crop at a time in the reading process.

    Args:
        settings: what may happen.

    Raises:
        SlivitError: MONAI is not installed.
    """

    def __init__(self, settings: Intensities) -> None:
        try:
            transforms: Any = importlib.import_module("monai.transforms")
        except ImportError as error:
            raise SlivitError(
                f'augmentation = "monai" needs MONAI; take augmentation = "batch", or {install_command("baselines")}'
            ) from error
        one: list[Any] = [
            transforms.RandAdjustContrast(prob=settings.change, gamma=settings.gamma),
            transforms.RandGaussianNoise(prob=settings.change, std=settings.noise),
            transforms.RandHistogramShift(POINTS, prob=settings.change),
        ]
        flips = [transforms.RandFlip(prob=settings.flip, spatial_axis=axis) for axis in range(3)]
        ringing = transforms.RandGibbsNoise(prob=settings.gibbs, alpha=RINGING)
        more: list[Any] = [
            transforms.RandGaussianSmooth(BLUR, BLUR, BLUR, prob=settings.smooth),
            transforms.RandGaussianSharpen(*[FIRST_EDGE] * 3, EDGE, EDGE, EDGE, alpha=EDGES, prob=settings.sharpen),
            transforms.RandRotate90(prob=settings.turn, spatial_axes=(1, 2)),
        ]
        self.transform = transforms.Compose([transforms.OneOf(one), *more, ringing, *flips])

    def __call__(self, crop: Tensor) -> Tensor:
        """(1, S, H, W) -> the same shape; the random numbers follow torch's."""
        self.transform.set_random_state(seed=int(torch.randint(2**31, ())))
        changed = self.transform(crop)
        return torch.as_tensor(changed).as_subclass(Tensor).float()
