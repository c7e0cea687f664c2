"""Attention rollout: how much of what the head reads came from each slice, by the attention of all layers together.

Source: Abnar and Zuidema 2020 (arXiv:2005.00928), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from slivit.explanation.predicting import ExplainError
from slivit.models.registry import spec_of


class WatchAttention(TorchFunctionMode):
    """Keep the attention probabilities of every scaled dot product that is computed within the block.

    Models need not know of it, as all of them, and those of other libraries, call the one function of torch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            self.maps.append(_probabilities(*args, **options))
        return func(*args, **options)


def _probabilities(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **options: Any,
) -> Tensor:
    """(B, heads, N, N) probabilities; arguments as torch's function has them."""
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(dim=-1)


def rollout(maps: Sequence[Tensor]) -> Tensor:
    """Attention through all layers, with the residual connections.

    Args:
        maps: (B, heads, N, N) of each layer, the first one first; rows sum to 1.

    Returns:
        (B, N, N): how much of each token behind the last layer came from each token before the first. Rows sum to 1.

    Source: Abnar and Zuidema 2020, equation 1: heads are averaged, and half of each token stays where it is.
    """
    own = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype, device=maps[0].device)
    through = own.expand(len(maps[0]), -1, -1)
    for layer in maps:
        through = (0.5 * layer.mean(1) + 0.5 * own) @ through
    return through


def attention_cells(model: nn.Module, x: Tensor) -> Tensor:
    """How much each cell of the token grid counts for what the head reads.

    Args:
        model: in evaluation mode.
        x: one scan as the model takes it, (1, ...).

    Returns:
        (s, h, w) of a model whose tokens are parts of slices; (s, 1, 1) where they are slices. Not negative; the sum is
        at most 1 (the rest is the class token's own part).

    Raises:
        ExplainError: rollout is not defined for this model; the message says why.
    """
    backbone = type(model.backbone).__name__
    family = _FAMILIES.get(type(model).__name__) or _FAMILIES.get(backbone)
    if family is None:
        why = _UNDEFINED.get(backbone, "it has no attention")
        raise ExplainError(f"{spec_of(model).name}: attention rollout is not defined: {why}")
    return family(model, x)


def _watched(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.inference_mode(), WatchAttention() as watch:
        model(x)
    if not watch.maps:
        name = spec_of(model).name
        raise ExplainError(f"{name}: attention rollout is not defined: its attention is not torch's own, and not seen")
    return watch.maps


def _slivit(model: Any, x: Tensor) -> Tensor:
    if model.token_layout != "per_slice":
        raise ExplainError(
            f'slivit: attention rollout is not defined: with token_layout="{model.token_layout}" a token is a block of '
            "channels over all slices, and belongs to none of them"
        )
    return rollout(_watched(model, x))[0, 0, 1:, None, None]


def _position_encoded(model: Any, x: Tensor) -> Tensor:
    if model.attention is None:
        raise ExplainError(
            f'{model.name}: attention rollout is not defined: it pools slices by "{model.pool}", without attention'
        )
    with torch.inference_mode():
        return model.attention_maps(x).mean(1)[0, :, None, None]


def _dino3d(model: Any, x: Tensor) -> Tensor:
    from slivit.models._dino3d_vit import grid_of, patch_map

    through = rollout(_watched(model, x))  # a row for each channel
    read = through[:, :1]
    if model.average_patches:
        read = torch.cat([read, through[:, 1:].mean(1, keepdim=True)], dim=1)
    return patch_map(read.mean(1)[:, 1:, None], grid_of(x)).mean((0, 1))


def _factorised(model: Any, x: Tensor) -> Tensor:
    """Within each layer of tubelets first, then along the layers."""
    backbone, maps = model.backbone, _watched(model, x)
    depth = len(backbone.spatial.blocks)
    within, along = rollout(maps[:depth])[:, 0, 1:], rollout(maps[depth:])[0, 0, 1:]
    side = round(within.shape[1] ** 0.5)
    return (within * along[:, None]).unflatten(1, (side, side))


def _video_tokens(model: Any, x: Tensor) -> Tensor:
    if model.backbone.prefix == "timesformer":
        why = "its attention along the slices and within them are apart, so that no layer joins all tokens"
        raise ExplainError(f"timesformer: attention rollout is not defined: {why}")
    through = rollout(_watched(model, x))[0]
    # VideoMAE has no class token: its head reads the mean of all tokens.
    read = through.mean(0) if model.backbone.fc_norm is not None else through[0, 1:]
    return read.unflatten(0, token_grid(model, x))


def token_grid(model: Any, x: Tensor) -> tuple[int, int, int]:
    """Tokens along slices, rows and columns of one of transformers' video networks."""
    config = model.backbone.get_submodule(model.backbone.prefix).config
    tubelet = getattr(config, "tubelet_size", 1)
    cell = (tubelet, config.patch_size, config.patch_size) if isinstance(tubelet, int) else tubelet
    slices, rows, columns = (size // side for size, side in zip(x.shape[2:], cell, strict=True))
    return slices, rows, columns


_FAMILIES: Mapping[str, Callable[[Any, Tensor], Tensor]] = MappingProxyType(
    {
        "SLIViT": _slivit,
        "PositionEncodedSlices": _position_encoded,
        "Dino3d": _dino3d,
        "FactorisedEncoder": _factorised,
        "TokenBackbone": _video_tokens,
    }
)

_POOLED = "its layers pool their tokens, so that one layer's are not the next one's"
_WITHIN = "it attends within each slice alone; attention_maps(x) of the model tells how its integrator weighs them"
_UNDEFINED: Mapping[str, str] = MappingProxyType(
    {
        "VisionTransformer": _WITHIN,
        "SwinTransformer": _WITHIN,
        "MViT": _POOLED,
        "MiT": _POOLED,
        "SwinTransformer3d": "it attends within shifted windows, and merges tokens between its stages",
    }
)
