"""Depth-wise convolutions whose weights' gradient is computed here: the same network, the same gradients."""

import copy

import pytest
import timm
import torch
from torch import nn

from slivit.models._depthwise import DepthwiseConv2d, quicken, weight_gradient

pytest.importorskip("numba")


@pytest.mark.parametrize(
    ("shape", "kernel"), [((2, 20, 9, 11), 7), ((1, 3, 1, 2), 7), ((3, 16, 5, 4), 3), ((1, 5, 8, 8), 5)]
)
def test_the_gradient_is_that_of_torch_in_float64(shape, kernel):
    torch.manual_seed(0)
    channels = shape[1]
    x, gradient = torch.randn(shape), torch.randn(shape).contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(channels, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    y = nn.functional.conv2d(x.double(), weight, padding=kernel // 2, groups=channels)
    y.backward(gradient.double())
    found = weight_gradient(x, gradient, kernel)
    torch.testing.assert_close(found.double(), weight.grad, rtol=1e-5, atol=1e-5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = weight_gradient(x, gradient, kernel)
    torch.set_num_threads(threads)
    assert torch.equal(found, alone)


@pytest.mark.parametrize("low", [False, True])
def test_a_network_trains_as_before(low):
    torch.manual_seed(0)
    plain = timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=2)
    ours = copy.deepcopy(plain)
    assert quicken(ours) == 4
    assert [type(m) for m in ours.modules()].count(DepthwiseConv2d) == 4
    assert quicken(copy.deepcopy(ours)) == 0
    x = torch.randn(2, 3, 64, 64)
    grads = []
    for model in (plain, ours):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = model(x)
        y.float().square().sum().backward()
        grads.append((y.detach(), {name: p.grad for name, p in model.named_parameters()}))
    (y, one), (other_y, other) = grads
    assert torch.equal(y, other_y)
    for name in one:
        difference = (one[name] - other[name]).norm() / one[name].norm().clamp(min=1e-6)
        assert difference < (0.03 if low else 1e-4), name


def test_others_are_left_to_torch():
    layers = nn.Sequential(
        nn.Conv2d(4, 4, 7, padding=3),
        nn.Conv2d(4, 4, 7, padding=3, stride=2, groups=4),
        nn.Conv2d(4, 4, 7, groups=4),
        nn.Conv2d(4, 4, 7, padding=3, groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 8, 3, padding=1, groups=4),
        nn.Conv2d(1, 1, 3, padding=1),
    )
    assert quicken(layers) == 0
