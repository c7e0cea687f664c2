"""Several processes that train one model: their group, their numbers, and state that is spread over them.

A launcher (`accelerate launch`, `torchrun`) starts the processes and tells each its number through the environment.
With a single process nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from slivit.errors import SlivitError

if TYPE_CHECKING:
    import torch
    from torch import nn

Item = TypeVar("Item")


def launched() -> int:
    """How many processes the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1") or 1)


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return int(os.environ.get("RANK", "0") or 0) == 0


def local_device(device: torch.device) -> torch.device:
    """This process's own GPU, where a GPU is meant; the device itself otherwise."""
    import torch

    if device.type != "cuda" or device.index is not None or launched() == 1:
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group of processes that the launcher started, while the block runs.

    Args:
        device: of this process; GPUs talk through NCCL, processors through gloo.
    """
    import torch
    from torch import distributed as dist

    if launched() == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # fastai gathers losses that lie on the CPU, so gloo is there beside NCCL.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank_and_size() -> tuple[int, int]:
    """This process's number and the number of processes of the group; (0, 1) without one."""
    from torch import distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def wait_for_all() -> None:
    """Go on when every process of the group has come here."""
    from torch import distributed as dist

    if rank_and_size()[1] > 1:
        dist.barrier()


def from_main(value: Any) -> Any:
    """The main process's `value`, in every process."""
    from torch import distributed as dist

    if rank_and_size()[1] == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def of_all(value: Any) -> list[Any]:
    """The values of all processes, in the order of their numbers, in every process."""
    from torch import distributed as dist

    size = rank_and_size()[1]
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values


def own_part(items: Sequence[Item], what: str = "validation scans") -> Sequence[Item]:
    """The items that this process looks at, where each is looked at exactly once.

    Args:
        items: all of them, the same in every process.
        what: they are, for messages.

    Raises:
        SlivitError: fewer than there are processes.
    """
    rank, size = rank_and_size()
    if len(items) < size > 1:
        raise SlivitError(f"{len(items)} {what} cannot be shared out among {size} processes; launch fewer")
    return items[rank::size]


def batch_of(batch_size: int, items: int) -> int:
    """The batch size of each process, lowered to what the training items allow where they are fewer."""
    return min(batch_size, max(1, items // rank_and_size()[1]))


def bare(model: nn.Module) -> nn.Module:
    """A model without the copies' wrapping (DistributedDataParallel)."""
    from torch.nn.parallel import DistributedDataParallel

    return model.module if isinstance(model, DistributedDataParallel) else model


def whole(value: Any) -> Any:
    """The full tensors behind those that are spread over processes, in dicts and lists too.

    Every process must call it, with the same structure.
    """
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {key: whole(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [whole(part) for part in value]
    return value


def shared_out(value: Any, like: Any) -> Any:
    """The other way round: tensors of a state spread as those of `like`, a parameter or a state dict."""
    from torch import Tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(like, Mapping):
        return {key: shared_out(part, like[key]) if key in like else part for key, part in value.items()}
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value
