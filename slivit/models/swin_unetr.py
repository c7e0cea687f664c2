"""Swin Transfer and Swin Random, through MONAI: the encoder of Swin UNETR for classes, and all of it for masks.

Papers: Tang et al. 2022 (arXiv:2111.14791), whose self-supervised pre-training on five sets of CT gives Swin Transfer
its weights; Xu et al. 2025 (arXiv:2501.11755), which compares 3DINO with both.
Origin: the network is MONAI's own (Apache-2.0), imported when a model is made; this file pools its last stage and
translates the names of the published weights.
Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slivit.errors import ModelError
from slivit.models._hub import fetch_url
from slivit.models._masks import MaskModel, PatchSettings, decode, encode, monai
from slivit.models._volume import TokenModel
from slivit.models._weights import WeightRules, start_from
from slivit.models.registry import register_model
from slivit.settings import Count, Share

IDENTIFIER = "MODEL_SWINVIT"
URL = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/model_swinvit.pt"
PATCHES = "swinViT.patch_embed.proj.weight"
CONTRASTIVE, CONTRASTIVE_TOKEN = 512, 1
"""Width of pre-training's contrastive head, and which token of the last stage it reads (Tang et al., released code)."""
STRIDE = 32  # voxels of the input to one of the last stage's map
# In the published file the encoder stands alone, and its perceptrons have names of an older MONAI.
PUBLISHED_NAMES = (
    (r"^swin_vit\.", "swinViT."),
    (r"^(patch_embed|layers\d)\.", r"swinViT.\1."),
    (r"\.mlp\.fc(\d)\.", r".mlp.linear\1."),
)
# The heads of pre-training, a last norm that the encoder has no use for, and what Swin UNETR builds on the encoder.
DROPPED = (
    r"^norm\.",
    r"^(rotation|contrastive)_(pre|head)\.",
    r"^conv\.",
    r"^(encoder|decoder)\d+\.",
    r"^out\.",
)


