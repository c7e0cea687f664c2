"""Grad-CAM: where in the slices a network's last map of features speaks for an output.

Source: Selvaraju et al. 2017 (arXiv:1610.02391), section 3; for regression, and for transformers, the same with the
changes that the functions name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from slivit.explanation.layers import MapLayer, map_layers
from slivit.explanation.predicting import number_of
from slivit.predict.engine import Engine


def grad_cam(engine: Engine, stack: Tensor, target: str) -> Tensor:
    """How much each cell of the last feature map speaks for an output.

    The weights of the channels are the gradients' means over each layer of cells by itself: a slice is then judged by
    its own features, whatever lies in the others. A quantity has no side to speak for, so for regression the absolute
    value is taken instead of the positive part.

    Args:
        engine: of the model.
        stack: (S, H, W) or (C, S, H, W), 0 to 255.
        target: the output to explain.

    Returns:
        (S, h, w) float32, not negative, on the CPU: cells of the map within slices, interpolated along them where the
        map is coarser than the slices.

    Raises:
        ExplainError: no map of features over places is known in this network.
    """
    layers = map_layers(engine.model)
    x = engine.input_of(stack[None]).requires_grad_()
    # On a GPU, cuDNN refuses the gradient of a recurrent layer in evaluation mode.
    with torch.enable_grad(), watched(layers) as seen, torch.backends.cudnn.flags(enabled=False):
        evidence = engine.task.evidence(engine.model(x))[0, number_of(engine.task, target)]
        gradients = torch.autograd.grad(evidence, seen)
    signed = not engine.task.makes_calls
    maps = [
        _weighed(layer.cells(kept.detach(), x), layer.cells(gradient, x), signed)
        for layer, kept, gradient in zip(layers, seen, gradients, strict=True)
    ]
    return _summed(maps, stack.shape[-3]).float().cpu()


def _weighed(features: Tensor, gradients: Tensor, signed: bool) -> Tensor:
    """(1, C, s, h, w) features and gradients -> (s, h, w)."""
    weights = gradients.mean((3, 4), keepdim=True)
    cam = (weights * features).sum(1)[0]
    return cam.abs() if signed else cam.relu()


def _summed(maps: Sequence[Tensor], slices: int) -> Tensor:
    """Maps (s, h, w) of one scan on the finest of their grids, and on all slices."""
    rows, columns = (max(m.shape[axis] for m in maps) for axis in (1, 2))
    return torch.stack([resize_cells(m, (slices, rows, columns)) for m in maps]).sum(0)


def resize_cells(cells: Tensor, size: tuple[int, int, int]) -> Tensor:
    """(s, h, w) -> another size, trilinear; an axis that keeps its length is not blurred."""
    if tuple(cells.shape) == size:
        return cells
    return F.interpolate(cells[None, None], size, mode="trilinear", align_corners=False)[0, 0]


@contextmanager
def watched(layers: Sequence[MapLayer]) -> Iterator[list[Tensor]]:
    """Keep what the layers give (or take) while the block runs, in their order."""
    kept: list[Tensor] = [torch.empty(0)] * len(layers)

    def watch(number: int, layer: MapLayer) -> Any:
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept[number] = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))

        def behind(module: Any, args: Any, output: Tensor) -> None:
            kept[number] = output

        if layer.entering:
            return layer.module.register_forward_pre_hook(before, with_kwargs=True)
        return layer.module.register_forward_hook(behind)

    hooks = [watch(number, layer) for number, layer in enumerate(layers)]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
