"""From a file to a stack of slices of one size: the settings, and the function that applies them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_serializer, model_validator

from slivit.data.slices import BLANK, Sampling, Short, intensity_range, resample_positions, sample_slices, to_uint8
from slivit.errors import ReadError
from slivit.volume import Volume


class Preprocessing(BaseModel):
    """How a scan becomes a (S, H, W) stack of 8-bit slices. Saved with every checkpoint.

    Args:
        size: (S, H, W): slices, rows and columns that the model takes; a stage fills it in from the model.
        sampling: which slices; see `slivit.data.slices.sample_slices`.
        short: what to do with a volume of fewer than S slices.
        window: (low, high) intensities mapped to black and white (HU for CT), or None.
        stretch: (low, high) percentiles of the sampled slices mapped to black and white, or None. Applied inside
            the window where both are given. With neither, 8-bit scans are left alone and others are scaled from
            their minimum to their maximum.
        flips: predictions are averaged over every combination of these mirrorings: "horizontal", "vertical",
            "slices". One makes two views of a scan, all three make eight.
        reader: options for `read_volume`, such as {"axis": "coronal"}.

    Source: Avram et al. 2024, Methods, "Data preprocessing" (256 x 256 pixels, contrast stretched between the 2nd and
    the 98th percentile).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: tuple[int, int, int] | None = None
    sampling: Sampling = "even"
    short: Short = "repeat"
    window: tuple[float, float] | None = None
    stretch: tuple[float, float] | None = Field(default=(2.0, 98.0))
    flips: tuple[Literal["horizontal", "vertical", "slices"], ...] = ()
    reader: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _off(cls, data: Any) -> Any:
        """TOML has no null: `stretch = false` switches it off."""
        if isinstance(data, dict):
            return {k: None if k in ("window", "stretch") and v is False else v for k, v in data.items()}
        return data

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
        return self

    def select(self, depth: int) -> list[int]:
        """The indices of the slices to read of a scan of `depth` slices, without blanks."""
        return [int(i) for i in self._indices(depth) if i != BLANK]

    def resamples(self, depth: int) -> bool:
        """Whether slices are interpolated between those of a scan of `depth` slices."""
        padded = self.short == "pad" and depth < self._size()[0]
        return self.sampling == "resample" and not padded

    def _indices(self, depth: int) -> npt.NDArray[np.intp]:
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
        (S, H, W) uint8.

    Raises:
        ReadError: the scan cannot be read or sampled.
    """
    from slivit.data.readers import read_volume

    volume = read_volume(path, select=settings.select, **settings.reader)
    return preprocess(volume, settings)


def preprocess(volume: Volume, settings: Preprocessing) -> npt.NDArray[np.uint8]:
    """Sample, window, stretch and resize a volume.

    Args:
        volume: a whole volume, or one of which only the settings' slices were read.
        settings: the preprocessing, with its size set.

    Returns:
        (S, H, W) uint8; a blank slice is 0 throughout.

    Raises:
        ReadError: no finite value, or too few slices where `short` is "error".
    """
    indices = settings._indices(volume.depth)
    used = indices[indices != BLANK]
    _tell_short(volume, settings, len(indices))
    stack = volume.array if volume.indices is not None else volume.array[used]
    if len(stack) != len(used):
        raise ReadError(f"{volume.source}: expected the {len(used)} sampled slices, got {len(stack)}")
    low, high = _limits(stack, settings, volume.source)
    out = np.zeros((len(indices), *settings._size()[1:]), np.uint8)
    # Slice by slice, so that what one step leaves is still in the processor's cache for the next.
    for source, target in zip(stack, out, strict=False):
        _resize(to_uint8(source, low, high), target)
    if settings.resamples(volume.depth):
        return interpolate_slices(out, indices, volume.depth, settings._size()[0])
    return out


def interpolate_slices(
    stack: npt.NDArray[np.uint8], indices: npt.NDArray[np.intp], depth: int, slices: int
) -> npt.NDArray[np.uint8]:
    """Interpolate linearly between slices, so that S of them are spread evenly over a volume.

    Args:
        stack: (n, H, W), the slices that `sample_slices` chose for "resample".
        indices: (n,) their numbers in the volume.
        depth: the number of slices D of the volume.
        slices: S.

    Returns:
        (S, H, W).
    """
    import cv2

    out = np.empty((slices, *stack.shape[1:]), np.uint8)
    lower, weights = resample_positions(depth, slices)
    for target, place, weight in zip(out, np.searchsorted(indices, lower), weights, strict=True):
        if weight:
            cv2.addWeighted(stack[place], 1 - weight, stack[place + 1], weight, 0, dst=target)
        else:
            target[...] = stack[place]
    return out


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


def resize_slices(stack: npt.NDArray[np.uint8], size: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Resize every slice to (H, W): by area where it shrinks, linearly where it grows.

    Args:
        stack: (S, h, w).
        size: (H, W).

    Returns:
        (S, H, W), of the dtype of `stack`.
    """
    out = np.empty((len(stack), *size), stack.dtype)
    for source, target in zip(stack, out, strict=True):
        _resize(source, target)
    return out


def _resize(source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> None:
    import cv2

    if source.shape == target.shape:
        target[...] = source
        return
    height, width = target.shape
    shrinks = source.shape[0] >= height and source.shape[1] >= width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cv2.resize(source, (width, height), dst=target, interpolation=how)
