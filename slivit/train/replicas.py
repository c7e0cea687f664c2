"""One model trained by several processes: a copy in each, or a share of its weights.

Papers: Li et al. 2020 (arXiv:2006.15704, DistributedDataParallel), Zhao et al. 2023 (arXiv:2304.11277, FSDP).
Origin: written for this project; torch does the work. Licence: Apache-2.0.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from slivit.errors import ModelError
from slivit.parallel import rank_and_size

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def replicated(model: nn.Module, device: torch.device, shards: bool = False) -> nn.Module:
    """Make a model train over all processes of the group; in a single process it comes back as it is.

    Args:
        model: moved to `device`.
        device: of this process.
        shards: False keeps a whole copy in every process (DistributedDataParallel). True gives each a share of the
            weights, gradients and optimiser's state, and gathers a block's weights while it is at work (FSDP2); the
            model is changed in place then, and its optimiser must be made afterwards.
    """
    if rank_and_size()[1] == 1:
        return model
    model = _with_shared_norms(model.to(device), device)
    if shards:
        return _sharded(model, device)
    devices = [device] if device.type == "cuda" else None
    # Buffers are equal in all processes by themselves: batch norms share their statistics, centres their sums.
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def _sharded(model: nn.Module, device: torch.device) -> nn.Module:
    mesh = init_device_mesh(device.type, (rank_and_size()[1],))
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    for block in (child for blocks in lists for child in blocks):
        if any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh)
    # The outputs are parts of larger tensors, and nothing changes them in place, of which torch warns.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    return model


def _with_shared_norms(model: nn.Module, device: torch.device) -> nn.Module:
    if device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm

        return convert_sync_batchnorm(model)
    return share_batch_norms(model)


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


def share_batch_norms(model: nn.Module) -> nn.Module:
    """Let every batch norm of a model take its statistics over all processes; parameters and names stay.

    Raises:
        ModelError: a batch norm with more in it, which only torch's own for GPUs takes.
    """
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        if type(module) not in PLAIN:
            raise ModelError(f"{name}: {type(module).__name__} runs in several processes on GPUs alone")
        module.forward = _forward(module)  # type: ignore[method-assign]
    return model


def _forward(norm: Any) -> Any:
    def forward(x: Tensor) -> Tensor:
        if not norm.training:
            return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
        return _normalised(norm, x)

    return forward


def _normalised(norm: Any, x: Tensor) -> Tensor:
    axes = [axis for axis in range(x.ndim) if axis != 1]
    mean, variance, count = global_statistics(x.float(), axes)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
        norm.running_mean.lerp_(mean.detach(), share)
        norm.running_var.lerp_(variance.detach() * count / max(count - 1, 1), share)
    shape = [1, -1, *[1] * (x.ndim - 2)]
    scale = (variance + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
    shift = (0 if norm.bias is None else norm.bias) - mean * scale
    return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)


def global_statistics(x: Tensor, axes: list[int]) -> tuple[Tensor, Tensor, int]:
    """Mean and variance (C,) over `axes` and all processes, with gradients, and over how many values they are.

    Args:
        x: (N, C, ...), as many rows in every process.
        axes: all but the channels'.
    """
    variance, mean = torch.var_mean(x, axes, correction=0)
    parts = gather_rows(torch.stack([mean, variance])[None])
    count = x.numel() // x.shape[1] * len(parts)
    means, variances = parts[:, 0], parts[:, 1]
    overall = means.mean(0)
    return overall, variances.mean(0) + (means - overall).square().mean(0), count
