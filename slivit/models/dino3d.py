"""3DINO-ViT: a 3D vision transformer that learned from unlabelled volumes of many organs and modalities.

Paper: Xu et al., A generalizable 3D framework and model for self-supervised learning in medical imaging, npj Digital
Medicine 2025 (arXiv:2501.11755).
Origin: written for this project from the paper and from the names and shapes of the released weights.
Licence: Apache-2.0 for this file; the weights that the authors released are under CC BY-NC-ND 4.0.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slivit.errors import CheckpointError, ModelError
from slivit.models._dino3d_vit import PATCH, VisionTransformer3d, grid_of, interpolate_positions, patch_map
from slivit.models._weights import State, WeightRules, Weights, start_from
from slivit.models.registry import register_model
from slivit.settings import Count, NonNegative, Positive, Share

# Names and chunks of blocks that the released code wraps round the backbone's own names.
PUBLISHED_NAMES = ((r"^module\.", ""), (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."))

Size = Literal["small", "base", "large"]
SIZES: dict[str, dict[str, Any]] = {
    "small": {"dim": 384, "depth": 12, "heads": 6},
    "base": {"dim": 768, "depth": 12, "heads": 12},
    "large": {"dim": 1024, "depth": 24, "heads": 16},
}

PROBED_LAYERS = 4  # the most layers whose class tokens a linear probe reads


class Dino3d(nn.Module):
    """3DINO-ViT: (B, C, S, H, W) float32 volumes -> (B, out_dim) logits.

    Args:
        name: the registered name.
        out_dim: the number of outputs.
        slices: S, to which scans are sampled; the network itself takes any multiples of 16.
        image_size: P, rows and columns to which slices are resized.
        in_chans: C, such as the sequences of an MRI. Each goes through the backbone by itself; in the paper the
            backbone is frozen then.
        last_layers: the head reads the class tokens of this many last blocks.
        average_patches: it also reads the mean of the last block's patch tokens.
        dim: width of a token.
        depth: number of blocks.
        heads: attention heads a block.
        mlp_ratio: hidden width of a block's perceptron, in widths of a token.
        position_size: side in voxels of the cube over which positions are trained; for inputs of another size they
            are interpolated. Released weights have 96 or, after the high-resolution stage, 112.
        resize_positions: interpolate the positions of weights of another `position_size` once, as they are loaded;
            such weights are refused without it.
        layer_scale: value from which the scale of each residual branch is trained.
        drop_path: share of the volumes that skip a residual branch in training (0.3 in the paper's pre-training).
        dropout: probability of a feature to be dropped before the head in training.
        mask_token: keep the token that stands for masked patches, which pre-training needs and a classifier does not.
        project_gelu: a GELU behind the projection of several channels, as in the paper; the released code has none.
        pretrained: a path loads weights (see `load_backbone`).

    Raises:
        ModelError: a value that is not allowed.
        CheckpointError: weights that do not fit.

    Source: Xu et al. 2025, Methods, "3DINO-ViT", classification and multi-channel input.
    """

    def __init__(
        self,
        name: str,
        out_dim: int,
        *,
        slices: Count = 96,
        image_size: Count = 96,
        in_chans: Count = 1,
        last_layers: Count = 1,
        average_patches: bool = False,
        dim: Count,
        depth: Count,
        heads: Count,
        mlp_ratio: Positive = 4.0,
        position_size: Count = 96,
        resize_positions: bool = False,
        layer_scale: NonNegative = 1e-5,
        drop_path: Share = 0.0,
        dropout: Share = 0.0,
        mask_token: bool = False,
        project_gelu: bool = False,
        pretrained: bool | Weights = False,
    ) -> None:
        sizes = {"slices": slices, "image_size": image_size, "position_size": position_size}
        counts = {"in_chans": in_chans, "last_layers": last_layers, "dim": dim, "depth": depth, "heads": heads}
        check_sizes(name, sizes, counts, drop_path)
        backbone = VisionTransformer3d(
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            position_size=position_size,
            layer_scale=layer_scale,
            drop_path=drop_path,
            mask_token=mask_token,
        )
        super().__init__()
        self.backbone, self.backbone_info = backbone, weight_rules(name, mask_token, resize_positions)
        self.input_size, self.in_chans = (slices, image_size, image_size), in_chans
        self.last_layers, self.average_patches = last_layers, average_patches
        features = backbone.dim * (last_layers + average_patches)
        self.project = nn.Linear(in_chans * features, features) if in_chans > 1 else nn.Identity()
        self.activation = nn.GELU() if project_gelu and in_chans > 1 else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, out_dim)
        start_from(self, pretrained)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) float32, S, H and W multiples of 16 -> (B, out_dim) logits."""
        return self.head(self.dropout(self.forward_features(x)))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) -> (B, features), what the head reads."""
        layers = self.backbone.forward_layers(self._channels(x), self.last_layers)
        return self.activation(self.project(pool_tokens(layers, self.average_patches).reshape(x.shape[0], -1)))

    def layer_features(self, x: Tensor) -> dict[str, Tensor]:
        """What a linear probe chooses among: class tokens of the last layers, and the mean of the last patch tokens.

        Returns:
            (B, C * dim) each, channel behind channel: "class_4" to "class_1" of up to four blocks, the last one last,
            and "patches".

        Source: Oquab et al. 2023, section 7.1; Xu et al. 2025, Methods, linear probing.
        """
        layers = self.backbone.forward_layers(self._channels(x), len(_class_names(self.backbone)))
        parts = dict(zip(_class_names(self.backbone), (tokens[:, 0] for tokens in layers), strict=True))
        parts["patches"] = layers[-1][:, 1:].mean(1)
        return {name: part.reshape(len(x), -1) for name, part in parts.items()}

    def feature_sets(self) -> dict[str, tuple[str, ...]]:
        """What a probe's heads read, see `slivit.predict.features`: the last or the last four layers, with patches."""
        names = _class_names(self.backbone)
        layers = {f"last{count}": names[-count:] for count in (1, len(names))}
        return layers | {f"{name}+patches": (*parts, "patches") for name, parts in layers.items()}

    def head_args(self, features: str) -> dict[str, int | bool] | None:
        """The arguments of a model whose head reads one of the `feature_sets`; None with several channels."""
        if self.in_chans > 1:
            return None
        last_layers = len(self.feature_sets()[features.removesuffix("+patches")])
        return {"last_layers": last_layers, "average_patches": features.endswith("+patches")}

    def patch_map(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) -> the patch tokens (B, C * dim, S / 16, H / 16, W / 16), channel behind channel."""
        tokens = self.backbone(self._channels(x))[:, 1:]
        return patch_map(tokens, grid_of(x)).unflatten(0, (x.shape[0], -1)).flatten(1, 2)

    def attention_maps(self, x: Tensor) -> Tensor:
        """How much the class token looks at each patch in the last block, channel behind channel.

        Returns:
            (B, C * heads, S / 16, H / 16, W / 16) probabilities; see `VisionTransformer3d.attention_maps`.
        """
        return self.backbone.attention_maps(self._channels(x)).unflatten(0, (x.shape[0], -1)).flatten(1, 2)

    def _channels(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) -> (B * C, 1, S, H, W)."""
        if x.ndim != 5 or x.shape[1] != self.in_chans or any(side % PATCH for side in x.shape[2:]):
            raise ModelError(
                f"{self.backbone_info.architecture} takes (B, {self.in_chans}, S, H, W): channels, slices, rows and "
                f"columns, the last three multiples of {PATCH}; got {tuple(x.shape)}"
            )
        return x.flatten(0, 1)[:, None]


