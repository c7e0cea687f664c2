"""ViViT, VideoMAE and TimeSformer, as Hugging Face's transformers defines them.

Origin: the networks are transformers' own (Apache-2.0), and so are the names of their parameters; this file takes off
the classifier. The library is imported when a model is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import ModelError, nearest
from slivit.models._hub import fetch_hugging_face
from slivit.models._volume import Channels, VolumeModel
from slivit.models._weights import Grid, State, WeightRules, Weights, regrid
from slivit.models.registry import IMAGENET_MEAN, IMAGENET_STD, register_model
from slivit.settings import Count, Share

# Names before transformers 5 and since; a name that the installed version knows is left alone.
VIVIT_NAMES = (
    (r"^vivit\.encoder\.layer\.", "vivit.layers."),
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)
VIDEOMAE_NAMES = (
    (r"\.attention\.attention\.q_bias$", ".attention.attention.query.bias"),
    (r"\.attention\.attention\.v_bias$", ".attention.attention.value.bias"),
    (r"^videomae\.layernorm\.", "fc_norm."),
)


@dataclass(frozen=True)
class Member:
    """What tells one network of the family from another.

    Args:
        classes: of transformers: configuration and network.
        prefix: of the published names of the network's parameters.
        default: the identifier of its weights on Hugging Face's hub.
        mean_pooled: whether all tokens are averaged and normed (`fc_norm`), or the class token is taken.
        tubelets: along the slices, of the published positions.
        options: arguments of the network beside its configuration.
        rename: see `WeightRules`.
        drop: see `WeightRules`.
    """

    classes: tuple[str, str]
    prefix: str
    default: str
    mean_pooled: bool = False
    tubelets: int = 1
    options: Mapping[str, Any] | None = None
    rename: tuple[tuple[str, str], ...] = ()
    drop: tuple[str, ...] = ()


MEMBERS = {
    "vivit": Member(
        ("VivitConfig", "VivitModel"),
        "vivit",
        "google/vivit-b-16x2-kinetics400",
        tubelets=16,
        options={"add_pooling_layer": False},
        rename=VIVIT_NAMES,
        drop=(r"^vivit\.pooler\.",),
    ),
    "videomae": Member(
        ("VideoMAEConfig", "VideoMAEModel"),
        "videomae",
        "MCG-NJU/videomae-base-finetuned-kinetics",
        mean_pooled=True,
        rename=VIDEOMAE_NAMES,
        drop=(r"^decoder\.", r"^encoder_to_decoder\.", r"^mask_token$"),
    ),
    "timesformer": Member(
        ("TimesformerConfig", "TimesformerModel"), "timesformer", "facebook/timesformer-base-finetuned-k400"
    ),
}


class TokenBackbone(nn.Module):
    """A transformer over clips, and one vector of its tokens: (B, C, S, H, W) -> (B, hidden_size)."""

    def __init__(self, prefix: str, network: nn.Module, norm: nn.Module | None) -> None:
        super().__init__()
        self.prefix = prefix
        self.add_module(prefix, network)
        self.fc_norm = norm

    def forward_tokens(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) -> (B, tokens, hidden_size), the class token first where there is one."""
        return self.get_submodule(self.prefix)(pixel_values=x.transpose(1, 2)).last_hidden_state

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.forward_tokens(x)
        return self.fc_norm(tokens.mean(1)) if self.fc_norm else tokens[:, 0]


