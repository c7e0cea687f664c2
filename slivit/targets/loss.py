"""A task for torch: its loss, and the activation that makes probabilities or units of its logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slivit.targets.task import Task


class TaskLoss(nn.Module):
    """The loss of a task on logits, with fastai's `activation` and `decodes`.

    Missing labels (NaN) of multilabel tasks count nowhere: the mean is over the labels that are there, and a batch
    without any gives zero.

    Args:
        task: fitted on the training rows (class names, class weights, standardisation).
        label_smoothing: moves targets of classification this far towards the even guess, from 0 to 1.
        reduction: "mean", or "none" for one loss a scan.
    """

    weights: Tensor | None
    center: Tensor
    spread: Tensor

    def __init__(self, task: Task, label_smoothing: float = 0.0, reduction: str = "mean") -> None:
        super().__init__()
        self.task, self.label_smoothing, self.reduction = task, label_smoothing, reduction
        self.register_buffer("weights", _weights(task))
        self.register_buffer("center", torch.tensor(task.center or (0.0,)))
        self.register_buffer("spread", torch.tensor(task.spread or (1.0,)))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of (B, out_dim) logits against encoded targets, (B,) class indices or (B, k) numbers."""
        self.to(logits.device)
        logits, target = logits.as_subclass(Tensor).float(), target.as_subclass(Tensor)
        return self.task.criterion(logits, target, self)

    def mean_of(self, losses: Tensor, known: Tensor) -> Tensor:
        """The mean of (B, k) losses over what is known, or that of each scan where nothing is reduced."""
        losses = losses * known
        if self.reduction == "none":
            return losses.sum(1) / known.sum(1).clamp(min=1)
        return losses.sum() / known.sum().clamp(min=1)

    def counted(self, target: Tensor) -> float:
        """What the mean over a batch was divided by: known labels, or scans by the weights of their classes."""
        return self.task.counted(target.as_subclass(Tensor), self.weights)

    def activation(self, logits: Tensor) -> Tensor:
        """Logits to probabilities; standardised outputs to the target's unit."""
        logits = logits.as_subclass(Tensor).float()
        return self.task.activation(logits, self.center.to(logits.device), self.spread.to(logits.device))

    def decodes(self, predictions: Tensor) -> Tensor:
        """Probabilities to decided classes, encoded like targets; values stay as they are."""
        return self.task.decodes(predictions)


def _weights(task: Task) -> Tensor | None:
    return torch.tensor(task.class_weights) if isinstance(task.class_weights, tuple) else None
