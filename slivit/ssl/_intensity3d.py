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

from slivit.errors import SlivitError
from slivit.install import install_command
from slivit.ssl.views import Range, uniform

POINTS = 10


@dataclass(frozen=True, kw_only=True)
class Intensities:
    """What may happen to a crop.

    Args:
        change: probability that a crop's intensities change: by contrast, noise or histogram, one of the three.
        gamma: smallest and largest exponent of the contrast.
        noise: largest standard deviation of the noise, in units of the scale from -1 to 1; each crop has its own.
        points: control points of the histogram's shift.
        gibbs: probability of Gibbs ringing.
        alpha: its smallest and largest strength, from 0 to 1.
        flip: probability of a mirroring along each axis.
    """

    change: float = 0.8
    gamma: Range = (0.5, 2.0)
    noise: float = 0.002
    points: int = POINTS
    gibbs: float = 0.2
    alpha: Range = (0.0, 1.0)
    flip: float = 0.3


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
        lambda x: histogram_shift(x, control_points(len(x), settings.points).to(device)),
    )
    chosen = torch.randint(len(changes), (len(volumes),))
    on = torch.rand(len(volumes)) < settings.change
    for number, change in enumerate(changes):
        _replace(volumes, on & (chosen == number), change)
    ringing = torch.rand(len(volumes)) < settings.gibbs
    _replace(volumes, ringing, lambda x: gibbs(x, uniform(len(x), *settings.alpha, device)))
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
            transforms.RandHistogramShift(settings.points, prob=settings.change),
        ]
        flips = [transforms.RandFlip(prob=settings.flip, spatial_axis=axis) for axis in range(3)]
        ringing = transforms.RandGibbsNoise(prob=settings.gibbs, alpha=settings.alpha)
        self.transform = transforms.Compose([transforms.OneOf(one), ringing, *flips])

    def __call__(self, crop: Tensor) -> Tensor:
        """(1, S, H, W) -> the same shape; the random numbers follow torch's."""
        self.transform.set_random_state(seed=int(torch.randint(2**31, ())))
        changed = self.transform(crop)
        return torch.as_tensor(changed).as_subclass(Tensor).float()
