"""The 3D ViT-Adapter and its kin: golden numbers in both orders of axes, axes of volumes, gradients, weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from slivit.errors import CheckpointError, ModelError
from slivit.models._deformable import DeformableAttention3d, first_offsets, reference_points, sample_levels
from slivit.models._dino3d_vit import VisionTransformer3d
from slivit.models._vit_adapter import AdapterSettings, ConvFFN, Extractor, Injector, SpatialPrior, ViTAdapter
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec

pytest.importorskip("monai", reason="MONAI is not installed (the extra baselines)")
ORDERS = {"aligned": "aligned", "published": "released"}
GRIDS = [(8, 12, 16), (4, 6, 8), (2, 3, 4)]


@pytest.fixture(scope="module")
def numbers(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "golden_adapter.json").read_text())


def golden_vit(golden: SimpleNamespace, sizes: dict[str, int]) -> VisionTransformer3d:
    names = ("dim", "depth", "heads", "position_size")
    return golden.fill(VisionTransformer3d(**{name: sizes[name] for name in names}, mask_token=True))


@pytest.mark.parametrize("order", ORDERS)
def test_first_places_are_those_of_the_released_code(numbers: dict[str, Any], order: str) -> None:
    expected = torch.tensor(numbers["reference_points"][ORDERS[order]])
    torch.testing.assert_close(reference_points([(2, 3, 4)], order), expected, rtol=0, atol=1e-6)
    offsets = first_offsets(8, 2, 4)
    for point in (0, 3):
        assert offsets[:, 0, point].tolist() == numbers["first_offsets"][f"point{point}"]


@torch.no_grad()
def test_reading_at_places(numbers: dict[str, Any], golden: SimpleNamespace) -> None:
    places = 0.5 + 0.6 * golden.volume(5001, 2, 7, 8, 2, 4, 3)
    weights = golden.volume(5002, 2, 7, 8, 8).softmax(-1).view(2, 7, 8, 2, 4)
    out = sample_levels(golden.volume(5000, 2, 72, 8, 3), [(4, 3, 5), (2, 2, 3)], places, weights)
    golden.check(out, numbers["core"]["out"])


@torch.no_grad()
@pytest.mark.parametrize("order", ORDERS)
def test_the_parts_compute_what_the_released_ones_do(
    numbers: dict[str, Any], golden: SimpleNamespace, order: str
) -> None:
    attention = golden.fill(DeformableAttention3d(64, 2, order=order))
    query, cells = golden.volume(5010, 2, 24, 64), golden.volume(5011, 2, 72, 64)
    out = attention(query, reference_points([(2, 3, 4)], order), cells, [(4, 3, 5), (2, 2, 3)])
    golden.check(out, numbers["msda"]["out"][ORDERS[order]])
    expected = numbers["injector_extractor"]["out"][ORDERS[order]]
    settings = {"heads": 8, "points": 4, "ratio": 0.25, "order": order}
    tokens, cells = golden.volume(5040, 6, 24, 64), golden.volume(5041, 2, 1752, 64)
    golden.check(golden.fill(Injector(64, settings))(tokens, cells, GRIDS), expected["injector"])
    golden.check(golden.fill(Extractor(64, settings, 0.0))(cells, tokens, GRIDS), expected["extractor"])


@torch.no_grad()
def test_convolutions_are_those_of_the_released_code(numbers: dict[str, Any], golden: SimpleNamespace) -> None:
    maps = golden.fill(SpatialPrior(2, 8, 64))(golden.volume(5020, 2, 2, 32, 48, 64))
    for number, cells in enumerate(maps, start=1):
        shown = cells if number == 1 else cells.flatten(2).mT
        golden.check(shown, numbers["spatial_prior"]["out"][f"c{number}"])
    golden.check(golden.fill(ConvFFN(64, 16))(golden.volume(5030, 1, 1752, 64), GRIDS), numbers["conv_ffn"]["out"])


@torch.no_grad()
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "case",
    [pytest.param(0, marks=pytest.mark.slow, id="cube"), 1, pytest.param(2, marks=pytest.mark.slow, id="channels")],
)
def test_maps_are_those_of_the_released_adapter(
    numbers: dict[str, Any], golden: SimpleNamespace, case: int, order: str
) -> None:
    entry = numbers["adapter"][case]
    vit, channels = golden_vit(golden, entry["vit"]), entry["channels"]
    settings = AdapterSettings(prior_width=entry["conv_inplane"], reference_axes=order)
    adapter = golden.fill(ViTAdapter(64, channels, settings))
    sides = [16 * n for n in entry["out"]["released"]["f4"]["shape"][2:]]
    x = golden.volume(5050, 2, channels, *sides)  # columns, rows, slices
    tokens = vit.embed_patches(x.transpose(2, 4).flatten(0, 1)[:, None])
    for number, cells in enumerate(adapter(x, tokens, list(vit.blocks), 1), start=1):
        golden.check(cells, entry["out"][ORDERS[order]][f"f{number}"])


RELEASED_NAMES = {
    "dino3d_adapter": ((r"^adapter\.", "feature_model."), (r"^decoder\.", ""), (r"^head\.", "out.conv.conv.")),
    "dino3d_unetr": (
        (r"^merges\.(\d)\.", lambda m: f"channel_merge{int(m[1]) + 1}."),
        (r"^decoder\.", ""),
        (r"^head\.", "out.conv.conv."),
    ),
    "dino3d_linear": ((r"^merge\.", "channel_merge."), (r"^norm\.", "bn."), (r"^head\.", "conv_seg.")),
}
GOLDEN_HEADS = {"dino3d_adapter": "adapter_unet", "dino3d_unetr": "unetr", "dino3d_linear": "linear"}


def golden_model(golden: SimpleNamespace, entry: dict[str, Any], name: str, **args: Any) -> Any:
    """A network with the weights of the formula under the released names."""
    sizes = entry["vit"]
    model = create_model(name, 3, **sizes, in_chans=2, slices=48, image_size=48, **args)
    vit = {f"backbone.{k}": v for k, v in golden_vit(golden, sizes).state_dict().items()}
    weights, state = golden.filled(entry["keys"]), {}
    for key, tensor in model.state_dict().items():
        released = key
        for pattern, replacement in RELEASED_NAMES[name]:
            released = re.sub(pattern, replacement, released)
        state[key] = vit[key] if key in vit else weights.pop(released).reshape(tensor.shape)
    assert not weights, "names of the released network that this one has not"
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("dino3d_adapter", "aligned"),
        pytest.param("dino3d_adapter", "published", marks=pytest.mark.slow),
        pytest.param("dino3d_unetr", "", marks=pytest.mark.slow),
        ("dino3d_linear", ""),
    ],
)
def test_logits_are_those_of_the_released_networks(
    numbers: dict[str, Any], golden: SimpleNamespace, name: str, order: str
) -> None:
    entry = numbers["heads"][GOLDEN_HEADS[name]]
    model = golden_model(golden, entry, name, **({"reference_axes": order} if order else {}))
    logits = model(golden.volume(5060, 1, 2, 48, 48, 48).transpose(2, 4)).transpose(2, 4)
    golden.check(logits, entry["out"][ORDERS[order]] if order else entry["out"])
    if name == "dino3d_linear":
        low = model.forward_low(golden.volume(5060, 1, 2, 48, 48, 48).transpose(2, 4)).transpose(2, 4)
        golden.check(low, entry["low"])


def new_model(name: str = "dino3d_adapter", **args: Any) -> Any:
    torch.manual_seed(0)
    return create_model(name, 2, **{**model_spec(name).small, **args}).eval()


def test_a_token_looks_first_where_it_stands() -> None:
    """With one point a head, what is read at first are the eight corners round the token; all sides differ."""
    grid, place = (8, 12, 16), {}
    for order in ORDERS:
        torch.manual_seed(0)
        layer, cells = DeformableAttention3d(32, 1, points=1, order=order), torch.zeros(1, 8 * 12 * 16, 32)
        read = layer(torch.zeros_like(cells), reference_points([grid], order), cells.requires_grad_(), [grid])
        (gradient,) = torch.autograd.grad(read[0].unflatten(0, grid)[5, 9, 3].sum(), cells)
        place[order] = gradient[0].abs().sum(-1).unflatten(0, grid).nonzero().tolist()
    assert place["aligned"] == [[z, y, x] for z in (4, 6) for y in (8, 10) for x in (2, 4)]
    assert len(place["published"]) > 0
    assert all(abs(place[0] - 5) + abs(place[1] - 9) + abs(place[2] - 3) > 3 for place in place["published"])


def test_logits_lie_where_the_volume_says() -> None:
    """A bright box changes the logits most inside it, on 32 x 48 x 64, so that no two axes can be exchanged."""
    torch.manual_seed(0)
    model = create_model("dino3d_linear", 1, **{**model_spec("dino3d_linear").small, "position_size": 32}).eval()
    for name, parameter in model.backbone.named_parameters():
        parameter.data.normal_(0.01 if "gamma" in name else 0, 0.02 if "pos" in name else 0.2)
    x = torch.zeros(1, 1, 32, 48, 64)
    changed = x.clone()
    changed[:, :, 16:, 16:32, 48:] = 3
    with torch.no_grad():
        difference = (model.forward_low(changed) - model.forward_low(x)).abs()[0, 0]
    assert difference.shape == (2, 3, 4)
    assert (difference == difference.max()).nonzero().tolist() == [[1, 1, 3]]


@pytest.mark.parametrize("name", ["dino3d_adapter", "dino3d_unetr"])
def test_volumes_of_three_different_sides_give_their_own_shape(name: str) -> None:
    x = torch.randn(1, 1, 32, 48, 64)
    with torch.no_grad():
        model = new_model(name)
        assert model(x).shape == (1, 2, 32, 48, 64)
        # A decoder's first block sees the volume itself: its answer moves with a voxel that changes.
        changed = x.clone()
        changed[0, 0, 30, 5, 60] += 50
        difference = (model(changed) - model(x)).abs().sum(1)[0]
    assert difference[30, 5, 60] > 20 * difference.median()


def test_gradients_run_through_the_frozen_transformer() -> None:
    """The first injector learns even where the last stage's tokens alone count, which it only moves through blocks."""
    model = new_model().train()
    model.backbone.requires_grad_(False)
    for number in (1, 2, 3):
        torch.nn.init.zeros_(getattr(model.adapter, f"channel_merge{number}").weight)
    for interaction in model.adapter.interactions:
        for extractor in (interaction.extractor, *(interaction.extra_extractors or ())):
            torch.nn.init.zeros_(extractor.attn.output_proj.weight)
    model(torch.randn(2, 1, 32, 32, 32)).square().mean().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert model.adapter.interactions[0].injector.attn.value_proj.weight.grad.abs().sum() > 0


