"""From a file to a stack of slices of one size: the settings, and the function that applies them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator

from slivit.data.channels import check_volume
from slivit.data.physical import PLANES, Plane, at_spacing, fitted, in_plane, place_stack, resample_depth
from slivit.data.slices import (
    BLANK,
    Interpolation,
    Sampling,
    Short,
    intensity_range,
    interpolate_slices,
    resize_slice,
    sample_slices,
    shuffled,
    to_uint8,
    wrapped,
)
from slivit.data.sliding import Sliding
from slivit.data.windows import Windows
from slivit.errors import ReadError
from slivit.settings import NonNegative
from slivit.volume import Volume

Stack = TypeVar("Stack", bound=Any)
SHORT_SCAN = r".*: has \d+ slices, \d+ are used: "
"""How the warning of a scan with too few slices begins, also where a cache repeats it: for a filter of warnings."""

_OPTIONAL = ("window", "stretch", "resize", "windows", "spacing", "shuffle_slices", "planes")


class Preprocessing(BaseModel):
    """How a scan becomes a (S, H, W) stack of 8-bit slices; with channels, (C, S, H, W). Saved with every checkpoint.

    Args:
        size: (S, H, W): slices, rows and columns that the model takes; a stage fills it in from the model.
        sampling: which slices; see `slivit.data.slices.sample_slices`.
        short: what to do with a volume of fewer than S slices.
        window: (low, high) intensities mapped to black and white (HU for CT), or None; radiology's level and width are
            given as {"level": 400, "width": 1000}, which is (-100, 900).
        stretch: (low, high) percentiles of the sampled slices mapped to black and white, or None. Applied inside
            the window where both are given. With neither, 8-bit scans are left alone and others are scaled from
            their minimum to their maximum.
        flips: predictions are averaged over every combination of these mirrorings: "horizontal", "vertical",
            "slices". One makes two views of a scan, all three make eight.
        reader: options for `read_volume`, such as {"axis": "coronal"}.
        resize: (rows, columns) to which slices are resized before the model's rows and columns are cut out of them: at
            random in training, from the middle otherwise. None resizes to what the model takes.
        fit: "stretch" gives every slice the model's rows and columns, whatever its shape; "pad" keeps its aspect (in
            mm where the spacing is known) and puts black beside it.
        spacing: (z, y, x) in mm: slices, rows and columns are resampled to it, then cropped or padded round the centre,
            so that one pixel is as large in every scan. 0 keeps an axis as it is without: [0, 0.5, 0.5] samples
            slices as `sampling` says.
        windows: cut a scan into windows of S consecutive slices, each of which the model sees by itself, instead of
            sampling S slices; see `slivit.data.windows.Windows`.
        interpolation: how slices are resized: "area" averages where they shrink and is linear where they grow;
            "bilinear" is Pillow's filter on 8 bits, as the released SLIViT's loaders resize.
        wrap: intensities become 255 times their value modulo 256, as the released loader of MRI makes them: for
            checkpoints that were trained so, and for nothing else.
        shuffle_slices: a seed: the slices of every scan are brought into another order, always the same for a scan.
            For experiments on whether a model uses the order of slices; none where absent.
        sliding: segmentation only: how patches of the model's size are laid over a scan; see
            `slivit.data.sliding.Sliding`. Of the other settings `window`, `stretch`, `spacing`, `resize`, `flips` and
            `reader` count there, and values are not rounded to 8 bits.
        planes: take slices in several of the planes "axial", "coronal" and "sagittal", as many in each, one plane
            behind the other in the stack; None takes the one plane of the reader. Of a scan without an orientation they
            run across slices, rows and columns.
        channels: the names of the channels that every scan has, in their order; none of grey scans. A stage fills them
            in from the recipe's data. The contrast of each channel is stretched by itself.

    Source: the 2nd and 98th percentile are those of the released pre-training code of Avram et al. 2024, which takes
    them of each image; here they are those of a scan. Its loaders of volumes stretch nothing.

    Example:
        >>> ct = slivit.Preprocessing(size=(28, 96, 96), sampling="middle", window=(-1000, 400), stretch=None)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: tuple[int, int, int] | None = None
    sampling: Sampling = "even"
    short: Short = "repeat"
    window: tuple[float, float] | None = None
    stretch: tuple[float, float] | None = Field(default=(2.0, 98.0))
    flips: tuple[Literal["horizontal", "vertical", "slices"], ...] = ()
    reader: dict[str, Any] = Field(default_factory=dict)
    resize: tuple[int, int] | None = None
    fit: Literal["stretch", "pad"] = "stretch"
    spacing: tuple[NonNegative, NonNegative, NonNegative] | None = None
    windows: Windows | None = None
    interpolation: Interpolation = "area"
    wrap: bool = False
    shuffle_slices: int | None = None
    sliding: Sliding | None = None
    planes: tuple[Plane, ...] | None = None
    channels: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _off(cls, data: Any) -> Any:
        """TOML has no null: `stretch = false` switches it off."""
        if isinstance(data, dict):
            return {k: None if k in _OPTIONAL and v is False else v for k, v in data.items()}
        return data

    @field_validator("window", mode="before")
    @classmethod
    def _level_and_width(cls, window: Any) -> Any:
        """Bring the way in which radiology names a window, by its middle and its width, to its two ends."""
        if not isinstance(window, dict):
            return window
        if set(window) != {"level", "width"} or not all(isinstance(v, int | float) for v in window.values()):
            raise ValueError("is [low, high] or { level = ..., width = ... }")
        return window["level"] - window["width"] / 2, window["level"] + window["width"] / 2

    @field_serializer("stretch", when_used="json")
    def _explicit(self, stretch: tuple[float, float] | None) -> list[float] | Literal[False]:
        """Write "off" out, because a missing key means the default."""
        return list(stretch) if stretch else False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("window", "stretch"):
            pair = getattr(self, name)
            if pair is not None and not pair[0] < pair[1]:
                raise ValueError(f"{name} must be (low, high) with low < high, got {pair}")
        if self.stretch and not (self.stretch[0] >= 0 and self.stretch[1] <= 100):
            raise ValueError(f"stretch is in percent, from 0 to 100, got {self.stretch}")
        if self.resize and min(self.resize) < 1:
            raise ValueError(f"resize is (rows, columns), each at least 1, got {self.resize}")
        if len(set(self.flips)) < len(self.flips):
            raise ValueError(f"flips names a mirroring twice: {self.flips}")
        if self.spacing and (self.spacing[1] == 0) != (self.spacing[2] == 0):
            raise ValueError(f"spacing is (z, y, x) in mm, with y and x both given or both 0, got {self.spacing}")
        if self.spacing and self.spacing[0] and (self.windows or self.sampling != "even"):
            raise ValueError("spacing with a first number resamples all slices; leave out sampling and windows")
        if self.windows and self.sampling != "even":
            raise ValueError(f'windows take every slice; leave out sampling = "{self.sampling}"')
        if self.windows and self.shuffle_slices is not None:
            raise ValueError("windows are of consecutive slices; leave out shuffle_slices")
        return self

    @model_validator(mode="after")
    def _wraps(self) -> Self:
        if self.wrap and (self.stretch or self.window):
            raise ValueError("wrap takes the stored values as they are; set stretch = false, and no window")
        if self.wrap:
            told = "preprocessing.wrap takes intensities modulo 256, as the released loader of MRI does: neighbouring "
            warnings.warn(f"{told}values can become black and white. It is for its checkpoints alone", stacklevel=2)
        return self

    @model_validator(mode="after")
    def _whole_planes(self) -> Self:
        if self.planes is None:
            return self
        if len(set(self.planes)) != len(self.planes) or len(self.planes) < 2:
            raise ValueError(f"planes are two or three different ones of {', '.join(PLANES)}, got {self.planes}")
        idle = {
            "windows": self.windows,
            'flips = ["slices"]': "slices" in self.flips,
            "reader.axis": "axis" in self.reader,
        }
        if told := [name for name, given in idle.items() if given]:
            raise ValueError(f"{' and '.join(told)} cannot be had with planes: the stack holds several; leave out one")
        if self.spacing and 0 in self.spacing and self.spacing[1] != self.spacing[2]:
            raise ValueError(f"spacing with planes is three numbers, or (0, s, s) for s mm in each, got {self.spacing}")
        return self

    @property
    def stored(self) -> Preprocessing:
        """These settings up to what is the same for every crop and every window: what is read once, and cached.

        Raises:
            ReadError: no size is set, or one that `resize` is too small for.
        """
        slices, *size = self._size()
        resize = self.resize or size
        if any(r < s for r, s in zip(resize, size, strict=True)):
            raise ReadError(f"preprocessing.resize is {resize}, smaller than the model's {tuple(size)}; enlarge it")
        windows = Windows() if self.windows else None
        return self.model_copy(update={"size": (slices, *resize), "resize": None, "windows": windows})

    @property
    def fixed_range(self) -> bool:
        """Whether black and white are the same for all scans, so that a part of one needs nothing of the rest."""
        return self.window is not None and self.stretch is None

    @property
    def between_slices(self) -> float:
        """The spacing of slices in mm to which scans are resampled; 0 where slices are sampled by their number."""
        return self.spacing[0] if self.spacing else 0.0

    def select(self, depth: int) -> list[int]:
        """The indices of the slices to read of a scan of `depth` slices, without blanks."""
        if self.planes:
            return list(range(depth))
        return [int(i) for i in self._indices(depth) if i != BLANK]

    def resamples(self, depth: int) -> bool:
        """Whether slices are interpolated between those of a scan of `depth` slices."""
        padded = self.short == "pad" and depth < self._size()[0]
        return bool(self.between_slices) or (self.sampling == "resample" and not padded)

    def _indices(self, depth: int) -> npt.NDArray[np.intp]:
        if self.between_slices or (self.windows and depth >= self._size()[0]):
            return np.arange(depth)
        return sample_slices(depth, self._size()[0], self.sampling, self.short)

    def _size(self) -> tuple[int, int, int]:
        if self.size is None:
            raise ReadError("preprocessing.size is not set; give (slices, height, width)")
        return self.size


