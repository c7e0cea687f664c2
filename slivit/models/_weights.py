"""Weights from elsewhere into a backbone: read without running code, renamed to its own names, loaded strictly."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import CheckpointError, gather, one_of
from slivit.models._lora import is_adapter
from slivit.models._starts import locate, starts

Weights = str | Path | Mapping[str, Any]
State = dict[str, Tensor]
Grid = tuple[int, int, int]
ChannelWeights = Literal["output", "copy"]

FILES_IN_FOLDER = ("checkpoint/model.safetensors", "model.safetensors", "pytorch_model.bin")

# What precedes the backbone's names in: a checkpoint of this project, a released slivit.pth, a released
# feature_extractor.pth, Hugging Face's classifiers. What stands beside such names is no part of the backbone.
BACKBONE_PREFIXES = ("backbone.", "feature_extractor.", "model.convnext.", "convnext.", "convnextv2.")
CLASSIFIER_PREFIXES = ("head.", "fc.", "classifier.")

# Hugging Face's names of a ConvNeXt (versions 1 and 2) and timm's; "0." and "1." are the released slivit.pth's.
CONVNEXT_NAMES = (
    (r"^0\.", "embeddings."),
    (r"^1\.", "encoder."),
    (r"^embeddings\.patch_embeddings\.", "stem.0."),
    (r"^embeddings\.layernorm\.", "stem.1."),
    (r"^encoder\.stages\.(\d+)\.downsampling_layer\.", r"stages.\1.downsample."),
    (r"^encoder\.stages\.(\d+)\.layers\.", r"stages.\1.blocks."),
    (r"^layernorm\.", "head.norm."),
    (r"^classifier\.", "head.fc."),
    (r"\.layer_scale_parameter$", ".gamma"),
    (r"\.dwconv\.", ".conv_dw."),
    (r"(blocks\.\d+)\.layernorm\.", r"\1.norm."),
    (r"(blocks\.\d+)\.pwconv([12])\.", r"\1.mlp.fc\2."),
    (r"(blocks\.\d+)\.grn\.", r"\1.mlp.grn."),
)

# How parameter names tell what network they are of; the first that is found counts.
ARCHITECTURES = (
    (r"relative_position_bias_table", "a Swin Transformer"),
    (r"\.grn\.", "a ConvNeXt V2"),
    (r"layer_scale_parameter|blocks\.\d+\.conv_dw\.", "a ConvNeXt"),
    (r"layer1\.0\.conv1|layers\.0\.layer\.0\.convolution", "a ResNet"),
    (r"conv_pw|conv_stem", "an EfficientNet or MobileNet"),
    (r"attn\.qkv|attention\.query|attention\.qkv|attention\.q_proj", "a vision transformer"),
)


@dataclass(frozen=True, kw_only=True)
class WeightRules:
    """How the published weights of a family become those of a backbone; a model keeps its own as `.backbone_info`.

    Args:
        architecture: the name for messages.
        cut: names that the whole network has and the backbone has not: classifier, last norm, later stages.
        drop: patterns of more such names (decoders, a path for other inputs), looked for after renaming.
        rename: (pattern, replacement) pairs from published names to the backbone's, for names that it does not know.
        first: names of the first convolutions' weights, which are changed between colour and grey input.
        channel_weights: how they are: "output" keeps the output for grey images (colour weights are summed, grey ones
            divided among the three channels); "copy" averages and copies, so that a weight keeps its size.
        adapt: changes renamed tensors so that they fit `wanted`, such as positions of another grid.
        parts: keys under which a checkpoint keeps the weights, beside the usual ones.
        prefixes: of the backbone's names in a checkpoint, looked for before the usual ones.
        hub: fetches what an identifier stands for that is no file here, or raises CheckpointError (see `_hub`).
        default: the identifier that `pretrained=True` stands for; empty where there is none.
    """

    architecture: str
    cut: frozenset[str] = frozenset()
    drop: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    first: tuple[str, ...] = ()
    channel_weights: ChannelWeights = "output"
    adapt: Callable[[State, State], State] | None = None
    parts: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    hub: Callable[[str], Mapping[str, Any]] | None = None
    default: str = ""

    def read(self, weights: Weights) -> tuple[str, State]:
        """As `read_weights`, and identifiers of the family's hub."""
        weights = _by_name(weights)
        if self.hub and isinstance(weights, str) and not Path(weights).exists():
            return f'"{weights}"', read_weights(self.hub(weights), self.parts)[1]
        return read_weights(weights, self.parts)

    def own_name(self, key: str, state: Collection[str], wanted: Collection[str]) -> str | None:
        """The backbone's name of an entry, or None where the entry is left out by design."""
        name = backbone_name(key, state, self.prefixes)
        if name is None or name in wanted:
            return name
        for pattern, replacement in self.rename:
            name = re.sub(pattern, replacement, name)
        known = name in wanted or not (
            name in self.cut or name.startswith(CLASSIFIER_PREFIXES) or any(re.search(p, name) for p in self.drop)
        )
        return name if known else None

    def fit(self, state: State, wanted: State) -> State:
        """Bring renamed tensors into the backbone's shapes, where that loses nothing or is asked for."""
        for name in self.first:
            if name in state:
                state[name] = _between_colours(state[name], wanted[name].shape[1], self.channel_weights)
        state = self.adapt(state, wanted) if self.adapt else state
        return {name: _fit(tensor, wanted.get(name)) for name, tensor in state.items()}


