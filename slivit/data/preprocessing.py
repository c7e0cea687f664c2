"""From a file to a stack of slices of one size: the settings, and the function that applies them."""

from __future__ import annotations

import warnings
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator

from slivit.data.foreground import Foreground, to_foreground
from slivit.data.physical import PLANES, Plane
from slivit.data.slices import BLANK, Grey, Interpolation, Sampling, Short, sample_slices
from slivit.data.sliding import Sliding
from slivit.data.stacking import check_volume, one_channel, resized
from slivit.data.stacking import crop_slices as crop_slices
from slivit.data.stacking import grid_of as grid_of
from slivit.data.windows import Windows
from slivit.errors import ReadError
from slivit.settings import NonNegative
from slivit.volume import Volume

SHORT_SCAN = r".*: has \d+ slices, \d+ are used: "
"""How the warning of a scan with too few slices begins, also where a cache repeats it: for a filter of warnings."""

_OPTIONAL = ("window", "stretch", "resize", "windows", "spacing", "shuffle_slices", "planes", "foreground")


class Preprocessing(BaseModel):
    """How a scan becomes a (S, H, W) stack of grey slices; with channels, (C, S, H, W). Saved with every checkpoint.

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
        rounded: slices are kept in 8 bits, in a quarter of the room. Without rounding they are float32, as networks
            see them that were pre-trained on unrounded volumes (3DINO, MONAI-ViT).
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
        foreground: crop scans to what is not air before all else, by the rule of
            `slivit.data.foreground.Foreground`: foreground = {} takes its defaults. None leaves them whole. Such scans
            are read whole.
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
    rounded: bool = True
    interpolation: Interpolation = "area"
    wrap: bool = False
    shuffle_slices: int | None = None
    sliding: Sliding | None = None
    planes: tuple[Plane, ...] | None = None
    foreground: Foreground | None = None
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
        if not self.rounded and (self.wrap or self.interpolation == "bilinear"):
            raise ValueError('wrap and interpolation = "bilinear" are of 8 bits; leave out rounded = false')
        if self.windows and self.foreground:
            raise ValueError("windows are of all slices, by their number in the scan; leave out foreground")
        if self.windows and self.shuffle_slices is not None:
            raise ValueError("windows are of consecutive slices; leave out shuffle_slices")
        return self

    @model_validator(mode="after")
    def _wraps(self) -> Self:
        if self.wrap and (self.stretch or self.window):
            raise ValueError("wrap takes the stored values as they are; set stretch = false, and no window")
        if self.wrap:
            note = "preprocessing.wrap takes intensities modulo 256, as the released loader of MRI does: neighbouring "
            warnings.warn(f"{note}values can become black and white. It is for its checkpoints alone", stacklevel=2)
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
        if names := [name for name, given in idle.items() if given]:
            raise ValueError(f"{' and '.join(names)} cannot be had with planes: the stack holds several; leave out one")
        if self.spacing and 0 in self.spacing and self.spacing[1] != self.spacing[2]:
            raise ValueError(f"spacing with planes is three numbers, or (0, s, s) for s mm in each, got {self.spacing}")
        return self

    @property
    def stored(self) -> Preprocessing:
        """These settings up to what is the same for every crop and every window: what is read once, and cached.

        Raises:
            ReadError: no size is set, or one that `resize` is too small for.
        """
        slices, *size = self.sized()
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
        if self.planes or self.foreground:
            return list(range(depth))
        return [int(i) for i in self.indices(depth) if i != BLANK]

    def resamples(self, depth: int) -> bool:
        """Whether slices are interpolated between those of a scan of `depth` slices."""
        padded = self.short == "pad" and depth < self.sized()[0]
        return bool(self.between_slices) or (self.sampling == "resample" and not padded)

    def indices(self, depth: int) -> npt.NDArray[np.intp]:
        """(N,) the slices of which a scan of `depth` slices is sampled, in order; BLANK where one is padded."""
        if self.between_slices or (self.windows and depth >= self.sized()[0]):
            return np.arange(depth)
        return sample_slices(depth, self.sized()[0], self.sampling, self.short)

    def sized(self) -> tuple[int, int, int]:
        """(S, H, W), which must be set by now."""
        if self.size is None:
            raise ReadError("preprocessing.size is not set; give (slices, height, width)")
        return self.size


def load_slices(path: str, settings: Preprocessing) -> Grey:
    """Read a scan, decoding only the slices that are used, and preprocess it.

    Args:
        path: anything that `read_volume` takes.
        settings: the preprocessing, with its size set.

    Returns:
        (S, H, W) from 0 to 255, or (C, S, H, W) of several channels, uint8, or float32 where they are not `rounded`;
        with `windows`, all slices of the scan, and at least S.

    Raises:
        ReadError: the scan cannot be read or sampled.

    Example:
        >>> slivit.load_slices("scan0.nii", slivit.Preprocessing(size=(4, 32, 32))).shape
        (4, 32, 32)
    """
    from slivit.data.readers import read_volume

    volume = read_volume(path, select=settings.select, **settings.reader)
    return preprocess(volume, settings)


def load_window(path: str, settings: Preprocessing, start: int, depth: int) -> Grey:
    """Read one window of a scan, decoding no more than its slices where the settings allow it.

    Args:
        path: anything that `read_volume` takes.
        settings: the preprocessing, with its size and its windows set.
        start: the first slice.
        depth: the number of slices of the scan.

    Returns:
        (S, H, W), or (C, S, H, W): slices `start` to `start + S` of what `load_slices(path, settings)` gives.

    Raises:
        ReadError: the scan cannot be read.
    """
    from slivit.data.readers import read_volume

    slices = settings.sized()[0]
    if depth <= slices or not settings.fixed_range:
        return load_slices(path, settings)[..., start : start + slices, :, :]
    volume = read_volume(path, select=lambda _: range(start, start + slices), **settings.reader)
    check_volume(volume, settings)
    stacks = [resized(part, part.array, settings, slices) for part in volume.by_channel()]
    return crop_slices(np.stack(stacks) if volume.array.ndim == 4 else stacks[0], settings.sized()[1:])


def preprocess(volume: Volume, settings: Preprocessing) -> Grey:
    """Sample, window, stretch and resize a volume.

    Args:
        volume: a whole volume, or one of which only the settings' slices were read.
        settings: the preprocessing, with its size set.

    Returns:
        (S, H, W) from 0 to 255, or (C, S, H, W) of several channels, each by itself, uint8, or float32 where they are
        not `rounded`; a blank slice is 0 throughout. With `windows`, all slices of the scan, and at least S.

    Raises:
        ReadError: no finite value, too few slices where `short` is "error", or other channels than the settings'.

    Example:
        >>> volume = slivit.read_volume("scan0.nii")
        >>> stack = slivit.preprocess(volume, slivit.Preprocessing(size=(4, 32, 32)))
        >>> stack.shape, stack.dtype
        ((4, 32, 32), dtype('uint8'))
    """
    check_volume(volume, settings)
    if settings.foreground:
        volume = to_foreground(volume, settings.foreground)
    stacks = [one_channel(part, settings) for part in volume.by_channel()]
    return np.stack(stacks) if volume.array.ndim == 4 else stacks[0]
