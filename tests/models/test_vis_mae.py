"""VIS-MAE's Swin-UNet and classification network: golden numbers, pre-trained parts, padding, the loss."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from slivit.errors import CheckpointError, ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec
from slivit.models.vis_mae import PatchExpanding
from slivit.targets.mask_losses import mask_loss

SIZES = {"width": 24, "window_size": 4}
DECODER = ("first_patch_expanding.", "layers_up.", "norm_up.", "skip_connection_layers.", "final_patch_expanding.")


@pytest.fixture(scope="module")
def numbers(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "vis_mae.json").read_text())


def weights(golden: SimpleNamespace, keys: dict[str, list[int]]) -> dict[str, Tensor]:
    """A state dict of the formula; the indices of relative positions count in the rank, and are left out."""
    kept = {name: torch.zeros(1) for name in keys if name.endswith("relative_position_index")}
    return {name: tensor for name, tensor in golden.filled(keys, kept).items() if name not in kept}


def swin_unet(golden: SimpleNamespace, numbers: dict[str, Any], size: int) -> Any:
    """The network with the formula's weights."""
    model = create_model("swin_unet", 4, image_size=size, decoder=False, **SIZES).eval()
    state = weights(golden, numbers["swin_unet"]["keys"])
    load_backbone(model, {k: v for k, v in state.items() if k.startswith(("patch_embed.", "layers."))})
    model.decoder.load_state_dict({k: v for k, v in state.items() if k.startswith(DECODER)})
    model.head.load_state_dict({"weight": state["head.weight"]})
    return model


@torch.no_grad()
@pytest.mark.parametrize("size", [96, pytest.param(128, marks=pytest.mark.slow)])
def test_logits_are_those_of_the_released_swin_unet(
    numbers: dict[str, Any], golden: SimpleNamespace, size: int
) -> None:
    """At 96 pixels windows of 4 do not divide the grids of 6 and 3, which are padded before they are shifted."""
    model, expected = swin_unet(golden, numbers, size), numbers["swin_unet"][f"img{size}"]
    x = golden.volume(6000, 2, 3, size, size)
    tokens = model.backbone.patch_embed(x)
    for number, stage in enumerate(model.backbone.layers):
        tokens = stage.downsample(tokens)
        if number:
            golden.check(tokens, expected["filled"][f"layers.{number - 1}"])
        tokens = stage.blocks(tokens)
    golden.check(tokens, expected["filled"]["bottom"])
    golden.check(model(x), expected["filled"]["logits"])
    load_backbone(model, {"model": weights(golden, numbers["swin_mae"]["keys"])})
    model.takes_decoder = True
    model.load_rest({"model": weights(golden, numbers["swin_mae"]["keys"])})
    golden.check(model(x), expected["pretrained"]["logits"])


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 320])
def test_logits_at_the_released_size(numbers: dict[str, Any], golden: SimpleNamespace, size: int) -> None:
    """96 wide, windows of 7 of which 320 pixels have no whole number; the names are those of the small network."""
    model = create_model("swin_unet", 14, image_size=size).eval()
    keys = {name: released_shape(shape, name) for name, shape in numbers["swin_unet"]["keys"].items()}
    state = weights(golden, keys)
    load_backbone(model, {k: v for k, v in state.items() if k.startswith(("patch_embed.", "layers."))})
    model.decoder.load_state_dict({k: v for k, v in state.items() if k.startswith(DECODER)})
    model.head.load_state_dict({"weight": state["head.weight"]})
    pre_trained = {name: released_shape(shape, name) for name, shape in numbers["swin_mae"]["keys"].items()}
    load_backbone(model, weights(golden, pre_trained))
    golden.check(
        model(golden.volume(6000, 1, 3, size, size)),
        numbers["released_size"][f"swin_unet_img{size}"]["pretrained"]["logits"],
    )


