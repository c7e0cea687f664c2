"""Grey slices to the layout and normalisation of a model, and back: pure functions on batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def normalised(patches: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The values of scans as a network that segments takes them.

    Args:
        patches: (B, C, S, H, W); one channel is given as often as the model takes channels.
        mean: per channel of the model, of values in [0, 1].
        std: per channel.

    Returns:
        (B, C, S, H, W) float32.

    Raises:
        SlivitError: another number of channels than the model takes.
    """
    if patches.shape[1] not in (1, len(mean)):
        raise SlivitError(f"the model takes {len(mean)} channels, and the scans have {patches.shape[1]}; set in_chans")
    centre, spread = (torch.tensor(v, device=patches.device).view(1, -1, 1, 1, 1) for v in (mean, std))
    return (patches.float() - centre) / spread


def dense_logits(model: Callable[[Tensor], Tensor], patches: Tensor, input: str) -> Tensor:
    """Run a network that segments, whatever its layout: (B, C, S, H, W), normalised -> (B, K, S, H, W) logits."""
    if input != "tiled":
        return model(patches)
    logits = model(patches.flatten(2, 3))
    return logits.reshape(*logits.shape[:2], *patches.shape[2:])


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
