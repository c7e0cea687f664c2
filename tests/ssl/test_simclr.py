"""SimCLR, and with it the Pretext's main path: loss, views, training, resuming, and a backbone that loads elsewhere."""

import lightly.loss
import pytest
import torch

from slivit.errors import ModelError
from slivit.models.registry import create_model
from slivit.ssl import create_pretext
from slivit.ssl.losses.contrastive import nt_xent

NETWORKS = {
    "convnext": ("image_classifier", {"backbone": "convnext_atto"}),
    "resnet": ("image_classifier", {"backbone": "resnet10t", "stride": 16}),
    "swin": ("slice_swin", {"slices": 1, "backbone_args": {"patch_size": 4, "window_size": 4, "embed_dim": 8,
                                                           "depths": (2, 2), "num_heads": (1, 2)}}),
}  # fmt: skip


def encoder(size=32, kind="convnext"):
    name, args = NETWORKS[kind]
    return create_model(name, 1, image_size=size, **args)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_that_of_lightly(temperature):
    first, second = torch.randn(6, 8), torch.randn(6, 8)
    wanted = lightly.loss.NTXentLoss(temperature)(first, second)
    torch.testing.assert_close(nt_xent(first, second, temperature), wanted)


def test_views_are_two_different_normalised_images_of_each():
    pretext = create_pretext("simclr", encoder())
    inputs, _ = pretext.views(torch.randint(0, 255, (3, 1, 32, 32), dtype=torch.uint8))
    assert inputs.shape == (6, 3, 32, 32)
    assert not torch.equal(inputs[0], inputs[3])


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_reach_the_backbone_and_leave_the_head(kind):
    model = encoder(kind=kind)
    pretext = create_pretext("simclr", model, hidden=16, projection=8)
    inputs, targets = pretext.views(torch.randint(0, 255, (4, 1, 32, 32), dtype=torch.uint8))
    pretext.loss(pretext.model(inputs), targets).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.backbone.parameters())
    assert all(p.grad is None for p in model.head.parameters())


def test_unknown_settings_and_methods_name_the_nearest():
    with pytest.raises(ModelError, match=r'no setting "temprature".*temperature'):
        create_pretext("simclr", encoder(), temprature=0.1)
    with pytest.raises(ModelError, match=r'no pre-training method "simclear".*simclr'):
        create_pretext("simclear", encoder())
    with pytest.raises(ModelError, match=r"temperature: .*greater than 0"):
        create_pretext("simclr", encoder(), temperature=-1)


def test_models_of_several_slices_are_refused():
    model = create_model("slivit", 1, backbone="convnext_atto", image_size=64, slices=2)
    with pytest.raises(ModelError, match="single square images"):
        create_pretext("simclr", model)


def test_settings_are_checked_as_those_of_a_model_not_coerced():
    with pytest.raises(ModelError, match=r"simclr: temperature: should be a valid number, got '0.5'"):
        create_pretext("simclr", encoder(), temperature="0.5")
