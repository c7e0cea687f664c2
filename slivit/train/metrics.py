"""The metrics and the loss that are shown while a task is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from fastai.learner import AvgLoss, Metric
from fastai.torch_core import find_bs
from torch import Tensor

from slivit.data.windows import Windows
from slivit.parallel import of_all
from slivit.targets.segmentation import Segmentation
from slivit.targets.task import Task

if TYPE_CHECKING:
    from fastai.learner import Learner


class WholeLoss(AvgLoss):
    """The loss of all validation items as if they were one batch, however many labels each batch has.

    fastai weighs every batch by its items, so that the loss, and with it the best epoch, would depend on the size of
    the batches where labels are missing or classes have weights.
    """

    def accumulate(self, learn: Learner) -> None:
        weigh = getattr(learn.loss_func, "counted", None)
        counted = weigh(learn.y) if weigh else find_bs(learn.yb)
        self.total += learn.loss.detach().mean().cpu() * counted
        self.count += counted

    @property
    def value(self) -> Tensor | float:
        """The loss over all processes, or NaN where no item has a label."""
        totals, counts = zip(*of_all((self.total, self.count)), strict=True)
        return sum(totals) / sum(counts) if sum(counts) else float("nan")


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
        """The metric over all processes, or NaN where it is not defined (one class only, say)."""
        parts = of_all((self.targets, self.predictions))
        targets, predictions = ([tensor for part in parts for tensor in part[k]] for k in (0, 1))
        if not targets:
            return float("nan")
        value = self.function(torch.cat(targets).double().numpy(), torch.cat(predictions).double().numpy())
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
    if isinstance(task, Segmentation):
        from slivit.train.mask_learner import mask_metrics

        return mask_metrics(task)
    from slivit.statistics.summary import point_metrics

    names = task.measures.main

    def measure(name: str) -> Callable[[np.ndarray, np.ndarray], float | None]:
        return lambda y, p: point_metrics(task.kind, y, p, metrics=[name])[name]

    if windows:
        return [ScanMetric(name, measure(name), windows) for name in names]
    return [EpochMetric(name, measure(name)) for name in names]
