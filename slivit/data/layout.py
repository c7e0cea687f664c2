"""Slices to the layout and normalisation of a model, and back: pure functions on batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from slivit.data.stacking import check_channels
from slivit.errors import SlivitError


def to_input(stacks: Tensor, input: str, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Bring slices into a model's layout and normalise them.

    Args:
        stacks: (B, S, H, W) of grey scans, or (B, C, S, H, W) of scans of several channels; 0 to 255, uint8 or float.
        input: "tiled", "volume" or "clip".
        mean: per channel, of values in [0, 1]; as many channels come out as it has entries, grey ones alike.
        std: per channel.

    Returns:
        float32: (B, C, S*H, W) for "tiled", (B, C, S, H, W) otherwise.

    Raises:
        SlivitError: a model of other channels than the scans have.
    """
    check_channels(len(mean), stacks.shape[1] if stacks.ndim == 5 else 0)
    scale = 1 / (255 * torch.tensor(std, device=stacks.device))
    shift = -torch.tensor(mean, device=stacks.device) / torch.tensor(std, device=stacks.device)
    batch, (slices, height, width) = len(stacks), stacks.shape[-3:]
    x = torch.empty(batch, len(mean), slices * height, width, device=stacks.device)
    # In place, because fresh memory costs more than the arithmetic, and addcmul is slow where it broadcasts.
    x.copy_(stacks.reshape(batch, -1, slices * height, width))
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


def from_input(x: Tensor, slices: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undo `to_input`: (B, S, H, W) float from 0 to 255 where all channels are alike, else (B, C, S, H, W)."""
    shape = (1, -1, *(1,) * (x.ndim - 2))
    scaled = (
        x * torch.tensor(std, device=x.device).view(shape) + torch.tensor(mean, device=x.device).view(shape)
    ) * 255
    stacks = scaled.reshape(*x.shape[:2], slices, -1, x.shape[-1]).clamp(0, 255)
    alike = all(torch.allclose(stacks[:, 0], stacks[:, c], atol=0.01) for c in range(1, stacks.shape[1]))
    return stacks[:, 0] if alike else stacks
