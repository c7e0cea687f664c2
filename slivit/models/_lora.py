"""Low-rank adapters: a frozen backbone learns by small matrices beside its own (LoRA).

Hu et al. 2021 (arXiv:2106.09685). A module of our own and not `peft`'s: several of timm's networks (Eva, Swin V2, BEiT)
take `layer.weight` themselves instead of calling the layer, where a wrapper round the layer would be passed by in
silence. Here the layer stays where and what it is, and its weight is what it computes with.
Origin: written for this project from the paper. Licence: Apache-2.0.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.settings import Section

Where = Literal["attention", "mlp", "patch"]
PARTS: Mapping[Where, str] = {
    "attention": r"(^|\.)(attn|attention|self_attn|self_attention)(\.|$)",
    "mlp": r"(^|\.)(mlp|ffn|feed_forward)(\.|$)",
    "patch": r"(^|\.)patch_embed(ding|dings)?(\.|$)",
}
NAMES = ("lora_a", "lora_b")


class Lora(Section):
    """Low-rank adapters of a frozen backbone.

    Args:
        rank: of each adapter.
        alpha: an adapter counts alpha / rank times.
        where: which layers have one: "attention" (queries, keys, values and what follows them), "mlp", "patch" (the
            embedding of patches).

    Source: Hu et al. 2021, section 4.1.
    """

    rank: int = Field(default=8, ge=1, le=1024)
    alpha: float = Field(default=16.0, gt=0)
    where: tuple[Where, ...] = Field(default=("attention", "patch"), min_length=1)


class AdaptedLinear(nn.Linear):
    """A linear layer, frozen, beside the product of two small matrices."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    lora_scale: float

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(out, in): what the layer computes with, for networks that take it themselves."""
        return self.frozen + self.lora_scale * (self.lora_b @ self.lora_a)

    @property
    def frozen(self) -> Tensor:
        """(out, in), as it was published."""
        return cast(Tensor, self._parameters["weight"])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.frozen, self.bias) + self.lora_scale * F.linear(F.linear(x, self.lora_a), self.lora_b)


class _AdaptedConv(nn.Module):
    """A convolution, frozen, beside one of the same kernel to `rank` channels and one of 1 x 1 from there."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    lora_scale: float

    @property
    def weight(self) -> Tensor:
        """What the layer computes with."""
        change = torch.einsum("kr,r...->k...", self.lora_b, self.lora_a)
        return cast(Tensor, self._parameters["weight"]) + self.lora_scale * change


class AdaptedConv2d(_AdaptedConv, nn.Conv2d):  # type: ignore[override]
    """See `_AdaptedConv`; torch's own forward takes `weight`."""


class AdaptedConv3d(_AdaptedConv, nn.Conv3d):  # type: ignore[override]
    """See `_AdaptedConv`."""


ADAPTED: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Linear: AdaptedLinear,
    nn.Conv2d: AdaptedConv2d,
    nn.Conv3d: AdaptedConv3d,
}


def adapt_backbone(model: nn.Module, lora: Lora, start: str = "") -> None:
    """Freeze a model's backbone, and give its layers adapters, which change nothing until they are trained.

    Args:
        model: with a `.backbone`, its weights loaded; it keeps `lora` and `start` as `.low_rank`.
        lora: rank, scale and layers.
        start: what the backbone's weights are, as a recipe names them.

    Raises:
        ModelError: a backbone without such layers.
    """
    backbone = model.get_submodule("backbone")
    layers = {part: list(_layers(backbone, pattern)) for part, pattern in PARTS.items()}
    if idle := [part for part in lora.where if not layers[part]]:
        there = [part for part, matched in layers.items() if matched]
        raise ModelError(
            f"{type(backbone).__name__} has no layers that are its {' or '.join(idle)}; fit.lora.where may be "
            f"{' or '.join(there) or 'nothing here: its layers cannot be adapted'}"
        )
    backbone.requires_grad_(False)
    for layer in dict.fromkeys(layer for part in lora.where for layer in layers[part]):
        _adapt(layer, lora)
    model.low_rank = (lora, start)  # type: ignore[assignment]


def _layers(backbone: nn.Module, pattern: str) -> Iterator[nn.Module]:
    """The linear and convolutional layers under a name."""
    for name, layer in backbone.named_modules():
        if type(layer) in ADAPTED and getattr(layer, "groups", 1) == 1 and re.search(pattern, name):
            yield layer


def _adapt(layer: nn.Module, lora: Lora) -> None:
    """Make a layer an adapted one, in place: names, hooks and whoever else holds it stay right."""
    weight = cast(Tensor, layer.weight)
    layer.__class__ = ADAPTED[type(layer)]
    first = weight.new_empty(lora.rank, *weight.shape[1:])
    layer.register_parameter("lora_a", nn.Parameter(nn.init.kaiming_uniform_(first, a=math.sqrt(5))))
    layer.register_parameter("lora_b", nn.Parameter(weight.new_zeros(weight.shape[0], lora.rank)))
    layer.lora_scale = lora.alpha / lora.rank  # type: ignore[assignment]


def merged(model: nn.Module) -> nn.Module:
    """The model itself, its adapters now part of its weights; one without adapters stays as it is."""
    plain = {adapted: layer for layer, adapted in ADAPTED.items()}
    for layer in model.modules():
        if type(layer) in plain:
            weight = nn.Parameter(cast(Tensor, layer.weight).detach().clone())
            for name in NAMES:
                delattr(layer, name)
            layer.__class__ = plain[type(layer)]
            layer.weight = weight
    if is_adapted(model):
        model.low_rank = None  # type: ignore[assignment]
    return model


def is_adapter(name: str) -> bool:
    """Whether a tensor of this name belongs to an adapter."""
    return name.rpartition(".")[2] in NAMES


def is_frozen(name: str) -> bool:
    """Whether a tensor of an adapted model belongs to its backbone as it was published."""
    return name.startswith("backbone.") and not is_adapter(name)


def is_adapted(model: nn.Module) -> bool:
    """Whether a model's backbone has adapters."""
    return getattr(model, "low_rank", None) is not None


def kept_state(model: nn.Module) -> dict[str, Tensor]:
    """What a file of a model's weights holds: all, or of an adapted model what is not its backbone's."""
    state: Mapping[str, Any] = model.state_dict()
    return {name: tensor for name, tensor in state.items() if not (is_adapted(model) and is_frozen(name))}


def backbone_digest(model: nn.Module) -> str:
    """The SHA-256 of the names, shapes and values of a backbone's own tensors, without adapters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.get_submodule("backbone").state_dict().items()):
        if is_adapter(name):
            continue
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{plain.dtype}\0{tuple(plain.shape)}\0".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def share_backbone(model: nn.Module, other: nn.Module) -> None:
    """Let an adapted model hold the very tensors of another's backbone, so that both take its memory once."""
    layers = dict(other.get_submodule("backbone").named_modules())
    for name, layer in model.get_submodule("backbone").named_modules():
        for kind in ("_parameters", "_buffers"):
            mine, theirs = getattr(layer, kind), getattr(layers[name], kind)
            mine.update({key: theirs[key] for key in mine if key not in NAMES})
