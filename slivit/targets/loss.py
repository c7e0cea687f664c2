"""A task for torch: its loss, and the activation that makes probabilities or units of its logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        if self.task.kind == "multiclass":
            smoothing, reduction = self.label_smoothing, self.reduction
            return F.cross_entropy(logits, target, self.weights, label_smoothing=smoothing, reduction=reduction)
        elementwise = self._regression if self.task.kind == "regression" else self._binary
        return self._reduce(*elementwise(logits, target))

    def _binary(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        known = ~target.isnan()
        soft = target.nan_to_num(0.0) * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, soft, pos_weight=self.weights, reduction="none"), known

    def _regression(self, values: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        known = ~target.isnan()
        wanted = ((target - self.center) / self.spread).nan_to_num(0.0)
        loss = {"l1": F.l1_loss, "mse": F.mse_loss, "huber": F.smooth_l1_loss}[self.task.loss]
        return loss(values, wanted, reduction="none"), known

    def _reduce(self, losses: Tensor, known: Tensor) -> Tensor:
        losses = losses * known
        if self.reduction == "none":
            return losses.sum(1) / known.sum(1).clamp(min=1)
        return losses.sum() / known.sum().clamp(min=1)

    def counted(self, target: Tensor) -> float:
        """What the mean over a batch was divided by: known labels, or scans by the weights of their classes."""
        target = target.as_subclass(Tensor)
        if self.task.kind != "multiclass":
            return float((~target.isnan()).sum())
        return float(len(target) if self.weights is None else self.weights.to(target.device)[target].sum())

    def activation(self, logits: Tensor) -> Tensor:
        """Logits to probabilities; standardised outputs to the target's unit."""
        logits = logits.as_subclass(Tensor).float()
        if self.task.kind == "multiclass":
            return logits.softmax(-1)
        if self.task.kind == "regression":
            return logits * self.spread.to(logits.device) + self.center.to(logits.device)
        return logits.sigmoid()

    def decodes(self, predictions: Tensor) -> Tensor:
        """Probabilities to decided classes, encoded like targets; values stay as they are."""
        if self.task.kind == "multiclass":
            return predictions.argmax(-1)
        return predictions if self.task.kind == "regression" else (predictions >= 0.5).float()


def _weights(task: Task) -> Tensor | None:
    return torch.tensor(task.class_weights) if isinstance(task.class_weights, tuple) else None