def load_slices(path: str, settings: Preprocessing) -> npt.NDArray[np.uint8]:
    """Read a scan, decoding only the slices that are used, and preprocess it.

    Args:
        path: anything that `read_volume` takes.
        settings: the preprocessing, with its size set.

    Returns:
        (S, H, W) uint8, or (C, S, H, W) of several channels; with `windows`, all slices of the scan, and at least S.

    Raises:
        ReadError: the scan cannot be read or sampled.

    Example:
        >>> slivit.load_slices("scan0.nii", slivit.Preprocessing(size=(4, 32, 32))).shape
        (4, 32, 32)
    """
    from slivit.data.readers import read_volume

    volume = read_volume(path, select=settings.select, **settings.reader)
    return preprocess(volume, settings)


def load_window(path: str, settings: Preprocessing, start: int, depth: int) -> npt.NDArray[np.uint8]:
    """Read one window of a scan, decoding no more than its slices where the settings allow it.

    Args:
        path: anything that `read_volume` takes.
        settings: the preprocessing, with its size and its windows set.
        start: the first slice.
        depth: the number of slices of the scan.

    Returns:
        (S, H, W) uint8, or (C, S, H, W): slices `start` to `start + S` of what `load_slices(path, settings)` gives.

    Raises:
        ReadError: the scan cannot be read.
    """
    from slivit.data.readers import read_volume

    slices = settings._size()[0]
    if depth <= slices or not settings.fixed_range:
        return load_slices(path, settings)[..., start : start + slices, :, :]
    volume = read_volume(path, select=lambda _: range(start, start + slices), **settings.reader)
    check_volume(volume, settings)
    stacks = [_resized(part, part.array, settings, slices) for part in volume.by_channel()]
    return crop_slices(np.stack(stacks) if volume.array.ndim == 4 else stacks[0], settings._size()[1:])


