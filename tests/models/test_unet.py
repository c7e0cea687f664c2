"""Networks of MONAI that segment compute what MONAI's own do, and take patches of other sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slivit.errors import ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec

pytest.importorskip("monai", reason="MONAI is not installed (the extra baselines)")


def new_model(name: str, **args: Any) -> Any:
    torch.manual_seed(0)
    return create_model(name, 3, **{**model_spec(name).small, **args}).eval()


@torch.no_grad()
def test_dynunet_is_monais_with_strides_of_thick_slices() -> None:
    from monai.networks.nets import DynUNet

    filters, strides = (4, 8, 8, 12), (1, (1, 2, 2), 2, 2)
    theirs = DynUNet(3, 2, 3, (3,) * 4, list(strides), list(strides[1:]), filters=filters).eval()
    model = new_model("dynunet", in_chans=2, filters=filters, strides=strides)
    output, body = "output_block.conv.conv.", theirs.state_dict()
    load_backbone(model, {k: v for k, v in body.items() if not k.startswith(("skip_layers.", "output_block."))})
    model.head.load_state_dict({key: body[output + key] for key in ("weight", "bias")})
    x = torch.randn(1, 2, 8, 16, 24)
    torch.testing.assert_close(model(x), theirs(x))
    with pytest.raises(ModelError, match="multiples of 4 x 8 x 8; got"):
        model(x[..., :-4])


@torch.no_grad()
def test_swin_unetr_is_monais_on_the_volume_turned_round() -> None:
    from monai.networks.nets import SwinUNETR

    small = {"width": 12, "depths": (1, 1, 1, 1), "heads": (1, 1, 2, 2)}
    theirs = SwinUNETR(2, 3, feature_size=12, depths=small["depths"], num_heads=small["heads"]).eval()
    model = new_model("swin_unetr", in_chans=2, window_size=7, **small)
    state = theirs.state_dict()
    dropped = load_backbone(model, state)
    assert "out.conv.conv.bias" in dropped
    model.decoder.load_state_dict({k: v for k, v in state.items() if k.startswith(("encoder", "decoder"))})
    model.head.load_state_dict({key: state[f"out.conv.conv.{key}"] for key in ("weight", "bias")})
    x = torch.rand(1, 2, 32, 32, 64)
    torch.testing.assert_close(model(x), theirs(x.transpose(2, 4)).transpose(2, 4))


@torch.no_grad()
def test_weights_of_one_channel_start_several() -> None:
    one, four = new_model("swin_unetr"), new_model("swin_unetr", in_chans=4)
    load_backbone(four, one.backbone.state_dict())
    x = torch.rand(1, 1, 32, 32, 32)
    torch.testing.assert_close(four.backbone(x.expand(-1, 4, -1, -1, -1)), one.backbone(x))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("dynunet", {"strides": (1, 2)}),
        ("dynunet", {"strides": (1, (2, 2), 2)}),
        ("dynunet", {"slices": 10}),
        ("unet", {"filters": (4,)}),
        ("swin_unetr", {"slices": 40}),
    ],
)
def test_what_makes_no_network_is_told(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=name):
        new_model(name, **wrong)
