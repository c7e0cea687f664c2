"""Grey straight into a network made for colour: the three equal channels and their normalisation folded into weights.

A grey value g from 0 to 255 enters a network as (g / 255 - mean) / std in each of C channels. The first convolution is
linear, so it can take g itself: its weights are summed over the channels with 1 / (255 * std), and what the means add
is a constant that goes to the bias. With padding this is not exact, because the zeros at the border then stand for
black instead of the mean colour; so only convolutions without padding are folded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from slivit.errors import ModelError

_CONVOLUTIONS = {nn.Conv2d: nn.functional.conv2d, nn.Conv3d: nn.functional.conv3d}


class GreyConv(nn.Module):
    """A convolution over C channels that takes one grey channel instead; see `fold_grey`.

    It holds the weight and the bias of the convolution that it was made of, under the same names: checkpoints fit both
    ways, and training it trains those.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.weight = cast(nn.Parameter, conv.weight)
        self.register_parameter("bias", cast("nn.Parameter | None", conv.bias))
        self.stride, self.dilation = conv.stride, conv.dilation
        self._convolve: Any = _CONVOLUTIONS[nn.Conv2d if isinstance(conv, nn.Conv2d) else nn.Conv3d]
        self._scaling = (tuple(mean), tuple(std))

    def folded(self) -> tuple[Tensor, Tensor]:
        """The weight for one grey channel, (K, 1, ...), and the bias, (K,), computed in float32 or better."""
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        channels = (1, -1) + (1,) * (weight.ndim - 2)
        mean, std = (torch.as_tensor(v, dtype=weight.dtype, device=weight.device).view(channels) for v in self._scaling)
        per_value = weight / std
        constant = (per_value * mean).flatten(1).sum(1)
        bias = -constant if self.bias is None else self.bias - constant
        return (per_value.sum(1, keepdim=True) / 255).to(self.weight.dtype), bias.to(self.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, ...) grey from 0 to 255, of any type -> what the convolution makes of C normalised channels."""
        weight, bias = self.folded()
        return self._convolve(x.to(weight.dtype), weight, bias, stride=self.stride, dilation=self.dilation)


def fold_grey(conv: nn.Module, mean: Sequence[float], std: Sequence[float]) -> GreyConv:
    """Fold the copying of grey into C channels, and their normalisation, into a network's first convolution.

    Exact up to the rounding of floats. Bytes enter as they are, which saves C float channels of memory traffic; and
    under bfloat16 they enter exactly, where normalised values would be rounded.

    Args:
        conv: an `nn.Conv2d` or `nn.Conv3d` of C channels without padding: the stem of a ConvNeXt, a patch embedding.
        mean: of each channel, of values in [0, 1].
        std: of each channel.

    Returns:
        A module that takes (B, 1, ...) grey values from 0 to 255, and shares its parameters with `conv`.

    Raises:
        ModelError: no convolution, another number of channels, padding, or groups.
    """
    if not isinstance(conv, nn.Conv2d | nn.Conv3d):
        raise ModelError(f"only nn.Conv2d and nn.Conv3d take folded grey, got {type(conv).__name__}")
    if not len(mean) == len(std) == conv.in_channels:
        raise ModelError(f"the convolution has {conv.in_channels} channels, got {len(mean)} means and {len(std)} stds")
    if conv.groups != 1:
        raise ModelError(f"a convolution in groups cannot take folded grey, got groups={conv.groups}")
    if _padded(conv):
        raise ModelError(
            f"the convolution has padding {conv.padding}: zeros at the border mean something else after folding, so it "
            "would not be exact; normalise its input instead"
        )
    return GreyConv(conv, mean, std)


def _padded(conv: nn.Conv2d | nn.Conv3d) -> bool:
    if isinstance(conv.padding, str):
        return conv.padding == "same" and any(k > 1 for k in conv.kernel_size)
    return any(conv.padding)