def preprocess(volume: Volume, settings: Preprocessing) -> npt.NDArray[np.uint8]:
    """Sample, window, stretch and resize a volume.

    Args:
        volume: a whole volume, or one of which only the settings' slices were read.
        settings: the preprocessing, with its size set.

    Returns:
        (S, H, W) uint8, or (C, S, H, W) of several channels, each by itself; a blank slice is 0 throughout. With
        `windows`, all slices of the scan, and at least S.

    Raises:
        ReadError: no finite value, too few slices where `short` is "error", or other channels than the settings'.

    Example:
        >>> volume = slivit.read_volume("scan0.nii")
        >>> stack = slivit.preprocess(volume, slivit.Preprocessing(size=(4, 32, 32)))
        >>> stack.shape, stack.dtype
        ((4, 32, 32), dtype('uint8'))
    """
    check_volume(volume, settings)
    stacks = [_one_channel(part, settings) for part in volume.by_channel()]
    return np.stack(stacks) if volume.array.ndim == 4 else stacks[0]


def _one_channel(volume: Volume, settings: Preprocessing) -> npt.NDArray[np.uint8]:
    """The (S, H, W) stack of a grey volume."""
    if settings.planes:
        return _by_planes(volume, settings)
    indices = settings._indices(volume.depth)
    used = indices[indices != BLANK]
    _tell_short(volume, settings, len(indices))
    stack = volume.array if volume.indices is not None else volume.array[used]
    if len(stack) != len(used):
        raise ReadError(f"{volume.source}: expected the {len(used)} sampled slices, got {len(stack)}")
    out = _resized(volume, stack, settings, len(indices))
    if settings.between_slices:
        depth = at_spacing(volume.depth, _spacing(volume)[0], settings.between_slices)
        out = place_stack(resample_depth(out, depth), (settings._size()[0], *out.shape[1:]))
    elif settings.resamples(volume.depth):
        out = interpolate_slices(out, indices, volume.depth, settings._size()[0])
    if settings.shuffle_slices is not None:
        out = shuffled(out, settings.shuffle_slices)
    return crop_slices(out, settings._size()[1:])


