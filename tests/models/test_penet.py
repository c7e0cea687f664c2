"""PENet: the published names, sizes and computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import CheckpointError, ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec


def small(**args: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model("penet", 2, **{**model_spec("penet").small, **args}).eval()


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released classifier with depth 50, cardinality 32 and one output."""
    shapes: dict[str, tuple[int, ...]] = {"in_conv.0.weight": (64, 3, 7, 7, 7)}
    norms = {"in_conv.1": 64}
    channels = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        width, out = 128 * 2**stage, 256 * 2**stage
        for block in range(depth):
            name = f"encoders.{stage}.penet_blocks.{block}"
            shapes[f"{name}.conv1.weight"] = (width, channels, 1, 1, 1)
            shapes[f"{name}.conv2.weight"] = (width, width // 32, 3, 3, 3)
            shapes[f"{name}.conv3.weight"] = (out, width, 1, 1, 1)
            norms |= {f"{name}.norm1": width, f"{name}.norm2": width, f"{name}.norm3": out}
            for layer, (rows, columns) in {"0": (out // 16, out), "2": (out, out // 16)}.items():
                shapes[f"{name}.se_block.excite.{layer}.weight"] = (rows, columns)
                shapes[f"{name}.se_block.excite.{layer}.bias"] = (rows,)
            if block == 0:
                shapes[f"{name}.down_sample.0.weight"] = (out, channels, 1, 1, 1)
                norms[f"{name}.down_sample.1"] = out
            channels = out
    for name, count in norms.items():
        shapes |= {f"{name}.weight": (count,), f"{name}.bias": (count,)}
    return shapes | {"classifier.fc.weight": (1, 2048), "classifier.fc.bias": (1,)}


def test_the_published_classifier_loads() -> None:
    with torch.device("meta"):
        model = create_model("penet", 1)
    shapes = published_shapes()
    ours = {name: tuple(tensor.shape) for name, tensor in model.backbone.state_dict().items()}
    assert ours == {name: shape for name, shape in shapes.items() if not name.startswith("classifier.")}
    assert sum(p.numel() for p in model.parameters()) == 28_398_705


@pytest.mark.parametrize("older", [False, True])
def test_a_checkpoint_as_it_was_saved(older: bool) -> None:
    trained, model = small(), small()
    state = {f"module.{k}": torch.randn_like(v) for k, v in trained.backbone.state_dict().items()}
    if older:
        state = {k.replace("penet_blocks", "xnet_blocks"): v for k, v in state.items()}
    classifier = {"module.classifier.fc.weight": torch.zeros(1, 512), "module.classifier.fc.bias": torch.zeros(1)}
    file = {"model_name": "PENetClassifier", "model_args": {"model_depth": 50}, "model_state": {**state, **classifier}}
    assert load_backbone(model, file) == ("classifier.fc.weight", "classifier.fc.bias")
    loaded = model.backbone.state_dict()
    for key, tensor in state.items():
        own = key.removeprefix("module.").replace("xnet_blocks", "penet_blocks")
        assert torch.equal(loaded[own], tensor)
    state.popitem()
    with pytest.raises(CheckpointError, match="missing"):
        load_backbone(small(), state)


def test_a_block_computes_what_the_paper_says() -> None:
    block = small().backbone.encoders[1].penet_blocks[0]
    for parameter in block.parameters():
        parameter.data.normal_(0, 0.2)
    state = dict(block.named_parameters())

    def convolved(x: Tensor, name: str, number: str, **how: int) -> Tensor:
        x = F.conv3d(x, state[f"{name}{number[0]}.weight"], **how)
        norm = f"down_sample.{number[1]}" if name.startswith("down") else f"norm{number[0]}"
        return F.group_norm(x, x.shape[1] // 16, state[f"{norm}.weight"], state[f"{norm}.bias"])

    x = torch.randn(2, 64, 4, 6, 6)
    y = F.leaky_relu(convolved(x, "conv", "1"))
    y = F.leaky_relu(convolved(y, "conv", "2", stride=2, padding=1, groups=4))
    y = convolved(y, "conv", "3")
    gate = F.leaky_relu(F.linear(y.mean((2, 3, 4)), state["se_block.excite.0.weight"], state["se_block.excite.0.bias"]))
    gate = torch.sigmoid(F.linear(gate, state["se_block.excite.2.weight"], state["se_block.excite.2.bias"]))
    shortcut = convolved(x, "down_sample.", "01", stride=2)
    expected = F.leaky_relu(y * gate[:, :, None, None, None] + shortcut)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_bottlenecks_are_left_out_in_training_alone() -> None:
    model = small(drop_path=1.0)
    blocks = [encoder.penet_blocks[0] for encoder in model.backbone.encoders]
    assert [block.skip for block in blocks] == [0, 0.25, 0.5, 0.75]
    blocks[3].skip = 1.0
    x = torch.randn(1, 256, 2, 4, 4)
    with torch.no_grad():
        blocks[3].norm3.weight.fill_(1)
        assert not torch.equal(blocks[3](x), blocks[3].down_sample(x))
        torch.testing.assert_close(blocks[3].train()(x), blocks[3].down_sample(x))


def test_grey_input_by_copy_and_by_the_sum_of_the_first_layer() -> None:
    colour, grey = small(), small(in_chans=1)
    load_backbone(grey, colour.backbone.state_dict())
    grey.head.load_state_dict(colour.head.state_dict())
    clip = torch.randn(grey.spec.batch_shape(2))
    with torch.no_grad():
        torch.testing.assert_close(grey(clip), colour(clip.expand(-1, 3, -1, -1, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("args", [{"width": 48}, {"groups": 5}, {"drop_path": 2.0}, {"in_chans": 2}, {"slices": 0}])
def test_sizes_that_make_no_network_are_told(args: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"penet: .*got"):
        small(**args)
