"""The four networks of PyTorchVideo: golden numbers, and the published checkpoint's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from slivit.errors import CheckpointError, ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec

NAMES = ["slow_r50", "slowfast_r50", "r2plus1d_r50", "csn_r101"]
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}


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
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
            continue
        if len(shape) > 1:
            values *= (3 / torch.Size(shape[1:]).numel()) ** 0.5
        else:
            values = 0.1 * values + (0 if name.endswith(("bias", "running_mean")) else 1)
        state[name] = values.reshape(shape).float()
    return state


def small(name: str, **args: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, 2, **{**model_spec(name).small, **args}).eval()


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_those_of_pytorchvideo(reference: Path, name: str) -> None:
    golden = json.loads((reference / "pytorchvideo_k400.json").read_text())[name]
    slices, state = golden["T"], filled(golden["keys"])
    model = create_model(name, 400, slices=slices, image_size=64).eval()
    assert sum(p.numel() for p in model.parameters()) == golden["n_params"]
    dropped = load_backbone(model, {"epoch": 1, "model_state": state})
    assert sorted(key.rsplit(".", 2)[1] for key in dropped) == ["proj", "proj"]
    model.head.load_state_dict({key.rsplit(".", 1)[1]: state[key] for key in dropped})
    clip = noise(3 * slices * 64 * 64, 4000).reshape(1, 3, slices, 64, 64).float()
    with torch.no_grad():
        features = model.forward_features(clip)
        logits = model.head(features)
    for values, key in ((features, "pooled"), (logits, "logits")):
        torch.testing.assert_close(values[0, :8], torch.tensor(golden[f"{key}_first8"]), **TOLERANCE)
        torch.testing.assert_close(values.norm().item(), golden[f"{key}_norm"], **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_that_differs_is_refused(name: str) -> None:
    model = small(name)
    state = dict(model.backbone.state_dict())
    state["blocks.9.proj.weight"] = state.pop(next(iter(state)))
    with pytest.raises(CheckpointError, match=r"missing(.|\n)*blocks\.9\.proj\.weight"):
        load_backbone(model, {"model_state": state})


def test_the_slow_pathway_takes_every_fourth_slice() -> None:
    model = small("slowfast_r50")
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        slow, fast = model.backbone.forward_map(x)
    assert slow.shape[2] == 2
    assert fast.shape[2] == 8
    with pytest.raises(ModelError, match="multiple of 4"):
        small("slowfast_r50", slices=6)


@pytest.mark.parametrize("name", NAMES)
def test_grey_input_by_copy_and_by_the_sum_of_the_first_layer(name: str) -> None:
    colour, grey = small(name), small(name, in_chans=1)
    load_backbone(grey, colour.backbone.state_dict())
    grey.head.load_state_dict(colour.head.state_dict())
    clip = torch.randn(grey.spec.batch_shape(2))
    assert clip.shape[1] == 1
    assert (grey.spec.mean, grey.spec.std) == ((0.45,), (0.225,))
    with torch.no_grad():
        torch.testing.assert_close(grey(clip), colour(clip.expand(-1, 3, -1, -1, -1)), rtol=1e-4, atol=1e-5)


def test_published_weights_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("slow_r50")
    asked = []

    def fetch(url: str, **options: Any) -> dict[str, Any]:
        asked.append((url, options["weights_only"]))
        return {"model_state": model.backbone.state_dict()}

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    copy = small("slow_r50", pretrained=True)
    assert asked == [(model_spec("slow_r50").weights.removeprefix("KINETICS400: "), True)]
    assert all(
        torch.equal(tensor, copy.backbone.state_dict()[key]) for key, tensor in model.backbone.state_dict().items()
    )


def test_weights_that_cannot_be_had_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(CheckpointError, match=r"slow_r50.*KINETICS400.*no network.*give its path"):
        small("slow_r50", pretrained=True)
    with pytest.raises(
        CheckpointError, match=r'no such weight file or folder "KINETICS40".*Did you mean "KINETICS400"'
    ):
        small("slow_r50", pretrained="KINETICS40")


def test_sizes_that_make_no_network_are_told() -> None:
    for args in ({"depths": (1, 1)}, {"depths": (1, 0, 1, 1)}, {"slices": 0}, {"in_chans": 2}):
        with pytest.raises(ModelError, match="got"):
            small("csn_r101", **args)
