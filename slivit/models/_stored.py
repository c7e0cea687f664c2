"""Weights as they are stored: all in their own precision, or the large ones in bfloat16."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from slivit.errors import CheckpointError, one_of

BF16 = "bfloat16"


def is_large(tensor: Tensor) -> bool:
    """Whether bfloat16 is for it: matrices and kernels. Biases, norms and running statistics are small, and stay."""
    return tensor.is_floating_point() and tensor.ndim >= 2


def narrowed(tensor: Tensor) -> Tensor:
    """The tensor in bfloat16, where it is large and in float32."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.to(torch.bfloat16) if is_large(tensor) and tensor.dtype == torch.float32 else tensor


def check_stored(weights: Mapping[str, Tensor], kind: str | None, where: str) -> None:
    """Refuse weights in another precision than was written down: somebody, or something, changed them.

    Args:
        weights: as they were read.
        kind: "bfloat16", or None for weights that nobody made narrower.
        where: the file, for messages.

    Raises:
        CheckpointError: a precision that was not written down, or one that is not known.
    """
    if kind not in (None, BF16):
        raise CheckpointError(f'{where}: weights in "{kind}"; this version of slivit reads float32 and {BF16}')
    half = (torch.bfloat16, torch.float16)
    if kind == BF16:
        wrong = [n for n, w in weights.items() if w.is_floating_point() and (w.dtype in half) != is_large(w)]
    else:
        wrong = [name for name, w in weights.items() if w.dtype in half]
    if wrong:
        raise CheckpointError(f"{where}: of another precision than {kind or 'float32'}: {one_of(wrong, limit=5)}")
