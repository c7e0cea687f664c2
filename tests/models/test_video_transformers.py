"""ViViT, VideoMAE and TimeSformer: the same numbers as transformers, and its weights in every form they are met."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slivit.errors import CheckpointError, ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec

NAMES = ["vivit", "videomae", "timesformer"]
CLASSES = {"vivit": "Vivit", "videomae": "VideoMAE", "timesformer": "Timesformer"}
# The names that published files have, from those that transformers 5 gives.
PUBLISHED = {
    "vivit": (
        (r"^vivit\.layers\.", "vivit.encoder.layer."),
        (r"\.attention\.q_proj\.", ".attention.attention.query."),
        (r"\.attention\.k_proj\.", ".attention.attention.key."),
        (r"\.attention\.v_proj\.", ".attention.attention.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
    "videomae": ((r"query\.bias$", "q_bias"), (r"value\.bias$", "v_bias")),
    "timesformer": (),
}


def small(name: str, **args: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, 3, **{**model_spec(name).small, **args}).eval()


def library(name: str, kind: str = "ForVideoClassification", **fields: Any) -> nn.Module:
    """The library's own network of the small size, with weights large enough to tell."""
    import transformers

    args = model_spec(name).small
    config = getattr(transformers, f"{CLASSES[name]}Config")(
        num_frames=args["slices"], image_size=args["image_size"], num_labels=3, **args["config"], **fields
    )
    torch.manual_seed(1)
    network = getattr(transformers, CLASSES[name] + kind)(config).eval()
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.3)
    return network


def published(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in state.items():
        for pattern, replacement in PUBLISHED[name]:
            key = re.sub(pattern, replacement, key)
        renamed[key] = tensor
    return renamed


def same(ours: nn.Module, theirs: nn.Module) -> None:
    ours.head.load_state_dict(theirs.classifier.state_dict())
    clip = torch.randn(ours.spec.batch_shape(2))
    with torch.no_grad():
        expected = theirs(pixel_values=clip.transpose(1, 2)).logits
        torch.testing.assert_close(ours(clip), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_output_is_that_of_transformers(name: str) -> None:
    theirs, ours = library(name), small(name)
    assert load_backbone(ours, theirs.state_dict()) == ("classifier.weight", "classifier.bias")
    same(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_published_names_load(name: str) -> None:
    theirs, ours = library(name), small(name)
    state = published(name, theirs.state_dict())
    load_backbone(ours, state)
    same(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_and_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, asked = library(name), []
    theirs.save_pretrained(tmp_path)
    same(small(name, pretrained=str(tmp_path)), theirs)

    def download(identifier: str, file: str, **_: Any) -> str:
        asked.append((identifier, file))
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    same(small(name, pretrained=True), theirs)
    assert asked == [(model_spec(name).weights.split(",")[0], "model.safetensors")]


class FakeHub:
    """A hub with one repository and a cache, either of which may hold files."""

    def __init__(self, cached: dict[str, str], there: dict[str, str], offline: bool = False) -> None:
        self.cached, self.there, self.offline = cached, there, offline

    def __call__(self, identifier: str, file: str, local_files_only: bool = False) -> str:
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        if file in self.cached:
            return self.cached[file]
        if local_files_only or self.offline:
            raise LocalEntryNotFoundError("no network here")
        if file not in self.there:
            raise EntryNotFoundError("no such file there")
        return self.there[file]


def test_what_is_cached_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(library("vivit").state_dict(), tmp_path / "pytorch_model.bin")
    files = {"pytorch_model.bin": str(tmp_path / "pytorch_model.bin")}
    for hub in (FakeHub(files, {}, offline=True), FakeHub({}, files)):
        monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
        same(small("vivit", pretrained="hub:someone/something"), library("vivit"))


@pytest.mark.parametrize(("offline", "told"), [(True, "no network here"), (False, "no such file there")])
def test_a_hub_that_gives_nothing_is_told(monkeypatch: pytest.MonkeyPatch, offline: bool, told: str) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", FakeHub({}, {}, offline))
    with pytest.raises(CheckpointError, match=rf'someone/something".*{told}.*give its path'):
        small("vivit", pretrained="hub:someone/something")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r'no such weight file or folder "a/b/c\.pth"'):
        small("vivit", pretrained="a/b/c.pth")


def test_a_videomae_that_was_only_pretrained() -> None:
    options = {"use_mean_pooling": False, "decoder_hidden_size": 8, "decoder_num_attention_heads": 2}
    theirs = library("videomae", "ForPreTraining", **options)
    ours = small("videomae")
    dropped = load_backbone(ours, theirs.state_dict())
    assert {key.split(".")[0] for key in dropped} == {"decoder", "encoder_to_decoder", "mask_token"}
    assert torch.equal(ours.backbone.fc_norm.weight, theirs.videomae.layernorm.weight)
    clip = torch.randn(ours.spec.batch_shape(2))
    with torch.no_grad():
        normed = theirs.videomae(pixel_values=clip.transpose(1, 2)).last_hidden_state
        tokens = ours.backbone.forward_tokens(clip)
        torch.testing.assert_close(ours.backbone.fc_norm(tokens), normed, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["vivit", "timesformer"])
def test_positions_are_interpolated_to_another_size(name: str) -> None:
    sides = {"vivit": (32, 224), "timesformer": (4, 32)}[name]
    state = small(name, slices=sides[0], image_size=sides[1]).backbone.state_dict()
    positions = state[f"{name}.embeddings.position_embeddings"]
    positions[:, 0] = 7
    grid = positions[0, 1:].unflatten(0, (16, 14, 14) if name == "vivit" else (1, 2, 2))
    grid.copy_(torch.arange(float(grid.shape[2]))[None, None, :, None].expand_as(grid))
    ours = small(name, slices=8, image_size=64)
    load_backbone(ours, state)
    resized = ours.backbone.state_dict()[f"{name}.embeddings.position_embeddings"][0]
    assert (resized[0] == 7).all()
    cells = resized[1:].unflatten(0, (4, 4, 4) if name == "vivit" else (1, 4, 4))
    assert (cells.diff(dim=2) >= 0).all()
    torch.testing.assert_close(cells, cells[:1, :1].expand_as(cells))
    torch.testing.assert_close(cells.mean(), grid.mean())


@pytest.mark.parametrize("name", NAMES)
def test_grey_input_by_copy_and_by_the_sum_of_the_first_layer(name: str) -> None:
    colour, grey = small(name), small(name, in_chans=1)
    load_backbone(grey, colour.backbone.state_dict())
    grey.head.load_state_dict(colour.head.state_dict())
    clip = torch.randn(grey.spec.batch_shape(2))
    assert clip.shape[1] == 1
    with torch.no_grad():
        torch.testing.assert_close(grey(clip), colour(clip.expand(-1, 3, -1, -1, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "args", "told"),
    [
        ("vivit", {"slices": 3}, "multiple of 2"),
        ("videomae", {"image_size": 40}, "one of 16"),
        ("timesformer", {"config": {"hiden_size": 8}}, 'Did you mean "hidden_size"'),
        ("vivit", {"config": {"num_frames": 8}}, "no field 'num_frames'"),
    ],
)
def test_sizes_that_make_no_network_are_told(name: str, args: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        small(name, **args)


def test_a_large_network_does_not_take_base_weights() -> None:
    config = {**model_spec("vivit").small["config"], "hidden_size": 24}
    with pytest.raises(CheckpointError, match=r"has shape \(16,\), the model's has \(24,\)"):
        load_backbone(small("vivit", config=config), library("vivit").state_dict())
