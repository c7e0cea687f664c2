"""What masked methods share: patches and their masks, and the steps of a transformer with tokens replaced or removed.

In every mask 1 (True) is a patch that is removed, replaced or corrupted, and that the loss looks at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import ModelError, one_of
from slivit.models._transformers import TransformerInfo, is_plain
from slivit.models.registry import ModelSpec, spec_of
from slivit.ssl._images import frozen, grey, image_spec, to_model, whole
from slivit.ssl.pretext import Pretext, Views
from slivit.ssl.views import Range, normalise, random_crop

# Tokens and positions are no weights; SimMIM and SiT leave them out of the weight decay, as Swin and DeiT do.
TOKENS_AND_POSITIONS = ("cls_token", "reg_token", "mask_token", "pos_embed", "relative_position_bias_table")


def transformer_of(model: nn.Module, method: str, families: tuple[str, ...]) -> tuple[Any, TransformerInfo, ModelSpec]:
    """The transformer of a model of single images, what is known of it, and the model's specification.

    Everything in the model but the backbone is frozen: no masked method trains it.

    Raises:
        ModelError: a backbone without patches, one of another family, or a model of several slices.
    """
    info = getattr(model, "backbone_info", None)
    if not isinstance(info, TransformerInfo) or info.family not in families:
        names = one_of(f"slice_{family}" for family in families)
        raise ModelError(
            f"{method} pre-trains the backbone of {names} with slices = 1; got {spec_of(model).name}, whose backbone "
            f"is {getattr(info, 'architecture', type(model.backbone).__name__)}"
        )
    if info.family == "vit" and not is_plain(model.backbone):
        raise ModelError(
            f"{method} pre-trains a ViT with a class token and learned positions for all its tokens, such as "
            f"vit_small_patch16_224; {info.architecture} is none. slivit pretrain dino takes it"
        )
    spec = image_spec(model, method)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("backbone."))
    return model.backbone, info, spec


def square(batch: Tensor, size: int, crop: Range, flip: float) -> Tensor:
    """(B, 1, H, W) uint8 -> (B, 1, P, P) random crops from 0 to 1."""
    return random_crop(grey(batch), size, scale=crop, flip=flip)


def grey_scale(spec: ModelSpec) -> tuple[float, float]:
    """The mean and standard deviation by which the grey image that is to be rebuilt is normalised."""
    return fmean(spec.mean), fmean(spec.std)


def grey_target(images: Tensor, spec: ModelSpec) -> Tensor:
    """(B, 1, P, P) from 0 to 1 -> the same, normalised: what is to be rebuilt, once instead of in each colour."""
    mean, std = grey_scale(spec)
    return normalise(images, (mean,), (std,))


def shown(target: Tensor, spec: ModelSpec) -> Tensor:
    """(B, 1, P, P) normalised -> (B, P, P) from 0 to 1, for pictures."""
    mean, std = grey_scale(spec)
    return (target.float() * std + mean).clamp(0, 1)[:, 0]


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, P, P) -> (B, N, patch * patch * C): patches, and the pixels in each, row by row; channels come last."""
    count = images.shape[-1] // patch
    cut = images.unflatten(3, (count, patch)).unflatten(2, (count, patch))  # B, C, h, p, w, q
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """(B, N, patch * patch) -> (B, 1, P, P), the inverse of `patchify` for one channel."""
    count = round(patches.shape[1] ** 0.5)
    cut = patches.unflatten(2, (patch, patch)).unflatten(1, (count, count))  # B, h, w, p, q
    return cut.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)[:, None]


def random_mask(batch: int, tokens: int, ratio: float) -> Tensor:
    """(batch, tokens) bool, in each row the same number of True, at least one and not all; drawn on the CPU."""
    masked = min(max(round(ratio * tokens), 1), tokens - 1)
    order = torch.rand(batch, tokens).argsort(1)
    return torch.zeros(batch, tokens, dtype=torch.bool).scatter_(1, order[:, :masked], True)


def unit_mask(batch: int, side: int, times: int, ratio: float) -> Tensor:
    """(batch, side * side) bool: square units of `times` x `times` patches are masked as a whole."""
    units = side // times
    return enlarged(random_mask(batch, units * units, ratio), times).flatten(1)


def group_mask(batch: int, side: int, ratios: Tensor, largest: float = 0.3) -> Tensor:
    """(batch, side * side) bool: unions of random rectangles of connected patches, until a ratio is covered.

    Args:
        batch: B.
        side: patches a row.
        ratios: (B,) the least part of each image that is masked.
        largest: the largest side of a rectangle, as a part of the image's.

    Source: Atito et al. 2022 (GMML, arXiv:2205.14986), group masked model learning.
    """
    longest = max(1, round(largest * side))
    mask, index = torch.zeros(batch, side, side, dtype=torch.bool), torch.arange(side)
    while (short := mask.float().mean((1, 2)) < ratios).any():
        corner = torch.randint(0, side, (2, batch, 1))
        extent = torch.randint(1, longest + 1, (2, batch, 1))
        inside = (index >= corner) & (index < corner + extent)  # 2, B, side
        mask |= inside[0, :, :, None] & inside[1, :, None] & short[:, None, None]
    return mask.flatten(1)


def enlarged(mask: Tensor, times: int) -> Tensor:
    """(B, n * n) -> (B, n * times, n * times): every cell of a square mask as a square of `times` cells a side."""
    side = round(mask.shape[1] ** 0.5)
    return mask.unflatten(1, (side, side)).repeat_interleave(times, 1).repeat_interleave(times, 2)


