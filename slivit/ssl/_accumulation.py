"""Gradients of several steps added up before the weights change, to train with batches that do not fit into memory."""

from __future__ import annotations

from fastai.callback.core import Callback, CancelBatchException
from fastai.callback.training import GradientAccumulation


class Accumulate(Callback):
    """Take the mean gradient of several batches for a step; the last step of an epoch takes those that are left.

    So no gradient goes from one epoch into the next, which a resumed run would not have, and an epoch with fewer
    batches still trains. (fastai's own counts the rows of a target, which are not the images of a method with views.)

    Args:
        batches: a step.
    """

    order, run_valid = GradientAccumulation.order, False

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def after_loss(self) -> None:
        self.learn.loss_grad = self.loss_grad / self._together()

    def before_step(self) -> None:
        self.learn.loss_grad = self.loss_grad * self._together()  # so that the loss is shown as it is
        if (self.iter + 1) % self.batches and self.iter + 1 < self.n_iter:
            raise CancelBatchException

    def _together(self) -> int:
        """How many batches make the step that this one belongs to."""
        first = self.iter - self.iter % self.batches
        return min(self.batches, self.n_iter - first)
