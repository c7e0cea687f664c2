"""SLIViT against the numbers of the released code, and the properties that the paper promises."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slivit.data.preprocessing import Preprocessing
from slivit.errors import CheckpointError, ModelError
from slivit.models._published import load_published
from slivit.models._vit import SHORT, attend
from slivit.models.registry import create_model, model_spec
from slivit.models.slivit import on_top, published_tokens, slice_tokens
from slivit.predict.engine import predict_table
from slivit.targets.task import Task

SMALL = dict(model_spec("slivit").small)


def noise(count: int, rank: int) -> Tensor:
    i = torch.arange(count, dtype=torch.float64)
    v = torch.sin(i * 12.9898 + rank * 78.233) * 43758.5453
    return 2 * (v - torch.floor(v)) - 1


def filled(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """A state dict of the formula in the reference's README."""
    state = {}
    for rank, name in enumerate(sorted(shapes)):
        value = noise(math.prod(shapes[name]), rank)
        if len(shapes[name]) > 1:
            value *= math.sqrt(3 / math.prod(shapes[name][1:]))
        elif name.endswith("bias"):
            value *= 0.1
        else:
            value = 1 + 0.1 * value
        state[name] = value.reshape(shapes[name]).float()
    return state


@pytest.fixture(scope="module")
def golden(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "slivit_published.json").read_text())[0]


@pytest.fixture(scope="module")
def released(golden: dict[str, Any]) -> dict[str, Tensor]:
    return filled(golden["keys"])


def test_computes_what_the_released_code_computes(golden: dict[str, Any], released: dict[str, Tensor]) -> None:
    slices, size = golden["slices"], golden["batch"]
    model = load_published(released, slices=slices, tiling="vertical").eval()
    x = noise(size * 3 * 256 * slices * 256, 1000).reshape(size, 3, 256 * slices, 256).float()
    with torch.no_grad():
        features = model.forward_features(x)
        output = model.forward_head(model.forward_tokens(features))
    assert features.mean().item() == pytest.approx(golden["features_mean"], rel=1e-3, abs=1e-4)
    assert features.std().item() == pytest.approx(golden["features_std"], rel=1e-3, abs=1e-4)
    torch.testing.assert_close(output.flatten(), torch.tensor(golden["output"]), rtol=1e-3, atol=1e-4)


def test_a_released_checkpoint_predicts_what_the_released_evaluation_does(
    reference: Path, released: dict[str, Tensor], tmp_path: Path
) -> None:
    """From 8-bit files to a probability: torchvision's transform of each slice, joined side by side, not normalised."""
    from PIL import Image
    from torchvision import transforms

    slices = json.loads((reference / "slivit_published_wide.json").read_text())["slices"]
    rng, files, depth = np.random.default_rng(0), [], 2 * slices + 1
    (tmp_path / "scan").mkdir()
    for i in range(depth):
        files.append(Image.fromarray(rng.integers(0, 256, (96, 130), dtype=np.uint8)))
        files[-1].save(tmp_path / "scan" / f"{i:04}.tiff")
    model = load_published(released, slices=slices, tiling="horizontal").eval()
    settings = Preprocessing(size=model.spec.size, stretch=None, sampling="linspace", interpolation="bilinear")
    task = Task(kind="binary", targets=("DRUSEN",))
    table = predict_table(model, [{"path": str(tmp_path / "scan")}], task, settings, precision="float32")
    resize = transforms.Compose([transforms.Resize((256, 256)), transforms.ToTensor()])
    chosen = np.linspace(0, depth - 1, slices).astype(int)
    wide = torch.cat([resize(files[i]) for i in chosen], -1).expand(1, 3, -1, -1)
    with torch.no_grad():
        logit = model(on_top(wide, slices))[0, 0]
    assert table["prob_DRUSEN"].item() == pytest.approx(logit.sigmoid().item(), abs=1e-3)


def test_slices_side_by_side_are_what_the_released_loaders_of_oct_make(
    reference: Path, released: dict[str, Tensor]
) -> None:
    wide = json.loads((reference / "slivit_published_wide.json").read_text())
    slices, size = wide["slices"], wide["batch"]
    x = noise(size * 3 * 256 * slices * 256, 1000).reshape(size, 3, 256, 256 * slices).float()
    model = load_published(released, slices=slices, tiling="horizontal").eval()
    with torch.no_grad():
        features = model.forward_features(on_top(x, slices))
        output = model.forward_head(model.forward_tokens(features))
    assert features.mean().item() == pytest.approx(wide["features_mean"], rel=1e-3, abs=1e-4)
    torch.testing.assert_close(output.flatten(), torch.tensor(wide["output"]), rtol=1e-3, atol=1e-4)
    assert model.spec.args["tiling"] == "horizontal"


