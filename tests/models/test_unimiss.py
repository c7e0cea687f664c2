"""UniMiSS: the published checkpoint's 3D path, and what the blocks compute."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import CheckpointError, ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec

DIMS = (48, 128, 256, 512)


def small(**args: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model("unimiss_small", 2, **{**model_spec("unimiss_small").small, **args}).eval()


def published_shapes(depths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released encoder's 3D path at 16 x 96 x 96."""
    shapes: dict[str, tuple[int, ...]] = {"patch_embed3D0.conv.weight": (32, 1, 7, 7, 7), "cls_tokens1": (1, 1, 48)}
    shapes |= {f"patch_embed3D0.norm.{kind}": (32,) for kind in ("weight", "bias")}
    channels = 32
    for i, (dim, cells, reduction) in enumerate(zip(DIMS, (4608, 576, 72, 9), (6, 4, 2, 1), strict=True)):
        shapes[f"patch_embed3D{i + 1}.proj.conv.weight"] = (dim, channels, 3, 3, 3)
        shapes[f"pos_embed3D{i + 1}"] = (1, 1 + cells, dim)
        vectors = {f"patch_embed3D{i + 1}.proj.norm": dim}
        matrices = {f"cls_tokens{i + 1}": (dim, channels)} if i else {}
        for block in (f"block{i + 1}.{b}" for b in range(depths[i])):
            vectors |= {f"{block}.norm1": dim, f"{block}.norm2": dim}
            matrices |= {f"{block}.attn.q": (dim, dim), f"{block}.attn.kv": (2 * dim, dim)}
            matrices |= {f"{block}.attn.proj": (dim, dim), f"{block}.mlp.fc1": (4 * dim, dim)}
            matrices |= {f"{block}.mlp.fc2": (dim, 4 * dim)}
            if reduction > 1:
                vectors[f"{block}.attn.norm"] = dim
                matrices[f"{block}.attn.sr3D"] = (dim, dim, reduction, reduction, reduction)
        shapes |= {f"{name}.{kind}": (n,) for name, n in vectors.items() for kind in ("weight", "bias")}
        shapes |= {f"{name}.weight": shape for name, shape in matrices.items()}
        shapes |= {f"{name}.bias": shape[:1] for name, shape in matrices.items()}
        channels = dim
    return shapes