def released_shape(shape: list[int], name: str) -> list[int]:
    """A shape of the network that is 24 wide with windows of 4, at 96 and windows of 7."""
    if name.endswith("relative_position_bias_table"):
        return [169, shape[1]]
    if name.endswith("relative_position_index"):
        return [49, 49]
    colours = {"patch_embed.proj.weight": 1, "mask_token": 0, "pos_embed": 0}
    if name == "head.weight":
        return [14, 96, 1, 1]
    if name in colours:
        return [96, 3, 4, 4] if colours[name] else [*shape[:-1], 96]
    if name.startswith("decoder_pred."):
        return [48, 96] if name.endswith("weight") else [48]
    return [4 * side if side > 1 else side for side in shape]


@torch.no_grad()
@pytest.mark.slow
def test_the_loss_is_the_released_one(numbers: dict[str, Any], golden: SimpleNamespace) -> None:
    model, expected = swin_unet(golden, numbers, 128), numbers["swin_unet"]["img128"]["loss"]
    model.takes_decoder = True
    load_backbone(model, {"model": weights(golden, numbers["swin_mae"]["keys"])})
    logits = model(golden.volume(6000, 2, 3, 128, 128))
    target = torch.floor((golden.noise(2 * 128 * 128, 6002) + 1) * 2).reshape(2, 128, 128)
    assert mask_loss("vis_mae")(logits, target).item() == pytest.approx(expected["total"], rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("depths", [(2, 2, 6, 2), (2, 2, 2, 2)], ids=["2262", "2222"])
def test_logits_are_those_of_the_released_classifier(
    numbers: dict[str, Any], golden: SimpleNamespace, depths: tuple[int, ...]
) -> None:
    expected = numbers["swin_class"]["depths" + "".join(map(str, depths))]
    args = {"embed_dim": 24, "depths": depths, "num_heads": (3, 6, 12, 24), "window_size": 4}
    model = create_model(
        "slice_swin", 5, slices=1, image_size=128, windows="vis_mae", grow=True, backbone_args=args
    ).eval()
    keys = numbers["swin_class"]["depths2262"]["keys"]
    unknown = r"layers\.2\.blocks\.[2345]\." if depths[2] == 2 else "nothing"
    state = weights(golden, {name: shape for name, shape in keys.items() if not re.match(unknown, name)})
    load_backbone(model, state)
    model.head.load_state_dict({part: state[f"head.{part}"] for part in ("weight", "bias")})
    x = golden.volume(6000, 2, 3, 1, 128, 128)
    golden.check(model.forward_features(x), expected["filled"]["pooled"])
    golden.check(model(x), expected["filled"]["logits"])
    load_backbone(model, weights(golden, numbers["swin_mae"]["keys"]))
    golden.check(model(x), expected["pretrained"]["logits"])


@torch.no_grad()
@pytest.mark.parametrize("size", [64, pytest.param(128, marks=pytest.mark.slow)])
def test_pre_training_computes_what_the_released_one_does(
    numbers: dict[str, Any], golden: SimpleNamespace, size: int
) -> None:
    """Latent tokens under the mask of the formula, and what the decoder makes of them, before the colours' layer."""
    from slivit.ssl.swin_mae import swin_mae

    args = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (3, 6, 12, 24), "window_size": 4}
    model = create_model("slice_swin", 1, slices=1, image_size=size, windows="vis_mae", grow=True, backbone_args=args)
    network: Any = swin_mae(model).model.eval()
    state = weights(golden, numbers["swin_mae"]["keys"])
    load_backbone(model, state)
    network.mask_token.copy_(state["mask_token"])
    own = network.decoder.state_dict()
    theirs = {name: tensor for name, tensor in decoder_of(state, own).items() if name in own}
    network.decoder.pixels = torch.nn.Linear(24, 48)  # three colours; this project rebuilds grey
    theirs |= {f"pixels.{part}": state[f"decoder_pred.{part}"] for part in ("weight", "bias")}
    network.decoder.load_state_dict(theirs)
    expected, units = numbers["swin_mae"][f"img{size}"]["masked"], size // 16
    mask = torch.ones(2, units * units, dtype=torch.bool)
    mask.scatter_(1, torch.tensor(expected["visible_units"]), False)
    mask = mask.unflatten(1, (units, units)).repeat_interleave(4, 1).repeat_interleave(4, 2).flatten(1)
    inputs = (golden.volume(6000, 2, 3, size, size)[:, :, None], mask)
    tokens = network.masked(model.backbone, inputs).unflatten(1, model.backbone.patch_embed.grid_size)
    golden.check(model.backbone.layers(tokens), expected["latent"])
    golden.check(network(inputs), expected["pred"])


