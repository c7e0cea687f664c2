"""Convolutions that are right on a processor where oneDNN's are not (torch 2.14; processors with AVX512-BF16).

Where its output is one column wide, oneDNN's strided convolution in bfloat16 multiplies memory that nobody wrote by
zero. That is 0 for numbers, and NaN where a NaN or an infinity lies there. The last stages of networks on small images
are such layers; they are tiny, so that float32 costs nothing.

Where a kernel is deeper than the volume (3 over 2 slices, as in the last stage of a ResNet over 28), oneDNN's gradient
of the weights in bfloat16 is wrong in its outer slices: noise as large as the gradient, or NaN; of 7 over 5 to 7 slices
with stride 2 in float32 too. With the blank slices put there before, instead of by the convolution, it is right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Steady(nn.Module):
    """What both kinds of convolution do about an output of one column."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        own: Any = super()
        if not _is_narrow(self, input):
            return own._conv_forward(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            return own._conv_forward(input.float(), weight, bias)


class StridedConv2d(_Steady, nn.Conv2d):
    """An `nn.Conv2d` that computes an output of one column in float32 under autocast on a processor."""


class StridedConv3d(_Steady, nn.Conv3d):
    """As `StridedConv2d`, for volumes; over few slices with the right gradient of its weights."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _is_shallow(self, input):
            return super()._conv_forward(input, weight, bias)
        deep, padding = F.pad(input, (0, 0, 0, 0, self.padding[0], self.padding[0])), (0, *self.padding[1:])  # type: ignore[misc]
        if _is_narrow(self, input):
            with torch.autocast("cpu", enabled=False):
                return F.conv3d(deep.float(), weight, bias, self.stride, padding, self.dilation, self.groups)
        return F.conv3d(deep, weight, bias, self.stride, padding, self.dilation, self.groups)


SWAPPED: dict[type, Any] = {nn.Conv2d: StridedConv2d, nn.Conv3d: StridedConv3d}


def steady(model: nn.Module) -> int:
    """Let the convolutions of a model be right on a processor; weights, names and outputs stay.

    Returns:
        How many layers it has been done for.
    """
    found: list[Any] = [m for m in model.modules() if type(m) in SWAPPED]
    layers = [m for m in found if (m.stride[-1] > 1 or _may_be_shallow(m)) and m.padding_mode == "zeros"]
    for layer in layers:
        layer.__class__ = SWAPPED[type(layer)]  # in place: hooks, names and whoever else holds the layer stay right
    return len(layers)


def _may_be_shallow(layer: Any) -> bool:
    """Whether it puts blank slices at the ends of a volume, of which a kernel could see few others."""
    return isinstance(layer, nn.Conv3d) and layer.padding != "valid" and layer.padding[0] not in (0, "s")


def _is_shallow(layer: Any, input: Tensor) -> bool:
    """Whether the gradient of its weights is asked for on a processor, and its kernel is as deep as the volume."""
    asked = torch.is_grad_enabled() and layer.weight.requires_grad and input.device.type == "cpu"
    return bool(asked and layer.padding[0] and input.shape[-3] <= layer.dilation[0] * (layer.kernel_size[0] - 1) + 1)


def _is_narrow(layer: Any, input: Tensor) -> bool:
    """Whether the output has one column, and would be computed in half precision on a processor."""
    if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    room = input.shape[-1] + 2 * layer.padding[-1] - layer.dilation[-1] * (layer.kernel_size[-1] - 1) - 1
    return bool(room // layer.stride[-1] + 1 == 1)
