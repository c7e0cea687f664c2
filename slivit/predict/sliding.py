"""Windows that slide over a scan: logits of every voxel from a network of patches, on the grid the network sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slivit.data.layout import dense_logits, normalised
from slivit.errors import SlivitError, install_command

if TYPE_CHECKING:
    from slivit.data.sliding import Sliding
    from slivit.predict.engine import Engine

ON_DEVICE = 2**28
"""Logits of a scan, in numbers, up to which windows are put together on the device; beyond that on the CPU."""


def windows_of(shape: Sequence[int], size: Sequence[int], overlap: float) -> int:
    """How many windows a scan takes, as MONAI lays them.

    Args:
        shape: (D, H, W) of the scan.
        size: (S, H, W) of a window.
        overlap: of neighbouring windows, as a share of their sides.
    """
    count = 1
    for n, wanted in zip(shape, size, strict=True):
        if n > wanted:
            step = max(int(wanted * (1 - overlap)), 1)
            count *= math.ceil((n - wanted) / step) + 1
    return count


def slide(
    network: Callable[[Tensor], Tensor],
    scan: Tensor,
    size: Sequence[int],
    *,
    overlap: float,
    blend: str,
    at_once: int = 4,
    outputs: int = 1,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Run a network on windows over a scan, by MONAI.

    Args:
        network: (B, C, S, H, W) -> (B, K, S, H, W).
        scan: (1, C, D, H, W), normalised.
        size: (S, H, W) of a window; a smaller scan is padded with its lowest value.
        overlap: of neighbouring windows.
        blend: "gaussian" or "constant".
        at_once: windows a batch.
        outputs: K, by which it is decided where the windows are put together.
        device: of the network.

    Returns:
        (1, K, D, H, W) float32.

    Raises:
        SlivitError: MONAI is not installed.

    Source: Cardoso et al. 2022 (arXiv:2211.02701), inferers.
    """
    try:
        from monai.inferers.utils import sliding_window_inference
    except ImportError as error:
        raise SlivitError(f"segmentation needs the package monai: {install_command('baselines')}") from error
    large = outputs * scan[0, 0].numel() > ON_DEVICE
    logits: Any = sliding_window_inference(
        scan,
        tuple(size),
        at_once,
        network,
        overlap=overlap,
        mode=blend,
        cval=float(scan.min()),
        sw_device=device,
        device="cpu" if large else device,
    )
    return logits.float()


def scan_logits(engine: Engine, image: Tensor, sliding: Sliding) -> Tensor:
    """The logits of a scan, the mean of all mirrored views, in the engine's precision.

    Args:
        engine: with a model that gives masks.
        image: (C, D, H, W) values as `Sliding.values` says.
        sliding: the windows.

    Returns:
        (K, D, H, W) float32 on the CPU.
    """
    spec = engine.spec
    scan = normalised(image[None], spec.mean, spec.std)

    def logits(view: Tensor) -> Tensor:
        return slide(
            lambda patches: dense_logits(engine.model, patches, spec.input).float(),
            view,
            spec.size,
            overlap=sliding.overlap,
            blend=sliding.blend,
            at_once=max(engine.at_once // 2, 1),
            outputs=engine.task.out_dim,
            device=engine.device,
        )

    total = scan.new_zeros(())
    for axes in engine.views:
        turned = [axis + 1 for axis in axes]  # the engine's are of (B, S, H, W), these of (B, C, D, H, W)
        view = engine.compute(logits, scan.flip(turned) if turned else scan).cpu()
        total = total + (view.flip(turned) if turned else view)
    return total[0] / len(engine.views)
