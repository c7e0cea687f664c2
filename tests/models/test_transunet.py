"""TransUNet: its encoder is timm's hybrid, weights with a class token start it, shapes of its steps."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from slivit.errors import CheckpointError, ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec


def new_model(**args: Any) -> Any:
    torch.manual_seed(0)
    return create_model("transunet", 2, **{**model_spec("transunet").small, **args}).eval()


@torch.no_grad()
@pytest.mark.parametrize("token", [False, True])
def test_the_encoder_is_timms_hybrid(token: bool) -> None:
    """R50 in full with a thin transformer; a class token and its position are left out."""
    thin = {"embed_dim": 32, "depth": 1, "num_heads": 2, "mlp_ratio": 1, "num_classes": 0, "global_pool": ""}
    theirs = timm.create_model("vit_base_r50_s16_224", img_size=64, class_token=token, **thin).eval()
    args = {"layers": (3, 4, 9), "channels": (256, 512, 1024), "depth": 1, "image_size": 64}
    model = new_model(**args)
    assert load_backbone(model, theirs.state_dict()) == (("cls_token",) if token else ())
    torch.testing.assert_close(model.backbone.pos_embed, theirs.pos_embed[:, int(token) :])
    x = torch.randn(1, 3, 64, 64)
    tokens, maps = model.backbone(x)
    assert [tuple(m.shape[1:]) for m in maps] == [(512, 8, 8), (256, 16, 16), (64, 32, 32)]
    if not token:
        torch.testing.assert_close(tokens.flatten(2).mT, theirs.forward_features(x))


def test_positions_of_another_grid_are_resampled() -> None:
    trained = new_model(image_size=64)
    model = new_model()
    load_backbone(model, trained.backbone.state_dict())
    assert model.backbone.pos_embed.shape == (1, 4, 32)


def test_the_published_size() -> None:
    """R50 and ViT-B/16 with the decoder of 256, 128, 64 and 16 channels, on 14 x 14 tokens."""
    with torch.device("meta"):
        model = create_model("transunet", 9)
        tokens, maps = model.backbone(torch.zeros(1, 3, 224, 224))
        assert tokens.shape == (1, 768, 14, 14)
        assert model.decoder(tokens, maps).shape == (1, 16, 224, 224)


@pytest.mark.parametrize("wrong", [{"image_size": 40}, {"channels": (64, 128, 128)}, {"decoder": (4, 4)}, {"heads": 3}])
def test_what_makes_no_network_is_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="transunet"):
        new_model(**wrong)
    with pytest.raises(CheckpointError, match="Did you mean"):
        new_model(pretrained="vit_base_r50_s16_224")
