"""A step of training that goes on where memory or a compiler does not do: in parts, with less kept, not compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

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
from fastai.learner import Learner
from fastai.torch_core import find_bs
from torch import nn

from slivit.device import Memory, out_of_memory
from slivit.errors import ModelError, SlivitError
from slivit.parallel import bare, of_all, rank_and_size
from slivit.train.callbacks import HalfPrecision

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


class SparingLearner(Learner):
    """A fastai Learner whose batch is run in another way where it fails for want of memory, or in compiled code.

    `at_once` scans of a batch are computed at a time (0 for all), `rows` are those of the part, and `keeps_less` says
    whether features are computed again for the gradients.
    """

    at_once = 0
    keeps_less: bool | Literal["auto"] = "auto"
    rows = slice(None)
    xb: tuple[torch.Tensor, ...]
    yb: tuple[torch.Tensor, ...]

    def output(self) -> torch.Tensor:
        """What the network gives for the batch, or a part of it."""
        return cast(torch.Tensor, self.model(*self.xb))

    @property
    def divides(self) -> bool:
        """Whether the gradients of a batch's parts add up to that of the batch."""
        return True

    def spared(self) -> str:
        """Need less memory for the next try of a validation batch; returns in which way, "" where nothing is left."""
        return ""

    def _do_one_batch(self) -> None:
        """Run a batch, in another way as long as there is one; the batches that follow go on in the same way.

        Raises:
            SlivitError: memory does not do for one scan with the least that is kept.
        """
        while True:
            try:
                return self._in_parts() if self.at_once and self.training else self._whole()
            except _MEANT:
                raise
            except Exception as error:
                short = out_of_memory(error)
                reason = (str(error).strip().splitlines() or [""])[-1 if short else 0][:200]
                if not short and not forget_compiled(self.model):
                    raise
            self.leave_precision()
            # Outside of the handler, because the error holds on to everything that was in memory.
            if short:
                self._spare(reason)
            else:
                log.warning("the network goes on uncompiled: %s", reason)
                self.at_once = self.at_once or self.batch_rows
            self.enter_precision()

    @property
    def batch_rows(self) -> int:
        """How many scans a batch has."""
        return len(self.xb[0])

    def _whole(self) -> None:
        """A batch as fastai runs it."""
        self.pred = self.output()
        self("after_pred")
        if self.yb:
            self.loss_grad = self.loss_func(self.pred, *self.yb)
            self.loss = self.loss_grad.clone()
        self("after_loss")
        if self.training and self.yb:
            self._do_grad_opt()

    def _spare(self, reason: str) -> None:
        """Make the next try need less memory: half of the scans at once, or for one scan, fewer features kept.

        Raises:
            SlivitError: nothing is left to spare.
        """
        if self.training:
            self.opt.zero_grad()
        Memory(torch.device(self.dls.device or "cpu")).empty()
        if not self.training and (way := self.spared()):
            log.warning("memory does not do for a validation scan (%s): %s", reason, way)
            return
        size = self.at_once or self.batch_rows
        if self.training and self.divides and size > 1 and rank_and_size()[1] == 1:
            self.at_once = (size + 1) // 2
            log.warning("memory does not do for %d at once (%s): steps add up parts of %d", size, reason, self.at_once)
            return
        if self.training and self.keeps_less == "auto":
            self.keeps_less = True
            try:
                checkpoint_activations(self.model)
            except ModelError:
                pass
            else:
                log.warning("memory does not do (%s): features are computed again for the gradients", reason)
                return
        raise SlivitError(
            f"there is not enough memory for {size} at once ({reason}): lower the batch size, the number of slices or "
            'their size, take a smaller network, set precision to "bfloat16", or checkpoint_activations to true'
        )

    def _in_parts(self) -> None:
        """A training step on a batch, `at_once` scans of it at a time; the gradient is that of the whole batch.

        Only layers that look at a batch as a whole (BatchNorm) see a part instead.
        """
        xb, yb = self.xb, self.yb
        weigh = getattr(self.loss_func, "counted", None) or find_bs
        whole, losses = weigh(yb[0]), []
        try:
            for start in range(0, len(xb[0]), self.at_once):
                self.rows = slice(start, start + self.at_once)
                self.xb, self.yb = (tuple(t[self.rows] for t in part) for part in (xb, yb))
                if share := (weigh(self.yb[0]) / whole if whole else 0):
                    losses.append(share * self._gradient(share))
        finally:
            self.xb, self.yb, self.rows = xb, yb, slice(None)
        self.loss = torch.stack(losses).sum() if losses else torch.full((), float("nan"))
        self._with_events(self._step, "step", CancelStepException)
        self.opt.zero_grad()

    def _gradient(self, share: float) -> torch.Tensor:
        """Add a part's share to the gradient; returns its loss."""
        self.enter_precision()
        self.pred = self.output()
        self("after_pred")
        self.loss_grad = self.loss_func(self.pred, *self.yb)
        self.loss = self.loss_grad.clone()
        self("after_loss")
        loss = self.loss_grad.detach()
        self.loss_grad = self.loss_grad * share
        self._with_events(self._backward, "backward", CancelBackwardException)
        return cast(torch.Tensor, loss)

    def enter_precision(self) -> None:
        """Compute in the precision of the fit, for a part of a batch."""
        for callback in self.cbs:
            if isinstance(callback, HalfPrecision):
                callback.enter()

    def leave_precision(self) -> None:
        """End half precision where an error ended a batch: what this process does next would be computed in it."""
        for callback in self.cbs:
            if isinstance(callback, HalfPrecision):
                callback.leave()


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
