"""MAE: most patches are removed before a ViT sees the image, and a small decoder rebuilds them.

Paper: He et al. 2022, Masked Autoencoders Are Scalable Vision Learners (arXiv:2111.06377).
Origin: written for this project from the paper. Licence: Apache-2.0.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from slivit.errors import ModelError
from slivit.models._vit import sincos_positions
from slivit.models.registry import ModelSpec
from slivit.ssl._images import to_model
from slivit.ssl._patches import (
    embed,
    encode,
    enlarged,
    grey_target,
    masked_mean,
    masked_pretext,
    patchify,
    random_mask,
    shown,
    transformer_of,
    unpatchify,
)
from slivit.ssl.pretext import Pretext
from slivit.ssl.registry import register_pretext
from slivit.ssl.views import Range

EPS = 1e-6


def grid_positions(side: int, dim: int, prefix: int = 1) -> Tensor:
    """Sines and cosines of the columns and rows of a grid, (1, prefix + side * side, dim); the prefix has zeros.

    Args:
        side: patches a row.
        dim: a multiple of 4: the first half tells the column, the second the row; in each the sines come first.
        prefix: tokens before the patches.

    Raises:
        ModelError: a width that is no multiple of 4.

    Source: He et al. 2022, appendix A.1.
    """
    if dim % 4:
        raise ModelError(f"mae: sine-cosine positions need a width that is a multiple of 4, got {dim}")
    line = sincos_positions(side, dim // 2)
    line = torch.cat([line[:, 0::2], line[:, 1::2]], 1)
    columns, rows = line.repeat(side, 1), line.repeat_interleave(side, 0)
    return torch.cat([torch.zeros(prefix, dim), torch.cat([columns, rows], 1)])[None]


def xavier(module: nn.Module) -> None:
    """Initialise a linear layer of a transformer block evenly within Xavier's bounds, with a bias of 0.

    Source: He et al. 2022, appendix A.1.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class MaeDecoder(nn.Module):
    """Visible tokens and mask tokens in their places through a narrow transformer, to the pixels of all patches.

    Args:
        dim: width of the encoder's tokens.
        side: patches a row.
        patch: rows and columns of a patch, in pixels.
        width: of the decoder's tokens.
        depth: transformer blocks.
        heads: of their attention.
    """

    positions: Tensor

    def __init__(self, dim: int, side: int, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.register_buffer("positions", grid_positions(side, width), persistent=False)
        norm: Any = partial(nn.LayerNorm, eps=EPS)
        self.layers = nn.Sequential(*(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)))
        self.layers.apply(xavier)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.pixels = nn.Linear(width, patch * patch)

    def forward(self, token: Tensor, visible: Tensor, keep: Tensor) -> Tensor:
        """The class token (B, D), visible tokens (B, n, D) and their places (B, n) -> (B, N, patch * patch)."""
        seen = self.embed(torch.cat([token[:, None], visible], 1))
        batch, width, count = len(seen), seen.shape[2], self.positions.shape[1] - 1
        full = self.mask_token.to(seen.dtype).expand(batch, count, -1)
        full = full.scatter(1, keep[:, :, None].expand(-1, -1, width), seen[:, 1:])
        tokens = torch.cat([seen[:, :1], full], 1) + self.positions
        return self.pixels(self.norm(self.layers(tokens)))[:, 1:]


class MaeModel(nn.Module):
    """A ViT over the visible patches, and a decoder over all of them.

    Args:
        encoder: a registered model of images with a ViT.
        decoder: from its tokens to pixels.
    """

    def __init__(self, encoder: nn.Module, decoder: MaeDecoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, P, P) and (B, N) -> the class token, the visible tokens and their places."""
        network = self.encoder.get_submodule("backbone")
        keep = mask.to(torch.uint8).argsort(stable=True, dim=1)[:, : int((~mask[0]).sum())]
        token, visible = encode(network, "vit", embed(network, images), keep)
        return token, visible, keep

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Images (B, C, 1, P, P) and masks (B, N), as many in each -> (B, N, patch * patch) pixels of all patches."""
        images, mask = inputs
        return self.decoder(*self.encode(images[:, :, 0], mask))