@pytest.mark.parametrize(("name", "depths"), [("unimiss_small", (2, 3, 4, 3)), ("unimiss_tiny", (1, 1, 1, 1))])
def test_the_names_and_shapes_are_those_released(name: str, depths: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = create_model(name, 2)
    assert {k: tuple(v.shape) for k, v in model.backbone.state_dict().items()} == published_shapes(depths)


def released(encoder: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What stands beside the 3D path in a released file, some of it under names that the encoder has too."""
    beside = {
        "transformer.patch_embed2D0.conv.weight": torch.zeros(32, 3, 7, 7),
        "transformer.pos_embed2D1": torch.zeros(1, 5, 8),
        "transformer.block1.0.attn.sr2D.weight": torch.zeros(8, 8, 6, 6),
        "DecEmbed3D0.proj.weight": torch.zeros(4, 4, 2, 2, 2),
        "cls_tokens2.weight": torch.full((8, 8), 7.0),
        "cls_tokens2.bias": torch.full((8,), 7.0),
        "norm.weight": torch.zeros(8),
    }
    state = {f"{prefix}backbone.transformer.{k}": v for k, v in encoder.items()}
    state |= {f"{prefix}backbone.{k}": v for k, v in beside.items()}
    return state | {f"{prefix}head.mlp.0.weight": torch.zeros(2)}


def test_a_released_checkpoint_loads(tmp_path: Path) -> None:
    student = {k: torch.randn_like(v) for k, v in small().backbone.state_dict().items()}
    teacher = {k: torch.zeros_like(v) for k, v in student.items()}
    file = {
        "student": released(student, "module."),
        "teacher": released(teacher, ""),
        "args": argparse.Namespace(arch="model_small"),
        "epoch": 200,
    }
    torch.save(file, tmp_path / "UniMiss_small.pth")
    model = small()
    dropped = load_backbone(model, tmp_path / "UniMiss_small.pth")
    assert len(dropped) == 8
    loaded = model.backbone.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in student.items())
    file["student"].pop("module.backbone.transformer.block3.0.attn.q.weight")
    with pytest.raises(CheckpointError, match=r"missing: \"block3\.0\.attn\.q\.weight\""):
        load_backbone(small(), file)


def test_positions_are_interpolated_to_another_size() -> None:
    state = small(image_size=96).backbone.state_dict()
    grids = {1: (8, 24, 24), 2: (4, 12, 12), 3: (2, 6, 6), 4: (1, 3, 3)}
    for stage, grid in grids.items():
        positions = state[f"pos_embed3D{stage}"]
        positions[:, 0] = 5
        cells = positions[0, 1:].unflatten(0, grid)
        cells.copy_(torch.arange(float(grid[2]))[None, None, :, None].expand_as(cells))
    model = small(slices=32, image_size=128)
    load_backbone(model, state)
    for stage, grid in grids.items():
        positions = model.backbone.state_dict()[f"pos_embed3D{stage}"][0]
        cells = positions[1:].unflatten(0, (32 >> stage, 64 >> stage, 64 >> stage))
        assert (positions[0] == 5).all()
        assert (cells.diff(dim=2) >= 0).all()
        torch.testing.assert_close(cells, cells[:1, :1].expand_as(cells))
        torch.testing.assert_close(cells.mean(), torch.tensor((grid[2] - 1) / 2))


@pytest.mark.parametrize(("stage", "grid"), [(2, (4, 8, 8)), (4, (1, 2, 2))])
def test_a_block_computes_what_the_paper_says(stage: int, grid: tuple[int, int, int]) -> None:
    block = small(num_heads=(1, 2, 2, 2)).backbone.get_submodule(f"block{stage}")[0]
    for parameter in block.parameters():
        parameter.data.normal_(0, 0.3)
    dim = block.norm1.weight.shape[0]
    tokens = torch.randn(2, 1 + grid[0] * grid[1] * grid[2], dim)
    attn, x = block.attn, block.norm1(tokens)
    coarse = x
    if stage == 2:
        cells = x[:, 1:].transpose(1, 2).reshape(2, dim, *grid)
        cells = F.conv3d(cells, attn.sr3D.weight, attn.sr3D.bias, stride=4).reshape(2, dim, -1).transpose(1, 2)
        coarse = F.layer_norm(torch.cat([x[:, :1], cells], 1), (dim,), attn.norm.weight, attn.norm.bias)
    mha = nn.MultiheadAttention(dim, 2, batch_first=True)
    mha.in_proj_weight.data = torch.cat([attn.q.weight, attn.kv.weight])
    mha.in_proj_bias.data = torch.cat([attn.q.bias, attn.kv.bias])
    mha.out_proj.load_state_dict(attn.proj.state_dict())
    with torch.no_grad():
        expected = tokens + mha(x, coarse, coarse)[0]
        normed = block.norm2(expected)
        hidden = F.gelu(F.linear(normed, block.mlp.fc1.weight, block.mlp.fc1.bias))
        expected = expected + F.linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias)
        torch.testing.assert_close(block(tokens, grid), expected, rtol=1e-4, atol=1e-4)


def test_the_head_averages_class_token_and_mean() -> None:
    model = small()
    x = torch.randn(model.spec.batch_shape(2))
    with torch.no_grad():
        tokens = model.norm(model.backbone(x))
        expected = (model.head(tokens[:, 0]) + model.head(tokens[:, 1:].mean(1))) / 2
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    "args", [{"slices": 24}, {"image_size": 48}, {"image_size": 32}, {"dims": (8, 8, 16)}, {"num_heads": (3, 1, 2, 2)}]
)
def test_sizes_that_make_no_network_are_told(args: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"unimiss_small: .*got"):
        small(**args)
