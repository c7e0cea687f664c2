"""Crops of whole volumes for 3DINO: percentiles, foreground, in-plane and through-plane crops, drawn independently.

Paper: Xu et al. 2025 (arXiv:2501.11755), Methods, "Pretraining". Origin: written for this project. Licence: Apache-2.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from slivit.data.readers import read_volume
from slivit.data.slices import percentiles
from slivit.errors import ReadError
from slivit.ssl.views import Range

Array = npt.NDArray[Any]
TRIES = 10


@dataclass(frozen=True, kw_only=True)
class Crops:
    """How crops of one kind are cut out of a volume.

    Args:
        size: side of the cube to which a crop is resampled, in voxels.
        count: crops a volume.
        in_plane: smallest and largest area of a slice.
        through: smallest and largest part of the slices.
        ratio: smallest and largest width over height.
    """

    size: int
    count: int
    in_plane: Range
    through: Range
    ratio: Range = (0.9, 1 / 0.9)


@dataclass(frozen=True, kw_only=True)
class LoadCrops:
    """An item to the crops of its scan: what a reading process does.

    Args:
        large: the global crops.
        small: the local crops.
        stretch: (low, high) percentiles of the scan that become -1 and 1.
        foreground: cut off the margins that are not above the low percentile.
        change: a (1, s, s, s) crop -> one with other intensities; None leaves that to the batch.
    """

    large: Crops
    small: Crops
    stretch: tuple[float, float] = (0.05, 99.95)
    foreground: bool = True
    change: Callable[[Tensor], Tensor] | None = None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Tensor]:
        """A row with "path", and perhaps "reader", the options of `read_volume`.

        Returns:
            "large" (count, 1, s, s, s) and "small" likewise, float32 from -1 to 1; "noise" (count, P), uniform numbers
            from which the masks of the large crops are made.

        Raises:
            ReadError: the scan cannot be read, or has no finite value. One that is the same everywhere becomes -1.
        """
        volume = read_volume(row["path"], **row.get("reader", {}))
        array = without_nan(volume.array, volume.source)
        low, high = percentiles(array, self.stretch)
        array = foreground(array, low) if self.foreground else array
        scale = (float(low), float(high))
        patches = (self.large.size // 16) ** 3
        return {
            "large": self._cut(array, self.large, scale),
            "small": self._cut(array, self.small, scale),
            "noise": torch.rand(self.large.count, patches),
        }

    def _cut(self, array: Array, crops: Crops, scale: tuple[float, float]) -> Tensor:
        if not crops.count:
            return torch.zeros(0, 1, crops.size, crops.size, crops.size)
        cut = [resized_crop(array, crops, scale) for _ in range(crops.count)]
        return torch.stack([self.change(crop) for crop in cut] if self.change else cut)


def without_nan(array: Array, source: str) -> Array:
    """A scan whose missing values are the mean of the others.

    Raises:
        ReadError: nothing but missing values.
    """
    if array.dtype.kind != "f" or not (missing := ~np.isfinite(array)).any():
        return array
    if missing.all():
        raise ReadError(f"{source}: has no finite value")
    return np.where(missing, array[~missing].mean(), array)


def foreground(array: Array, low: float) -> Array:
    """The smallest box that holds every voxel above `low`; the array itself where there is none."""
    above = array > low
    slices = []
    for axis in range(3):
        others = tuple(i for i in range(3) if i != axis)
        inside = np.flatnonzero(above.any(axis=others))
        if not len(inside):
            return array
        slices.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return array[tuple(slices)]


def resized_crop(array: Array, crops: Crops, scale: tuple[float, float]) -> Tensor:
    """Cut a random box out of a volume, scale its intensities to -1 ... 1, and resample it to a cube.

    The box's rows and columns are those of a RandomResizedCrop; how many slices it takes is drawn independently, so
    that nothing is said about how thick they are.

    Args:
        array: (D, H, W).
        crops: size and ranges.
        scale: intensities that become -1 and 1.

    Returns:
        (1, s, s, s) float32.
    """
    depth, height, width = array.shape
    rows, columns = in_plane_size(height, width, crops)
    slices = max(1, round(depth * _between(*crops.through)))
    box = tuple(_place(have, want) for have, want in zip(array.shape, (slices, rows, columns), strict=True))
    low, high = scale
    part = np.array(array[box], np.float32)  # a copy: the array is read-only, or shared
    part -= low
    part *= 2 / (high - low) if high > low else 0.0
    part -= 1
    cube = torch.from_numpy(part).clamp_(-1, 1)[None, None]
    return F.interpolate(cube, size=(crops.size,) * 3, mode="trilinear")[0]


def in_plane_size(height: int, width: int, crops: Crops) -> tuple[int, int]:
    """Rows and columns of a crop of random area and aspect ratio.

    Where ten draws do not fit into the slice, as in long ones, it is the largest crop of an allowed ratio.

    Source: Szegedy et al. 2015 (RandomResizedCrop).
    """
    for _ in range(TRIES):
        area = height * width * _between(*crops.in_plane)
        ratio = math.exp(_between(math.log(crops.ratio[0]), math.log(crops.ratio[1])))
        rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            return rows, columns
    low, high = crops.ratio
    return min(height, round(width / low)), min(width, round(height * high))


def _between(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _place(have: int, want: int) -> slice:
    start = int(torch.randint(have - want + 1, ()))
    return slice(start, start + want)


def random_masks(noise: Tensor, ratio: Range, share: float) -> Tensor:
    """Mask random patches of some crops, each crop at a ratio of its own.

    The ratios are spread over their range, one in each of its equal parts, so that batches mask about alike.

    Args:
        noise: (N, P) uniform numbers; a crop's patches with the least ones are masked.
        ratio: smallest and largest part of the patches.
        share: part of the N crops that are masked at all.

    Returns:
        (N, P) bool, True where a patch is masked.

    Source: Oquab et al. 2023, released code; Xu et al. 2025, Methods (uniform random masking).
    """
    crops, patches = noise.shape
    masked = round(crops * share)
    shares = (torch.arange(masked) + torch.rand(masked)) / max(masked, 1)
    counts = torch.zeros(crops, dtype=torch.long)
    counts[torch.randperm(crops)[:masked]] = ((ratio[0] + (ratio[1] - ratio[0]) * shares) * patches).long()
    ranks = noise.argsort(1).argsort(1)
    return ranks < counts[:, None]


def collate_crops(items: Sequence[Mapping[str, Tensor]], ratio: Range, share: float) -> dict[str, Tensor]:
    """Items of `LoadCrops` to a batch with masks.

    Returns:
        "large" (count * B, 1, s, s, s), the first crops of all volumes before the second ones; "small" likewise; "mask"
        (count * B, P) bool for the large ones.
    """
    batch = {key: torch.stack([item[key] for item in items], 1).flatten(0, 1) for key in ("large", "small", "noise")}
    batch["mask"] = random_masks(batch.pop("noise"), ratio, share)
    return batch