def _by_planes(volume: Volume, settings: Preprocessing) -> npt.NDArray[np.uint8]:
    """The stacks of several planes one behind the other, black and white being the same in all."""
    planes, (slices, *size) = settings.planes or (), settings._size()
    if volume.indices is not None and len(volume.indices) < volume.depth:
        raise ReadError(f"{volume.source}: only some slices were read; slices of several planes need the whole volume")
    if slices % len(planes):
        raise ReadError(
            f"preprocessing.size has {slices} slices, which are not as many in each of {len(planes)} planes"
        )
    limits = _limits(volume.array, settings, volume.source)
    one = {"planes": None, "size": (slices // len(planes), *size), "window": limits, "stretch": None}
    stacks = []
    for plane in planes:
        turned, order = in_plane(volume, plane)
        spacing = settings.spacing
        if spacing and spacing[0]:
            spacing = (spacing[order[0]], spacing[order[1]], spacing[order[2]])
        stacks.append(_one_channel(turned, settings.model_copy(update=one | {"spacing": spacing})))
    return np.concatenate(stacks)


def _resized(
    volume: Volume, stack: npt.NDArray[np.generic], settings: Preprocessing, slices: int
) -> npt.NDArray[np.uint8]:
    """The slices in 8 bits and of one size, with blank ones behind them up to `slices`."""
    low, high = (0.0, 0.0) if settings.wrap else _limits(stack, settings, volume.source)
    size = settings.stored._size()[1:]
    rows, columns = _shape_of_slices(volume, settings, size)
    out = np.zeros((slices, rows, columns), np.uint8)
    # Slice by slice, so that what one step leaves is still in the processor's cache for the next.
    for image, target in zip(stack, out, strict=False):
        resize_slice(wrapped(image) if settings.wrap else to_uint8(image, low, high), target, settings.interpolation)
    return out if (rows, columns) == size else place_stack(out, (slices, *size))


def grid_of(volume: Volume, settings: Preprocessing) -> tuple[int, int] | None:
    """(rows, columns) of a slice before it was cropped or padded round its centre; None where it fills the model's."""
    if settings.fit == "stretch" and not (settings.spacing and settings.spacing[1]):
        return None
    return _shape_of_slices(volume, settings, settings.stored._size()[1:])


def _shape_of_slices(volume: Volume, settings: Preprocessing, size: tuple[int, int]) -> tuple[int, int]:
    """The rows and columns to which slices are resized before they are cropped or padded to `size`."""
    height, width = volume.shape[1:]
    if settings.spacing and settings.spacing[1]:
        y, x = _spacing(volume)[1:]
        return at_spacing(height, y, settings.spacing[1]), at_spacing(width, x, settings.spacing[2])
    if settings.fit == "pad":
        return fitted((height, width), volume.spacing and volume.spacing[1:], size)
    return size


def _spacing(volume: Volume) -> tuple[float, float, float]:
    """The spacing of a scan that is to be resampled to another.

    Raises:
        ReadError: it has none.
    """
    if volume.spacing is None:
        raise ReadError(
            f"{volume.source}: has no spacing in mm, so it cannot be brought to preprocessing.spacing; leave that out "
            'for scans without spacing (preprocessing.fit = "pad" keeps their aspect)'
        )
    return volume.spacing


def crop_slices(stack: Stack, size: Sequence[int]) -> Stack:
    """The middle of every slice.

    Args:
        stack: (..., h, w), an array or a tensor.
        size: (H, W), at most (h, w).

    Returns:
        (..., H, W), a view.
    """
    top, left = (stack.shape[-2] - size[0]) // 2, (stack.shape[-1] - size[1]) // 2
    return stack[..., top : top + size[0], left : left + size[1]]


def _tell_short(volume: Volume, settings: Preprocessing, slices: int) -> None:
    if volume.depth < slices and not settings.resamples(volume.depth):
        how = "repeated evenly" if settings.short == "repeat" else "blank ones are put behind them"
        told = f"{volume.source}: has {volume.depth} slices, {slices} are used: {how}"
        warnings.warn(told, stacklevel=3)


def _limits(stack: npt.NDArray[np.generic], settings: Preprocessing, source: str) -> tuple[float, float]:
    """The intensities that become black and white."""
    if settings.window and not settings.stretch:
        return settings.window
    if not settings.stretch and stack.dtype == np.uint8:
        return 0.0, 255.0
    try:
        return intensity_range(stack, *(settings.stretch or (0.0, 100.0)), window=settings.window)
    except ReadError as error:
        raise ReadError(f"{source}: {error}") from error
