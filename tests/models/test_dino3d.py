"""3DINO's 3D vision transformer: golden numbers, released checkpoints, heads, attention, several channels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from slivit.errors import CheckpointError, ModelError
from slivit.models._dino3d_vit import patch_map
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec

TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}
SMALL = model_spec("dino3d_vit_small").small
GOLDEN = {"dim": 48, "depth": 4, "heads": 3, "position_size": 48}


def noise(count: int, rank: int) -> Tensor:
    index = torch.arange(count, dtype=torch.float64)
    values = torch.sin(index * 12.9898 + rank * 78.233) * 43758.5453
    return 2 * (values - torch.floor(values)) - 1


def filled(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The state dict of the reference's formula."""
    state = {}
    for rank, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        values = noise(torch.Size(shape).numel(), rank)
        if len(shape) > 1:
            values *= (3 / torch.Size(shape[1:]).numel()) ** 0.5
        else:
            values = 0.1 * values + (0 if name.endswith("bias") else 1)
        state[name] = values.reshape(shape).float()
    return state


def published(shapes: dict[str, list[int]], *, chunked: bool, module: bool) -> dict[str, Any]:
    """A checkpoint as it is released, with the heads of pre-training beside the backbone."""
    state = filled(shapes)
    if not chunked:
        state = {re.sub(r"^blocks\.\d+\.", "blocks.", key): tensor for key, tensor in state.items()}
    state = {f"backbone.{key}": tensor for key, tensor in state.items()}
    state |= {"dino_head.mlp.0.weight": torch.zeros(2, 2), "ibot_head.last_layer.weight_g": torch.zeros(2, 1)}
    return {"teacher": {f"module.{key}" if module else key: tensor for key, tensor in state.items()}}


def new_model(out_dim: int = 2, **args: Any) -> Any:
    torch.manual_seed(0)
    model = create_model("dino3d_vit_small", out_dim, **{**SMALL, **args}).eval()
    # LayerScale starts near zero, and positions and tokens small: what blocks do would be lost in rounding.
    for name, parameter in model.backbone.named_parameters():
        parameter.data.normal_(1 if "gamma" in name else 0, 0.2)
    return model


def volume(batch: int = 2, channels: int = 1, size: tuple[int, int, int] = (32, 32, 32)) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("chunked", "module"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("case", [0, 1], ids=["native", "interpolated"])
def test_the_numbers_are_those_of_the_released_code(reference: Path, case: int, chunked: bool, module: bool) -> None:
    golden = json.loads((reference / "dino3d.json").read_text())["vit3d"][case]
    model = create_model("dino3d_vit_small", 1, mask_token=True, **GOLDEN).eval()
    dropped = load_backbone(model, published(golden["keys"], chunked=chunked, module=module))
    assert sorted(dropped) == ["dino_head.mlp.0.weight", "ibot_head.last_layer.weight_g"]
    size = golden["input_size"]
    # The released code has the axes of a volume the other way round.
    x = noise(2 * torch.Size(size).numel(), 2000).reshape(2, 1, *size).float().transpose(2, 4)
    mask = torch.tensor(golden["masked"], dtype=torch.bool)
    with torch.no_grad():
        tokens, masked = model.backbone(x), model.backbone(x, mask)
    patches = tokens[:, 1:]
    values = {
        "cls_first8": tokens[:, 0, :8],
        "patch_mean": patches.mean(),
        "patch_std": patches.std(),
        "patch_0_0_first8": patches[0, 0, :8],
        "patch_1_last_first8": patches[1, -1, :8],
        "masked_cls_first8": masked[:, 0, :8],
    }
    for key, value in values.items():
        torch.testing.assert_close(value, torch.tensor(golden[key]), **TOLERANCE)


def test_a_classifier_leaves_the_mask_token_out(tmp_path: Path) -> None:
    pretrained = new_model(mask_token=True)
    path = tmp_path / "weights.pth"
    torch.save({"teacher": {f"backbone.{k}": v for k, v in pretrained.backbone.state_dict().items()}}, path)
    model = new_model(pretrained=path)
    assert load_backbone(model, path) == ("backbone.mask_token",)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(volume()), pretrained.backbone(volume()))
    with pytest.raises(ModelError, match="mask_token=True"):
        model.backbone(volume(), torch.zeros(2, 8, dtype=torch.bool))


