"""The formulas of the golden numbers' inputs and weights, and the comparison with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}


def noise(count: int, rank: int) -> Tensor:
    """Values between -1 and 1."""
    index = torch.arange(count, dtype=torch.float64)
    values = torch.sin(index * 12.9898 + rank * 78.233) * 43758.5453
    return 2 * (values - torch.floor(values)) - 1


def volume(rank: int, *shape: int) -> Tensor:
    """An input of a shape."""
    return noise(torch.Size(shape).numel(), rank).reshape(shape).float()


def filled(shapes: Mapping[str, Sequence[int]], kept: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A state dict by the reference's formula; `kept` are the tensors that are no floating point numbers."""
    state = {}
    for rank, name in enumerate(sorted(shapes)):
        if (kept and name in kept) or name.endswith("num_batches_tracked"):
            state[name] = kept[name] if kept and name in kept else torch.tensor(0)
            continue
        shape = torch.Size(shapes[name])
        values = noise(shape.numel(), rank)
        if len(shape) > 1:
            values *= (3 / torch.Size(shape[1:]).numel()) ** 0.5
        else:
            values = 0.1 * values + (0 if name.endswith(("bias", "running_mean")) else 1)
        state[name] = values.reshape(shape).float()
    return state


def fill(module: nn.Module) -> Any:
    """Give a module the weights of the formula under its own names; returns it in evaluation mode."""
    state = module.state_dict()
    kept = {name: tensor for name, tensor in state.items() if not tensor.is_floating_point()}
    module.load_state_dict(filled({name: tuple(t.shape) for name, t in state.items()}, kept))
    return module.eval()


def check(got: Tensor, golden: Mapping[str, Any]) -> None:
    """Raise where a tensor is not of the shape, or has not the values and statistics of the golden one."""
    assert list(got.shape) == golden["shape"]
    values = got.detach().float().flatten()
    torch.testing.assert_close(values[golden["at"]], torch.tensor(golden["values"]), **TOLERANCE)
    statistics = torch.stack([values.mean(), values.std(correction=0), values.abs().max()])
    expected = torch.tensor([golden[key] for key in ("mean", "std", "abs_max")])
    torch.testing.assert_close(statistics, expected, **TOLERANCE)


@pytest.fixture(scope="session")
def golden() -> SimpleNamespace:
    """The functions of this file."""
    return SimpleNamespace(noise=noise, volume=volume, filled=filled, fill=fill, check=check)
