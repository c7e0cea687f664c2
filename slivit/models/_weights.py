"""Weights from elsewhere into a backbone: read without running code, renamed to timm's names, loaded strictly."""

from __future__ import annotations

import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slivit.errors import CheckpointError, gather, one_of

Weights = str | Path | Mapping[str, Any]
State = dict[str, Tensor]

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
    (r"attn\.qkv|attention\.query|attention\.qkv", "a vision transformer"),
)


def load_backbone(model: nn.Module, weights: Weights) -> tuple[str, ...]:
    """Load weights into `model.backbone`, all of them or none.

    Taken are: a checkpoint of this project (a run folder, its `model.safetensors`, or a backbone alone), a state dict
    of timm, a ConvNeXt of Hugging Face (folder, file or state dict), and the `feature_extractor.pth` and `slivit.pth`
    that the authors of SLIViT released. What the backbone leaves out by design (classifier, last norm, stages after
    the one it uses, what stands beside a backbone) is dropped and returned; any other difference is an error.

    Args:
        model: a model with `.backbone`.
        weights: a file, a folder, or a state dict.

    Returns:
        The names that were dropped, as they stand in `weights`.

    Raises:
        CheckpointError: a missing or unreadable file, or weights of another architecture; both are named, and the keys.
    """
    info = getattr(model, "backbone_info", None)
    name = info.architecture if info else type(model.backbone).__name__
    return load_backbone_weights(model.backbone, weights, architecture=name, cut=info.cut if info else ())


def load_backbone_weights(
    backbone: Any, weights: Weights, *, architecture: str, cut: Collection[str] = ()
) -> tuple[str, ...]:
    """As `load_backbone`, for a backbone itself; `cut` names what the whole network has and the backbone has not."""
    where, state = read_weights(weights)
    wanted = backbone.state_dict()
    kept: State = {}
    dropped: list[str] = []
    for key, tensor in state.items():
        name = backbone_name(key, state)
        if name is None or (name not in wanted and (name in cut or name.startswith(CLASSIFIER_PREFIXES))):
            dropped.append(key)
        else:
            kept[name] = _fit(tensor, wanted.get(name))
    load_strictly(backbone, kept, where, f"{describe(state)} was given; the model's backbone is {architecture}")
    return tuple(dropped)


def backbone_name(key: str, state: Collection[str]) -> str | None:
    """The name that timm gives to an entry of a state dict, or None where the entry is no part of a backbone."""
    prefix = next((p for p in BACKBONE_PREFIXES if any(k.startswith(p) for k in state)), "")
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


def _fit(tensor: Tensor, like: Tensor | None) -> Tensor:
    """Reshape where the two shapes differ in axes of length 1 alone (a linear layer and a 1 x 1 convolution)."""
    if like is None or [n for n in tensor.shape if n != 1] != [n for n in like.shape if n != 1]:
        return tensor
    return tensor.reshape(like.shape)


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


def read_weights(weights: Weights) -> tuple[str, State]:
    """Read a state dict from a file or folder, or take it as it is.

    Pickled files are read with `weights_only=True`, so that no code of theirs runs. Wrappings with the keys "model",
    "state_dict" or "model_state" are taken off, and a "module." that parallel training put before every name.

    Returns:
        Where it comes from, for messages, and the tensors by name.

    Raises:
        CheckpointError: no such file, an unreadable one, or one that holds no tensors.
    """
    if isinstance(weights, Mapping):
        where, content = "the state dict", dict(weights)
    else:
        path = _weight_file(Path(weights))
        where, content = str(path), _read_file(path)
    for key in ("model", "state_dict", "model_state"):
        if isinstance(content.get(key), Mapping):
            content = dict(content[key])
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{where}: there are no weights in it; expected a state dict (names and tensors)")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return where, state


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
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: more than weights is pickled in it, and opening that could run foreign code. Save its state dict "
            f"alone, where you trust it. ({str(error).splitlines()[0]})"
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: the file cannot be read as weights, it may be cut short ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: it holds a {type(content).__name__}, expected a state dict (names and tensors)")
    return content