def load_backbone(model: nn.Module, weights: Weights) -> tuple[str, ...]:
    """Load weights into `model.backbone`, all of them or none.

    Taken are: a checkpoint of this project (a run folder, its `model.safetensors`, or a backbone alone), a state dict
    of timm, a ConvNeXt of Hugging Face (folder, file or state dict), the `feature_extractor.pth` and `slivit.pth`
    that the authors of SLIViT released, and what the model's family has published (docs/models.md), also by the
    identifier of its hub. What the backbone leaves out by design (classifier, last norm, stages after the one it
    uses, what stands beside a backbone) is dropped and returned; any other difference is an error.

    Args:
        model: a model with `.backbone`; its own `.load_rest(weights)` takes what else it starts from them.
        weights: a file, a folder, a state dict, an identifier such as "KINETICS400_V1", or the name of a published
            network such as "3dino" (`slivit list weights`).

    Returns:
        The names that were dropped, as they stand in `weights`.

    Raises:
        CheckpointError: a missing or unreadable file, or weights of another architecture; both are named, and the keys.

    Example:
        >>> model = slivit.create_model("slivit", 1, backbone="convnext_tiny")  # doctest: +SKIP
        >>> slivit.load_backbone(model, "feature_extractor.pth")  # doctest: +SKIP
    """
    rules = getattr(model, "backbone_info", None) or WeightRules(architecture=type(model.backbone).__name__)
    dropped = load_by_rules(model.backbone, weights, rules)
    if hasattr(model, "load_rest"):
        model.load_rest(weights)  # type: ignore[operator]
    return dropped


def load_by_rules(backbone: Any, weights: Weights, rules: WeightRules) -> tuple[str, ...]:
    """As `load_backbone`, for a backbone itself and the rules of its family."""
    where, state = rules.read(weights)
    if adapters := [key for key in state if is_adapter(key)]:
        raise CheckpointError(
            f"{where}: holds adapters ({one_of(adapters, limit=2)}) and no backbone; start from the backbone that they "
            "are for"
        )
    own = backbone.state_dict()
    wanted = {name: tensor for name, tensor in own.items() if not is_adapter(name)}
    kept: State = {}
    dropped: list[str] = []
    for key, tensor in state.items():
        name = rules.own_name(key, state, wanted)
        if name is None:
            dropped.append(key)
        else:
            kept[name] = tensor
    what = f"{describe(state)} was given; the model's backbone is {rules.architecture}"
    load_strictly(backbone, {n: t for n, t in own.items() if is_adapter(n)} | rules.fit(kept, wanted), where, what)
    return tuple(dropped)


def start_from(model: nn.Module, pretrained: bool | Weights) -> None:
    """Load the weights that a factory's argument `pretrained` names into the new model's backbone.

    Args:
        model: with `.backbone` and `.backbone_info`.
        pretrained: False leaves random weights, True stands for the family's own identifier; a file, a folder or
            another identifier is loaded as by `load_backbone`.

    Raises:
        CheckpointError: weights that cannot be had, or that do not fit.
    """
    if pretrained is False or pretrained == "":
        return
    if pretrained is True:
        rules: WeightRules = model.backbone_info  # type: ignore[assignment]
        if not rules.default:
            raise CheckpointError(f"{rules.architecture}: no weights are known by name; give pretrained a file")
        pretrained = rules.default
    load_backbone(model, pretrained)


def first_layers(network: nn.Module) -> tuple[str, ...]:
    """The names of the weights of the convolutions that take an image's three channels."""
    return tuple(
        f"{name}.weight"
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Conv3d) and layer.in_channels == 3 and layer.groups == 1
    )


def sum_first_layers(network: nn.Module) -> None:
    """Make a network take one grey channel, with the output that it gives for three copies of that channel."""
    for name in first_layers(network):
        layer: Any = network.get_submodule(name.removesuffix(".weight"))
        layer.weight = nn.Parameter(layer.weight.detach().sum(1, keepdim=True))
        layer.in_channels = 1


def backbone_name(key: str, state: Collection[str], prefixes: Collection[str] = ()) -> str | None:
    """The name that timm gives to an entry of a state dict, or None where the entry is no part of a backbone."""
    known = (*prefixes, *BACKBONE_PREFIXES)
    prefix = next((p for p in known if any(k.startswith(p) for k in state)), "")
    if not key.startswith(prefix):
        return None
    name = key.removeprefix(prefix)
    if prefix != "backbone." and is_hugging_face_convnext(state):
        for pattern, replacement in CONVNEXT_NAMES:
            name = re.sub(pattern, replacement, name)
    return name


