"""Depth-wise convolutions that train on a processor at the speed of their forward pass.

oneDNN's gradient of their weights takes 30 to 80 times as long as the forward pass in bfloat16, and 20 to 40 times in
float32: half of a training step of a ConvNeXt. The loop below, compiled by numba, takes about as long as the forward
pass. See docs/depthwise.md, with the measurement.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import install_command
from slivit.models._steady import SteadyConv2d

log = logging.getLogger(__name__)


class DepthwiseConv2d(nn.Conv2d):
    """An `nn.Conv2d` with one filter a channel, whose weights' gradient is computed here; all else is torch's."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        trains = torch.is_grad_enabled() and weight.requires_grad
        if not trains or input.device.type != "cpu" or input.ndim != 4 or input.dtype == torch.float64:
            return super()._conv_forward(input, weight, bias)
        if torch.is_autocast_enabled("cpu"):
            input = input.to(torch.get_autocast_dtype("cpu"))
        output: Tensor = _Depthwise.apply(input, weight, bias)
        return output


def quicken(model: nn.Module) -> int:
    """Let the depth-wise convolutions of a model compute their weights' gradients here, while it trains on a processor.

    Weights, names and outputs stay as they are; gradients differ by rounding.

    Args:
        model: of timm, torchvision or any other library. Convolutions with a stride, a dilation, an even kernel or
            another padding than half the kernel are left to torch.

    Returns:
        How many layers it has been done for; 0 without the package numba.
    """
    plain = [m for m in model.modules() if isinstance(m, nn.Conv2d) and type(m) in (nn.Conv2d, SteadyConv2d)]
    layers = [m for m in plain if _is_depthwise(m)]
    if layers and not _compiles():
        return 0
    for layer in layers:
        layer.__class__ = DepthwiseConv2d  # in place: hooks, names and whoever else holds the layer stay right
    return len(layers)


def _compiles() -> bool:
    """Whether the loop can be compiled here; says what to do where it cannot."""
    try:
        import slivit.models._depthwise_loop  # noqa: F401
    except ImportError:
        log.info("training on a processor would be faster with the package numba: %s", install_command("cpu"))
        return False
    except RuntimeError as error:  # numba finds no folder for what it compiles
        log.info("training on a processor would be faster with a folder for numba, NUMBA_CACHE_DIR (%s)", error)
        return False
    return True


def _is_depthwise(layer: nn.Conv2d) -> bool:
    kernel = layer.kernel_size[0]
    half = (kernel // 2, kernel // 2)
    return (
        layer.groups == layer.in_channels == layer.out_channels > 1
        and layer.kernel_size == (kernel, kernel)
        and kernel % 2 == 1 < kernel
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding == half
        and layer.padding_mode == "zeros"
    )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.with_bias = bias is not None
        low = weight.to(x.dtype)
        return F.conv2d(x, low, None if bias is None else bias.to(x.dtype), padding=_half(weight), groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        to_x = None
        if ctx.needs_input_grad[0]:
            turned = weight.to(x.dtype).flip(2, 3)
            to_x = F.conv2d(gradient, turned, padding=_half(weight), groups=len(weight))
        to_weight = weight_gradient(x, gradient, weight.shape[-1]).to(weight.dtype)
        to_bias = gradient.sum((0, 2, 3), dtype=torch.float32).to(weight.dtype) if ctx.with_bias else None
        return to_x, to_weight, to_bias


def _half(weight: Tensor) -> int:
    return weight.shape[-1] // 2


def weight_gradient(x: Tensor, gradient: Tensor, kernel: int) -> Tensor:
    """The gradient of a depth-wise convolution's weights.

    Args:
        x: (B, C, H, W) its input, float32 or bfloat16, on the CPU.
        gradient: (B, C, H, W) of its output.
        kernel: side K of its kernel, odd; stride 1, padding K // 2.

    Returns:
        (C, 1, K, K) float32.
    """
    from slivit.models._depthwise_loop import row_sums

    inputs, gradients = (part.detach().permute(0, 2, 3, 1).float().contiguous().numpy() for part in (x, gradient))
    # Threads of Python: those of numba go on turning while they wait, and take the processor from torch's.
    with ThreadPoolExecutor(min(kernel, torch.get_num_threads())) as pool:
        rows = list(pool.map(lambda i: row_sums(inputs, gradients, kernel, i), range(kernel)))
    return torch.from_numpy(np.stack(rows)).permute(2, 0, 1).unsqueeze(1).contiguous()
