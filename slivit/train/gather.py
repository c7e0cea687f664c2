"""Rows of all processes, for losses and statistics over the whole batch.

Origin: written for this project. Licence: Apache-2.0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from slivit.parallel import rank_and_size


def gather_rows(tensor: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks, with gradients; the tensor itself in a single one.

    Args:
        tensor: (B, ...), B the same in every process.
    """
    return tensor if rank_and_size()[1] == 1 else _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    """Gather forwards; backwards each process gets the sum of all gradients of its own rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(rank_and_size()[1])]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        rank, size = rank_and_size()
        return total.chunk(size)[rank]
