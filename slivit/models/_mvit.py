"""The block schedule of torchvision's MViT v1-B and v2-S at any size, and their positions on another grid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isqrt
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from slivit.models._weights import State

CUBE = [3, 3, 3]


def build_mvit(version: int, size: tuple[int, int, int], depths: Sequence[int], width: int, drop_path: float) -> Any:
    """Create torchvision's `MViT` with the schedule of its `mvit_v1_b` (version 1) or `mvit_v2_s` (version 2).

    Args:
        version: 1 or 2.
        size: (S, H, W) of the input.
        depths: blocks of each stage.
        width: channels of the first stage, one head; each further stage has twice as many of both.
        drop_path: probability of the last block to be skipped in training.
    """
    from torchvision.models.video import MViT

    second = version == 2
    return MViT(
        spatial_size=size[1:],
        temporal_size=size[0],
        block_setting=_blocks(second, depths, width),
        residual_pool=second,
        residual_with_cls_embed=False,
        rel_pos_embed=second,
        proj_after_attn=second,
        stochastic_depth_prob=drop_path,
    )


def _blocks(second: bool, depths: Sequence[int], width: int) -> list[Any]:
    """Stages halve the map at their first block. Version 1 widens in the block before that, version 2 in it."""
    from torchvision.models.video.mvit import MSBlockConfig

    stages = [stage for stage, depth in enumerate(depths) for _ in range(depth)]
    blocks = []
    for i, stage in enumerate(stages):
        halves = i > 0 and stage != stages[i - 1]
        before, behind = stages[max(i - 1, 0)], stages[min(i + 1, len(stages) - 1)]
        kv = 2 ** max(3 - stage, 0)
        blocks.append(
            MSBlockConfig(
                num_heads=2**stage,
                input_channels=width * 2 ** (before if second else stage),
                output_channels=width * 2 ** (stage if second else behind),
                kernel_q=CUBE if second or halves else [],
                kernel_kv=CUBE,
                stride_q=[1, 2, 2] if halves else [1, 1, 1] if second else [],
                stride_kv=[1, kv, kv],
            )
        )
    return blocks


def resize_positions(state: State, wanted: State) -> State:
    """Interpolate the positions of published weights, of 16 x 224 x 224 input, to the sizes in `wanted`."""
    return {name: _resized(name, tensor, wanted.get(name)) for name, tensor in state.items()}


def _resized(name: str, tensor: Tensor, like: Tensor | None) -> Tensor:
    """(positions, channels): rows and columns of a square grid, or places along one axis."""
    if like is None or tensor.ndim != 2 or len(tensor) == len(like) or tensor.shape[1] != like.shape[1]:
        return tensor
    if re.search(r"spatial_pos$", name):
        side, target = isqrt(len(tensor)), isqrt(len(like))
        grid = tensor.T.reshape(1, -1, side, side)
        return F.interpolate(grid, (target, target), mode="bicubic", align_corners=False)[0].flatten(1).T
    if re.search(r"temporal_pos$|rel_pos_[htw]$", name):
        return F.interpolate(tensor.T[None], len(like), mode="linear", align_corners=False)[0].T
    return tensor
