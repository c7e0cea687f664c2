"""SimMIM: masked patches are replaced by a token, and one linear layer rebuilds their pixels.

Paper: Xie et al. 2022, SimMIM: A Simple Framework for Masked Image Modeling (arXiv:2111.09886).
Origin: written for this project from the paper. Licence: Apache-2.0.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from slivit.ssl._images import to_model
from slivit.ssl._patches import (
    TOKENS_AND_POSITIONS,
    PixelHead,
    check_units,
    embed,
    encode,
    enlarged,
    grey_target,
    masked_mean,
    masked_pretext,
    shown,
    transformer_of,
    unit_mask,
)
from slivit.ssl.pretext import Pretext
from slivit.ssl.registry import register_pretext
from slivit.ssl.views import Range


class MaskTokenModel(nn.Module):
    """A transformer in whose embedding masked patches are one trained token, and a decoder behind it.

    Args:
        encoder: a registered model of images with a ViT or a Swin.
        family: "vit" or "swin".
        decoder: from the tokens (B, n, D) to what is rebuilt.
    """

    def __init__(self, encoder: nn.Module, family: str, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.family, self.decoder = encoder, family, decoder
        width = len(encoder.get_parameter("backbone.patch_embed.proj.weight"))
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Images (B, C, 1, P, P) and masks (B, N) -> what the decoder makes of all tokens."""
        network = self.encoder.get_submodule("backbone")
        return self.decoder(encode(network, self.family, self.masked(network, inputs))[1])

    def masked(self, network: nn.Module, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """The tokens (B, N, D) of images, masked ones replaced."""
        images, mask = inputs
        tokens = embed(network, images[:, :, 0])
        return torch.where(mask[:, :, None], self.mask_token.to(tokens.dtype), tokens)


@register_pretext
def simmim(
    model: nn.Module,
    *,
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.6,
    unit: Annotated[int, Field(ge=1)] = 32,
    crop: Range = (0.67, 1.0),
    flip: float = 0.5,
) -> Pretext:
    """SimMIM for `slice_swin` and `slice_vit` with slices = 1.

    Args:
        model: its transformer is pre-trained.
        ratio: the part of the units that is masked.
        unit: rows and columns of a unit that is masked as a whole, in pixels.
        crop: smallest and largest area of a crop, as a fraction of the image.
        flip: probability of a left-right mirroring; 0 where sides matter.

    Raises:
        ModelError: a model that is no transformer over single images, or units that do not fit its patches.

    Source: Xie et al. 2022, sections 3 and 4.1.
    """
    transformer, info, spec = transformer_of(model, "simmim", ("swin", "vit"))
    size, patch = spec.size[1], info.patch
    check_units("simmim", size, patch, unit)
    network = MaskTokenModel(model, info.family, PixelHead(info.channels, stride_of(transformer, info.family)))

    def hide(images: Tensor) -> tuple[Any, Any]:
        mask = unit_mask(len(images), size // patch, unit // patch, ratio).to(images.device)
        return (to_model(images, spec), mask), (grey_target(images, spec), enlarged(mask, patch)[:, None])

    def pictures(images: Tensor) -> dict[str, Tensor]:
        inputs, (images, mask) = hide(images)
        rebuilt, original = torch.where(mask, network(inputs).float(), images), shown(images, spec)
        return {"original": original, "masked": torch.where(mask[:, 0], 0.5, original), "rebuilt": shown(rebuilt, spec)}

    return masked_pretext(
        "simmim", network, hide, l1_loss, pictures, crop=crop, flip=flip, undecayed=TOKENS_AND_POSITIONS
    )


def stride_of(transformer: Any, family: str) -> int:
    """Pixels of the image, a side, to one token behind the last block."""
    return transformer.patch_embed.patch_size[0] * (2 ** (len(transformer.layers) - 1) if family == "swin" else 1)


def l1_loss(rebuilt: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """The mean absolute error of masked pixels; all (B, 1, P, P), mask 1 = replaced.

    Source: Xie et al. 2022, section 3.4.
    """
    return masked_mean((rebuilt.float() - images).abs(), mask)
