"""A self-supervised method of this plugin: rebuild the mean of the features that a mirrored image has."""

import torch

import slivit
from slivit.models.registry import spec_of


@slivit.register_pretext
def mirrored(model: torch.nn.Module, *, flip: float = 1.0) -> slivit.Pretext:
    """Features of an image and of its mirror image are drawn to each other.

    Args:
        model: an `image_classifier`; its backbone is pre-trained.
        flip: the share of images that are mirrored.
    """
    spec = spec_of(model)
    mean, std = spec.mean[0], spec.std[0]

    def prepared(batch: torch.Tensor) -> torch.Tensor:
        grey = (batch.float() / 255 - mean) / std
        return grey.reshape(len(batch), 1, *batch.shape[-2:]).expand(-1, spec.channels, -1, -1)

    def views(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = prepared(batch)
        turned = torch.rand(len(images), 1, 1, 1, device=images.device) < flip
        with torch.no_grad():
            target = model.backbone(torch.where(turned, images.flip(-1), images))
        return images, target.mean(dim=(-2, -1))

    def loss(features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.mse_loss(features.mean(dim=(-2, -1)), target)

    return slivit.Pretext(
        name="mirrored",
        model=model.backbone,
        views=views,
        loss=loss,
        encoder=model,
        features=lambda stacks: model.backbone(prepared(stacks)).mean(dim=(-2, -1)),
    )
