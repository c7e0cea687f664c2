"""What a frozen network makes of a scan, as vectors that a probe can read: one way in for every registered model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from slivit.errors import ModelError
from slivit.models._covariates import held, joined

POOLED = "pooled"


def features(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The features of a batch, in named parts that `feature_sets` combines.

    A family with layers of its own offers them: `layer_features(x)`, and `feature_sets()` beside it. The others give
    one part, "pooled": what `pooled_features(x)` makes of the backbone's features, else `forward_features(x)`, else
    what enters the head, each averaged over what it has behind its channels.

    Args:
        model: from `create_model`, in evaluation mode.
        x: a batch as the model takes it.

    Returns:
        (B, d) float32 by name of the part, in the same order for every batch.

    Raises:
        ModelError: a model that offers none of these, or a batch that it does not take.
    """
    if offered := _method(model, "layer_features"):
        parts = offered(x)
    else:
        pooled = _method(model, "pooled_features") or _method(model, "forward_features")
        parts = {POOLED: pooled(x) if pooled else head_input(model, x)}
    return {name: _vectors(part).float() for name, part in parts.items()}


def feature_sets(model: nn.Module, parts: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """By name, the parts that a head reads one behind the other.

    Args:
        model: from `create_model`.
        parts: what `features` gave; each by itself is a set where the model's family names none.
    """
    offered = _method(model, "feature_sets")
    return offered() if offered else {name: (name,) for name in parts}


def _method(model: nn.Module, name: str) -> Callable[..., Any] | None:
    return getattr(model, name, None)


def _vectors(part: Tensor) -> Tensor:
    """(B, d), or a map (B, d, ...) whose cells are averaged -> (B, d)."""
    return part.flatten(2).mean(2) if part.ndim > 2 else part


def head_input(model: nn.Module, x: Tensor) -> Tensor:
    """What a model's `.head` takes."""
    head = _method(model, "head")
    if not isinstance(head, nn.Module):
        raise ModelError(
            f"{type(model).__name__} offers no features: it has neither layer_features, pooled_features nor "
            "forward_features, and no module .head"
        )
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    layer = joined(model)
    try:
        # Covariates join behind what is looked at here, so they may be any.
        with held(model, x.new_zeros(1, layer.covariates.in_features)) if layer else nullcontext():
            model(x)
    finally:
        hook.remove()
    return seen[0]
