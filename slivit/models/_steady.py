"""Convolutions that are right, and quick, on a processor where oneDNN's are not (torch 2.14).

What is wrong is so on processors with AVX512-BF16; what is slow, most of all on those with AMX.

Where its output is one column wide, oneDNN's strided convolution in bfloat16 multiplies memory that nobody wrote by
zero. That is 0 for numbers, and NaN where a NaN or an infinity lies there. The last stages of networks on small images
are such layers; they are tiny, so that float32 costs nothing.

Where a kernel is as wide as its input along any axis (3 over 2 slices, as in the last stage of a ResNet over 28),
oneDNN's gradient of the weights in bfloat16 is wrong at its ends: noise as large as the gradient, NaN, or a write
beside its memory that ends the process; of 7 over 5 to 7 slices with stride 2 in float32 too. With the blank around the
input put there before, instead of by the convolution, it is right.

A convolution that cuts its input into patches, as transformers begin, is a product of patches and weights. Written so
it takes a thirtieth of oneDNN's time where patches of 16 cubed train in bfloat16, half of it for images, and no more in
float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 64
"""Voxels of a patch from which on a product is quicker; below, as in a ConvNeXt, the convolution is."""


class _Steady(nn.Module):
    """What convolutions over few voxels, or over large patches, do otherwise."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        own: Any = super()
        layer: Any = self
        if _cuts_patches(layer, input):
            return of_patches(input, weight, bias)
        narrow = _is_narrow(layer, input)
        if not (narrow or _is_filled(layer, input)):
            return own._conv_forward(input, weight, bias)
        padded = F.pad(input, [amount for amount in reversed(layer.padding) for _ in "ab"])
        around = (layer.stride, 0, layer.dilation, layer.groups)
        convolve = OF_AXES[input.ndim - 2]
        if not narrow:
            return convolve(padded, weight, bias, *around)
        with torch.autocast("cpu", enabled=False):
            return convolve(padded.float(), weight, bias, *around)


class SteadyConv1d(_Steady, nn.Conv1d):
    """An `nn.Conv1d` that is right over few samples."""


class SteadyConv2d(_Steady, nn.Conv2d):
    """An `nn.Conv2d` that is right over few pixels."""


class SteadyConv3d(_Steady, nn.Conv3d):
    """An `nn.Conv3d` that is right over few voxels."""


SWAPPED: dict[type, Any] = {nn.Conv1d: SteadyConv1d, nn.Conv2d: SteadyConv2d, nn.Conv3d: SteadyConv3d}
OF_AXES: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def steady(model: nn.Module) -> int:
    """Let the convolutions of a model be right on a processor; weights, names and outputs stay.

    Returns:
        How many layers it has been done for.
    """
    layers: list[Any] = [m for m in model.modules() if type(m) in SWAPPED and _can_be_wrong(m)]
    for layer in layers:
        layer.__class__ = SWAPPED[type(layer)]  # in place: hooks, names and whoever else holds the layer stay right
    return len(layers)


def _can_be_wrong(layer: Any) -> bool:
    """Whether it has a stride, or puts blank voxels round its input; not where each voxel is multiplied by itself."""
    plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return plain and (layer.stride[-1] > 1 or any(layer.padding))


def _cuts_patches(layer: Any, input: Tensor) -> bool:
    """Whether it takes large patches side by side, on a processor."""
    kernel = layer.kernel_size
    side_by_side = layer.stride == kernel and not any(layer.padding) and {*layer.dilation, layer.groups} == {1}
    whole = all(size >= side for size, side in zip(input.shape[2:], kernel, strict=True))
    return input.device.type == "cpu" and side_by_side and whole and math.prod(kernel) >= PATCH


def of_patches(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, C, *) times (K, C, *patch) weights: (B, K, *cells); what fills no patch at the end of an axis is left out."""
    sides = weight.shape[2:]
    for axis, side in enumerate(sides, 2):
        x = x.narrow(axis, 0, x.shape[axis] // side * side)
    cells = [size // side for size, side in zip(x.shape[2:], sides, strict=True)]
    x = x.reshape(*x.shape[:2], *[part for pair in zip(cells, sides, strict=True) for part in pair])
    axes = range(len(sides))
    x = x.permute(0, *(2 + 2 * axis for axis in axes), 1, *(3 + 2 * axis for axis in axes))
    return F.linear(x.flatten(len(sides) + 1), weight.flatten(1), bias).movedim(-1, 1)


def _is_filled(layer: Any, input: Tensor) -> bool:
    """Whether the gradient of its weights is asked for on a processor, and its kernel is as wide as the input."""
    if not (torch.is_grad_enabled() and layer.weight.requires_grad and input.device.type == "cpu"):
        return False
    each = zip(input.shape[2:], layer.kernel_size, layer.dilation, layer.padding, strict=True)
    return any(padding and size <= dilation * (kernel - 1) + 1 for size, kernel, dilation, padding in each)


def _is_narrow(layer: Any, input: Tensor) -> bool:
    """Whether the output has one column, and would be computed in half precision on a processor."""
    if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or layer.stride[-1] == 1:
        return False
    room = input.shape[-1] + 2 * layer.padding[-1] - layer.dilation[-1] * (layer.kernel_size[-1] - 1) - 1
    return bool(room // layer.stride[-1] + 1 == 1)
