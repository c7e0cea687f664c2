"""Weights as they are stored: what a file's header says of them, before any memory is taken for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from slivit.errors import CheckpointError, gather, one_of
from slivit.models._backbones import unrun

BF16 = "bfloat16"
_NAMES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}  # fmt: skip
_PARTS = (2000, 20)  # allowed while a network is made: so many, and so many for each stored tensor
_MOST_FIXED = 2**30  # bytes of tables that a network computes for itself, and does not store


def is_large(tensor: Tensor) -> bool:
    """Whether bfloat16 is for it: matrices and kernels. Biases, norms and running statistics are small, and stay."""
    return tensor.is_floating_point() and tensor.ndim >= 2


def narrowed(tensor: Tensor) -> Tensor:
    """The tensor in bfloat16, where it is large and in float32."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.to(torch.bfloat16) if is_large(tensor) and tensor.dtype == torch.float32 else tensor


Header = Mapping[str, tuple[str, tuple[int, ...]]]
"""Of each stored tensor its type, such as "F32", and its shape."""


def read_header(path: Path) -> Header:
    """Read what a safetensors file holds, without its tensors.

    Raises:
        CheckpointError: not a whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error


def check_stored(
    path: Path, build: Callable[[], nn.Module], kind: str | None, what: str, stored: Callable[[str], bool] = bool
) -> None:
    """Compare the header of a file with the network it is for, of which no more than the shapes are made.

    Args:
        path: of the weights.
        build: makes the network; it runs on torch's meta device, and is stopped where it makes many more parts than
            the file could hold.
        kind: "bfloat16" where large weights are stored so; None for those that nobody made narrower.
        what: describes the network, for messages.
        stored: whether one of the network's tensors is stored, by its name; all are where absent.

    Raises:
        CheckpointError: a name, shape or type that is not the network's, or a network far larger than the file.
    """
    header = read_header(path)

    def problems() -> list[str]:
        with torch.device("meta"), _limited(_PARTS[0] + _PARTS[1] * len(header), path):
            model = build()
        return _misfits(header, model, path, kind, what, stored)

    try:
        with unrun():
            fits = not problems()
    except Exception:  # reported below, where torch is equipped for whatever a network does without memory
        fits = False
    if not fits:
        from torch import _decomp  # noqa: F401 (its import makes torch so)

        gather(problems(), f"{path} does not fit ({what})", CheckpointError, limit=15)


def _misfits(
    header: Header, model: nn.Module, path: Path, kind: str | None, what: str, stored: Callable[[str], bool]
) -> list[str]:
    """What is wrong with a file for a network, in words."""
    fixed = sum(b.nbytes for b in model.buffers())
    if fixed > _MOST_FIXED:
        raise CheckpointError(f"{path}: {what}, which needs {fixed / 1e9:.0f} GB of tables beside its weights")
    wanted = {name: tensor for name, tensor in model.state_dict().items() if stored(name)}
    lists = {"missing": wanted.keys() - header.keys(), "not in the model": header.keys() - wanted.keys()}
    problems = [f"{title}: {one_of(sorted(names), limit=12)}" for title, names in lists.items() if names]
    for name in sorted(wanted.keys() & header.keys()):
        problems += _differences(name, header[name], wanted[name], kind)
    return problems


def _differences(name: str, stored: tuple[str, tuple[int, ...]], wanted: Tensor, kind: str | None) -> list[str]:
    """What is wrong with one stored tensor, in words."""
    dtype, shape = stored
    needed = torch.bfloat16 if kind == BF16 and is_large(wanted) and wanted.dtype == torch.float32 else wanted.dtype
    problems = []
    if shape != tuple(wanted.shape):
        problems.append(f"{name} has shape {shape}, the model's has {tuple(wanted.shape)}")
    if _NAMES.get(dtype) != needed:
        problems.append(f"{name} is stored as {dtype}, it must be {str(needed).removeprefix('torch.')}")
    return problems


@contextmanager
def _limited(most: int, path: Path) -> Iterator[None]:
    """Stop a network that is made of more than so many parts: a file with few weights cannot be of one."""
    counted = count(1)

    def counts(*_: Any) -> None:
        if next(counted) > most:
            raise CheckpointError(f"{path}: holds far fewer weights than the model that its config describes")

    registered = (
        register_module_parameter_registration_hook(counts),
        register_module_module_registration_hook(counts),
        register_module_buffer_registration_hook(counts),
    )
    try:
        yield
    finally:
        for handle in registered:
            handle.remove()