def test_how_slices_were_tiled_is_asked_for(released: dict[str, Tensor]) -> None:
    with pytest.warns(UserWarning, match='does not say how its slices were tiled.*tiling="horizontal"'):
        load_published(released)


def test_released_weights_are_read_from_a_file_and_all_used(released: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": released}, tmp_path / "slivit.pth")
    state = load_published(tmp_path / "slivit.pth", tiling="vertical").state_dict()
    bare = {k.removeprefix("feature_extractor."): v for k, v in released.items()}
    bare = load_published(bare, tiling="vertical").state_dict()
    assert len(state) == len(released)
    assert sorted(v.double().sum().item() for v in state.values()) == sorted(
        v.double().sum().item() for v in released.values()
    )
    assert all(torch.equal(bare[name], tensor) for name, tensor in state.items())


def test_released_weights_that_do_not_fit_are_told(released: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="takes 4 slices, got slices=28"):
        load_published(released, slices=28)
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attention\.qkv\.weight"):
        load_published({k: v for k, v in released.items() if "layers.1.0.to_qkv" not in k})
    with pytest.raises(CheckpointError, match="surplus"):
        load_published({**released, "surplus.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="not a released SLIViT"):
        load_published({"fc.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="no such weight file"):
        load_published(tmp_path / "absent.pth")


class Pixels(nn.Module):
    """A backbone that sees one cell at a time: the mean colour of each `stride` x `stride` square."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride)

    def forward_intermediates(self, x: Tensor, **_: Any) -> list[Tensor]:
        return [self.pool(x)]


def local_model(**args: Any) -> nn.Module:
    """SLIViT whose backbone reaches over no border between slices."""
    torch.manual_seed(0)
    model = create_model("slivit", 2, **{**SMALL, "slices": 6, **args}).eval()
    model.backbone = Pixels(SMALL["stride"])
    length = 3 * (SMALL["image_size"] // SMALL["stride"]) ** 2
    model.embed[0], model.embed[1] = nn.LayerNorm(length), nn.Linear(length, SMALL["vit_dim"])
    return model


def tiled(slices: Tensor) -> Tensor:
    """(S, 3, P, P) -> (1, 3, S*P, P)."""
    return slices.transpose(0, 1).flatten(1, 2)[None]


def test_a_token_is_its_slice_alone() -> None:
    model, slices = local_model(), torch.randn(6, 3, 32, 32)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    model.positions = nn.Parameter(torch.zeros_like(model.positions))
    with torch.no_grad():
        tokens = model.embed_slices(model.forward_features(tiled(slices)))[0, 1:]
        permuted = model.embed_slices(model.forward_features(tiled(slices[order])))[0, 1:]
    torch.testing.assert_close(permuted, tokens[order])
    assert (tokens[0] - tokens[1]).abs().max() > 0.1


def test_the_order_of_slices_counts_through_the_positions() -> None:
    model, slices = local_model(), torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(model(tiled(slices)), model(tiled(slices.flip(0))), atol=1e-4)


def test_tokens_of_real_backbones_differ_near_borders_only() -> None:
    """The paper's tiling lets a convolution reach over a border, so far as its receptive field goes."""
    model = create_model("slivit", 1, **{**SMALL, "slices": 8, "stride": 4}).eval()
    x = torch.randn(1, 3, 8 * 32, 32)
    other = x.clone()
    other[:, :, :32] = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        change = (
            model.embed_slices(model.forward_features(x)) - model.embed_slices(model.forward_features(other))
        ).abs()
    assert change[0, 1].max() > 1e-3
    assert change[0, 3:].max() < 1e-5


@pytest.mark.parametrize(
    ("attention", "reached"), [("adjacent", [False, True, True, True, False, False]), ("global", [True] * 6)]
)
def test_adjacent_attention_reaches_the_neighbours_alone(attention: str, reached: list[bool]) -> None:
    model = local_model(attention=attention, vit_depth=1)
    slices = torch.randn(6, 3, 32, 32)
    other = slices.clone()
    other[2] = torch.randn(3, 32, 32)
    with torch.no_grad():
        change = model.forward_tokens(model.forward_features(tiled(other)))
        change -= model.forward_tokens(model.forward_features(tiled(slices)))
    assert (change[0, 1:].abs().amax(dim=1) > 1e-6).tolist() == reached
    assert change[0, 0].abs().max() > 1e-6


def test_adjacent_attention_stays_local_over_layers() -> None:
    model = local_model(attention="adjacent", vit_depth=2)
    slices = torch.randn(6, 3, 32, 32)
    other = slices.clone()
    other[0] = torch.randn(3, 32, 32)
    with torch.no_grad():
        change = model.forward_tokens(model.forward_features(tiled(other)))
        change -= model.forward_tokens(model.forward_features(tiled(slices)))
    assert (change[0, 1:].abs().amax(dim=1) > 1e-6).tolist() == [True, True, True, False, False, False]


@pytest.mark.parametrize("attention", ["global", "adjacent"])
def test_attention_maps_are_those_of_the_forward_pass(attention: str) -> None:
    model = local_model(attention=attention)
    x = tiled(torch.randn(6, 3, 32, 32))
    with torch.no_grad():
        maps = model.attention_maps(x)
        tokens = model.embed_slices(model.forward_features(x))
        first = model.blocks[0].attention
        value = first._split(tokens)[2]
        by_map = first.out((maps[:, 0] @ value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(by_map, first(tokens, model.allowed), rtol=1e-4, atol=1e-5)
    assert maps.shape == (1, SMALL["vit_depth"], SMALL["vit_heads"], 7, 7)
    torch.testing.assert_close(maps.sum(-1), torch.ones(1, 2, 2, 7))


def test_the_two_token_layouts_cut_the_same_numbers_differently() -> None:
    features = torch.arange(2 * 4 * 6 * 2.0).reshape(2, 4, 6, 2)
    by_slice, by_channel = slice_tokens(features, 3), published_tokens(features, 3)
    assert by_slice.shape == by_channel.shape == (2, 3, 16)
    assert set(by_slice[0, 1].tolist()) == set(features[0, :, 2:4].flatten().tolist())
    assert by_channel[0].flatten().tolist() == features[0].flatten().tolist()


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_convnext2"])
@pytest.mark.parametrize("stride", [8, 32])
def test_takes_convolutional_backbones_of_timm(backbone: str, stride: int) -> None:
    model = create_model("slivit", 1, **{**SMALL, "backbone": backbone, "stride": stride})
    features = model.forward_features(torch.randn(model.spec.batch_shape(2)))
    assert features.shape == (2, model.backbone_info.channels, 3 * 32 // stride, 32 // stride)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"backbone": "convnext_tny"}, "convnext_tiny"),
        ({"backbone": "swin_tiny_patch4_window7_224"}, "must be a convolutional network"),
        ({"stride": 5}, "4, 8, 16, 32"),
        ({"image_size": 28}, "multiple of the backbone's stride 16"),
        ({"backbone_args": {"colour": 3}}, "colour"),
        ({"token_layout": "per_slize"}, "per_slice"),
        ({"attention": "local"}, "adjacent"),
        ({"token_layout": "published", "attention": "adjacent"}, "per_slice"),
        ({"slices": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_told(args: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        create_model("slivit", 1, **{**SMALL, **args})


def test_released_weights_become_a_checkpoint_here(
    released: dict[str, Tensor], golden: dict[str, Any], tmp_path: Path
) -> None:
    """As docs/coming-from-slivit.md says: from then on they are a model like any other."""
    import slivit

    model = load_published(released, slices=golden["slices"], tiling="vertical")
    task = slivit.Task(kind="binary", targets=("DRUSEN",))
    settings = slivit.Preprocessing(size=model.spec.size, stretch=None)
    slivit.save_checkpoint(tmp_path / "published" / "checkpoint", model, task, settings)
    back = slivit.load_checkpoint(tmp_path / "published")
    assert back.model.spec.args["token_layout"] == "published"
    assert all(torch.equal(a, b) for a, b in zip(back.model.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(("positions", "seen"), [("slice_number", False), ("sincos", True)])
def test_slice_numbers_are_removed_by_the_first_norm(positions: str, seen: bool) -> None:
    model, slices = local_model(positions=positions), torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        change = (model(tiled(slices)) - model(tiled(slices.flip(0)))).abs().max()
    assert (change > 1e-4).item() == seen
    if not seen:
        assert model.positions[0, :, 0].tolist() == list(range(7))


@pytest.mark.parametrize("tokens", [9, SHORT])
def test_few_tokens_attend_in_float32_while_they_train(tokens):
    parts = [torch.randn(2, 3, tokens, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    allowed = torch.ones(tokens, tokens).tril().bool()
    with torch.autocast("cpu", torch.bfloat16):
        got = attend(*parts, allowed)
    exact = torch.nn.functional.scaled_dot_product_attention(*(p.float() for p in parts), attn_mask=allowed)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, exact.bfloat16()) is (tokens < SHORT)
    torch.testing.assert_close(got.float(), exact, atol=0.03, rtol=0.03)
    got.float().sum().backward()
    assert all(part.grad.isfinite().all() for part in parts)
