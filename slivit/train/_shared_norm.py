"""Batch norm over the batch of all processes, on any device; torch's own (SyncBatchNorm) is for GPUs alone.

Origin: written for this project after Ioffe and Szegedy 2015 (arXiv:1502.03167); variances of parts are put together as
in Chan et al. 1983. Licence: Apache-2.0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from slivit.errors import ModelError
from slivit.train.gather import gather_rows

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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