class SwinEncoder(nn.Module):
    """MONAI's Swin transformer over volumes; (B, 1, S, H, W) -> (B, 16 * width), the tokens of its last stage averaged.

    The published weights were trained on volumes whose axes run columns, rows, slices, so volumes are turned round.

    Args:
        network: MONAI's.
        contrastive: width of the head of pre-training that reads the second token of the last stage, and whose output
            then stands for the volume; 0 for none.
    """

    def __init__(self, network: nn.Module, width: int = 0, contrastive: int = 0) -> None:
        super().__init__()
        self.swinViT = network
        self.contrastive_head = nn.Linear(16 * width, contrastive) if contrastive else None

    def forward_map(self, x: Tensor) -> Tensor:
        """(B, 1, S, H, W) -> (B, 16 * width, S / 32, H / 32, W / 32), each token normalised."""
        return self.swinViT(x.transpose(2, 4).contiguous())[-1].transpose(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.forward_map(x)
        if self.contrastive_head is None:
            return tokens.mean((2, 3, 4))
        return self.contrastive_head(tokens.transpose(2, 4).flatten(2)[:, :, CONTRASTIVE_TOKEN])


@dataclass(frozen=True, kw_only=True)
class SwinSettings(PatchSettings):
    """The encoder of Swin UNETR, and the volumes that it takes.

    Args:
        slices: S, a multiple of 32.
        image_size: P, rows and columns, a multiple of 32.
        in_chans: C. Weights of one channel are divided among several, so that equal channels give what one gave.
        width: of a token in the first stage, 48 in the published weights; each of the four stages doubles it.
        depths: blocks of the four stages.
        heads: attention heads of the four stages, which divide their widths.
        window_size: tokens along the side of a window of attention.
        drop_path: probability of the last block to be skipped in training; it rises from 0 at the first.
        pretrained: True downloads model_swinvit.pt; a path loads that file, a Swin UNETR, of which the encoder is
            taken, or weights of MONAI's pre-training (see `load_backbone`).
    """

    width: Count = 48
    depths: Sequence[Count] = (2, 2, 2, 2)
    heads: Sequence[Count] = (3, 6, 12, 24)
    window_size: Count = 7
    drop_path: Share = 0.0

    def made(self, name: str) -> nn.Module:
        """MONAI's network.

        Args:
            name: of the model, for messages.
        """
        stages = {"depths": tuple(self.depths), "heads": tuple(self.heads)}
        if self.slices % STRIDE or self.image_size % STRIDE:
            raise ModelError(
                f"{name}: slices and image_size must be multiples of {STRIDE}, got {self.slices} and {self.image_size}"
            )
        if {len(s) for s in stages.values()} != {4} or any(self.width * 2**i % n for i, n in enumerate(self.heads)):
            raise ModelError(
                f"{name}: depths and heads have four numbers, and heads divide the stages' widths; got {stages}"
            )
        transformer = monai(name, "nets.swin_unetr").SwinTransformer
        # Where another device is the default, MONAI cannot read the numbers that it computes for drop_path.
        target = torch.get_default_device()
        with torch.device("cpu"):
            network: Any = transformer(
                in_chans=self.in_chans,
                embed_dim=self.width,
                window_size=(self.window_size,) * 3,
                patch_size=(2, 2, 2),
                depths=stages["depths"],
                num_heads=stages["heads"],
                drop_path_rate=self.drop_path,
            )
        return network.to(target)


@register_model(
    "swin_unetr",
    input="volume",
    output="mask",
    size=(96, 96, 96),
    mean=(0.0,),
    std=(1.0,),
    parameters=62_186_659,
    source="arXiv:2201.01266",
    licence="Apache-2.0",
    weights=f"{IDENTIFIER}: {URL}",
    small={
        "slices": 64,
        "image_size": 32,
        "window_size": 3,
        "width": 12,
        "depths": (1, 1, 1, 1),
        "heads": (1, 1, 2, 2),
    },
)
class SwinUnetr(MaskModel):
    """Swin UNETR: (B, C, S, H, W) float32 volumes from 0 to 1 -> (B, out_dim, S, H, W) logits.

    With weights it is 3DINO's Swin Transfer for segmentation, without them its Swin Random.

    Args:
        out_dim: K, the number of outputs.
        swin: settings of the encoder; the network takes patches of any multiples of 32.

    Raises:
        ModelError: MONAI is not installed, or a value is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.

    Source: Hatamizadeh et al. 2022 (arXiv:2201.01266), section 3; Xu et al. 2025, Methods, baselines.
    """

    def __init__(self, out_dim: int, *, swin: SwinSettings) -> None:
        encoder = SwinEncoder(swin.made("swin_unetr"))
        super().__init__(encoder, _rules("swin_unetr", IDENTIFIER), swin, (STRIDE,) * 3)
        one, two, four, eight, sixteen = (swin.width * 2**level for level in range(5))
        parts = {"encoder1": encode(self.name, self.in_chans, one)}
        for number, channels in ((2, one), (3, two), (4, four), (10, sixteen)):
            parts[f"encoder{number}"] = encode(self.name, channels, channels)
        for number, old, new in ((5, sixteen, eight), (4, eight, four), (3, four, two), (2, two, one), (1, one, one)):
            parts[f"decoder{number}"] = decode(self.name, old, new)
        self.decoder = nn.ModuleDict(parts)
        self.head = nn.Conv3d(one, out_dim, 1)
        start_from(self, swin.pretrained)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) float32 -> (B, K, S, H, W) logits."""
        self.check(x)
        turned, part = x.transpose(2, 4).contiguous(), self.decoder
        half, quarter, eighth, sixteenth, last = self.backbone.swinViT(turned)
        up = part["decoder5"](part["encoder10"](last), sixteenth)
        up = part["decoder4"](up, part["encoder4"](eighth))
        up = part["decoder3"](up, part["encoder3"](quarter))
        up = part["decoder2"](up, part["encoder2"](half))
        return self.head(part["decoder1"](up, part["encoder1"](turned))).transpose(2, 4)


def swin_encoder(
    name: str,
    out_dim: int,
    *,
    swin: SwinSettings,
    dropout: Share = 0.0,
    reads: Literal["mean", "contrastive"] = "mean",
) -> TokenModel:
    """The encoder of Swin UNETR: (B, C, S, P, P) float32 volumes from 0 to 1 -> (B, out_dim) logits.

    The published weights saw CT from -1000 to 1000 HU: set `preprocessing.window` to these for CT.

    Args:
        name: "swin_transfer", which takes weights, or "swin_random", which starts at random as its name says.
        out_dim: the number of outputs.
        swin: settings of the encoder.
        dropout: probability of a feature to be dropped before the head in training.
        reads: what stands for the volume: the "mean" of the last stage's tokens, or the output of pre-training's
            "contrastive" head, as in the linear probes of Xu et al. 2025; weights then hold that head.

    Raises:
        ModelError: MONAI is not installed, or a value is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.

    Source: Tang et al. 2022, section 3.1; Xu et al. 2025, Methods, baselines.
    """
    network = swin.made(name)
    if reads == "contrastive" and swin.slices * swin.image_size**2 // STRIDE**3 <= CONTRASTIVE_TOKEN:
        raise ModelError(
            f'{name}: reads = "contrastive" is the second token of the last stage, and the input makes one'
        )
    if name == "swin_random" and swin.pretrained:
        raise ModelError("swin_random starts at random; swin_transfer is the same network and takes weights")
    contrastive = CONTRASTIVE if reads == "contrastive" else 0
    return TokenModel(
        SwinEncoder(network, swin.width, contrastive),
        _rules(name, "" if name == "swin_random" else IDENTIFIER),
        out_dim,
        contrastive or 16 * swin.width,
        swin.size,
        in_chans=swin.in_chans,
        dropout=dropout,
        pretrained=swin.pretrained,
    )


def _rules(name: str, default: str) -> WeightRules:
    return WeightRules(
        architecture=name,
        rename=PUBLISHED_NAMES,
        drop=DROPPED,
        first=(PATCHES,),
        hub=partial(fetch_url, name, {IDENTIFIER: URL}),
        default=default,
    )


for _name, _weights in (
    ("swin_transfer", f"{IDENTIFIER}: {URL}"),
    ("swin_random", ""),
):
    register_model(
        _name,
        input="volume",
        size=(96, 96, 96),
        mean=(0.0,),
        std=(1.0,),
        parameters=8_062_771,
        source="arXiv:2111.14791",
        licence="Apache-2.0",
        weights=_weights,
        small={"slices": 32, "image_size": 32, "width": 12, "depths": (1, 1, 1, 1), "heads": (1, 1, 2, 2)},
    )(partial(swin_encoder, _name))
