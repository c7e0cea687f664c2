"""SiT: restoring groups of corrupted patches, and telling the two views of an image from those of all others.

Paper: Atito et al. 2021, SiT: Self-supervised vIsion Transformer (arXiv:2104.03602), without its early rotation task.
Origin: written for this project from the paper. Licence: Apache-2.0.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from slivit.settings import Share
from slivit.ssl._images import to_model
from slivit.ssl._patches import TOKENS_AND_POSITIONS, depth_of, grey_target, patch_features, square, transformer_of
from slivit.ssl.gmml import Corruption, LightDecoder, Part, Restorer, restored_pictures
from slivit.ssl.losses.contrastive import nt_xent
from slivit.ssl.pretext import Pretext
from slivit.ssl.registry import register_pretext
from slivit.ssl.simmim import l1_loss, stride_of
from slivit.ssl.views import Range, blur, jitter


class SitModel(Restorer):
    """A transformer over two corrupted views, a light decoder, and a projection of what stands for an image.

    Args:
        encoder: a registered model of images with a ViT or a Swin.
        family: "vit" or "swin".
        decoder: from the tokens (B, n, D) to the image.
        dim: D.
        hidden: width of the hidden layer of the projection.
        out: width of a projection.
    """

    def __init__(self, encoder: nn.Module, family: str, decoder: nn.Module, dim: int, hidden: int, out: int) -> None:
        super().__init__(encoder, family, decoder)
        self.projector = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out)
        )
        # Logarithms of the variances by which the two losses are weighed.
        self.spread = nn.Parameter(torch.zeros(2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(2 * B, C, 1, P, P) -> (2 * B, 1, P, P) restored, (2 * B, out) projections, (2,) spreads."""
        token, tokens = self.tokens(images)
        return self.decoder(tokens), self.projector(token), self.spread


@register_pretext
def sit(
    model: nn.Module,
    *,
    noise: Part = 0.75,
    replace: Share = 0.3,
    largest: Part = 0.3,
    temperature: Annotated[float, Field(gt=0)] = 0.5,
    weighting: Literal["learned", "equal"] = "learned",
    hidden: Annotated[int, Field(ge=1)] = 512,
    projection: Annotated[int, Field(ge=1)] = 128,
    crop: Range = (0.25, 1.0),
    flip: float = 0.5,
    strength: Annotated[float, Field(ge=0, lt=1)] = 0.4,
    blur_probability: float = 0.5,
) -> Pretext:
    """SiT for `slice_vit` and `slice_swin` with slices = 1.

    Args:
        model: its transformer is pre-trained.
        noise: see `gmml`, as replace and largest.
        replace: see `gmml`.
        largest: see `gmml`.
        temperature: of NT-Xent.
        weighting: "learned" weighs the two losses by their uncertainty, "equal" adds them up.
        hidden: width of the hidden layer of the projection.
        projection: width of a projection.
        crop: smallest and largest area of a view, as a fraction of the image.
        flip: probability of a left-right mirroring; 0 where sides matter.
        strength: of the changes of brightness and contrast.
        blur_probability: that a view is blurred.

    Raises:
        ModelError: a model that is no transformer over single images.

    Source: Atito et al. 2021, method; weights of the losses after Kendall et al. 2018.
    """
    transformer, info, spec = transformer_of(model, "sit", ("vit", "swin"))
    decoder = LightDecoder(info.channels, stride_of(transformer, info.family))
    network = SitModel(model, info.family, decoder, info.channels, hidden, projection)
    network.spread.requires_grad_(weighting == "learned")
    corrupt = Corruption(spec, info.patch, noise=noise, replace=replace, largest=largest)
    parts = {"restored": float("nan"), "contrastive": float("nan")}

    def views(batch: Tensor) -> tuple[Any, Any]:
        cuts = [square(batch, spec.size[1], crop, flip) for _ in range(2)]
        images = torch.cat([blur(jitter(cut, strength), blur_probability) for cut in cuts])
        corrupted, mask = corrupt(images)
        return to_model(corrupted, spec), (grey_target(images, spec), mask)

    def loss(outputs: tuple[Tensor, Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        restored, projections, spread = outputs
        first, second = projections.chunk(2)
        losses = torch.stack([l1_loss(restored, *targets), nt_xent(first, second, temperature)])
        parts.update(zip(parts, losses.detach().tolist(), strict=True))
        return weighed(losses, spread.float())

    return Pretext(
        name="sit",
        model=network,
        views=views,
        loss=loss,
        encoder=model,
        features=lambda batch: patch_features(model, spec, batch),
        pictures=lambda batch: restored_pictures(network, corrupt, spec, batch),
        parts=parts,
        extra={"decoder": decoder},
        undecayed=TOKENS_AND_POSITIONS,
        depth_of=depth_of(transformer, info.family),
    )


def weighed(losses: Tensor, spread: Tensor) -> Tensor:
    """Losses weighed by their uncertainty: (absolute error, cross-entropy) and the logarithms of their variances.

    Source: Kendall et al. 2018 (arXiv:1705.07115), section 3.2; the factor 1/2 belongs to the regression.
    """
    factors = torch.tensor([0.5, 1.0], device=losses.device)
    return (factors * (-spread).exp() * losses + 0.5 * spread).sum()