@register_pretext
def mae(
    model: nn.Module,
    *,
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75,
    decoder_dim: Annotated[int, Field(ge=4)] = 512,
    decoder_depth: Annotated[int, Field(ge=1)] = 8,
    decoder_heads: Annotated[int, Field(ge=1)] = 16,
    norm_pixels: bool = True,
    positions: Literal["sincos", "learned"] = "sincos",
    crop: Range = (0.2, 1.0),
    flip: float = 0.5,
) -> Pretext:
    """MAE for `slice_vit` with slices = 1.

    Args:
        model: its ViT is pre-trained.
        ratio: the part of the patches that is removed.
        decoder_dim: width of the decoder, a multiple of 4 and of its heads.
        decoder_depth: its blocks.
        decoder_heads: its attention heads.
        norm_pixels: rebuild each patch normalised by its own mean and standard deviation.
        positions: "sincos" gives the ViT fixed ones; "learned" trains those that it has, for a model with weights.
        crop: smallest and largest area of a crop, as a fraction of the image.
        flip: probability of a left-right mirroring; 0 where sides matter.

    Raises:
        ModelError: a model that is no ViT over single images, or widths that do not fit.

    Source: He et al. 2022, section 3, appendix A.1.
    """
    vit, info, spec = transformer_of(model, "mae", ("vit",))
    if decoder_dim % decoder_heads:
        raise ModelError(f"mae: decoder_dim must be a multiple of decoder_heads, got {decoder_dim} and {decoder_heads}")
    size, patch = spec.size[1], info.patch
    side = size // patch
    if side < 2:
        raise ModelError(f"mae: an image of {size} pixels is one patch, of which nothing can be removed")
    if positions == "sincos":
        vit.pos_embed.data.copy_(grid_positions(side, info.channels, vit.num_prefix_tokens))
        vit.pos_embed.requires_grad_(False)
    decoder = MaeDecoder(info.channels, side, patch, decoder_dim, decoder_depth, decoder_heads)
    network = MaeModel(model, decoder)

    def hide(images: Tensor) -> tuple[Any, Any]:
        mask = random_mask(len(images), side * side, ratio).to(images.device)
        return (to_model(images, spec), mask), (patchify(grey_target(images, spec), patch), mask)

    def pictures(images: Tensor) -> dict[str, Tensor]:
        inputs, (patches, mask) = hide(images)
        return rebuilt_pictures(network(inputs).float(), patches, mask, patch, spec, normed=norm_pixels)

    loss = partial(mae_loss, normed=norm_pixels)
    return masked_pretext("mae", network, hide, loss, pictures, crop=crop, flip=flip)


def patch_std(patches: Tensor) -> Tensor:
    """(B, N, pixels) -> (B, N, 1), never 0."""
    return (patches.var(-1, keepdim=True) + EPS).sqrt()


def mae_loss(pixels: Tensor, patches: Tensor, mask: Tensor, *, normed: bool) -> Tensor:
    """The mean squared error of masked patches.

    Args:
        pixels: (B, N, n) what was rebuilt.
        patches: (B, N, n) what was there.
        mask: (B, N), 1 = removed.
        normed: each patch is to be rebuilt normalised by its own mean and standard deviation.

    Source: He et al. 2022, section 3, reconstruction target.
    """
    if normed:
        patches = (patches - patches.mean(-1, keepdim=True)) / patch_std(patches)
    return masked_mean((pixels.float() - patches).square().mean(-1), mask)


def rebuilt_pictures(
    pixels: Tensor, patches: Tensor, mask: Tensor, patch: int, spec: ModelSpec, *, normed: bool
) -> dict[str, Tensor]:
    """The images, with their masked patches in grey, and with what was rebuilt in their place; each (B, P, P).

    Args:
        pixels: as of `mae_loss`, and so patches, mask and normed.
        patches: what was there, from which a normalised patch gets its mean and standard deviation back.
        mask: (B, N), 1 = removed.
        patch: rows and columns of a patch, in pixels.
        spec: of the model.
        normed: whether patches were rebuilt normalised.
    """
    if normed:
        pixels = pixels * patch_std(patches) + patches.mean(-1, keepdim=True)
    rebuilt = torch.where(mask[:, :, None], pixels, patches)
    whole = shown(unpatchify(patches, patch), spec)
    hidden = torch.where(enlarged(mask, patch), 0.5, whole)
    return {"original": whole, "masked": hidden, "rebuilt": shown(unpatchify(rebuilt, patch), spec)}
