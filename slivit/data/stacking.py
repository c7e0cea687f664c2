"""From a volume in memory to a stack of grey slices of one size: the steps of `slivit.data.preprocessing`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from slivit.data.physical import at_spacing, fitted, in_plane, place_stack, resample_depth
from slivit.data.readers.base import counted
from slivit.data.readers.channels import ALL
from slivit.data.slices import (
    BLANK,
    Grey,
    intensity_range,
    interpolate_slices,
    resize_slice,
    shuffled,
    to_float,
    to_uint8,
    wrapped,
)
from slivit.errors import ReadError, SlivitError
from slivit.volume import Volume

if TYPE_CHECKING:
    from slivit.data.preprocessing import Preprocessing
    from slivit.volume import Volume

Stack = TypeVar("Stack", bound=Any)


def one_channel(volume: Volume, settings: Preprocessing) -> Grey:
    """The (S, H, W) stack of a grey volume."""
    if settings.planes:
        return _by_planes(volume, settings)
    indices = settings.indices(volume.depth)
    used = indices[indices != BLANK]
    _tell_short(volume, settings, len(indices))
    stack = volume.array if volume.indices is not None else volume.array[used]
    if len(stack) != len(used):
        raise ReadError(f"{volume.source}: expected the {len(used)} sampled slices, got {len(stack)}")
    out = resized(volume, stack, settings, len(indices))
    if settings.between_slices:
        depth = at_spacing(volume.depth, _spacing(volume)[0], settings.between_slices)
        out = place_stack(resample_depth(out, depth), (settings.sized()[0], *out.shape[1:]))
    elif settings.resamples(volume.depth):
        out = interpolate_slices(out, indices, volume.depth, settings.sized()[0])
    if settings.shuffle_slices is not None:
        out = shuffled(out, settings.shuffle_slices)
    return crop_slices(out, settings.sized()[1:])


def _by_planes(volume: Volume, settings: Preprocessing) -> Grey:
    """The stacks of several planes one behind the other, black and white being the same in all."""
    planes, (slices, *size) = settings.planes or (), settings.sized()
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
        stacks.append(one_channel(turned, settings.model_copy(update=one | {"spacing": spacing})))
    return np.concatenate(stacks)


def resized(volume: Volume, stack: npt.NDArray[np.generic], settings: Preprocessing, slices: int) -> Grey:
    """The slices from 0 to 255 and of one size, with blank ones behind them up to `slices`."""
    low, high = (0.0, 0.0) if settings.wrap else _limits(stack, settings, volume.source)
    size = settings.stored.sized()[1:]
    rows, columns = _shape_of_slices(volume, settings, size)
    scaled = to_uint8 if settings.rounded else to_float
    out = np.zeros((slices, rows, columns), np.uint8 if settings.rounded else np.float32)
    # Slice by slice, so that what one step leaves is still in the processor's cache for the next.
    for image, target in zip(stack, out, strict=False):
        resize_slice(wrapped(image) if settings.wrap else scaled(image, low, high), target, settings.interpolation)
    return out if (rows, columns) == size else place_stack(out, (slices, *size))


def grid_of(volume: Volume, settings: Preprocessing) -> tuple[int, int] | None:
    """(rows, columns) of a slice before it was cropped or padded round its centre; None where it fills the model's."""
    if settings.fit == "stretch" and not (settings.spacing and settings.spacing[1]):
        return None
    return _shape_of_slices(volume, settings, settings.stored.sized()[1:])


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
        message = f"{volume.source}: has {volume.depth} slices, {slices} are used: {how}"
        warnings.warn(message, stacklevel=4)


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


def settings_for(settings: Preprocessing, spec: Any, channels: Sequence[str] = ()) -> Preprocessing:
    """The settings with what a model takes filled in: its size, and the names of the channels.

    Args:
        settings: a recipe's preprocessing.
        spec: the model's `.spec`.
        channels: the columns that a manifest has for channels; where the reader takes all channels of a file, they are
            as many as the model takes, and called by their numbers.

    Raises:
        SlivitError: a model of other channels than the scans have.
    """
    takes = len(spec.mean)
    if settings.reader.get("channel") == ALL and not channels:
        names = tuple(str(number) for number in range(takes))
    else:
        names = tuple(channels)
        check_channels(takes, len(names))
    return settings.model_copy(update={"size": tuple(spec.size), "channels": names})


def check_channels(model: int, scans: int = 0) -> None:
    """Raise where a model takes other channels than scans have.

    Of grey scans, three stand for the colours of pictures, which grey has in equal parts; two or four stand for
    sequences of their own, and copies of one of them would be a model that never sees the others.

    Args:
        model: channels of its input.
        scans: channels of the scans; 0 for grey ones.

    Raises:
        SlivitError: with the way out.
    """
    if not scans and model not in (1, 3):
        raise SlivitError(
            f"the model takes {model} channels, and scans have one: each would be a copy of it. Leave in_chans out, or "
            "set it to 1; data.channels names the columns of scans that have several."
        )
    if scans and model != scans:
        raise SlivitError(
            f"the model takes {counted(model, 'channel')}, and the scans have {scans}. Set model.in_chans to {scans}, "
            "where the model has it (dino3d_vit_*, swin_*, monai_vit, resnet3d_18, the U-Nets), or name other columns "
            "in data.channels."
        )


def check_volume(volume: Volume, settings: Preprocessing) -> None:
    """Raise where a scan has other channels than those that the settings name.

    Raises:
        ReadError: more channels, or fewer.
    """
    wanted = len(settings.channels)
    if wanted and volume.channels != wanted:
        raise ReadError(
            f"{volume.source}: has {counted(volume.channels, 'channel')}, and {wanted} are taken: "
            f"{', '.join(settings.channels)}. Give a table with a column of paths for each, or their paths with ' | ' "
            "between them."
        )
