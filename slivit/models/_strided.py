"""Convolutions with a stride that are right on a processor in bfloat16 whatever lies in memory.

Where its output is one column wide, oneDNN's strided convolution in bfloat16 multiplies memory that nobody wrote by
zero (torch 2.14; processors with AVX512-BF16). That is 0 for numbers, and NaN where a NaN or an infinity lies there.
The last stages of networks on small images are such layers; they are tiny, so that float32 costs nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


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
    """As `StridedConv2d`, for volumes."""


SWAPPED: dict[type, Any] = {nn.Conv2d: StridedConv2d, nn.Conv3d: StridedConv3d}


def steady(model: nn.Module) -> int:
    """Let the strided convolutions of a model be right in bfloat16 on a processor; weights, names and outputs stay.

    Returns:
        How many layers it has been done for.
    """
    found: list[Any] = [m for m in model.modules() if type(m) in SWAPPED]
    layers = [m for m in found if m.stride[-1] > 1 and m.padding_mode == "zeros"]
    for layer in layers:
        layer.__class__ = SWAPPED[type(layer)]  # in place: hooks, names and whoever else holds the layer stay right
    return len(layers)


def _is_narrow(layer: Any, input: Tensor) -> bool:
    """Whether the output has one column, and would be computed in half precision on a processor."""
    if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    room = input.shape[-1] + 2 * layer.padding[-1] - layer.dilation[-1] * (layer.kernel_size[-1] - 1) - 1
    return bool(room // layer.stride[-1] + 1 == 1)