def is_hugging_face_convnext(state: Collection[str]) -> bool:
    """Whether the names are those of Hugging Face's ConvNeXt."""
    return any("patch_embeddings" in key for key in state) and any(".dwconv." in key for key in state)


def _between_colours(weight: Tensor, channels: int, how: ChannelWeights) -> Tensor:
    """Weights (K, C, ...) of a first convolution for another number of channels: 3 to 1, or 1 to several.

    Grey in three channels gives what it gave in one, and so do several equal channels.
    """
    given = weight.shape[1]
    if given == channels or ((given, channels) != (3, 1) and given != 1):
        return weight
    summed = weight.sum(1, keepdim=True) / (given if how == "copy" else channels)
    return summed.expand(-1, channels, *weight.shape[2:]).clone()


def _fit(tensor: Tensor, like: Tensor | None) -> Tensor:
    """Reshape where the two shapes differ in axes of length 1 alone (a linear layer and a 1 x 1 convolution)."""
    if like is None or [n for n in tensor.shape if n != 1] != [n for n in like.shape if n != 1]:
        return tensor
    return tensor.reshape(like.shape)


def regrid(positions: Tensor, old: Grid, new: Grid, *, prefix: int = 1) -> Tensor:
    """Interpolate learned positions of a grid of tokens to another grid.

    Args:
        positions: (1, prefix + cells, dim).
        old: tokens along the three axes of their grid.
        new: tokens along the axes of the other.
        prefix: tokens that stand before those of the grid, whose positions are kept as they are.
    """
    cells = F.interpolate(positions[:, prefix:].float().mT.unflatten(2, old), new, mode="trilinear").flatten(2).mT
    return torch.cat([positions[:, :prefix], cells.to(positions.dtype)], dim=1)


def describe(state: Collection[str]) -> str:
    """What network the names of a state dict are of, for a message."""
    for pattern, name in ARCHITECTURES:
        if any(re.search(pattern, key) for key in state):
            return name
    return "an unknown architecture"


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str, what: str) -> None:
    """Load a state dict whose names and shapes must all fit; nothing is loaded where one does not.

    Raises:
        CheckpointError: the names that are missing, not known, or of another shape.
    """
    wanted = module.state_dict()
    shapes = [
        f"{key} has shape {tuple(state[key].shape)}, the model's has {tuple(wanted[key].shape)}"
        for key in wanted.keys() & state.keys()
        if state[key].shape != wanted[key].shape
    ]
    missing = sorted(wanted.keys() - state.keys())
    unknown = sorted(state.keys() - wanted.keys())
    lists = {"missing": missing, "not in the model": unknown}
    problems = [f"{title}: {one_of(keys, limit=12)}" for title, keys in lists.items() if keys]
    gather(problems + sorted(shapes), f"{where} does not fit ({what})", CheckpointError, limit=15)
    module.load_state_dict(dict(state))


def read_weights(weights: Weights, parts: Collection[str] = ()) -> tuple[str, State]:
    """Read a state dict from a file or folder, or take it as it is.

    Pickled files are read with `weights_only=True`, so that no code of theirs runs. Wrappings with the keys "model",
    "state_dict" or "model_state", or else `parts`, are taken off, and a "module." that parallel training put before
    every name.

    Returns:
        Where it comes from, for messages, and the tensors by name.

    Raises:
        CheckpointError: no such file, an unreadable one, or one that holds no tensors.
    """
    if isinstance(weights, Mapping):
        where, content = "the state dict", dict(weights)
    else:
        path = _weight_file(Path(_by_name(weights)))
        where, content = str(path), _read_file(path)
    for key in ("model", "state_dict", "model_state", *parts):
        if isinstance(content.get(key), Mapping):
            content = dict(content[key])
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{where}: there are no weights in it; expected a state dict (names and tensors)")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return where, state


def _by_name(weights: Any) -> Any:
    """The file of a published network that is named (see `_starts`); anything else as it is."""
    if not isinstance(weights, str) or Path(weights).exists() or weights not in starts():
        return weights
    return locate(weights)


def _weight_file(path: Path) -> Path:
    """The file itself, or the weight file of a folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such weight file or folder; nothing was loaded")
    for name in FILES_IN_FOLDER:
        if (path / name).is_file():
            return path / name
    raise CheckpointError(f"{path}: the folder holds none of {one_of(FILES_IN_FOLDER)}; nothing was loaded")


def _read_file(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    try:
        # Training scripts save their options beside the weights; a Namespace only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: more than weights is pickled in it, and opening that could run foreign code. Save its state dict "
            f"alone, where you trust it. ({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # whatever an unpickler says of a damaged file
        raise CheckpointError(f"{path}: the file cannot be read as weights, it may be cut short ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: it holds a {type(content).__name__}, expected a state dict (names and tensors)")
    return content
