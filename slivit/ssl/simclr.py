"""SimCLR: two views of an image are to be found by each other among those of all other images.

Paper: Chen et al. 2020, A Simple Framework for Contrastive Learning of Visual Representations (arXiv:2002.05709); on
medical images Azizi et al. 2023 (REMEDIS, doi:10.1038/s41551-023-01049-7).
Origin: written for this project. Licence: Apache-2.0.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from slivit.ssl._images import feature_dim, frozen_features, grey, image_features, image_spec, to_model
from slivit.ssl.collapse import SPREAD, WatchCollapse, feature_spread
from slivit.ssl.losses.contrastive import nt_xent
from slivit.ssl.pretext import Pretext
from slivit.ssl.registry import register_pretext
from slivit.ssl.views import Range, blur, jitter, random_crop


class SimclrModel(nn.Module):
    """An encoder and a projection head; views go through both, one batch behind the other.

    Args:
        encoder: a registered model of images.
        dim: width of the encoder's features.
        hidden: width of the hidden layer of the projection head.
        out: width of a projection.
    """

    def __init__(self, encoder: nn.Module, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out)
        )
        encoder.get_submodule("head").requires_grad_(False)

    def forward(self, views: Tensor) -> Tensor:
        """(2 * B, C, P, P) -> (2 * B, out) projections."""
        return self.projector(image_features(self.encoder, views))


@register_pretext
def simclr(
    model: nn.Module,
    *,
    temperature: Annotated[float, Field(gt=0)] = 0.1,
    hidden: Annotated[int, Field(ge=1)] = 2048,
    projection: Annotated[int, Field(ge=1)] = 128,
    crop: Range = (0.2, 1.0),
    flip: float = 0.5,
    strength: Annotated[float, Field(ge=0, lt=1)] = 0.4,
    blur_probability: float = 0.5,
) -> Pretext:
    """SimCLR for any model of single images: ConvNeXt, ResNet, Swin or ViT.

    Args:
        model: a registered model of single images; its backbone is pre-trained.
        temperature: of NT-Xent.
        hidden: width of the hidden layer of the projection head.
        projection: width of a projection.
        crop: smallest and largest area of a view, as a fraction of the image.
        flip: probability of a left-right mirroring; 0 where sides matter.
        strength: of the changes of brightness and contrast.
        blur_probability: that a view is blurred.

    Raises:
        ModelError: a model that does not take single images.

    Source: Chen et al. 2020, sections 2 and 3, appendix A.
    """
    spec = image_spec(model, "simclr")
    network = SimclrModel(model, feature_dim(model), hidden, projection)

    def view(images: Tensor) -> Tensor:
        cut = random_crop(images, spec.size[1], scale=crop, flip=flip)
        return to_model(blur(jitter(cut, strength), blur_probability), spec)

    def views(batch: Tensor) -> tuple[Any, Any]:
        images = grey(batch)
        return torch.cat([view(images), view(images)]), torch.arange(len(batch), device=batch.device)

    def loss(projections: Tensor, _: Any) -> Tensor:
        first, second = projections.chunk(2)
        return nt_xent(first, second, temperature)

    parts = {SPREAD: float("nan")}
    return Pretext(
        name="simclr",
        model=network,
        views=views,
        loss=loss,
        encoder=model,
        divides=True,
        features=lambda batch: frozen_features(model, spec, batch),
        callbacks=[WatchCollapse(lambda projections: {SPREAD: feature_spread(projections)}, parts)],
        parts=parts,
    )
