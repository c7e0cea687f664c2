"""torchvision's video networks: the same network, the same numbers, the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from slivit.errors import CheckpointError, ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec

NAMES = ["r3d_18", "r2plus1d_18", "mc3_18", "s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b"]
CLASSIFIERS = {"s3d": "classifier", "r3d_18": "fc", "r2plus1d_18": "fc", "mc3_18": "fc"}


def small(name: str, **args: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, 2, **{**model_spec(name).small, **args}).eval()


def classifier_of(name: str) -> str:
    return CLASSIFIERS.get(name, "head")


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_torchvisions(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = create_model(name, 2).backbone, get_model(name)
    setattr(theirs, classifier_of(name), nn.Identity())
    assert str(ours).split("\n", 1)[1] == str(theirs).split("\n", 1)[1]
    shapes = [{k: v.shape for k, v in network.state_dict().items()} for network in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("r3d_18", (4, 16)),
        ("r2plus1d_18", (4, 16)),
        ("mc3_18", (4, 16)),
        ("swin3d_t", (4, 32)),
        pytest.param("swin3d_s", (4, 32), marks=pytest.mark.slow),
        pytest.param("swin3d_b", (4, 32), marks=pytest.mark.slow),
        pytest.param("s3d", (16, 224), marks=pytest.mark.slow),
        pytest.param("mvit_v1_b", (16, 224), marks=pytest.mark.slow),
        pytest.param("mvit_v2_s", (16, 224), marks=pytest.mark.slow),
    ],
)
def test_the_output_is_torchvisions(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    theirs = get_model(name, num_classes=5).eval()
    ours = create_model(name, 5, slices=size[0], image_size=size[1]).eval()
    classifier = {k: v for k, v in theirs.state_dict().items() if k.startswith(f"{classifier_of(name)}.")}
    assert set(load_backbone(ours, theirs.state_dict())) == set(classifier)
    for key, tensor in classifier.items():
        ours.head.get_parameter(key.rsplit(".", 1)[1]).data.copy_(tensor.flatten(1) if tensor.ndim > 1 else tensor)
    clip = torch.randn(ours.spec.batch_shape(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(clip), theirs(clip), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_normalisation_is_that_of_the_weights(name: str) -> None:
    spec, preset = model_spec(name), get_model_weights(name)["KINETICS400_V1"].transforms()
    assert spec.mean == pytest.approx(preset.mean)
    assert spec.std == pytest.approx(preset.std)
    assert list(spec.size[1:]) == list(preset.crop_size)


@pytest.mark.parametrize("name", NAMES)
def test_published_weights_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model, asked = small(name), []

    def fetch(url: str, **_: Any) -> dict[str, Tensor]:
        asked.append(url)
        return dict(model.backbone.state_dict())

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    loaded = small(name, pretrained="KINETICS400_V1").backbone.state_dict()
    assert asked == [get_model_weights(name)["KINETICS400_V1"].url]
    assert all(torch.equal(tensor, loaded[key]) for key, tensor in model.backbone.state_dict().items())
    load_backbone(small(name), "KINETICS400_V1")
    assert len(asked) == 2
    with pytest.raises(CheckpointError, match="KINETICS400_V1"):
        small(name, pretrained="KINETICS400_V9")


def test_weights_from_a_file(tmp_path: Path) -> None:
    model = small("mc3_18")
    torch.save({**model.backbone.state_dict(), "fc.weight": torch.zeros(400, 128)}, tmp_path / "mc3.pth")
    loaded = small("mc3_18", pretrained=str(tmp_path / "mc3.pth")).backbone.state_dict()
    assert all(torch.equal(tensor, loaded[key]) for key, tensor in model.backbone.state_dict().items())
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.0\.weight"):
        load_backbone(small("r2plus1d_18"), tmp_path / "mc3.pth")


def test_stages_left_out_are_those_behind() -> None:
    torch.manual_seed(0)
    theirs = get_model("r3d_18").eval()
    ours = create_model("r3d_18", 2, slices=4, image_size=32, depths=(2, 2, 0, 0)).eval()
    dropped = load_backbone(ours, theirs.state_dict())
    assert {key.split(".")[0] for key in dropped} == {"layer3", "layer4", "fc"}
    clip = torch.randn(ours.spec.batch_shape(1))
    with torch.no_grad():
        expected = theirs.layer2(theirs.layer1(theirs.stem(clip))).mean((2, 3, 4))
        torch.testing.assert_close(ours.forward_features(clip), expected)


@pytest.mark.parametrize("name", ["mvit_v1_b", "mvit_v2_s"])
def test_positions_are_interpolated_to_another_size(name: str) -> None:
    published, model = small(name).backbone.state_dict(), small(name, slices=8, image_size=64)
    ramps = {k for k, v in published.items() if k.endswith(("temporal_pos", "rel_pos_t", "rel_pos_h"))}
    for key, tensor in published.items():
        if key in ramps:
            tensor.copy_(torch.linspace(0, 1, len(tensor))[:, None].expand_as(tensor))
        elif key.endswith("spatial_pos"):
            tensor.fill_(0.5)
    load_backbone(model, published)
    state = model.backbone.state_dict()
    assert ramps
    for key in ramps:
        if len(published[key]) > 1:
            assert (state[key].diff(dim=0) >= 0).all()
            torch.testing.assert_close(state[key].mean(), torch.tensor(0.5))
    if name == "mvit_v1_b":
        assert state["pos_encoding.spatial_pos"].shape == (16 * 16, 8)
        torch.testing.assert_close(state["pos_encoding.spatial_pos"], torch.full((256, 8), 0.5))


@pytest.mark.parametrize("name", NAMES)
def test_grey_input_by_copy_and_by_the_sum_of_the_first_layer(name: str) -> None:
    colour, grey = small(name), small(name, in_chans=1)
    load_backbone(grey, colour.backbone.state_dict())
    grey.head.load_state_dict(colour.head.state_dict())
    clip = torch.randn(grey.spec.batch_shape(2))
    assert clip.shape[1] == 1
    with torch.no_grad():
        torch.testing.assert_close(grey(clip), colour(clip.expand(-1, 3, -1, -1, -1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("r3d_18", {"depths": (2, 0, 2, 2)}),
        ("r3d_18", {"depths": (0, 0, 0, 0)}),
        ("r3d_18", {"in_chans": 4}),
        ("s3d", {"slices": 7}),
        ("mvit_v2_s", {"image_size": 48}),
        ("swin3d_t", {"num_heads": (1, 2)}),
        ("swin3d_t", {"num_heads": (5, 5, 5, 5)}),
    ],
)
def test_sizes_that_make_no_network_are_told(name: str, args: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=rf"{name}.*got"):
        small(name, **args)
