"""A step of training that goes on where memory or a compiler does not do: in parts, with less kept, not compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from fastai.callback.core import (
    Callback,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
)
from fastai.torch_core import find_bs
from torch import nn

from slivit.device import Memory, out_of_memory
from slivit.errors import ModelError, SlivitError
from slivit.parallel import bare, of_all, rank_and_size

if TYPE_CHECKING:
    from slivit.train.learner import VolumeLearner

log = logging.getLogger(__name__)
LONG = 1000
"""Steps of training from which on compiling the network first is worth its minute or two on a GPU."""
_MEANT = (
    SlivitError,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
)


class Compiled(Callback):
    """Have torch compile the network while it is fitted, in place: its names and weights stay as they are.

    Args:
        backend: of `torch.compile`.
        steps: only where a fit has at least so many on a GPU; None compiles always.
    """

    order = -30

    def __init__(self, backend: str | Callable[..., Any] = "inductor", steps: int | None = None) -> None:
        self.backend, self.steps = backend, steps

    def before_fit(self) -> None:
        """Compile at the first call."""
        planned = self.n_epoch * len(self.dls.train)
        on_gpu = torch.device(self.dls.device or "cpu").type == "cuda"
        if hasattr(self.learn, "lr_finder") or (self.steps is not None and not (on_gpu and planned >= self.steps)):
            return
        bare(self.model).compile(backend=self.backend)
        log.info("the network is compiled first, which takes a minute or two")

    def after_fit(self) -> None:
        """Predict with the network as it is, whose batches have other sizes."""
        forget_compiled(self.model)


class SharedLoss(Callback):
    """The loss of all processes' scans as if they were one batch, however many labels each process has."""

    order, run_valid = 10, False

    def after_loss(self) -> None:
        """Weigh this process's gradient, of which that of the step is the mean over all."""
        weigh = getattr(self.loss_func, "counted", None)
        own = weigh(self.y) if weigh else find_bs(self.yb)
        counts = of_all(float(own))
        self.learn.loss_grad = self.loss_grad * (own * len(counts) / max(sum(counts), 1e-12))
        total = self.loss_grad.detach().float().reshape(1).clone()
        torch.distributed.all_reduce(total)
        self.learn.loss = total[0] / len(counts)


def forget_compiled(model: nn.Module) -> bool:
    """Let a network run as it is written; returns whether it was compiled."""
    network = cast(Any, bare(model))
    was = network._compiled_call_impl is not None
    network._compiled_call_impl = None
    return was


def one_batch(learn: VolumeLearner, run: Callable[[], None]) -> None:
    """Run a batch; where it fails for want of memory, or in compiled code, in another way, until there is none left.

    Args:
        learn: with its batch; how it goes on is kept in it, for the batches that follow.
        run: fastai's own way.

    Raises:
        SlivitError: memory does not do for one scan with the least that is kept.
    """
    while True:
        try:
            return in_parts(learn) if learn.at_once and learn.training else run()
        except _MEANT:
            raise
        except Exception as error:
            short = out_of_memory(error)
            reason = (str(error).strip().splitlines() or [""])[-1 if short else 0][:200]
            if not short and not forget_compiled(learn.model):
                raise
        learn.leave_precision()
        # Outside of the handler, because the error holds on to everything that was in memory.
        if short:
            spare(learn, reason)
        else:
            log.warning("the network goes on uncompiled: %s", reason)
            learn.at_once = learn.at_once or len(learn.xb[0])
        learn.enter_precision()


def spare(learn: VolumeLearner, reason: str) -> None:
    """Make the next try need less memory: half of the scans at once, or for one scan, fewer features kept.

    Raises:
        SlivitError: nothing is left to spare.
    """
    learn.opt.zero_grad()
    Memory(torch.device(learn.dls.device or "cpu")).empty()
    size = learn.at_once or len(learn.xb[0])
    if learn.training and learn.divides and size > 1 and rank_and_size()[1] == 1:
        learn.at_once = (size + 1) // 2
        log.warning("memory does not do for %d at once (%s): steps add up parts of %d", size, reason, learn.at_once)
        return
    if learn.training and learn.keeps_less == "auto":
        learn.keeps_less = True
        try:
            checkpoint_activations(learn.model)
        except ModelError:
            pass
        else:
            log.warning("memory does not do (%s): features are computed again for the gradients", reason)
            return
    raise SlivitError(
        f"there is not enough memory for {size} at once ({reason}): lower the batch size, the number of slices or "
        'their size, take a smaller network, set precision to "bfloat16", or checkpoint_activations to true'
    )


def in_parts(learn: VolumeLearner) -> None:
    """A training step on a batch, `learn.at_once` scans of it at a time; the gradient is that of the whole batch.

    Only layers that look at a batch as a whole (BatchNorm) see a part instead.
    """
    xb, yb = learn.xb, learn.yb
    weigh = getattr(learn.loss_func, "counted", None) or find_bs
    whole, losses = weigh(yb[0]), []
    try:
        for start in range(0, len(xb[0]), learn.at_once):
            learn.rows = slice(start, start + learn.at_once)
            learn.xb, learn.yb = (tuple(t[learn.rows] for t in part) for part in (xb, yb))
            if share := (weigh(learn.yb[0]) / whole if whole else 0):
                losses.append(share * _gradient(learn, share))
    finally:
        learn.xb, learn.yb, learn.rows = xb, yb, slice(None)
    learn.loss = torch.stack(losses).sum() if losses else torch.full((), float("nan"))
    learn._with_events(learn._step, "step", CancelStepException)
    learn.opt.zero_grad()


def _gradient(learn: VolumeLearner, share: float) -> torch.Tensor:
    """Add a part's share to the gradient; returns its loss."""
    learn.enter_precision()
    learn.pred = learn.model(*learn.xb)
    learn("after_pred")
    learn.loss_grad = learn.loss_func(learn.pred, *learn.yb)
    learn.loss = learn.loss_grad.clone()
    learn("after_loss")
    loss = learn.loss_grad.detach()
    learn.loss_grad = learn.loss_grad * share
    learn._with_events(learn._backward, "backward", CancelBackwardException)
    return loss


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only what enters each block, and compute the rest again for the gradients: less memory, a third more work.

    Args:
        model: with networks that have timm's `set_grad_checkpointing`.

    Raises:
        ModelError: none of its networks has it.
    """
    able = [m for m in model.modules() if hasattr(m, "set_grad_checkpointing")]
    if not able:
        raise ModelError(
            "fit.checkpoint_activations: the network cannot compute its blocks anew; timm's transformers and ConvNeXts "
            "and the 3DINO-ViT can"
        )
    for module in able:
        cast(Any, module).set_grad_checkpointing(True)


def step_callbacks(compiles: bool | Literal["auto"]) -> Sequence[Callback]:
    """What a Learner needs where its network may be compiled."""
    return [Compiled(steps=LONG if compiles == "auto" else None)] if compiles else []
