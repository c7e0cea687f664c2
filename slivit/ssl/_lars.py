"""LARS: momentum SGD whose rate follows the size of each layer's weights, for the large batches of SimCLR.

Paper: You et al. 2017 (arXiv:1708.03888); as in Chen et al. 2020 (SimCLR, arXiv:2002.05709).
Origin: written for this project, as a step of fastai's optimiser. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from fastai.optimizer import Optimizer
from torch import Tensor

TRUST = 0.001


def lars_step(
    p: Tensor, lr: float, mom: float, wd: float, do_wd: bool = True, velocity: Tensor | None = None, **_: Any
) -> dict[str, Tensor]:
    """One step of a parameter; without weight decay it is one of plain momentum SGD, as SimCLR has it for biases.

    Args:
        p: the parameter, with its gradient.
        lr: the rate.
        mom: momentum.
        wd: weight decay, added to the gradient.
        do_wd: whether the parameter has weight decay, and a rate by its size.
        velocity: of the steps before.

    Returns:
        The velocity, which fastai keeps.
    """
    step = p.grad.detach().clone()  # type: ignore[union-attr]  # fastai asks for parameters with a gradient alone
    if do_wd:
        step.add_(p.data, alpha=wd)
        weight, slope = p.data.norm(), step.norm()
        step.mul_(torch.where((weight > 0) & (slope > 0), TRUST * weight / slope, 1.0))
    velocity = step if velocity is None else velocity.mul_(mom).add_(step)
    p.data.add_(velocity, alpha=-lr)
    return {"velocity": velocity}


def lars(params: Iterable[Any], lr: float, mom: float = 0.9, wd: float = 0.0) -> Optimizer:
    """fastai's optimiser with the steps of LARS.

    Args:
        params: the parameters, or lists of them.
        lr: the rate.
        mom: momentum.
        wd: weight decay.
    """
    return Optimizer(params, [lars_step], lr=lr, mom=mom, wd=wd)
