"""GMML: groups of connected patches are overwritten by noise or by another image, and a light decoder restores them.

Papers: Atito et al. 2022, GMML is All you Need (arXiv:2205.14986); Atito et al. 2021, SiT (arXiv:2104.03602).
Origin: written for this project from the papers. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from slivit.models.registry import ModelSpec
from slivit.settings import Share
from slivit.ssl._images import to_model
from slivit.ssl._patches import (
    embed,
    encode,
    enlarged,
    grey_scale,
    grey_target,
    group_mask,
    masked_pretext,
    shown,
    transformer_of,
)
from slivit.ssl.pretext import Pretext
from slivit.ssl.registry import register_pretext
from slivit.ssl.simmim import l1_loss, stride_of
from slivit.ssl.views import Range, uniform

Part = Annotated[float, Field(gt=0, le=1)]
HALF = 0.5


class LightDecoder(nn.Module):
    """A perceptron on each token, and a transposed convolution from the tokens to the image: (B, N, D) -> (B, 1, P, P).

    Source: Atito et al. 2022, light decoder.
    """

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(dim, dim), nn.GELU())))
        self.pixels = nn.ConvTranspose2d(dim, 1, stride, stride)

    def forward(self, tokens: Tensor) -> Tensor:
        side = round(tokens.shape[1] ** 0.5)
        return self.pixels(self.mlp(tokens).mT.unflatten(2, (side, side)))


class Restorer(nn.Module):
    """A transformer over corrupted images, and a light decoder.

    Args:
        encoder: a registered model of images with a ViT or a Swin.
        family: "vit" or "swin".
        decoder: from the tokens (B, n, D) to the image.
    """

    def __init__(self, encoder: nn.Module, family: str, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.family, self.decoder = encoder, family, decoder

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, 1, P, P) -> what stands for each image, (B, D), and its tokens, (B, n, D)."""
        network = self.encoder.get_submodule("backbone")
        return encode(network, self.family, embed(network, images[:, :, 0]))


class GmmlModel(Restorer):
    """Restores images."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, 1, P, P) -> (B, 1, P, P) restored."""
        return self.decoder(self.tokens(images)[1])


class Corruption:
    """Overwrites groups of patches of grey images; half of the images by noise, the others by another of the batch.

    Args:
        spec: of the model; noise has the mean and the standard deviation of its normalisation.
        patch: rows and columns of a patch, in pixels.
        noise: the largest part of an image that is overwritten by noise.
        replace: the largest part that is overwritten by another image; 0 for noise alone.
        largest: the largest side of a group, as a part of the image's.

    Source: Atito et al. 2022, group masked model learning.
    """

    def __init__(self, spec: ModelSpec, patch: int, *, noise: float, replace: float, largest: float) -> None:
        self.side, self.patch, self.scale = spec.size[1] // patch, patch, grey_scale(spec)
        self.noise, self.replace, self.largest = noise, replace, largest

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, P, P) from 0 to 1 -> the same, corrupted, and (B, 1, P, P) bool, 1 = overwritten."""
        count, device = len(images), images.device
        by_other = (torch.rand(count) < HALF) & (self.replace > 0)
        most = torch.where(by_other, self.replace, self.noise)
        ratios = most.clamp(max=HALF) + torch.rand(count) * (most - most.clamp(max=HALF))
        mask = enlarged(group_mask(count, self.side, ratios, self.largest), self.patch)[:, None].to(device)
        mean, std = self.scale
        noise = (mean + std * torch.randn(images.shape)).to(device)
        others = images.roll(int(uniform(1, 1, max(count, 2))), 0)
        new = torch.where(by_other.view(-1, 1, 1, 1).to(device), others, noise)
        return torch.where(mask, new, images), mask


@register_pretext
def gmml(
    model: nn.Module,
    *,
    noise: Part = 0.75,
    replace: Share = 0.3,
    largest: Part = 0.3,
    crop: Range = (0.25, 1.0),
    flip: float = 0.5,
) -> Pretext:
    """GMML for `slice_vit` and `slice_swin` with slices = 1.

    Args:
        model: its transformer is pre-trained.
        noise: the largest part of an image that is overwritten by noise.
        replace: the largest part that is overwritten by another image of the batch; 0 for noise alone.
        largest: the largest side of a group of patches, as a part of the image's.
        crop: smallest and largest area of a crop, as a fraction of the image.
        flip: probability of a left-right mirroring; 0 where sides matter.

    Raises:
        ModelError: a model that is no transformer over single images.

    Source: Atito et al. 2022, method.
    """
    transformer, info, spec = transformer_of(model, "gmml", ("vit", "swin"))
    network = GmmlModel(model, info.family, LightDecoder(info.channels, stride_of(transformer, info.family)))
    corrupt = Corruption(spec, info.patch, noise=noise, replace=replace, largest=largest)

    def hide(images: Tensor) -> tuple[Any, Any]:
        corrupted, mask = corrupt(images)
        return to_model(corrupted, spec), (grey_target(images, spec), mask)

    pictures = partial(restored_pictures, network, corrupt, spec)
    return masked_pretext("gmml", network, hide, l1_loss, pictures, crop=crop, flip=flip)


@torch.no_grad()
def restored_pictures(
    restored_by: Callable[[Tensor], Tensor], corrupt: Corruption, spec: ModelSpec, images: Tensor
) -> dict[str, Tensor]:
    """(B, 1, P, P) from 0 to 1 -> the images, corrupted, and with what was overwritten restored; each (B, P, P)."""
    corrupted, mask = corrupt(images)
    restored = restored_by(to_model(corrupted, spec))
    restored = torch.where(mask[:, 0], shown(restored, spec), images[:, 0])
    return {"original": images[:, 0], "corrupted": corrupted[:, 0].clamp(0, 1), "restored": restored}
