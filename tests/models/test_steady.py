"""Convolutions over few voxels in bfloat16 on a processor, among memory that holds what is not a number."""

import copy

import pytest
import torch
from torch import nn

from slivit.models._steady import SteadyConv2d, SteadyConv3d, steady

SIZES = (8, 16, 32, 64, 128, 160, 256, 320, 512, 640, 1024, 1280, 2048, 4096, 8192, 20_000)


def litter():
    """Leave memory behind that holds NaN."""
    kinds = (torch.float32, torch.bfloat16)
    [torch.full((n,), float("nan"), dtype=kind) for n in SIZES for kind in kinds for _ in range(8)].clear()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv3d(16, 32, 3, stride=2, padding=1), (2, 16, 6, 6, 2)),
        (nn.Conv3d(16, 32, 2, stride=2), (2, 16, 6, 6, 3)),
        (nn.Conv2d(32, 64, 3, stride=2, padding=1), (2, 32, 10, 2)),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_an_output_of_one_column_is_right(layer, shape, last):
    ours, x = copy.deepcopy(layer), torch.randn(shape)
    if last:
        x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    assert steady(nn.Sequential(ours)) == 1
    with torch.no_grad():
        for _ in range(4):
            litter()
            with torch.autocast("cpu", torch.bfloat16):
                torch.testing.assert_close(ours(x), in_float(layer, x))
                half = x.bfloat16()  # as the layer before leaves it
                torch.testing.assert_close(ours(half), in_float(layer, half.float()))


def in_float(layer, x):
    with torch.autocast("cpu", enabled=False):
        return layer(x)


def test_wide_outputs_stay_in_half_precision_and_only_layers_that_need_it_are_swapped():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 1), nn.Conv3d(1, 2, 2, stride=2))
    names = list(net.state_dict())
    assert steady(net) == 2
    assert steady(net) == 0
    assert [type(m) for m in net] == [SteadyConv2d, nn.Conv2d, SteadyConv3d]
    assert list(net.state_dict()) == names
    with torch.autocast("cpu", torch.bfloat16):
        assert net[0](torch.rand(1, 3, 9, 9)).dtype == torch.bfloat16
        assert net[0](torch.rand(1, 3, 9, 3)).dtype == torch.float32


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv3d(1, 24, 16, 16), (2, 1, 32, 48, 40)),
        (nn.Conv3d(2, 8, (2, 8, 8), (2, 8, 8), bias=False), (1, 2, 5, 16, 24)),
        (nn.Conv2d(3, 24, 16, 16), (2, 3, 50, 32)),
        (nn.Conv1d(2, 4, 64, 64), (3, 2, 130)),
    ],
)
def test_patches_side_by_side_are_a_product(layer, shape):
    ours, x = copy.deepcopy(layer), torch.randn(shape)
    assert steady(nn.Sequential(ours)) == 1
    x, again = x.requires_grad_(), x.clone().detach().requires_grad_()
    expected, got = layer(x), ours(again)
    assert "Convolution" not in type(got.grad_fn.next_functions[0][0]).__name__
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    expected.square().sum().backward()
    got.square().sum().backward()
    torch.testing.assert_close(again.grad, x.grad, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(ours.weight.grad, layer.weight.grad, atol=1e-2, rtol=1e-3)
    with pytest.raises(RuntimeError):
        ours(torch.randn(1, shape[1], *[1] * (len(shape) - 2)))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv3d(16, 16, 3, padding=1), (2, 5, 5)),
        (nn.Conv3d(1, 16, 7, (1, 2, 2), padding=3), (4, 5, 5)),
        (nn.Conv3d(16, 16, 7, 2, padding=3), (6, 5, 5)),
        (nn.Conv3d(3, 16, 5, 3, padding=2), (16, 1, 4)),
        (nn.Conv2d(8, 4, 3, 2, padding=1), (12, 1)),
        (nn.Conv1d(32, 16, 3, 3, padding=1), (2,)),
    ],
)
def test_the_gradient_of_a_kernel_that_fills_its_input_is_right(layer, size, precision):
    ours = copy.deepcopy(layer)
    assert steady(nn.Sequential(ours)) == 1
    x = torch.randn(3, layer.in_channels, *size).to(precision).float()
    exact = copy.deepcopy(layer).to(precision).double()
    litter()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        out = ours(x)
    wanted = exact(x.double())
    given = torch.randn(out.shape).to(precision)
    litter()
    out.backward(given.to(out.dtype))
    wanted.backward(given.double())
    assert (out.double() - wanted).abs().max() < 0.02 * wanted.abs().max()
    assert (ours.weight.grad - exact.weight.grad).abs().max() < 0.02 * exact.weight.grad.abs().max()