def _class_names(backbone: VisionTransformer3d) -> tuple[str, ...]:
    """The names of the class tokens of the last layers, four where there are as many, the last one last."""
    return tuple(f"class_{count}" for count in range(min(PROBED_LAYERS, len(backbone.blocks)), 0, -1))


def pool_tokens(layers: list[Tensor], average_patches: bool) -> Tensor:
    """One vector of a volume's tokens.

    Args:
        layers: (B, 1 + P, dim) each, the class token first, from some of the last blocks, in their order.
        average_patches: whether the mean of the last block's patch tokens is put behind the class tokens.

    Returns:
        (B, dim * n), n the number of layers, and one more with `average_patches`.

    Source: Oquab et al. 2023, section 7.1 (linear probing).
    """
    parts = [tokens[:, 0] for tokens in layers]
    return torch.cat([*parts, layers[-1][:, 1:].mean(1)] if average_patches else parts, dim=1)


def weight_rules(name: str, mask_token: bool, resize_positions: bool, *, norm: bool = True) -> WeightRules:
    """How a released 3DINO checkpoint becomes the backbone: the teacher's, without the heads of pre-training.

    Args:
        name: of the model, for messages.
        mask_token: whether the backbone has one.
        resize_positions: interpolate positions of another cube.
        norm: whether the backbone has the last norm.
    """
    return WeightRules(
        architecture=name,
        parts=("teacher",),
        rename=PUBLISHED_NAMES,
        drop=(*(() if mask_token else (r"^mask_token$",)), *(() if norm else (r"^norm\.",))),
        adapt=partial(_fit_positions, resize_positions),
    )


