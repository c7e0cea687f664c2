"""What methods in 2D share: grey images into the layout of a registered model, and its features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.models.registry import ModelSpec, spec_of
from slivit.ssl.views import normalise


def image_spec(model: nn.Module, method: str) -> ModelSpec:
    """The specification of a model of single square images.

    Raises:
        ModelError: a model of several slices, or one that gives no features.
    """
    spec = spec_of(model)
    slices, height, width = spec.size
    if slices != 1 or height != width or not hasattr(model, "forward_features"):
        raise ModelError(
            f"{method} pre-trains networks of single square images, such as image_classifier; {spec.name} takes "
            f"{slices} slices of {height} x {width} pixels. Pre-train its backbone in such a network, and start "
            f"{spec.name} from the result."
        )
    return spec


def grey(batch: Tensor) -> Tensor:
    """(B, 1, H, W) uint8 -> float32 from 0 to 1."""
    return batch.float() / 255


def whole(batch: Tensor, size: int) -> Tensor:
    """(B, 1, H, W) uint8 -> (B, 1, P, P) from 0 to 1: whole slices, which may be larger than a model takes."""
    images = grey(batch)
    return images if images.shape[-2:] == (size, size) else F.interpolate(images, size, mode="bilinear", antialias=True)


def to_model(images: Tensor, spec: ModelSpec) -> Tensor:
    """(B, 1, P, P) from 0 to 1 -> the normalised input of a model of single images, in its layout."""
    x = normalise(images, spec.mean, spec.std)
    return x if spec.input == "tiled" else x[:, :, None]


def image_features(model: nn.Module, x: Tensor) -> Tensor:
    """(B, ...) input of a registered model of images -> (B, D), what its head reads."""
    return cast(Any, model).forward_features(x)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Without gradients and in evaluation mode; afterwards the model's mode is what it was."""
    training = model.training
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        model.train(training)


def frozen_features(model: nn.Module, spec: ModelSpec, batch: Tensor) -> Tensor:
    """(B, 1, P, P) uint8 -> (B, D) features for a probe."""
    with frozen(model):
        return image_features(model, to_model(grey(batch), spec))


def feature_dim(model: nn.Module) -> int:
    """D, the width of what a model's head reads."""
    linear = [m for m in model.get_submodule("head").modules() if isinstance(m, nn.Linear)]
    return linear[0].in_features
