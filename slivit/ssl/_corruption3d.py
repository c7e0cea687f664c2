"""Volumes spoilt for a network to restore: noise in boxes or around them, and voxels shuffled within boxes.

What MONAI's RandCoarseDropout and RandCoarseShuffle do to one volume at a time, drawn for each of a batch.
Origin: written for this project after DeVries and Taylor 2017 (arXiv:1708.04552), Pathak et al. 2016
(arXiv:1604.07379), Kang et al. 2017 (arXiv:1707.07103) and MONAI's documentation. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slivit.settings import Count, Share, Shares
from slivit.ssl.views import Range


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """What happens to a volume; lengths are fractions of its sides.

    Args:
        outer: probability that all but some windows becomes noise, instead of some holes.
        boxes: holes, or windows.
        hole: smallest and largest side of a hole.
        window: smallest and largest side of a window.
        shuffle: probability that voxels are shuffled within cubes.
        shuffled_boxes: the cubes.
        shuffled_side: the side of one.
    """

    outer: Share = 0.5
    boxes: Count = 6
    hole: Shares = (5 / 96, 32 / 96)
    window: Shares = (20 / 96, 64 / 96)
    shuffle: Share = 0.8
    shuffled_boxes: Count = 10
    shuffled_side: Share = 8 / 96


def corrupt(volumes: Tensor, settings: Corruption) -> tuple[Tensor, Tensor]:
    """Spoil each volume of a batch in its own way.

    Args:
        volumes: (B, 1, S, H, W) float32; not changed itself.
        settings: what happens.

    Returns:
        The spoilt volumes, and (B, 1, S, H, W) bool, True where a voxel was replaced or shuffled.

    Source: MONAI's tutorial of self-supervised pre-training with a ViT.
    """
    count, sides = len(volumes), volumes.shape[2:]
    outer = (torch.rand(count) < settings.outer).view(-1, 1, 1, 1, 1).to(volumes.device)
    holes = inside(*random_boxes(count, settings.boxes, sides, settings.hole), sides, volumes.device)
    windows = inside(*random_boxes(count, settings.boxes, sides, settings.window), sides, volumes.device)
    dropped = torch.where(outer, ~windows, holes)
    low, high = volumes.amin((1, 2, 3, 4), keepdim=True), volumes.amax((1, 2, 3, 4), keepdim=True)
    noise = torch.rand(volumes.shape).to(volumes.device)
    spoilt = torch.where(dropped, low + (high - low) * noise, volumes)
    on = torch.rand(count) < settings.shuffle
    starts, ends = random_boxes(count, settings.shuffled_boxes, sides, (settings.shuffled_side,) * 2)
    if on.any() and settings.shuffled_boxes:
        shuffled = inside(starts, ends, sides, volumes.device)
        where = on.nonzero()[:, 0].to(volumes.device)
        spoilt[where] = shuffle_boxes(spoilt[where], starts[on], ends[on])
        dropped[where] |= shuffled[where]
    return spoilt, dropped


def random_boxes(count: int, boxes: int, sides: Sequence[int], lengths: Range) -> tuple[Tensor, Tensor]:
    """Boxes anywhere in a volume, each side drawn independently, and none shorter than the box before.

    MONAI draws a box's sides from those of the box before it upwards, so that the last of several are large; weights
    that were trained with it have seen that much noise.

    Args:
        count: volumes.
        boxes: in each.
        sides: of the volume, in voxels.
        lengths: shortest and longest side of a box, as fractions of the volume's; at least one voxel.

    Returns:
        (count, boxes, 3) first voxels, and those behind the last ones.
    """
    whole = torch.tensor(sides)
    low, high = ((whole * length).round().long().clamp(min=1) for length in lengths)
    sizes = [low.expand(count, 3)]
    for _ in range(boxes):
        sizes.append(sizes[-1] + (torch.rand(count, 3) * (high - sizes[-1] + 1)).long())
    size = torch.stack(sizes[1:], 1)
    start = (torch.rand(count, boxes, 3) * (whole - size + 1)).long()
    return start, start + size


def inside(starts: Tensor, ends: Tensor, sides: Sequence[int], device: torch.device) -> Tensor:
    """(B, N, 3) starts and ends of boxes -> (B, 1, S, H, W) bool, True in any of the N boxes."""
    along = []
    for axis, side in enumerate(sides):
        place = torch.arange(side)
        along.append((place >= starts[:, :, axis, None]) & (place < ends[:, :, axis, None]))
    slices, rows, columns = (part.to(device, torch.float32) for part in along)
    return (torch.einsum("bns,bnh,bnw->bshw", slices, rows, columns) > 0)[:, None]


def shuffle_boxes(volumes: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Shuffle voxels within boxes, one box after the other, as they may overlap.

    Args:
        volumes: (B, 1, S, H, W).
        starts: (B, N, 3) first voxels of the boxes, which are all of one size.
        ends: the voxels behind the last ones.

    Returns:
        A shuffled copy.
    """
    _, _, _, height, width = volumes.shape
    steps = torch.tensor([height * width, width, 1])
    size = (ends - starts)[0, 0].tolist()
    offsets = (torch.cartesian_prod(*(torch.arange(side) for side in size)) * steps).sum(1)
    flat = volumes.flatten(1).clone()
    for box in range(starts.shape[1]):
        places = ((starts[:, box] * steps).sum(1, keepdim=True) + offsets).to(flat.device)
        order = torch.rand(places.shape).argsort(1).to(flat.device)
        flat.scatter_(1, places, flat.gather(1, places.gather(1, order)))
    return flat.view_as(volumes)


def rotate(volumes: Tensor, turns: Tensor) -> Tensor:
    """Turn each volume about the axis of its slices.

    Args:
        volumes: (B, 1, S, P, P).
        turns: (B,) numbers of quarter turns, 0 to 3, on the CPU.

    Returns:
        A turned copy.
    """
    turned = volumes.clone()
    for quarter in (1, 2, 3):
        where = (turns == quarter).nonzero()[:, 0].to(volumes.device)
        turned[where] = volumes[where].rot90(quarter, (3, 4))
    return turned