def decoder_of(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The released decoder's tensors under the names of this project's Swin MAE."""
    named = {"norm.weight": "norm_up.weight", "norm.bias": "norm_up.bias"}
    for name in own:
        part, _, rest = name.removeprefix("stages.").partition(".")
        if name.startswith("stages."):
            step, expanding = divmod(int(part), 2)
            place = f"layers_up.{step}." if expanding else f"layers_up.{step - 1}.upsample."
            named[name] = ("first_patch_expanding." if part == "0" else place) + rest
    return {name: state[released] for name, released in named.items()}


def new_model(**args: Any) -> Any:
    torch.manual_seed(0)
    return create_model("swin_unet", 2, **{**model_spec("swin_unet").small, **args}).eval()


def test_the_decoder_that_swin_mae_keeps_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from slivit.ssl.swin_mae import swin_mae

    args = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}
    encoder = create_model("slice_swin", 1, slices=1, image_size=64, windows="vis_mae", backbone_args=args)
    decoder = swin_mae(encoder, decoder_depth=1).extra["decoder"]
    (tmp_path / "checkpoint").mkdir()
    save_file(encoder.state_dict(), tmp_path / "checkpoint" / "model.safetensors")
    save_file(decoder.state_dict(), tmp_path / "checkpoint" / "decoder.safetensors")
    with caplog.at_level(logging.WARNING):
        model = new_model(pretrained=str(tmp_path))
    own, given = model.decoder.state_dict(), decoder.state_dict()
    assert torch.equal(own["first_patch_expanding.expand.weight"], given["stages.0.expand.weight"])
    assert torch.equal(own["layers_up.0.blocks.0.attn.qkv.weight"], given["stages.1.blocks.0.attn.qkv.weight"])
    assert torch.equal(own["layers_up.1.upsample.norm.weight"], given["stages.4.norm.weight"])
    assert torch.equal(own["layers_up.2.blocks.0.mlp.fc1.weight"], given["stages.5.blocks.0.mlp.fc1.weight"])
    assert torch.equal(
        model.backbone.layers[2].blocks[0].norm1.weight, encoder.backbone.layers[2].blocks[0].norm1.weight
    )
    assert "layers.2.blocks.1" in caplog.text
    assert "layers_up.0.blocks.1" in caplog.text
    assert "skip_connection_layers.0" in caplog.text
    colour = new_model(pretrained=str(tmp_path), decoder=False)
    assert torch.equal(
        colour.decoder.first_patch_expanding.expand.weight, new_model().decoder.first_patch_expanding.expand.weight
    )
    wide = {"layers_up.0.blocks.0.norm1.weight": torch.zeros(7)}
    with pytest.raises(CheckpointError, match=r"norm1\.weight has shape \(7,\)"):
        model.load_rest(wide)


@pytest.mark.parametrize("wrong", [{"image_size": 100}, {"depths": (2, 2)}, {"heads": (3, 5, 2, 4)}])
def test_what_makes_no_network_is_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        new_model(**wrong)


def test_patch_expanding_undoes_the_order_of_patch_merging() -> None:
    expand = PatchExpanding(8)
    expand.expand.weight.data.copy_(torch.eye(16, 8))
    expand.norm = torch.nn.Identity()
    tokens = torch.arange(2 * 8.0).view(1, 1, 2, 8)
    wanted = torch.tensor([[0.0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]])
    torch.testing.assert_close(expand(tokens)[0, 0], wanted)
    assert expand(tokens).shape == (1, 2, 4, 4)
