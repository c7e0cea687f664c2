"""Grey slices to the layout and normalisation of a model, and back: pure functions on batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slivit.errors import SlivitError


def to_input(stacks: Tensor, input: str, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Bring grey slices into a model's layout and normalise them.

    Args:
        stacks: (B, S, H, W), 0 to 255, uint8 or float.
        input: "tiled", "volume" or "clip".
        mean: per channel, of values in [0, 1]; as many channels come out as it has entries.
        std: per channel.

    Returns:
        float32: (B, C, S*H, W) for "tiled", (B, C, S, H, W) otherwise.

    Raises:
        SlivitError: a model of other than one or three channels.
    """
    check_channels(len(mean))
    scale = 1 / (255 * torch.tensor(std, device=stacks.device))
    shift = -torch.tensor(mean, device=stacks.device) / torch.tensor(std, device=stacks.device)
    batch, slices, height, width = stacks.shape
    x = torch.empty(batch, len(mean), slices * height, width, device=stacks.device)
    # In place, because fresh memory costs more than the arithmetic, and addcmul is slow where it broadcasts.
    x.copy_(stacks.reshape(batch, 1, slices * height, width))
    x.mul_(scale.view(1, -1, 1, 1)).add_(shift.view(1, -1, 1, 1))
    return x if input == "tiled" else x.view(batch, -1, slices, height, width)


def check_channels(channels: int) -> None:
    """Raise where a model takes channels that grey slices do not have.

    Three stand for the colours of pictures, which grey has in equal parts; two or four stand for sequences of their
    own, and copies of one of them would be a model that never sees the others.

    Args:
        channels: of the model's input.
    """
    if channels not in (1, 3):
        raise SlivitError(
            f"the model takes {channels} channels, and scans have one: each would be a copy of it. Leave in_chans out, "
            "or set it to 1."
        )


def from_input(x: Tensor, slices: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undo `to_input`, from the first channel: (B, S, H, W) float from 0 to 255."""
    grey = (x[:, 0] * std[0] + mean[0]) * 255
    return grey.reshape(len(x), slices, -1, x.shape[-1]).clamp(0, 255)
