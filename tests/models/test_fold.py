import pytest
import timm
import torch
from torch import nn

from slivit.data.blocks import to_input
from slivit.errors import ModelError
from slivit.models._fold import fold_grey
from slivit.models.registry import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def grey(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def normalised(x, layout="tiled"):
    return to_input(x, layout, IMAGENET_MEAN, IMAGENET_STD)


def test_the_stem_of_a_convnext_is_folded_exactly():
    network = timm.create_model("convnext_atto", num_classes=3).eval().double()
    x = grey(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(normalised(x).double())
        network.stem[0] = fold_grey(network.stem[0], IMAGENET_MEAN, IMAGENET_STD)
        found = network(x.reshape(2, 1, 96, 32))
    # float32 normalisation before, float64 folding after: their difference is the rounding of the former.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("where", ["border", "inside"])
def test_folding_is_exact_in_float64_everywhere(bias, where):
    conv = nn.Conv2d(3, 5, 4, stride=2, dilation=2, bias=bias).double()
    x = grey(2, 1, 17, 19)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = conv((x.double() / 255 - mean) / std)
        found = fold_grey(conv, IMAGENET_MEAN, IMAGENET_STD)(x)
    part = (..., slice(0, 1), slice(None)) if where == "border" else ...
    torch.testing.assert_close(found[part], expected[part], rtol=1e-12, atol=1e-12)


def test_patch_embeddings_of_transformers_in_2d_and_3d():
    patches = timm.create_model("vit_tiny_patch16_224", num_classes=0).patch_embed.proj
    tubes = nn.Conv3d(3, 7, (2, 8, 8), stride=(2, 8, 8))
    for conv, layout, shape in ((patches, "tiled", (2, 1, 32, 32)), (tubes, "clip", (2, 1, 4, 16, 16))):
        x = grey(2, 2, 16, 32) if layout == "tiled" else grey(2, 4, 16, 16)
        with torch.no_grad():
            expected = conv(normalised(x, layout))
            found = fold_grey(conv, IMAGENET_MEAN, IMAGENET_STD)(x.reshape(shape))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_it_trains_the_parameters_of_the_convolution():
    conv = nn.Conv2d(3, 4, 4, stride=4)
    folded = fold_grey(conv, IMAGENET_MEAN, IMAGENET_STD)
    assert folded.state_dict().keys() == conv.state_dict().keys()
    x, gradients = grey(1, 2, 8, 16), []
    for output in (conv(normalised(x)), folded(x.reshape(1, 1, 16, 16))):
        conv.zero_grad()
        output.square().sum().backward()
        gradients.append([p.grad.clone() for p in conv.parameters()])
    for plain, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-3)


def test_bytes_enter_bfloat16_without_rounding():
    x = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(x.bfloat16().float(), x.float())
    conv = nn.Conv2d(3, 8, 4, stride=4)
    with torch.no_grad():
        expected = conv(normalised(x.view(1, 1, 16, 16)))
        found = fold_grey(conv.bfloat16(), IMAGENET_MEAN, IMAGENET_STD)(x.view(1, 1, 16, 16))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), "has padding"),
        (nn.Conv2d(3, 4, 3, padding="same"), "has padding"),
        (nn.Conv3d(3, 4, (1, 7, 7), padding=(0, 3, 3)), "has padding"),
        (nn.Conv2d(3, 3, 3, groups=3), "groups=3"),
        (nn.Conv2d(1, 3, 3), "has 1 channels, got 3 means"),
        (nn.Linear(3, 4), "got Linear"),
    ],
)
def test_what_would_not_be_exact_is_refused(layer, told):
    with pytest.raises(ModelError, match=told):
        fold_grey(layer, IMAGENET_MEAN, IMAGENET_STD)


def test_padding_would_indeed_be_wrong():
    conv = nn.Conv2d(3, 4, 3, padding=1)
    same = nn.Conv2d(3, 4, 3)
    same.load_state_dict(conv.state_dict())
    x = grey(1, 1, 8, 8)
    with torch.no_grad():
        expected = conv(normalised(x))
        padded = nn.functional.pad(x, (1, 1, 1, 1))
        found = fold_grey(same, IMAGENET_MEAN, IMAGENET_STD)(padded)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    assert (found[..., 0, :] - expected[..., 0, :]).abs().max() > 0.1