def _fit_positions(resize: bool, state: State, wanted: State) -> State:
    given, own = state.get("pos_embed"), wanted["pos_embed"]
    if given is None or given.shape == own.shape or given.ndim != 3 or given.shape[2] != own.shape[2]:
        return state
    side, target = (round((tokens.shape[1] - 1) ** (1 / 3)) for tokens in (given, own))
    if side**3 != given.shape[1] - 1:
        return state
    if not resize:
        raise CheckpointError(
            f"pos_embed: the weights have positions of a cube of {PATCH * side} voxels, the model has those of "
            f"{PATCH * target}. Create the model with position_size={PATCH * side} (it takes any input size), or with "
            "resize_positions=True to interpolate them."
        )
    return state | {"pos_embed": interpolate_positions(given, (target, target, target))}


def check_sizes(name: str, sizes: dict[str, int], counts: dict[str, int], drop_path: float) -> None:
    """Raise ModelError where sides are no multiples of a patch, or numbers do not fit each other."""
    for key, value in sizes.items():
        if value % PATCH:
            raise ModelError(f"{name}: {key} must be a multiple of {PATCH}, the side of a patch; got {value}")
    if counts["dim"] % counts["heads"]:
        raise ModelError(f"{name}: dim must be a multiple of heads, got dim={counts['dim']}, heads={counts['heads']}")
    if counts["last_layers"] > counts["depth"]:
        raise ModelError(f"{name}: last_layers={counts['last_layers']}, but there are {counts['depth']} blocks")
    if not 0 <= drop_path < 1:
        raise ModelError(f"{name}: drop_path must be at least 0 and below 1, got {drop_path}")


_PARAMETERS = {
    "dino3d_vit_small": 22_960_897,
    "dino3d_vit_base": 88_389_121,
    "dino3d_vit_large": 306_780_161,
}

for _size, _parts in SIZES.items():
    _name = f"dino3d_vit_{_size}"
    register_model(
        _name,
        input="volume",
        size=(96, 96, 96),
        mean=(0.5,),
        std=(0.5,),
        parameters=_PARAMETERS[_name],
        source="arXiv:2501.11755",
        licence="Apache-2.0 (definition); CC BY-NC-ND 4.0 (weights released by the authors)",
        weights="released for dino3d_vit_large alone; docs/dino3d.md" if _size == "large" else "",
        small={"slices": 32, "image_size": 32, "position_size": 32, "dim": 16, "depth": 2, "heads": 2},
    )(partial(Dino3d, _name, **_parts))
