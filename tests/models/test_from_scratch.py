"""The 3D networks that start at random: 3D ResNet-18 and the 3D ViT."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from slivit.errors import ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec


def small(name: str, **args: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, 2, **{**model_spec(name).small, **args}).eval()


@pytest.mark.slow  # importing MONAI alone takes long
def test_the_resnet_is_monais() -> None:
    nets = pytest.importorskip("monai.networks.nets")
    theirs = nets.ResNet(
        "basic",
        [1, 1, 1, 1],
        [8, 16, 32, 64],
        n_input_channels=1,
        conv1_t_stride=(1, 2, 2),
        num_classes=2,
        bias_downsample=False,
    ).eval()
    for name, tensor in theirs.named_buffers():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
    ours = small("resnet3d_18")
    assert set(load_backbone(ours, theirs.state_dict())) == {"fc.weight", "fc.bias"}
    ours.head.load_state_dict(theirs.fc.state_dict())
    x = torch.randn(ours.spec.batch_shape(2))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    with torch.device("meta"):
        whole = nets.resnet18(n_input_channels=1, conv1_t_stride=(1, 2, 2), bias_downsample=False)
        shapes = {k: v.shape for k, v in create_model("resnet3d_18", 2).backbone.state_dict().items()}
    assert shapes == {k: v.shape for k, v in whole.state_dict().items() if not k.startswith("fc.")}


@pytest.mark.slow
def test_resnet3d_50_is_monais_with_the_stem_of_its_authors() -> None:
    nets = pytest.importorskip("monai.networks.nets")
    ours = small("resnet3d_50")
    theirs = nets.ResNet(
        "bottleneck", [1, 1, 1, 1], [4, 8, 16, 32], n_input_channels=1, conv1_t_stride=(1, 2, 2), num_classes=2,
        bias_downsample=False,
    ).eval()  # fmt: skip
    assert set(load_backbone(ours, theirs.state_dict())) == {"fc.weight", "fc.bias"}
    ours.head.load_state_dict(theirs.fc.state_dict())
    x = torch.randn(ours.spec.batch_shape(2))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_the_widths_of_a_3d_vit_may_differ_within_layers_and_along_them() -> None:
    model = small("vit3d", temporal_dim=24)
    assert model.backbone.between.weight.shape == (24, 16)
    assert model.head.in_features == 24
    with pytest.raises(ModelError, match="of heads"):
        small("vit3d", temporal_dim=23)


def test_weights_over_three_channels_are_summed() -> None:
    state = small("resnet3d_18").backbone.state_dict()
    colour = torch.randn(8, 3, 7, 7, 7)
    model = small("resnet3d_18")
    load_backbone(model, {"state_dict": {**state, "conv1.weight": colour}})
    torch.testing.assert_close(model.backbone.conv1.weight, colour.sum(1, keepdim=True))


def test_the_vit_sees_within_layers_then_along_them() -> None:
    model = small("vit3d")
    seen = []
    model.backbone.temporal.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(model.spec.batch_shape(1))
    changed = x.clone()
    changed[:, :, 3, 5, 7] += 9
    with torch.no_grad():
        before, after = model(x), model(changed)
        swapped = model(x[:, :, [2, 3, 0, 1]])
    assert seen[0].shape == (1, 2, 16)
    torch.testing.assert_close(seen[1][:, 0], seen[0][:, 0])
    assert not torch.allclose(seen[1][:, 1], seen[0][:, 1])
    torch.testing.assert_close(seen[2], seen[0].flip(1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, after)
    assert not torch.allclose(before, swapped)


def test_a_token_is_one_tubelet() -> None:
    model = small("vit3d")
    tokens = []
    model.backbone.spatial.register_forward_pre_hook(lambda module, inputs: tokens.append(inputs[0]))
    x = torch.randn(model.spec.batch_shape(1))
    changed = x.clone()
    changed[0, 0, 2:4, 8:16, 24:32] = 0
    with torch.no_grad():
        model(x)
        model(changed)
    differs = (tokens[0] != tokens[1]).any(-1)
    assert differs.nonzero().tolist() == [[1, 1 * 4 + 3]]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("resnet3d_18", {"depths": (2, 2)}),
        ("resnet3d_18", {"width": 0}),
        ("vit3d", {"slices": 5}),
        ("vit3d", {"image_size": 36}),
        ("vit3d", {"heads": 3}),
    ],
)
def test_sizes_that_make_no_network_are_told(name: str, args: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=rf"{name}: .*got"):
        small(name, **args)