def masked_mean(error: Tensor, mask: Tensor) -> Tensor:
    """The mean of an error over the masked places alone; both of one shape."""
    return (error.float() * mask).sum() / mask.sum()


def embed(network: Any, images: Tensor) -> Tensor:
    """(B, C, P, P) -> (B, N, D): patches as tokens, without positions."""
    return network.patch_embed(images).flatten(1, 2)


def encode(network: Any, family: str, tokens: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Tokens of `embed` through the transformer.

    Args:
        network: timm's.
        family: "vit" or "swin".
        tokens: (B, N, D).
        keep: (B, n) the indices of the tokens that go through a ViT; all where None.

    Returns:
        (B, D') what stands for the image (the class token, or the mean), and (B, n, D') the tokens, normed.
    """
    if family == "swin":
        out = network.norm(network.layers(tokens.unflatten(1, network.patch_embed.grid_size))).flatten(1, 2)
        return out.mean(1), out
    prefix = network.num_prefix_tokens
    tokens = tokens + network.pos_embed[:, prefix:]
    if keep is not None:
        tokens = take(tokens, keep)
    first = [network.cls_token] if network.reg_token is None else [network.cls_token, network.reg_token]
    first = [torch.cat(first, 1) + network.pos_embed[:, :prefix]]
    tokens = network.pos_drop(torch.cat([first[0].expand(len(tokens), -1, -1), tokens], 1))
    out = network.norm(network.blocks(network.norm_pre(tokens)))
    return out[:, 0], out[:, prefix:]


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """(B, N, D) and (B, n) indices -> (B, n, D)."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


def depth_of(network: Any, family: str) -> Callable[[str], int]:
    """The layer of a parameter of a masked method, whose network is an `encoder.backbone`, by its name.

    Returns:
        0 for the embedding and the mask token, 1 to N for the blocks, N + 1 for norm and decoder.
    """
    lengths = [len(network.blocks)] if family == "vit" else [len(stage.blocks) for stage in network.layers]
    starts = [sum(lengths[:stage]) for stage in range(len(lengths))]

    def depth(name: str) -> int:
        _, inside, own = name.rpartition("encoder.backbone.")
        if inside and (match := re.match(r"(?:layers\.(\d+)\.)?blocks\.(\d+)\.", own)):
            return starts[int(match[1] or 0)] + int(match[2]) + 1
        if inside and (match := re.match(r"layers\.(\d+)\.downsample\.", own)):
            return starts[int(match[1])] + 1  # timm merges patches before the first block of a stage
        embedding = ("patch_embed", "pos_embed", "cls_token", "reg_token", "mask_token")
        return 0 if own.startswith(embedding) else sum(lengths) + 1

    return depth


def patch_features(model: nn.Module, spec: ModelSpec, batch: Tensor) -> Tensor:
    """(B, 1, P, P) uint8 -> (B, D) of the backbone alone, for a probe."""
    with frozen(model):
        return cast(Any, model).forward_slices(to_model(grey(batch), spec))[:, 0]


class PixelHead(nn.Module):
    """One linear layer from a token to all pixels that it stands for: (B, N, D) -> (B, 1, P, P).

    Source: Xie et al. 2022 (SimMIM), section 3.3.
    """

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.pixels = nn.Conv2d(dim, stride * stride, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        side = round(tokens.shape[1] ** 0.5)
        return F.pixel_shuffle(self.pixels(tokens.mT.unflatten(2, (side, side))), self.stride)


def masked_pretext(
    name: str,
    network: Any,
    hide: Views,
    loss: Callable[..., Tensor],
    pictures: Callable[[Tensor], dict[str, Tensor]],
    *,
    crop: Range,
    flip: float,
    undecayed: Sequence[str] = (),
) -> Pretext:
    """The pretext of a network that sees images with patches hidden, and rebuilds them.

    Args:
        name: of the method.
        network: its `.encoder` is a registered model, and its `.decoder` is kept.
        hide: (B, 1, P, P) from 0 to 1 -> what the network takes, and the targets.
        loss: of what the network gives and of the targets.
        pictures: makes those of a `Pretext`, of (B, 1, P, P) from 0 to 1.
        crop: as of `square`, and so flip.
        flip: probability of a mirroring.
        undecayed: see `Pretext`.
    """
    model, spec = network.encoder, spec_of(network.encoder)
    return Pretext(
        name=name,
        model=network,
        views=lambda batch: hide(square(batch, spec.size[1], crop, flip)),
        loss=lambda rebuilt, targets: loss(rebuilt, *targets),
        encoder=model,
        divides=True,
        features=lambda batch: patch_features(model, spec, batch),
        pictures=torch.no_grad()(lambda batch: pictures(whole(batch, spec.size[1]))),
        extra={"decoder": network.decoder},
        undecayed=undecayed,
        depth_of=depth_of(model.backbone, model.backbone_info.family),
    )


def check_units(method: str, size: int, patch: int, unit: int) -> None:
    """Raise ModelError where units of masking do not divide the image, patches not a unit, or a unit is all of it."""
    if unit % patch or size % unit or unit == size:
        raise ModelError(
            f"{method}: unit must be a multiple of the patch size {patch}, and divide the image size {size} into "
            f"several; got {unit}"
        )