def test_blocks_are_computed_again_for_their_gradients() -> None:
    model, runs = new_model().train(), []
    for block in model.backbone.blocks:
        block.register_forward_pre_hook(lambda module, _: runs.append(module))
    model(torch.ones(1, 1, 32, 32, 32)).square().mean().backward()
    assert [runs.count(block) for block in model.backbone.blocks] == [2, 2, 2, 2]


def test_released_weights_start_the_backbone(tmp_path: Path) -> None:
    sizes = {"dim": 32, "depth": 4, "heads": 2, "position_size": 32}
    trained = VisionTransformer3d(**sizes, mask_token=True)
    torch.save({"teacher": {f"backbone.{k}": v for k, v in trained.state_dict().items()}}, tmp_path / "w.pth")
    model = new_model(pretrained=str(tmp_path / "w.pth"))
    assert torch.equal(model.backbone.blocks[3].attn.qkv.weight, trained.blocks[3].attn.qkv.weight)
    assert set(load_backbone(model, tmp_path / "w.pth")) == {
        "backbone.mask_token",
        "backbone.norm.weight",
        "backbone.norm.bias",
    }
    linear = new_model("dino3d_linear", pretrained=str(tmp_path / "w.pth"))
    assert torch.equal(linear.backbone.norm.weight, trained.norm.weight)
    with pytest.raises(CheckpointError, match="missing"):
        load_backbone(model, {"pos_embed": trained.pos_embed.detach()})


