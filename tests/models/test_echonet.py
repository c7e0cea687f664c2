"""EchoNet: the network of the paper, frame by frame."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from slivit.errors import ModelError
from slivit.models.registry import create_model, model_spec


def small(**args: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model("echonet", 2, **{**model_spec("echonet").small, **args}).eval()


def test_the_maps_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        network = create_model("echonet", 2).backbone
        x, shapes = torch.zeros(1, 1, 299, 299), []
        for stage in network.children():
            x = stage(x)
            shapes.append(tuple(x.shape[1:]))
    # Szegedy et al. 2017, Figures 10 to 15: 35 x 35 x 256, 17 x 17 x 896 and 8 x 8 x 1792, twice each.
    assert shapes == [s for s in ((256, 35, 35), (896, 17, 17), (1792, 8, 8)) for _ in range(2)]


def test_the_output_is_the_average_of_the_frames() -> None:
    model = small(slices=3)
    x = torch.randn(model.spec.batch_shape(2))
    with torch.no_grad():
        frames = model.head(model.forward_frames(x))
        assert frames.shape == (2, 3, 2)
        torch.testing.assert_close(model(x), frames.mean(1))
        single = small(slices=1)
        single.load_state_dict(model.state_dict())
        torch.testing.assert_close(single(x[:, :, 1:2]), frames[:, 1], rtol=1e-4, atol=1e-5)


def test_residual_branches_are_scaled_and_added() -> None:
    block = small().backbone.stage1[0]
    x = torch.randn(1, 32, 5, 5)
    with torch.no_grad():
        joined = torch.cat([branch(x) for branch in block.branches], 1)
        torch.testing.assert_close(block(x), (x + 0.17 * block.join(joined)).clamp(min=0))


@pytest.mark.parametrize("args", [{"image_size": 74}, {"depths": (1, 1)}, {"width": 5}, {"slices": 0}])
def test_sizes_that_make_no_network_are_told(args: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"echonet: .*got"):
        small(**args)
