"""A network that is not trained and makes features of a scan: what an ensemble keeps of pre-trained weights.

Statistics over the slices of three planes: An et al. 2025 (arXiv:2507.08254), as `slivit embed` has them. Origin:
written for this project. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.models.registry import create_model, spec_of

ORDERS = ((0, 1, 2), (1, 0, 2), (2, 0, 1))
"""Slices, rows and columns of a volume's three planes, in its own axes."""


class FrozenNetwork(nn.Module):
    """(B, 1, S, H, W) from 0 to 1 -> (B, n) features of a network that brings the volume to its own size.

    Args:
        name: a registered model.
        args: of the model, with its own size.
        planes: 3 to show a network of slices the volume from three sides, an equal share of its slices each.
    """

    def __init__(self, name: str, args: Mapping[str, Any], planes: int = 1) -> None:
        super().__init__()
        self.network = create_model(name, 1, **args)
        self.planes = planes
        slices = spec_of(self.network).size[0]
        if planes not in (1, 3) or slices % planes:
            raise ModelError(f"a frozen {name} has 1 plane or 3, and as many slices of each; got {planes} of {slices}")
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenNetwork:
        """Stay as in a prediction: norms and dropout do not train either."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        spec: Any = spec_of(self.network)
        mean, std = (torch.tensor(v, device=x.device).view(1, -1, 1, 1, 1) for v in (spec.mean, spec.std))
        own = (self._views(x, spec.size) - mean) / std
        return self._features(own.flatten(2, 3) if spec.input == "tiled" else own).float()

    def _views(self, x: Tensor, size: tuple[int, int, int]) -> Tensor:
        """(B, 1, S, H, W) -> (B, 1, slices of all planes, rows, columns) of the network's size."""
        slices, rows, columns = size
        to = (slices // self.planes, rows, columns)
        turned = [x.permute(0, 1, *(2 + axis for axis in order)) for order in ORDERS[: self.planes]]
        return torch.cat([F.interpolate(view, to, mode="trilinear", align_corners=False) for view in turned], 2)

    def _features(self, x: Tensor) -> Tensor:
        network: Any = self.network
        if hasattr(network, "slice_tokens"):
            by_plane = network.slice_tokens(x)[0].unflatten(1, (self.planes, -1))
            parts = [by_plane.mean(2), by_plane.amax(2), by_plane.std(2, correction=0)]
            return torch.cat([part.flatten(1) for part in parts[: 3 if by_plane.shape[2] > 1 else 1]], 1)
        pooled = getattr(network, "pooled_features", None) or getattr(network, "forward_features", None)
        if pooled is None:
            raise ModelError(f"{spec_of(network).name}: offers no features of its backbone")
        features: Tensor = pooled(x)
        return features.flatten(2).mean(2) if features.ndim > 2 else features