def test_monais_vit_starts_the_adapters_backbone() -> None:
    small = model_spec("monai_vit_adapter").small
    plain = create_model(
        "monai_vit", 1, **{k: v for k, v in small.items() if k not in ("prior_width", "decoder_width")}
    )
    model = new_model("monai_vit_adapter")
    assert load_backbone(model, plain.backbone.state_dict()) == ("norm.weight", "norm.bias")
    x = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        for block in plain.backbone.blocks:
            assert len(block.mlp.linear1.weight) == 32
        torch.testing.assert_close(model.backbone.embed_patches(x), plain.backbone.embed_patches(x))
    with pytest.raises(ModelError, match="got"):
        model(torch.rand(1, 1, 48, 32, 32))


def test_the_papers_gelu_is_an_option() -> None:
    x = torch.randn(1, 2, 32, 32, 32)
    plain, gelu = (new_model(in_chans=2, merge_gelu=flag) for flag in (False, True))
    gelu.load_state_dict(plain.state_dict())
    small = model_spec("dino3d_vit_small").small
    vectors = [create_model("dino3d_vit_small", 1, **small, in_chans=2, project_gelu=flag) for flag in (False, True)]
    vectors[1].load_state_dict(vectors[0].state_dict())
    with torch.no_grad():
        assert not torch.allclose(plain(x), gelu(x))
        features = [model.eval().forward_features(x) for model in vectors]
    torch.testing.assert_close(torch.nn.functional.gelu(features[0]), features[1])


@pytest.mark.parametrize("wrong", [{"depth": 6}, {"slices": 40}, {"heads": 3}, {"reference_axes": "mixed"}])
def test_what_makes_no_network_is_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="dino3d_adapter"):
        new_model(**wrong)