def test_a_checkpoint_that_differs_is_refused() -> None:
    state = new_model(depth=3).backbone.state_dict()
    with pytest.raises(CheckpointError, match=r"not in the model(.|\n)*blocks\.2\."):
        load_backbone(new_model(), {"teacher": {f"backbone.{k}": v for k, v in state.items()}})


def test_positions_of_another_cube_are_interpolated_where_asked() -> None:
    trained = new_model()
    state = {"teacher": {f"backbone.{k}": v for k, v in trained.backbone.state_dict().items()}}
    with pytest.raises(CheckpointError, match=r"position_size=32.*resize_positions=True"):
        load_backbone(new_model(position_size=48), state)
    resized = new_model(position_size=48, resize_positions=True)
    load_backbone(resized, state)
    assert resized.backbone.pos_embed.shape == (1, 28, 16)
    x = volume(size=(48, 48, 48))
    with torch.no_grad():
        torch.testing.assert_close(resized.backbone(x), trained.backbone(x))


def test_any_multiple_of_the_patch_is_taken() -> None:
    model = new_model()
    with torch.no_grad():
        assert model(volume(size=(16, 48, 64))).shape == (2, 2)
        assert model.patch_map(volume(size=(16, 48, 64))).shape == (2, 16, 1, 3, 4)
    for wrong in (volume(size=(16, 48, 60)), volume(channels=2), volume()[0]):
        with pytest.raises(ModelError, match="multiples of 16; got"):
            model(wrong)
        with pytest.raises(ModelError, match="multiple of 16; got"):
            model.backbone(wrong)


def test_patches_lie_where_they_were_cut_from() -> None:
    backbone = new_model().backbone
    x = torch.zeros(1, 1, 32, 48, 64)
    x[:, :, 16:, 32:, :16] = 1
    with torch.no_grad():
        tokens = backbone.patch_embed(x) - backbone.patch_embed(torch.zeros_like(x))
    touched = patch_map(tokens, (2, 3, 4)).abs().sum(1)[0] > 0
    assert touched.nonzero().tolist() == [[1, 2, 0]]


def test_the_attention_is_that_of_the_last_block() -> None:
    """Weighting the last block's values with the maps gives that block's output for the class token."""
    model = new_model(depth=3)
    seen: dict[str, Tensor] = {}
    last = model.backbone.blocks[-1].attn
    last.register_forward_hook(lambda _, inputs, output: seen.update(input=inputs[0], output=output))
    x = volume(size=(16, 48, 64))
    with torch.no_grad():
        model(x)
        maps = model.attention_maps(x)
        assert maps.shape == (2, 2, 1, 3, 4)
        patches = maps.permute(0, 1, 4, 3, 2).flatten(2)
        weights = torch.cat([1 - patches.sum(2, keepdim=True), patches], dim=2)
        values = last.qkv(seen["input"]).unflatten(-1, (3, 2, -1))[:, :, 2]
        mixed = last.proj(torch.einsum("bhn,bnhd->bhd", weights, values).flatten(1))
    torch.testing.assert_close(mixed, seen["output"][:, 0], rtol=1e-4, atol=1e-5)
    assert ((maps >= 0) & (maps <= 1)).all()


def test_the_head_reads_the_chosen_layers_and_the_averaged_patches() -> None:
    model = new_model(depth=3, last_layers=2, average_patches=True)
    states: list[Tensor] = []
    for block in model.backbone.blocks:
        block.register_forward_hook(lambda _, __, output: states.append(output))
    x = volume()
    with torch.no_grad():
        features = model.forward_features(x)
        normed = [model.backbone.norm(state) for state in states]
    expected = torch.cat([normed[1][:, 0], normed[2][:, 0], normed[2][:, 1:].mean(1)], dim=1)
    torch.testing.assert_close(features, expected)
    assert model.head.in_features == 48


