"""The weights of SLIViT that its authors released, as a model of this project."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from slivit.errors import CheckpointError, one_of
from slivit.models._weights import State, Weights, backbone_name, load_strictly, read_weights
from slivit.models.registry import create_model
from slivit.models.slivit import SLIViT, Tiling

# The released names of the integrator and this project's.
INTEGRATOR_NAMES = (
    (r"^pos_embedding$", "positions"),
    (r"^cls_token$", "class_token"),
    (r"^to_patch_embedding\.1\.", "embed.0."),
    (r"^to_patch_embedding\.2\.", "embed.1."),
    (r"^to_patch_embedding\.3\.", "embed.2."),
    (r"^transformer\.norm\.", "norm."),
    (r"^transformer\.layers\.(\d+)\.0\.norm\.", r"blocks.\1.attention.norm."),
    (r"^transformer\.layers\.(\d+)\.0\.to_qkv\.", r"blocks.\1.attention.qkv."),
    (r"^transformer\.layers\.(\d+)\.0\.to_out\.0\.", r"blocks.\1.attention.out."),
    (r"^transformer\.layers\.(\d+)\.1\.net\.", r"blocks.\1.mlp."),
    (r"^mlp_head\.", "head."),
)

# (blocks a stage, widths) of the ConvNeXts whose map has the 768 channels that the released code expects.
CONVNEXTS = {
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": ((3, 3, 27, 3), (96, 192, 384, 768)),
}

NEEDED = (
    "pos_embedding",
    "to_patch_embedding.2.weight",
    "transformer.layers.0.0.to_qkv.weight",
    "transformer.layers.0.1.net.1.weight",
    "mlp_head.weight",
    "feature_extractor.0.patch_embeddings.weight",
)


def load_published(
    weights: Weights, *, slices: int | None = None, dim_head: int = 64, tiling: Tiling | None = None
) -> SLIViT:
    """Make a model of a released SLIViT (`slivit.pth`), with `token_layout="published"` and its sizes found in it.

    Its input is not normalised beyond 0 to 1, as the released loaders leave it.

    Args:
        weights: a file, or a state dict with or without `feature_extractor.` before the backbone's names.
        slices: the number of slices that it is expected to take; read from the weights where it is None.
        dim_head: the width of an attention head, which the weights do not tell; 64 in the released code.
        tiling: how its slices were tiled, which the weights do not tell either: "horizontal" for released checkpoints
            of OCT, ultrasound and MRI, "vertical" for those of MedMNIST. Where it is not said, "vertical" is taken,
            with a warning.

    Raises:
        CheckpointError: an unreadable file, another number of slices, or names and shapes that do not fit.

    Example:
        >>> model = slivit.load_published("slivit.pth", slices=28)  # doctest: +SKIP
    """
    where, state = read_weights(weights)
    if tiling is None:
        note = (
            'tiling="vertical" is taken, as for MedMNIST; weights of OCT, ultrasound and MRI need tiling="horizontal"'
        )
        warnings.warn(f"{where} does not say how its slices were tiled: {note}", stacklevel=2)
    state = {_prefixed(key): tensor for key, tensor in state.items()}
    absent = [key for key in NEEDED if key not in state]
    if absent:
        raise CheckpointError(f"{where} is not a released SLIViT: it lacks {one_of(absent)}")
    sizes = {**_sizes(state, where, dim_head), "tiling": tiling or "vertical"}
    if slices not in (None, sizes["slices"]):
        raise CheckpointError(f"{where} takes {sizes['slices']} slices, got slices={slices}")
    out_dim = state["mlp_head.weight"].shape[0]
    model = create_model("slivit", out_dim, **sizes)
    renamed = {_own_name(key, state): tensor for key, tensor in state.items()}
    load_strictly(model, renamed, where, f"read as slivit with {sizes}")
    return cast(SLIViT, model)


def _prefixed(key: str) -> str:
    """The name with the backbone's prefix, which a state dict of the parts may lack."""
    return f"feature_extractor.{key}" if re.match(r"^(0\.(patch_emb|layernorm)|1\.stages)", key) else key


def _own_name(key: str, state: Mapping[str, Tensor]) -> str:
    if key.startswith("feature_extractor."):
        return f"backbone.{backbone_name(key, state)}"
    for pattern, name in INTEGRATOR_NAMES:
        key = re.sub(pattern, name, key)
    return key


def _sizes(state: State, where: str, dim_head: int) -> dict[str, Any]:
    """The arguments of `slivit` with which the weights were made."""
    _, tokens, vit_dim = state["pos_embedding"].shape
    backbone, channels = _convnext(state, where)
    length = state["to_patch_embedding.2.weight"].shape[1]
    return {
        "backbone": backbone,
        "slices": tokens - 1,
        "image_size": 32 * math.isqrt(length // channels),
        "vit_dim": vit_dim,
        "vit_depth": 1 + max(int(m[1]) for k in state if (m := re.match(r"transformer\.layers\.(\d+)\.", k))),
        "vit_heads": state["transformer.layers.0.0.to_qkv.weight"].shape[0] // (3 * dim_head),
        "dim_head": dim_head,
        "mlp_dim": state["transformer.layers.0.1.net.1.weight"].shape[0],
        "token_layout": "published",
        # The released loaders scale grey values to 0 to 1 and normalise no further.
        "mean": 0.0,
        "std": 1.0,
    }


def _convnext(state: State, where: str) -> tuple[str, int]:
    """timm's name of the released backbone and the channels of its map, from its depths and widths."""
    blocks: dict[int, int] = {}
    widths: dict[int, int] = {}
    for key, tensor in state.items():
        if match := re.search(r"stages\.(\d+)\.layers\.(\d+)\.layer_scale_parameter$", key):
            stage, block = int(match[1]), int(match[2])
            blocks[stage] = max(blocks.get(stage, 0), 1 + block)
            widths[stage] = tensor.numel()
    depths, dims = tuple(blocks[s] for s in sorted(blocks)), tuple(widths[s] for s in sorted(widths))
    name = next((name for name, sizes in CONVNEXTS.items() if sizes == (depths, dims)), None)
    if name is None:
        raise CheckpointError(
            f"{where}: its backbone has {depths} blocks of widths {dims} a stage; known are {one_of(CONVNEXTS)}"
        )
    return name, dims[-1]
