"""A task for torch: its loss, the activation that makes probabilities or units of its logits, and its metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from fastai.learner import AvgLoss, Metric
from fastai.torch_core import find_bs
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.data.windows import Windows
from slivit.task import Task

if TYPE_CHECKING:
    from fastai.learner import Learner


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


class WholeLoss(AvgLoss):
    """The loss of all validation items as if they were one batch, however many labels each batch has.

    fastai weighs every batch by its items, so that the loss, and with it the best epoch, would depend on the size of
    the batches where labels are missing or classes have weights.
    """

    def accumulate(self, learn: Learner) -> None:
        weigh = getattr(learn.loss_func, "counted", None)
        counted = weigh(learn.y) if weigh else find_bs(learn.yb)
        self.total += learn.to_detach(learn.loss.mean()) * counted
        self.count += counted

    @property
    def value(self) -> Tensor | float:
        """The loss, or NaN where no item has a label."""
        return self.total / self.count if self.count else float("nan")


class EpochMetric(Metric):
    """A metric of all validation predictions of an epoch, in probabilities or in the target's unit."""

    def __init__(self, name: str, function: Callable[[np.ndarray, np.ndarray], float | None]) -> None:
        self._name, self.function = name, function
        self.reset()

    def reset(self) -> None:
        self.targets: list[Tensor] = []
        self.predictions: list[Tensor] = []

    def accumulate(self, learn: Learner) -> None:
        self.targets.append(learn.y.as_subclass(Tensor).detach().cpu())
        self.predictions.append(learn.loss_func.activation(learn.pred).detach().cpu())

    @property
    def value(self) -> float:
        """The metric, or NaN where it is not defined (one class only, say)."""
        if not self.targets:
            return float("nan")
        value = self.function(torch.cat(self.targets).double().numpy(), torch.cat(self.predictions).double().numpy())
        return float("nan") if value is None else float(value)

    @property
    def name(self) -> str:
        return self._name


class ScanMetric(EpochMetric):
    """A metric of scans that are predicted window by window: each scan's prediction is that of all of its windows.

    The validation loader is a `slivit.data.window_loaders.ScanDL`, which says which scan a batch is of.

    Args:
        name: as `EpochMetric`.
        function: as `EpochMetric`.
        windows: how the predictions of windows become one.
    """

    def __init__(self, name: str, function: Callable[[np.ndarray, np.ndarray], float | None], windows: Windows) -> None:
        super().__init__(name, function)
        self.windows = windows

    def reset(self) -> None:
        super().reset()
        self.scans: dict[int, list[Tensor]] = {}

    def accumulate(self, learn: Learner) -> None:
        if not hasattr(learn.dl, "scan"):
            return  # fastai's show_results hands over a batch by itself
        predicted = learn.loss_func.activation(learn.pred).detach().cpu()
        self.scans.setdefault(learn.dl.scan, []).append(predicted)
        self.known = learn.dl.targets

    @property
    def value(self) -> float:
        """The metric, or NaN where it is not defined."""
        self.targets = [torch.as_tensor(self.known[scan])[None] for scan in self.scans]
        self.predictions = [self.windows.aggregate(torch.cat(parts))[None] for parts in self.scans.values()]
        return super().value


def task_metrics(task: Task, windows: Windows | None = None) -> list[Metric]:
    """The metrics shown while a task is trained: ROC AUC and average precision, or R2 and MAE.

    Args:
        task: what is predicted.
        windows: how scans are cut into windows, whose predictions become one for each scan.
    """
    from slivit.statistics.summary import point_metrics

    names = ("r2", "mae") if task.kind == "regression" else ("roc_auc", "average_precision")

    def measure(name: str) -> Callable[[np.ndarray, np.ndarray], float | None]:
        return lambda y, p: point_metrics(task.kind, y, p, metrics=[name])[name]

    if windows:
        return [ScanMetric(name, measure(name), windows) for name in names]
    return [EpochMetric(name, measure(name)) for name in names]
