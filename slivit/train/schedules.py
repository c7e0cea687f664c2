"""Schedules: warm-up and half cosine, weight decay that grows, rates by layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fastai.callback.core import Callback
from fastai.callback.schedule import ParamScheduler, SchedCos, SchedLin, combine_scheds
from torch import nn

WARM_START = 1e-6
POWER = 0.9


def warmup_cosine(peak: Any, end: float, warmup: float) -> Any:
    """A schedule over the part of training that is done, from 0 to 1: a line up to `peak`, then a half cosine down.

    Args:
        peak: one rate, or an array of one rate a parameter group.
        end: where the cosine ends.
        warmup: the fraction of the training in which it rises.

    Source: He et al. 2022 (MAE), appendix A; Oquab et al. 2023, appendix B.
    """
    return warmed_up(
        peak, SchedCos(peak, np.minimum(end, peak) if isinstance(peak, np.ndarray) else min(end, peak)), warmup
    )


def warmup_poly(peak: Any, warmup: float) -> Any:
    """As `warmup_cosine`, but down to 0 with the power 0.9 of what is left: as nnU-Net and TransUNet train.

    Source: Isensee et al. 2021 (nnU-Net), Methods; Chen et al. 2021 (TransUNet), the released code.
    """
    return warmed_up(peak, lambda done: peak * (1 - done) ** POWER, warmup)


def warmed_up(peak: Any, down: Callable[[float], Any], warmup: float) -> Any:
    """A schedule that begins with a line up to its peak."""
    return combine_scheds([warmup, 1 - warmup], [SchedLin(peak * WARM_START, peak), down]) if warmup > 0 else down


def scheduler(
    peak: Any, *, end: float, warmup: float, weight_decay: float, weight_decay_end: float | None = None
) -> Callback:
    """fastai's scheduler for the rate and, where it has an end, the weight decay."""
    scheds = {"lr": warmup_cosine(peak, end, warmup)}
    if weight_decay_end is not None:
        scheds["wd"] = SchedCos(weight_decay, weight_decay_end)
    return ParamScheduler(scheds)


def block_depth(blocks: int) -> Callable[[str], int]:
    """The layer of a vision transformer's parameter by its name: 0 embedding, 1 ... N blocks, N + 1 what is behind.

    Args:
        blocks: N.
    """

    def depth(name: str) -> int:
        match = re.search(r"(?:^|\.)blocks\.(\d+)\.", name)
        if match:
            return int(match.group(1)) + 1
        embedding = ("patch_embed", "pos_embed", "cls_token", "mask_token", "reg_token")
        return 0 if any(part in name for part in embedding) else blocks + 1

    return depth


UNIT = re.compile(r"(?:^|\.)(?:(?:stages|layers)\.(\d+)(?:\.blocks\.(\d+))?|blocks\.(\d+)|layer(\d+)\.(\d+))(?:\.|$)")
"""A block of a ViT, Swin, ConvNeXt or ResNet in a parameter's name."""


def backbone_depth(model: nn.Module) -> Callable[[str], int]:
    """The layer of a parameter of a model with `.backbone`, by its name.

    0 is what stands before the backbone's first block, 1 ... N its blocks, N + 1 all that is behind.
    """
    names = [name for name, _ in model.named_parameters()]
    inside = [name for name in names if name.startswith("backbone.")]
    units = {name: tuple(int(n or 0) for n in unit.groups()) for name in inside if (unit := UNIT.search(name))}
    blocks = sorted(set(units.values()))
    first = next((i for i, name in enumerate(inside) if name in units), 0)
    depths = dict.fromkeys(inside[:first], 0) | {name: blocks.index(unit) + 1 for name, unit in units.items()}
    return lambda name: depths.get(name, len(blocks) + 1)


def layered_groups(
    model: nn.Module, depth_of: Callable[[str], int], decay: float, patch_scale: float = 1.0
) -> tuple[Callable[[nn.Module], list[list[nn.Parameter]]], np.ndarray]:
    """Parameter groups by layer, and the rate of each as a fraction of the peak.

    Args:
        model: what is trained.
        depth_of: a parameter's name -> its layer.
        decay: rate of a layer as a fraction of that of the layer behind it.
        patch_scale: further factor of the patch embedding.

    Returns:
        A splitter for fastai, and (groups,) float64.

    Source: Clark et al. 2020 (ELECTRA); Oquab et al. 2023, appendix B.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((depth_of(name), "patch_embed" in name), []).append(parameter)
    keys: Sequence[tuple[int, bool]] = sorted(groups)
    last = max(depth for depth, _ in keys)
    scales = [decay ** (last - depth) * (patch_scale if patch else 1.0) for depth, patch in keys]
    return (lambda _: [groups[key] for key in keys]), np.array(scales)