def test_each_channel_goes_through_the_network_by_itself() -> None:
    several, one = new_model(in_chans=3, average_patches=True), new_model(average_patches=True)
    one.backbone.load_state_dict(several.backbone.state_dict())
    assert several.spec.batch_shape(2) == (2, 3, 32, 32, 32)
    assert several.spec.std == (0.5, 0.5, 0.5)
    x = volume(channels=3)
    with torch.no_grad():
        features = torch.cat([one.forward_features(x[:, i : i + 1]) for i in range(3)], dim=1)
        torch.testing.assert_close(several(x), several.head(several.project(features)))
        maps = torch.cat([one.attention_maps(x[:, i : i + 1]) for i in range(3)], dim=1)
        torch.testing.assert_close(several.attention_maps(x), maps)
        tokens = torch.cat([one.patch_map(x[:, i : i + 1]) for i in range(3)], dim=1)
        torch.testing.assert_close(several.patch_map(x), tokens)


def test_skipping_branches_keeps_the_expectation() -> None:
    block = new_model(drop_path=0.4).backbone.blocks[0]
    x = torch.randn(3, 5, 16)
    with torch.no_grad():
        whole = x + block.attend(x)
        torch.testing.assert_close(block._add(x, block.attend), whole)
        block.train()
        runs = [block._add(x, block.attend) for _ in range(2000)]
    mean = torch.stack(runs).mean(0)
    assert ((mean - whole).norm() / (whole - x).norm()).item() < 0.05
    skipped = torch.stack([(run == x).all(2).all(1) for run in runs]).float().mean().item()
    assert abs(skipped - 0.4) < 0.05


def test_every_parameter_has_a_gradient_when_all_is_skipped() -> None:
    model = new_model(drop_path=0.99).train()
    model(volume(1)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_masked_patch_is_not_seen() -> None:
    model = new_model(mask_token=True)
    x, mask = volume(1), torch.zeros(1, 8, dtype=torch.bool)
    mask[0, 7] = True
    other = x.clone()
    other[:, :, 16:, 16:, 16:] = 5
    with torch.no_grad():
        assert torch.equal(model.backbone(x, mask), model.backbone(other, mask))
        assert not torch.allclose(model.backbone(x, ~mask), model.backbone(other, ~mask))
    for wrong in (mask[:, 1:], mask.float()):
        with pytest.raises(ModelError, match="bool of shape"):
            model.backbone(x, wrong)


@pytest.mark.parametrize(
    ("name", "dim", "depth"),
    [("dino3d_vit_small", 384, 12), ("dino3d_vit_base", 768, 12), ("dino3d_vit_large", 1024, 24)],
)
def test_the_sizes_of_the_paper(name: str, dim: int, depth: int) -> None:
    with torch.device("meta"):
        model = create_model(name, 1, mask_token=True)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.backbone.state_dict().items()}
    assert shapes["pos_embed"] == (1, 217, dim)
    assert shapes["patch_embed.proj.weight"] == (dim, 1, 16, 16, 16)
    assert shapes[f"blocks.{depth - 1}.mlp.fc1.weight"] == (4 * dim, dim)
    assert f"blocks.{depth}.norm1.weight" not in shapes
    assert dim / model.backbone.blocks[0].attn.heads == 64
    assert model.spec.size == (96, 96, 96)


def test_what_makes_no_network_is_told() -> None:
    wrong = (
        {"slices": 40},
        {"position_size": 50},
        {"heads": 3},
        {"last_layers": 3},
        {"drop_path": 1.0},
        {"in_chans": 0},
        {"image_size": 0},
    )
    for args in wrong:
        with pytest.raises(ModelError, match="dino3d_vit_small"):
            new_model(**args)
    with pytest.raises(CheckpointError, match="give pretrained a file"):
        new_model(pretrained=True)


def test_normalisation_maps_black_and_white_to_minus_one_and_one() -> None:
    spec = model_spec("dino3d_vit_large")
    black, white = ((value - spec.mean[0]) / spec.std[0] for value in (0.0, 1.0))
    assert (black, white) == (-1, 1)


def test_attention_in_the_blocks_is_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k))
    with torch.no_grad():
        new_model()(volume(1))
    assert len(calls) == 2
