"""Covariates before the head of a network: whatever its family, its head's first linear layer reads them, too.

A linear layer of features and covariates is the sum of one of each, so that is how the second is put beside the first;
it starts at 0, as a network does that knows nothing of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from slivit.errors import ModelError
from slivit.targets.covariates import Covariate, rebased


class Joined(nn.Module):
    """A linear layer of pooled features and covariates.

    Args:
        linear: of the features, (..., d) -> (..., o).
        count: k, of the covariates.
    """

    def __init__(self, linear: nn.Linear, count: int) -> None:
        super().__init__()
        self.linear = linear
        self.covariates = nn.Linear(count, linear.out_features, bias=False, device=linear.weight.device)
        nn.init.zeros_(self.covariates.weight)
        self.given: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """(B, ..., d) features and the (B, k) covariates that the network was given -> (B, ..., o)."""
        if self.given is None:
            count = self.covariates.in_features
            raise ModelError(f"the model reads {count} covariates beside the slices: call it as model(x, covariates)")
        own = self.covariates(self.given.to(features.dtype))
        return cast(Tensor, self.linear(features) + own.view(own.shape[0], *[1] * (features.ndim - 2), -1))


def join_covariates(model: nn.Module, count: int) -> None:
    """Have a network take (B, k) covariates as a second input, which its head reads beside the pooled features.

    Args:
        model: with a `.head` of linear layers.
        count: k.

    Raises:
        ModelError: a head without one.
    """
    head = model.get_submodule("head")
    layer = next(((name, part) for name, part in head.named_modules() if isinstance(part, nn.Linear)), None)
    if layer is None:
        raise ModelError(f"{type(model).__name__} has no linear layer in its head, before which covariates are read")
    path = f"head.{layer[0]}".rstrip(".")
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, Joined(layer[1], count))
    # Hooks rather than a wrapper: the names of the weights, `.backbone` and `.head` stay where they are looked for.
    model.register_forward_pre_hook(_take)
    model.register_forward_hook(_forget, always_call=True)


def joined(model: nn.Module) -> Joined | None:
    """The layer of a network's head that reads covariates, if there is one."""
    return next((part for part in model.get_submodule("head").modules() if isinstance(part, Joined)), None)


def rebased_state(model: nn.Module, own: Sequence[Covariate], common: Sequence[Covariate]) -> dict[str, Tensor]:
    """The weights of a network that read covariates in one way, for covariates that are encoded in another.

    Args:
        model: that was trained on `own`.
        own: the covariates as its training rows had them.
        common: as the new network is given them.
    """
    state = model.state_dict()
    name = next(name for name, part in model.named_modules() if isinstance(part, Joined))
    linear, covariates = f"{name}.linear.bias", f"{name}.covariates.weight"
    if linear not in state:
        raise ModelError(f"{type(model).__name__}: the layer before which covariates are read has no bias to average")
    weights, shift = (torch.tensor(part, dtype=torch.float64) for part in rebased(own, common))
    old = state[covariates].double()
    state[linear] = (state[linear].double() + old @ shift).to(state[linear].dtype)
    state[covariates] = (old @ weights).to(state[covariates].dtype)
    return state


def _take(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    if part := joined(model):
        part.given = inputs[1] if len(inputs) > 1 else None
    return inputs[:1]


def _forget(model: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    if part := joined(model):
        part.given = None


@contextmanager
def held(model: nn.Module, covariates: Tensor) -> Iterator[None]:
    """Give a network covariates wherever it is called without them.

    Args:
        model: that takes covariates.
        covariates: (B, k), or (1, k) for batches of whatever size.
    """

    def give(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return inputs if len(inputs) > 1 else (*inputs, covariates.expand(inputs[0].shape[0], -1))

    hook = model.register_forward_pre_hook(give, prepend=True)
    try:
        yield
    finally:
        hook.remove()
