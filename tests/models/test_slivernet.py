"""SLIVER-net: slice-wise pooling of a tiled feature map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.models._backbones import feature_map
from slivit.models.registry import create_model, model_spec


def small(**args: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model("slivernet", 2, **{**model_spec("slivernet").small, **args}).eval()


@pytest.mark.parametrize("size", [32, 64])
def test_each_slice_is_pooled_by_itself(size: int) -> None:
    model = small(image_size=size)
    x = torch.randn(model.spec.batch_shape(2))
    with torch.no_grad():
        features = feature_map(model.backbone, model.backbone_info.stage, x)
        side = size // 32
        expected = torch.cat([F.max_pool2d(features, side), F.avg_pool2d(features, side)], dim=1)[..., 0]
        torch.testing.assert_close(model.forward_slices(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("slices", [20, 28, 64])
def test_long_volumes_take_further_convolutions(slices: int) -> None:
    model = small(slices=slices, deep=True)
    with torch.no_grad():
        assert model(torch.randn(model.spec.batch_shape(1))).shape == (1, 2)
    assert sum(isinstance(layer, nn.Conv1d) for layer in model.modules()) == 4


def test_too_few_slices_are_told() -> None:
    for args in ({"slices": 4}, {"slices": 19, "deep": True}, {"width": 0}):
        with pytest.raises(ModelError, match="got"):
            small(**args)