def video_transformer(
    name: str,
    out_dim: int,
    *,
    slices: Count = 16,
    image_size: Count = 224,
    config: Mapping[str, Any] | None = None,
    in_chans: Channels = 3,
    dropout: Share = 0.0,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """A video transformer: (B, 3, S, P, P) float32 clips -> (B, out_dim) logits.

    Published positions of another size are interpolated (VideoMAE's are fixed waves, at any size). A VideoMAE that was
    only pre-trained has no norm of its own behind the average; it starts with the norm of its encoder.

    Args:
        name: "vivit", "videomae" or "timesformer".
        out_dim: the number of outputs.
        slices: S, a multiple of the tubelets' 2 slices (TimeSformer: any number).
        image_size: P, a multiple of the patches' 16 pixels.
        config: further fields of transformers' configuration, such as {"hidden_size": 384}; base size by default.
        in_chans: 3, or 1 for grey input with a summed first layer.
        dropout: of the vector that the head takes.
        pretrained: True downloads the weights that docs/models.md names; also another identifier on Hugging Face's
            hub, or a folder or file (see `load_backbone`).

    Raises:
        ModelError: a value that is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.
    """
    member = MEMBERS[name]
    settings, grid = _settings(name, slices, image_size, in_chans, dict(config or {}))
    network = _network(member, settings)
    norm = nn.LayerNorm(settings.hidden_size) if member.mean_pooled else None
    backbone = TokenBackbone(member.prefix, network, norm)
    rules = WeightRules(
        architecture=name,
        rename=member.rename,
        drop=member.drop,
        first=(f"{member.prefix}.embeddings.patch_embeddings.projection.weight",),
        adapt=partial(resize_positions, member.tubelets, grid),
        hub=partial(fetch_hugging_face, name, member.default),
        default=member.default,
    )
    width, size = settings.hidden_size, (slices, image_size, image_size)
    return VolumeModel(backbone, rules, out_dim, width, size, in_chans=in_chans, dropout=dropout, pretrained=pretrained)


def _settings(name: str, slices: int, image_size: int, in_chans: int, config: dict[str, Any]) -> tuple[Any, Grid]:
    """The configuration, all of whose fields are known, and the tokens along slices, rows and columns."""
    import transformers

    kind = getattr(transformers, MEMBERS[name].classes[0])
    known = sorted(kind().to_dict())
    for key in config:
        if key not in known or key in ("num_frames", "image_size", "num_channels"):
            raise ModelError(f"{name}: config has no field {key!r} to set.{nearest(key, known)}")
    try:
        settings = kind(num_frames=slices, image_size=image_size, num_channels=in_chans, **config)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name}: config is not accepted by transformers ({error}), got {config}") from error
    along, rows, columns = _cell(settings)
    if slices % along or image_size % rows or image_size % columns:
        raise ModelError(
            f"{name}: slices must be a multiple of {along} and image_size one of {rows}, got {slices} and {image_size}"
        )
    return settings, (slices // along, image_size // rows, image_size // columns)


def _cell(settings: Any) -> Grid:
    """Slices, rows and columns of one token."""
    tubelet = getattr(settings, "tubelet_size", 1)
    return (tubelet, settings.patch_size, settings.patch_size) if isinstance(tubelet, int) else tuple(tubelet)


def _network(member: Member, settings: Any) -> Any:
    import transformers

    return getattr(transformers, member.classes[1])(settings, **(member.options or {}))


def resize_positions(tubelets: int, grid: Grid, state: State, wanted: State) -> State:
    """Interpolate learned positions to another grid of tokens.

    Args:
        tubelets: along the slices, of the published positions, whose rows and columns are as many.
        grid: tokens along slices, rows and columns of the model.
        state: published tensors by the model's names.
        wanted: the model's own.
    """
    state = dict(state)
    for name, tensor in state.items():
        like = wanted.get(name)
        if like is None or tensor.ndim != 3 or tensor.shape[1] == like.shape[1] or tensor.shape[2] != like.shape[2]:
            continue
        if name.endswith("time_embeddings"):
            state[name] = F.interpolate(tensor.mT, like.shape[1], mode="linear", align_corners=False).mT
        elif name.endswith("position_embeddings"):
            side = isqrt((tensor.shape[1] - 1) // tubelets)
            if tubelets * side**2 == tensor.shape[1] - 1:
                state[name] = regrid(tensor, (tubelets, side, side), grid if tubelets > 1 else (1, *grid[1:]))
    return state


def _register(name: str, slices: int, mean: Sequence[float], std: Sequence[float], **spec: Any) -> None:
    default = MEMBERS[name].default
    register_model(
        name,
        input="clip",
        size=(slices, 224, 224),
        mean=tuple(mean),
        std=tuple(std),
        weights=f"{default}, which is downloaded from Hugging Face's hub, or its model.safetensors",
        small={
            "slices": 4,
            "image_size": 32,
            "config": {
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 32,
            },
        },
        **spec,
    )(partial(video_transformer, name, slices=slices))


_register(
    "vivit",
    32,
    (0.5,) * 3,
    (0.5,) * 3,
    source="arXiv:2103.15691",
    parameters=88_647_169,
    licence="Apache-2.0 (definition); MIT (weights)",
)
_register(
    "videomae",
    16,
    IMAGENET_MEAN,
    IMAGENET_STD,
    source="arXiv:2203.12602",
    parameters=86_227_969,
    licence="Apache-2.0 (definition); CC BY-NC 4.0 (weights)",
)
_register(
    "timesformer",
    8,
    (0.45,) * 3,
    (0.225,) * 3,
    source="arXiv:2102.05095",
    parameters=121_259_521,
    licence="Apache-2.0 (definition); CC BY-NC 4.0 (weights)",
)
