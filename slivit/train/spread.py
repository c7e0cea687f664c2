"""One model trained by several processes: a copy in each, or a share of its weights.

Papers: Li et al. 2020 (arXiv:2006.15704, DistributedDataParallel), Zhao et al. 2023 (arXiv:2304.11277, FSDP).
Origin: written for this project; torch does the work. Licence: Apache-2.0.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from slivit.parallel import rank_and_size
from slivit.train._shared_norm import share_batch_norms


def spread(model: nn.Module, device: torch.device, shards: bool = False) -> nn.Module:
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
