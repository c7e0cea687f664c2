"""What models of tables read of a volume: how much of it is filled, its grey levels, coarse voxels, and its texture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from slivit.device import in_float32
from slivit.errors import ModelError
from slivit.models._frozen import FrozenNetwork

BINS = 32
SCALES = (0.7, 1.4, 2.8, 5.6)
"""Standard deviations of the Gaussians of a texture, in voxels."""
EDGES = (0.01, 0.02, 0.04, 0.08, 0.15, 0.3)
"""Contrasts whose share of the voxels a texture counts, brighter and darker than what lies around."""


def pooling(count: int, cells: int) -> Tensor:
    """(cells, count) weights that average `count` values into `cells` parts, which share values where they must."""
    cells = min(cells, count)
    weights = torch.zeros(cells, count)
    for cell in range(cells):
        first, end = cell * count // cells, -(-(cell + 1) * count // cells)
        weights[cell, first:end] = 1 / (end - first)
    return weights


def table_features(
    x: Tensor,
    names: Sequence[str],
    covariates: Tensor | None = None,
    frozen: Mapping[str, FrozenNetwork] | None = None,
) -> dict[str, Tensor]:
    """What models of tables read of a batch of volumes.

    Args:
        x: (B, C, S, H, W) from 0 to 1; of several channels each is read by itself, and "extent" of all together.
        names: "extent" (the share of slices, rows and columns that are not black throughout), "histogram" (of grey
            levels, 32 bins), "texture" (see `texture`), "voxelsN" (averages of N x N x N parts), "covariates", and the
            names of `frozen`.
        covariates: (B, k), where they are asked for.
        frozen: networks that make features, by name.

    Returns:
        (B, n) float32 by name.
    """
    networks, features = frozen or {}, {}
    for name in names:
        whole = name in ("covariates", "extent")
        channels = [x.amax(1, keepdim=True)] if whole else x.split(1, dim=1)
        parts = [networks[name](c) if name in networks else _feature(c[:, 0], name, covariates) for c in channels]
        features[name] = torch.cat(parts, 1)
    return features


@in_float32
def _feature(grey: Tensor, name: str, covariates: Tensor | None) -> Tensor:
    if name == "covariates":
        if covariates is None:
            raise ModelError("this ensemble reads covariates of a scan beside its slices, and none were given")
        return covariates.float()
    if name == "histogram":
        level = (grey * BINS).clamp(max=BINS - 1).floor()
        return torch.stack([(level == b).float().mean((1, 2, 3)) for b in range(BINS)], 1)
    if name == "extent":
        filled = [(grey > 0).any(axes[0]).any(axes[1]).float().mean(1) for axes in ((2, 2), (1, 2), (1, 1))]
        return torch.stack([*filled, filled[0] * filled[1] * filled[2]], 1)
    if name == "texture":
        return texture(grey)
    cells = int(name.removeprefix("voxels"))
    return _along_axes(grey, [pooling(count, cells) for count in grey.shape[1:]]).flatten(1)


def _along_axes(grey: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """(B, S, H, W) times (n, S), (n, H) and (n, W) weights along its axes: (B, n, n, n), each n of its own."""
    for letters, along in zip(("bshw,cs->bchw", "bshw,ch->bscw", "bshw,cw->bshc"), weights, strict=True):
        grey = torch.einsum(letters, grey, along.to(grey))
    return grey


def blurring(count: int, sigma: float) -> Tensor:
    """(count, count) weights of a Gaussian of a standard deviation in voxels, cut off at three; edges are repeated."""
    offsets = torch.arange(-int(3 * sigma + 0.5), int(3 * sigma + 0.5) + 1)
    bell = (-0.5 * (offsets / sigma).square()).exp()
    places = (torch.arange(count)[:, None] + offsets).clamp(0, count - 1)
    return torch.zeros(count, count).scatter_add_(1, places, (bell / bell.sum()).expand(count, -1))


def texture(grey: Tensor) -> Tensor:
    """How much stands out from its surroundings, and how wide: what a histogram and coarse voxels do not see.

    Differences of Gaussians at four scales answer to spots, vessels and grain of a width. Of each: the shares of
    voxels above and below some contrasts, the strongest of both, the mean and the root mean square; and of what is
    left, how much it changes along slices, rows and columns.

    Args:
        grey: (B, S, H, W) from 0 to 1.

    Returns:
        (B, 76) float32.

    Source: Marr and Hildreth 1980, "Theory of edge detection", appendix B, for the difference of two Gaussians.
    """
    parts, before = list[Tensor](), grey
    for sigma in SCALES:
        blurred = _along_axes(grey, [blurring(count, sigma) for count in grey.shape[1:]])
        detail, before = (before - blurred).flatten(1), blurred
        parts += [(side > edge).float().mean(1) for side in (detail, -detail) for edge in EDGES]
        parts += [detail.amax(1), detail.amin(1), detail.abs().mean(1), detail.square().mean(1).sqrt()]
        parts += [blurred.diff(dim=axis).abs().sum((1, 2, 3)) / detail.shape[1] for axis in (1, 2, 3)]
    return torch.stack(parts, 1)
