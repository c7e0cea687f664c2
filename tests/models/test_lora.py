"""Low-rank adapters: they change nothing before they learn, train alone, and reach every layer that they are for."""

from __future__ import annotations

import pickle
from copy import deepcopy

import pytest
import torch

from slivit.errors import CheckpointError, ModelError
from slivit.models._lora import Lora, adapt_backbone, backbone_digest, is_adapter, kept_state, merged, share_backbone
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec
from slivit.train.learner import parameter_groups

TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2}
BACKBONES = {
    "vit_small_patch16_224": "token",
    "vit_small_patch16_dinov3_qkvb": "token",  # takes qkv.weight itself
    "eva02_tiny_patch14_224": "token",
    "vit_base_patch16_siglip_224": "mean",
}


def vit(backbone="vit_small_patch16_224", **lora):
    torch.manual_seed(0)
    size = 28 if "patch14" in backbone else 32
    args = {"slices": 2, "image_size": size, "pool": BACKBONES[backbone], "backbone_args": TINY}
    model = create_model("slice_vit", 1, backbone=backbone, **args).eval()
    if lora:
        adapt_backbone(model, Lora(**lora))
    return model


def scans(model):
    return torch.randn(2, 3, *model.input_size, generator=torch.Generator().manual_seed(1))


def trained(model):
    """The model with adapters that say something."""
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("backbone", BACKBONES)
def test_adapters_begin_as_nothing_and_then_every_one_counts(backbone):
    plain, adapted = vit(backbone), vit(backbone, rank=2, where=["attention", "mlp", "patch"])
    x = scans(plain)
    with torch.no_grad():
        torch.testing.assert_close(adapted(x), plain(x))
    trained(adapted)(x).sum().backward()
    grads = {name: p.grad for name, p in adapted.named_parameters() if name.startswith("backbone.")}
    assert all((grad is not None and grad.abs().sum() > 0) == is_adapter(name) for name, grad in grads.items())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_adapted_layer_is_one_whose_weight_has_the_product_added(backbone):
    adapted, plain = trained(vit(backbone, rank=2, alpha=3.0)), vit(backbone)
    layers = dict(adapted.backbone.named_modules())
    for name, layer in plain.backbone.named_modules():
        if hasattr(layers[name], "lora_a"):
            low = torch.einsum("kr,r...->k...", layers[name].lora_b, layers[name].lora_a)
            layer.weight.data += 1.5 * low
    with torch.no_grad():
        torch.testing.assert_close(adapted(scans(adapted)), plain(scans(plain)), rtol=1e-4, atol=1e-5)
        expected = adapted(scans(adapted))
        plain.load_state_dict(merged(adapted).state_dict())
        torch.testing.assert_close(plain(scans(plain)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dino3d_vit_small", "slice_swin"])
def test_other_transformers_are_adapted_too(name):
    model = create_model(name, 1, **model_spec(name).small).eval()
    x = torch.randn(model.spec.batch_shape(1))
    with torch.no_grad():
        before = model(x)
    adapt_backbone(model, Lora(rank=2, where=("attention", "mlp")))
    with torch.no_grad():
        torch.testing.assert_close(model(x), before)
        assert not torch.allclose(trained(model)(x), before)


def test_what_is_trained_is_the_adapters_the_integrator_and_the_head():
    model = vit(rank=2)
    backbone, integrator, head = parameter_groups(model)
    assert {id(p) for p in backbone} == {id(p) for n, p in model.backbone.named_parameters() if is_adapter(n)}
    assert (len(integrator), len(head)) == (0, 2)
    assert len(backbone) == 2 * (1 + 2 * 2)  # the patches; and of two blocks qkv and what follows


def test_copies_and_pickles_stay_adapted_and_their_own_weights_load():
    model = trained(vit(rank=2))
    x = scans(model)
    with torch.no_grad():
        for copy in (deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(copy(x), model(x))
    other = vit(rank=2)
    load_backbone(other, vit().backbone.state_dict())
    with pytest.raises(CheckpointError, match=r"holds adapters(.|\n)*start from the backbone that they are for"):
        load_backbone(vit(), model.state_dict())


def test_layers_that_are_not_there_are_told():
    model = create_model("image_classifier", 1, backbone="resnet10t", image_size=32, stride=16)
    with pytest.raises(ModelError, match=r"no layers that are its attention or patch(.|\n)*nothing here"):
        adapt_backbone(model, Lora())
    model = create_model("image_classifier", 1, backbone="test_convnext", image_size=32, stride=16)
    with pytest.raises(ModelError, match=r"attention or patch; fit\.lora\.where may be mlp"):
        adapt_backbone(model, Lora())


def test_two_tasks_share_the_backbone_s_memory_and_keep_their_own_adapters():
    one, two = trained(vit(rank=2)), trained(vit(rank=4))
    x = scans(one)
    with torch.no_grad():
        before = one(x), two(x)
        share_backbone(two, one)
        torch.testing.assert_close((one(x), two(x)), before)
    shared = {p.data_ptr() for n, p in one.backbone.named_parameters() if not is_adapter(n)}
    assert shared == {p.data_ptr() for n, p in two.backbone.named_parameters() if not is_adapter(n)}
    assert backbone_digest(one) == backbone_digest(vit())
    assert all(name.startswith("head.") or is_adapter(name) for name in kept_state(one))
    assert kept_state(vit()).keys() == vit().state_dict().keys()
