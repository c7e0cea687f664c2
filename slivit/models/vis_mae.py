"""VIS-MAE's Swin-UNet: 2D segmentation whose encoder and decoder start from Swin MAE's.

Papers: Liu et al. 2024, VIS-MAE, first named VISION-MAE (arXiv:2402.01034); Cao et al. 2021, Swin-Unet
(arXiv:2105.05537).
Origin: written for this project from the papers and from numbers that the released code computes; the Swin's stages
are timm's own. Licence: Apache-2.0.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformerStage
from torch import Tensor, nn

from slivit.errors import ModelError
from slivit.models._transformers import ALWAYS_SHIFTED, SWINS, PaddedFirst, build_transformer, shift_always
from slivit.models._weights import State, WeightRules, Weights, load_strictly, read_weights, start_from
from slivit.models.registry import check_tiled, register_model
from slivit.settings import Count, Share

log = logging.getLogger(__name__)

SIZE = 224
SMALL: dict[str, Any] = {"image_size": 64, "window_size": 4, "width": 16, "depths": (1, 1, 2, 1), "heads": (1, 2, 2, 4)}
# The names in a file of Swin MAE's decoder that this project keeps beside the backbone.
DECODER_FILE = "decoder.safetensors"
OWN_NAMES = (
    (r"^stages\.0\.", "first_patch_expanding."),
    (r"^stages\.([135])\.blocks\.", lambda m: f"layers_up.{int(m[1]) // 2}.blocks."),
    (r"^stages\.([24])\.", lambda m: f"layers_up.{int(m[1]) // 2 - 1}.upsample."),
    (r"^norm\.", "norm_up."),
)
PRETRAINED = ("first_patch_expanding.", "layers_up.", "norm_up.")


class PatchExpanding(nn.Module):
    """More tokens a side: (B, h, w, D) -> (B, n * h, n * w, out).

    Args:
        dim: D.
        out: width of a new token; half of the old one by default.
        times: n.

    Source: Cao et al. 2021, patch expanding layer.
    """

    def __init__(self, dim: int, out: int | None = None, times: int = 2) -> None:
        super().__init__()
        self.times, out = times, out or dim // 2
        self.expand = nn.Linear(dim, times * times * out, bias=False)
        self.norm = nn.LayerNorm(out, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.expand(tokens).unflatten(3, (self.times, self.times, -1))  # B, h, w, row, column, out
        return self.norm(parts.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2))


def mirrored(stage: Any, depth: int, drop_path: float) -> Any:
    """A stage of timm's Swin for a decoder, of the width, grid, heads and windows of an encoder's.

    Args:
        stage: of the encoder.
        depth: number of blocks.
        drop_path: probability of each to be skipped in training.
    """
    block = stage.blocks[0]
    always = isinstance(block, PaddedFirst)
    new = SwinTransformerStage(
        dim=block.attn.dim,
        out_dim=block.attn.dim,
        input_resolution=stage.output_resolution,
        depth=depth,
        downsample=False,
        num_heads=block.attn.num_heads,
        window_size=block.attn.window_size,
        drop_path=drop_path,
        **(ALWAYS_SHIFTED if always else {}),
    )
    if always:
        shift_always([new])
    return new


class UpStage(nn.Module):
    """Swin blocks, and an expansion behind all stages but the last: (B, h, w, D) -> (B, 2 * h, 2 * w, D / 2).

    Args:
        stage: that of the encoder whose width, grid, heads, windows and number of blocks it has.
        expand: whether an expansion follows.
        drop_path: probability of a block to be skipped in training.
    """

    def __init__(self, stage: Any, expand: bool, drop_path: float) -> None:
        super().__init__()
        self.blocks = mirrored(stage, len(stage.blocks), drop_path).blocks
        self.upsample = PatchExpanding(stage.blocks[0].attn.dim) if expand else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.upsample(self.blocks(tokens))


class SwinDecoder(nn.Module):
    """The encoder's stages backwards, each joined with what the encoder had before its blocks: -> (B, P, P, width).

    Args:
        network: timm's Swin.
        patch: side of its patches in pixels.
        drop_path: probability of a block to be skipped in training.

    Source: Liu et al. 2024, methods, segmentation; Cao et al. 2021, section 3.
    """

    def __init__(self, network: Any, patch: int, drop_path: float) -> None:
        super().__init__()
        *stages, last = network.layers
        widths = [stage.blocks[0].attn.dim for stage in reversed(stages)]
        self.first_patch_expanding = PatchExpanding(last.blocks[0].attn.dim)
        self.skip_connection_layers = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for width in widths)
        self.layers_up = nn.ModuleList(
            UpStage(stage, expand=number < len(widths), drop_path=drop_path)
            for number, stage in enumerate(reversed(stages), start=1)
        )
        self.norm_up = nn.LayerNorm(widths[-1], eps=1e-6)
        self.final_patch_expanding = PatchExpanding(widths[-1], widths[-1], patch)

    def forward(self, tokens: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """The last stage's tokens and what entered the blocks of the others, the finest first, all (B, h, w, D)."""
        tokens = self.first_patch_expanding(tokens)
        for join, stage, skip in zip(self.skip_connection_layers, self.layers_up, reversed(skips), strict=True):
            both = torch.cat([tokens, skip], dim=3).permute(0, 3, 1, 2)
            tokens = stage(join(both).permute(0, 2, 3, 1))
        return self.final_patch_expanding(self.norm_up(tokens))


