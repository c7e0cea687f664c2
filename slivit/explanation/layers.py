"""Where each network has its last map of features over places, which Grad-CAM weighs.

Every layer is brought to (B, C, s, h, w): cells along slices, rows and columns. Of transformers whose head reads a
class token, it is what enters the last block, because what leaves it beside that token is read by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from slivit.explanation.attention import token_grid
from slivit.explanation.predicting import ExplainError
from slivit.models.registry import spec_of


@dataclass(frozen=True)
class MapLayer:
    """A layer whose output, or input, is a map over places.

    Args:
        module: the layer.
        cells: (what it gives or takes, the model's input) -> (B, C, s, h, w).
        entering: whether it is the layer's input.
    """

    module: nn.Module
    cells: Callable[[Tensor, Tensor], Tensor]
    entering: bool = False


def map_layers(model: nn.Module) -> list[MapLayer]:
    """The layers to weigh; SlowFast has two.

    Raises:
        ExplainError: a network in which none is known.
    """
    info: Any = getattr(model, "backbone_info", None)
    if hasattr(info, "stage"):
        return [_timm(model, info.stage)]
    layers_of = _LAYERS.get(type(model.backbone).__name__)
    if layers_of is None:
        raise ExplainError(
            f"{spec_of(model).name}: Grad-CAM is not defined: no map of features over places is known in its backbone"
        )
    return layers_of(model)


def _timm(model: Any, stage: int) -> MapLayer:
    module = model.backbone.get_submodule(dict(list(model.backbone.feature_info)[stage])["module"])
    tiled, slices = spec_of(model).input == "tiled", spec_of(model).size[0]

    def cells(features: Tensor, x: Tensor) -> Tensor:
        """(B, C, S*h, w), or (B*S, C, h, w) of a network that sees slice by slice."""
        if tiled:
            return features.unflatten(2, (slices, -1))
        return features.unflatten(0, (len(x), -1)).transpose(1, 2)

    return MapLayer(module, cells)


def _as_it_is(features: Tensor, x: Tensor) -> Tensor:
    return features


def _layer(name: str) -> Callable[[Any], list[MapLayer]]:
    """A layer of the backbone that gives (B, C, s, h, w) as it is."""
    return lambda model: [MapLayer(model.backbone.get_submodule(name), _as_it_is)]


def _slow_fast(model: Any) -> list[MapLayer]:
    return [MapLayer(pathway, _as_it_is) for pathway in model.backbone.blocks[-1].multipathway_blocks]


def _frames(model: Any) -> list[MapLayer]:
    """EchoNet's frames go through the network one by one."""
    return [MapLayer(model.backbone.stage3, lambda f, x: f.unflatten(0, (len(x), -1)).transpose(1, 2))]


def _swin(model: Any) -> list[MapLayer]:
    return [MapLayer(model.backbone.norm, lambda f, x: f.permute(0, 4, 1, 2, 3))]


def _mvit(model: Any) -> list[MapLayer]:
    slices = model.backbone.pos_encoding.temporal_size  # never pooled

    def cells(tokens: Tensor, x: Tensor) -> Tensor:
        side = round(((tokens.shape[1] - 1) / slices) ** 0.5)
        return tokens[:, 1:].mT.unflatten(2, (slices, side, side))

    return [MapLayer(model.backbone.blocks[-1], cells, True)]


def _unimiss(model: Any) -> list[MapLayer]:
    return [MapLayer(model.backbone, lambda f, x: f[:, 1:].mT.unflatten(2, model.backbone.grids[-1]))]


def _dino3d(model: Any) -> list[MapLayer]:
    from slivit.models._dino3d_vit import grid_of, patch_map

    def cells(tokens: Tensor, x: Tensor) -> Tensor:
        return patch_map(tokens[:, 1:], grid_of(x)).unflatten(0, (len(x), -1)).flatten(1, 2)

    return [MapLayer(model.backbone.blocks[-1], cells, True)]


def _factorised(model: Any) -> list[MapLayer]:
    def cells(tokens: Tensor, x: Tensor) -> Tensor:
        """(B * s, 1 + h * w, C) -> (B, C, s, h, w)."""
        side = round((tokens.shape[1] - 1) ** 0.5)
        return tokens[:, 1:].unflatten(1, (side, side)).unflatten(0, (len(x), -1)).permute(0, 4, 1, 2, 3)

    return [MapLayer(model.backbone.spatial.blocks[-1], cells, True)]


def _slice_tokens(model: Any) -> list[MapLayer]:
    """A ViT over each slice by itself."""
    prefix = model.backbone.num_prefix_tokens

    def cells(tokens: Tensor, x: Tensor) -> Tensor:
        """(B * S, prefix + h * w, C) -> (B, C, S, h, w)."""
        side = round((tokens.shape[1] - prefix) ** 0.5)
        return tokens[:, prefix:].unflatten(1, (side, side)).unflatten(0, (len(x), -1)).permute(0, 4, 1, 2, 3)

    return [MapLayer(model.backbone.blocks[-1], cells, True)]


def _slice_maps(model: Any) -> list[MapLayer]:
    """A Swin over each slice by itself: (B * S, h, w, C)."""
    return [MapLayer(model.backbone.norm, lambda f, x: f.unflatten(0, (len(x), -1)).permute(0, 4, 1, 2, 3))]


def _video_tokens(model: Any) -> list[MapLayer]:
    network = model.backbone.get_submodule(model.backbone.prefix)
    # transformers 5 has the layers of ViViT in the network itself.
    layers = network.layers if hasattr(network, "layers") else network.encoder.layer

    def cells(tokens: Tensor, x: Tensor) -> Tensor:
        grid = token_grid(model, x)
        own = tokens if tokens.shape[1] == grid[0] * grid[1] * grid[2] else tokens[:, 1:]
        if model.backbone.prefix == "timesformer":  # its slice varies fastest
            return own.mT.unflatten(2, (*grid[1:], grid[0])).permute(0, 1, 4, 2, 3)
        return own.mT.unflatten(2, grid)

    return [MapLayer(layers[-1], cells, True)]


def _ensemble(model: Any) -> list[MapLayer]:
    """The layers of all networks in it; models of tables have none."""
    networks = [network for member in model.backbone for network in getattr(member, "networks", ())]
    if not networks:
        raise ExplainError("ensemble: Grad-CAM is not defined: it holds no network, and models of tables have no map")
    return [layer for network in networks for layer in map_layers(network)]


_LAYERS: Mapping[str, Callable[[Any], list[MapLayer]]] = MappingProxyType(
    {
        "ModuleList": _ensemble,
        "ShortenedResNet": _layer("layer4"),
        "S3D": _layer("features"),
        "MViT": _mvit,
        "SwinTransformer3d": _swin,
        "VideoResNet": _layer("blocks.4"),
        "SlowFast": _slow_fast,
        "PENetBackbone": lambda model: [MapLayer(model.backbone.encoders[-1], _as_it_is)],
        "ResNet3d": _layer("layer4"),
        "InceptionResNet": _frames,
        "MiT": _unimiss,
        "VisionTransformer3d": _dino3d,
        "FactorisedEncoder": _factorised,
        "VisionTransformer": _slice_tokens,
        "SwinTransformer": _slice_maps,
        "TokenBackbone": _video_tokens,
    }
)
