"""Convolutional backbones from timm, cut off after the stage whose feature map is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from slivit.errors import CheckpointError, ModelError, nearest
from slivit.models._weights import WeightRules, Weights, first_layers, load_by_rules

_UNRUN = ContextVar("unrun", default=False)


@dataclass(frozen=True, kw_only=True)
class BackboneInfo(WeightRules):
    """What is known of a backbone beside its parameters, which keep timm's own names.

    Args:
        stride: pixels of the image to one cell of the feature map.
        stage: timm's index of the stage that gives the feature map.
        channels: C of the feature map.
    """

    stride: int
    stage: int
    channels: int


def build_backbone(
    name: str,
    *,
    stride: int,
    image_size: int,
    pretrained: bool | Weights = False,
    args: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, BackboneInfo]:
    """Create a timm network that ends with the stage of the given stride.

    Args:
        name: a timm architecture; `arch.tag` names its weights too.
        stride: of the feature map, 32 as a rule; the image size must be a multiple of it.
        image_size: P of the P x P slices, in pixels.
        pretrained: True downloads timm's weights; a path loads a file or folder; False leaves random weights.
        args: further arguments of the timm network.

    Raises:
        ModelError: no such network or stage, or one that does not take tiled slices of this size.
        CheckpointError: weights that cannot be had, or that do not fit.
    """
    network = create_timm(name, args or {}, pretrained=pretrained is True)
    if not hasattr(network, "forward_intermediates"):
        raise ModelError(f"backbone {name} gives no feature maps (timm: forward_intermediates); choose another network")
    stages = [dict(stage) for stage in network.feature_info]
    strides = [int(stage["reduction"]) for stage in stages]
    if stride not in strides:
        raise ModelError(f"backbone {name} has feature maps of stride {_listed(strides)}; got stride={stride}")
    if image_size % stride:
        raise ModelError(f"image_size must be a multiple of the backbone's stride {stride}, got {image_size}")
    stage = len(strides) - 1 - strides[::-1].index(stride)
    whole = set(network.state_dict())
    network.prune_intermediate_layers([stage], prune_norm=True, prune_head=True)
    listed = int(stages[stage]["num_chs"])
    channels = listed if _UNRUN.get() else _measure(network, name, stage, stride, image_size)
    info = BackboneInfo(
        architecture=name,
        cut=frozenset(whole - set(network.state_dict())),
        first=first_layers(network),
        stride=stride,
        stage=stage,
        channels=channels,
    )
    if pretrained and pretrained is not True:
        load_by_rules(network, pretrained, info)
    return network, info


@contextmanager
def unrun() -> Iterator[None]:
    """Have backbones built without being run: with the channels that timm lists, and all layers that are not cut."""
    token = _UNRUN.set(True)
    try:
        yield
    finally:
        _UNRUN.reset(token)


def feature_map(network: nn.Module, stage: int, images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, C, H / stride, W / stride), before any last norm."""
    run = cast(Any, network).forward_intermediates
    return run(images, indices=[stage], norm=False, stop_early=True, intermediates_only=True)[0]


def create_timm(name: str, args: Mapping[str, Any], *, pretrained: bool, listed: str = "", **fixed: Any) -> Any:
    """Create a network of timm.

    Args:
        name: an architecture; `arch.tag` names its weights too.
        args: arguments of the user.
        pretrained: download timm's weights.
        listed: a pattern of the names among which the nearest is looked for; all where empty.
        **fixed: arguments that are not the user's.

    Raises:
        ModelError: no such network, or arguments that it does not take.
        CheckpointError: timm's weights cannot be had.
    """
    from timm.models._factory import create_model
    from timm.models._registry import is_model, split_model_name_tag

    _import_family(split_model_name_tag(name)[0])
    if not is_model(name):
        known = timm_names(listed)
        if not is_model(name):
            raise ModelError(
                f'backbone "{name}" is not a timm network.{nearest(name, known)} timm.list_models() lists them.'
            )
    try:
        return create_model(name, pretrained=pretrained, **fixed, **args)
    except (TypeError, AssertionError, ValueError) as error:
        raise ModelError(f"backbone {name} does not take these arguments: {error}; got {fixed | dict(args)}") from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        way_out = "Give pretrained=False, or the path of a weight file that is already here."
        raise CheckpointError(f"timm's weights of {name} cannot be had: {error}. {way_out}") from error


@lru_cache
def _import_family(architecture: str) -> None:
    """Import the one module of timm that defines a network, where it is known, and not the hundred others."""
    spec = find_spec("timm.models")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in Path(folder).glob("[!_]*.py"):
            if f"\ndef {architecture}(".encode() in file.read_bytes():
                import_module(f"timm.models.{file.stem}")


def timm_names(pattern: str = "") -> list[str]:
    """The names of all networks of timm, or of those that match; this imports all of it."""
    import timm

    return timm.list_models(pattern)


def _measure(network: nn.Module, name: str, stage: int, stride: int, image_size: int) -> int:
    """Run two blank tiled slices: check the map's shape, drop layers that are never reached, return its channels."""
    reached: set[nn.Module] = set()
    hooks = [m.register_forward_hook(lambda module, *_: reached.add(module)) for m in network.modules()]
    training = network.training
    try:
        with torch.no_grad():
            features = feature_map(network.eval(), stage, torch.zeros(1, 3, 2 * image_size, image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"backbone {name} does not take slices tiled to {2 * image_size} x {image_size} pixels ({error}); "
            "it must be a convolutional network"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        network.train(training)
    side = image_size // stride
    if features.ndim != 4 or features.shape[2:] != (2 * side, side):
        raise ModelError(f"backbone {name} gives a map {tuple(features.shape)}, not (1, C, {2 * side}, {side})")
    _drop_unreached(network, reached)
    return features.shape[1]


def _drop_unreached(module: nn.Module, reached: set[nn.Module]) -> None:
    """Replace layers with parameters that the feature map does not need, so that every parameter can learn."""
    for name, child in list(module.named_children()):
        used = any(part in reached for part in child.modules())
        if used or not list(child.parameters()):
            _drop_unreached(child, reached)
        else:
            setattr(module, name, nn.Identity())


def _listed(strides: list[int]) -> str:
    return ", ".join(str(s) for s in sorted(set(strides)))