class SwinUNet(nn.Module):
    """VIS-MAE's Swin-UNet: (B, 3, P, P) -> (B, K, P, P) logits.

    Args:
        backbone: timm's Swin with the windows of VIS-MAE.
        rules: how published weights become its own.
        out_dim: K.
        image_size: P.
        drop_path: of the decoder's blocks.
        decoder: take the decoder's weights too where the backbone's are loaded.
    """

    def __init__(
        self, backbone: Any, rules: WeightRules, out_dim: int, *, image_size: int, drop_path: float, decoder: bool
    ) -> None:
        super().__init__()
        self.takes_decoder = decoder
        self.input_size, self.backbone, self.backbone_info = (1, image_size, image_size), backbone, rules
        self.decoder = SwinDecoder(backbone, backbone.patch_embed.patch_size[0], drop_path)
        self.head = nn.Conv2d(backbone.layers[0].blocks[0].attn.dim, out_dim, 1, bias=False)

    def load_rest(self, weights: Weights) -> None:
        """Take what else than the backbone starts from weights: see `load_decoder`."""
        if self.takes_decoder:
            load_decoder(self.decoder, weights)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, P, P) float32 -> (B, K, P, P) logits."""
        check_tiled(x, "swin_unet", self.input_size)
        tokens, skips = self.backbone.patch_embed(x), []
        for stage in self.backbone.layers:
            skips.append(stage.downsample(tokens))
            tokens = stage.blocks(skips[-1])
        return self.head(self.decoder(tokens, skips[:-1]).permute(0, 3, 1, 2))


@register_model(
    input="tiled",
    output="mask",
    size=(1, SIZE, SIZE),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    parameters=41_378_532,
    source="arXiv:2402.01034",
    licence="Apache-2.0 (definition); the released weights state none",
    weights="VIS-MAE's checkpoints, or a run of slivit pretrain vis_mae",
    small=SMALL,
)
def swin_unet(
    out_dim: int,
    *,
    image_size: Count = SIZE,
    width: Count = 96,
    depths: Sequence[Count] = (2, 2, 6, 2),
    heads: Sequence[Count] = (3, 6, 12, 24),
    window_size: Count = 7,
    drop_path: Share = 0.1,
    pretrained: bool | Weights = False,
    decoder: bool = True,
) -> SwinUNet:
    """VIS-MAE's Swin-UNet over single slices: (B, 3, P, P) float32 -> (B, out_dim, P, P) logits.

    The paper stretches each image from its minimum to its maximum; grey slices are given three times.

    Args:
        out_dim: K, the number of outputs.
        image_size: P, rows and columns in pixels, a multiple of 32.
        width: of a token in the first stage; each stage doubles it.
        depths: blocks of the four stages; the decoder mirrors the first three.
        heads: attention heads of the four stages.
        window_size: tokens along the side of a window.
        drop_path: probability of the last block to be skipped in training; it rises from 0 at the first. All blocks of
            the decoder have it.
        pretrained: a checkpoint of VIS-MAE or a run of `swin_mae`. Its 2, 2, 2, 2 blocks start the first ones of each
            stage; what stays at random is named in the log.
        decoder: take the weights of the decoder too. The paper leaves it at random where input is colour.

    Raises:
        ModelError: a value is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.

    Source: Liu et al. 2024, methods, segmentation.
    """
    if len(depths) != 4 or len(heads) != 4 or image_size % 32 or any(width * 2**i % n for i, n in enumerate(heads)):
        raise ModelError(
            "swin_unet: depths and heads have four numbers, heads divide the stages' widths, and image_size is a "
            "multiple of 32; "
            f"got {tuple(depths)}, {tuple(heads)} and {image_size}"
        )
    args = {"embed_dim": width, "depths": tuple(depths), "num_heads": tuple(heads), "window_size": window_size}
    backbone: Any
    backbone, rules = build_transformer(
        "swin",
        SWINS[0],
        image_size=image_size,
        args=args | {"drop_path_rate": drop_path},
        grow=True,
        windows="vis_mae",
        no_norm=True,
    )
    model = SwinUNet(backbone, rules, out_dim, image_size=image_size, drop_path=drop_path, decoder=decoder)
    start_from(model, pretrained)
    return model


def load_decoder(decoder: SwinDecoder, weights: Weights) -> tuple[str, ...]:
    """Load the pre-trained part of the decoder from where a backbone came from, where there is one.

    Args:
        decoder: its other parts stay as they are.
        weights: a checkpoint of VIS-MAE, or a run of `swin_mae`, which keeps its decoder in a file of its own.

    Returns:
        The names that were taken, as the decoder has them; the log names its parts that stay at random.

    Raises:
        CheckpointError: a tensor of another shape.
    """
    own = decoder.state_dict()
    given = {name: tensor for name, tensor in _decoder_of(weights).items() if name in own}
    load_strictly(decoder, own | given, "the decoder of the weights", "it must be of the network's own width")
    new = sorted({_part(name) for name in own.keys() - given.keys()})
    log.warning("the decoder's parts that are not in the weights, and start at random: %s", ", ".join(new))
    return tuple(given)


def _decoder_of(weights: Weights) -> State:
    if not isinstance(weights, Mapping):
        folder = Path(weights) if Path(weights).is_dir() else Path(weights).parent
        for place in (folder / DECODER_FILE, folder / "checkpoint" / DECODER_FILE):
            if place.is_file():
                weights = place
    state = read_weights(weights)[1]
    if any(name.startswith("stages.") for name in state):
        for pattern, replacement in OWN_NAMES:
            state = {re.sub(pattern, replacement, name): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in state.items() if name.startswith(PRETRAINED)}


def _part(name: str) -> str:
    return ".".join(name.split(".")[: 4 if name.startswith("layers_up.") else 2])
