"""Swin MAE, as VIS-MAE uses it: a Swin over visible and masked patches, and a Swin decoder that expands patches again.

Papers: Liu et al. 2024, VIS-MAE, first named VISION-MAE (arXiv:2402.01034); Xu et al. 2022, Swin MAE
(arXiv:2212.13805); patch expanding after Cao et al. 2021, Swin-Unet (arXiv:2105.05537).
Origin: written for this project from the papers. Licence: Apache-2.0.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from slivit.errors import ModelError
from slivit.models.vis_mae import PatchExpanding, mirrored
from slivit.ssl._images import to_model
from slivit.ssl._patches import check_units, grey_target, masked_pretext, patchify, transformer_of, unit_mask
from slivit.ssl.mae import mae_loss, rebuilt_pictures
from slivit.ssl.pretext import Pretext
from slivit.ssl.registry import register_pretext
from slivit.ssl.simmim import MaskTokenModel
from slivit.ssl.views import Range

DROP_PATH = 0.1
"""Probability of a decoder's block to be skipped in training, as released."""


class SwinDecoder(nn.Module):
    """The encoder's stages backwards, each after an expansion, and a linear layer: (B, n, D) -> (B, N, patch * patch).

    Args:
        network: timm's Swin, whose widths, heads, windows and grid it mirrors.
        depth: blocks a stage.

    Source: Xu et al. 2022, decoder; Liu et al. 2024, the released code (drop path).
    """

    def __init__(self, network: Any, depth: int) -> None:
        super().__init__()
        self.grid = network.layers[-1].output_resolution
        stages = []
        for stage in reversed(network.layers[:-1]):
            stages += [PatchExpanding(2 * stage.blocks[0].attn.dim), mirrored(stage, depth, DROP_PATH)]
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(network.layers[0].dim, eps=1e-6)
        self.pixels = nn.Linear(network.layers[0].dim, network.patch_embed.patch_size[0] ** 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.pixels(self.norm(self.stages(tokens.unflatten(1, self.grid)))).flatten(1, 2)


class SwinMaskModel(MaskTokenModel):
    """As `MaskTokenModel`; the decoder reads the last stage's tokens without a norm, as VIS-MAE's."""

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Images (B, C, 1, P, P) and masks (B, N) -> what the decoder makes of all tokens."""
        network: Any = self.encoder.get_submodule("backbone")
        tokens = self.masked(network, inputs).unflatten(1, network.patch_embed.grid_size)
        return self.decoder(network.layers(tokens).flatten(1, 2))


@register_pretext
def swin_mae(
    model: nn.Module,
    *,
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75,
    unit: Annotated[int, Field(ge=1)] = 16,
    decoder_depth: Annotated[int, Field(ge=1)] = 2,
    norm_pixels: bool = False,
    crop: Range = (1.0, 1.0),
    flip: float = 0.5,
) -> Pretext:
    """Swin MAE for `slice_swin` with slices = 1; the decoder is kept beside the backbone, for segmentation.

    Args:
        model: its Swin is pre-trained; VIS-MAE's has 2, 2, 2, 2 blocks.
        ratio: the part of the units that is masked.
        unit: rows and columns of a unit that is masked as a whole, in pixels; the paper's 4 x 4 patches of 4 pixels.
        decoder_depth: blocks of each stage of the decoder.
        norm_pixels: rebuild each patch normalised by its own mean and standard deviation.
        crop: smallest and largest area of a crop, as a fraction of the image.
        flip: probability of a left-right mirroring; 0 where sides matter.

    Raises:
        ModelError: a model that is no Swin over single images, units that do not fit its patches, or an odd grid.

    Source: Liu et al. 2024, methods; Xu et al. 2022, window masking.
    """
    swin, info, spec = transformer_of(model, "swin_mae", ("swin",))
    size, patch = spec.size[1], info.patch
    check_units("swin_mae", size, patch, unit)
    if size % (patch * 2 ** (len(swin.layers) - 1)):
        raise ModelError(f"swin_mae: {size // patch} patches a side cannot be halved {len(swin.layers) - 1} times")
    swin.norm.requires_grad_(False)  # no part of this task
    network = SwinMaskModel(model, "swin", SwinDecoder(swin, decoder_depth))

    def hide(images: Tensor) -> tuple[Any, Any]:
        mask = unit_mask(len(images), size // patch, unit // patch, ratio).to(images.device)
        return (to_model(images, spec), mask), (patchify(grey_target(images, spec), patch), mask)

    def pictures(images: Tensor) -> dict[str, Tensor]:
        inputs, (patches, mask) = hide(images)
        return rebuilt_pictures(network(inputs).float(), patches, mask, patch, spec, normed=norm_pixels)

    loss = partial(mae_loss, normed=norm_pixels)
    return masked_pretext("swin_mae", network, hide, loss, pictures, crop=crop, flip=flip)
