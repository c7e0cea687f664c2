"""2D networks over slices: what each slice gives, and how the slices come together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from slivit.errors import ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec

NAMES = ["resnet18_2d", "resnext101_2d", "lrcn", "position_encoded_slices"]


def small(name: str, **args: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, 2, **{**model_spec(name).small, **args}).eval()


def clip(model: nn.Module) -> torch.Tensor:
    return torch.randn(model.spec.batch_shape(2), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", NAMES)
def test_a_slice_knows_nothing_of_its_neighbours(name: str) -> None:
    model = small(name)
    x = clip(model)
    changed = x.clone()
    changed[:, :, 1] = 0
    with torch.no_grad():
        before, after = model.forward_slices(x), model.forward_slices(changed)
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after[:, 1], before[:, 1])


def test_slice_features_are_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = resnet18().eval()
    ours = create_model("resnet18_2d", 1000, slices=2, image_size=64).eval()
    assert set(load_backbone(ours, theirs.state_dict())) == {"fc.weight", "fc.bias"}
    ours.head.load_state_dict(theirs.fc.state_dict())
    x = torch.randn(1, 3, 2, 64, 64)
    with torch.no_grad():
        expected = theirs(x[0].transpose(0, 1)).mean(0, keepdim=True)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)


def test_a_pretrained_image_classifier_is_a_start() -> None:
    args = {
        "backbone": "resnet18.tv_in1k",
        "image_size": 32,
        "backbone_args": model_spec("lrcn").small["backbone_args"],
    }
    classifier = create_model("image_classifier", 4, **args)
    for name in ("resnet18_2d", "lrcn", "position_encoded_slices"):
        model = small(name)
        load_backbone(model, classifier.state_dict())
        state = classifier.backbone.state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in model.backbone.state_dict().items())


@pytest.mark.parametrize(("pool", "reduce"), [("mean", torch.mean), ("max", torch.amax)])
def test_pooling_over_slices(pool: str, reduce: Any) -> None:
    model = small("resnet18_2d", pool=pool)
    x = clip(model)
    with torch.no_grad():
        expected = model.head(reduce(model.forward_slices(x), 1))
        torch.testing.assert_close(model(x), expected)
        torch.testing.assert_close(model(x.flip(2)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "args"), [("lrcn", {}), ("lrcn", {"pool": "max", "bidirectional": False}), ("position_encoded_slices", {})]
)
def test_the_order_of_slices_counts(name: str, args: dict[str, Any]) -> None:
    model = small(name, **args)
    x = clip(model)
    with torch.no_grad():
        assert not torch.allclose(model(x), model(x[:, :, [1, 0, 2]]), atol=1e-6)


def test_attention_over_slices() -> None:
    model = small("position_encoded_slices")
    x = clip(model)
    with torch.no_grad():
        weights = model.attention_maps(x)
        assert weights.shape == (2, 2, 3)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2))
        pooled, slices = model.attention, model.embed_slices(x)
        # torch's own attention with the same query, keys and values.
        query = pooled.query.expand(2, 1, -1).unflatten(-1, (2, -1)).transpose(1, 2)
        key, value = (f(slices).unflatten(-1, (2, -1)).transpose(1, 2) for f in (pooled.key, pooled.value))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(1)
        torch.testing.assert_close(pooled(slices), pooled.out(pooled.norm(mixed)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match='only "attention"'):
        small("position_encoded_slices", pool="mean").attention_maps(x)


@pytest.mark.parametrize("name", NAMES)
def test_grey_input_by_copy_and_by_the_sum_of_the_first_layer(name: str) -> None:
    colour, grey = small(name), small(name, in_chans=1)
    load_backbone(grey, colour.backbone.state_dict())
    rest = {k: v for k, v in colour.state_dict().items() if not k.startswith("backbone.")}
    grey.load_state_dict(rest, strict=False)
    x = clip(grey)
    assert x.shape[1] == 1
    assert grey.spec.mean == pytest.approx((0.449,), abs=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1, -1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("resnet18_2d", {"pool": "median"}),
        ("lrcn", {"pool": "attention"}),
        ("lrcn", {"hidden": 0}),
        ("position_encoded_slices", {"dim": 9}),
        ("resnext101_2d", {"image_size": 40}),
    ],
)
def test_arguments_that_make_no_network_are_told(name: str, args: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="got"):
        small(name, **args)


def test_gated_attention_weighs_the_slices():
    model = small("position_encoded_slices", pool="gated").eval()
    x = torch.rand(2, 3, 3, 32, 32)
    with torch.no_grad():
        weights, slices = model.attention_maps(x), model.embed_slices(x)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1))
        torch.testing.assert_close(model.forward_features(x), model.project((weights @ slices)[:, 0]))
