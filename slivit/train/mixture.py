"""Several labelled sets trained together: their outputs side by side, each item judged on its own set's alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from fastai.learner import Metric
from torch import Tensor, nn

from slivit.errors import ManifestError, one_of
from slivit.models.registry import spec_of
from slivit.statistics.summary import point_metrics
from slivit.targets.loss import TaskLoss
from slivit.targets.task import Task
from slivit.train.metrics import EpochMetric
from slivit.train.scans import SET

if TYPE_CHECKING:
    from fastai.learner import Learner


@dataclass(frozen=True)
class Mixture:
    """The tasks of several sets, whose label spaces lie side by side.

    A row names its set in the column "set". A target is encoded as [number of the set, the set's own targets, NaN
    for the rest].

    Args:
        tasks: the fitted task of each set, by its name; the outputs have this order.

    Source: Avram et al. 2024, Methods, "Pre-training" (the mixed set: 4 + 11 + 14 outputs).
    """

    tasks: Mapping[str, Task]

    kind = "mixture"

    @property
    def out_dim(self) -> int:
        """The number of outputs of all sets together."""
        return sum(task.out_dim for task in self.tasks.values())

    @property
    def spans(self) -> dict[str, slice]:
        """The outputs of each set."""
        ends = np.cumsum([task.out_dim for task in self.tasks.values()]).tolist()
        return {
            name: slice(end - task.out_dim, end) for (name, task), end in zip(self.tasks.items(), ends, strict=True)
        }

    def encode(self, row: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """Encode the targets of a row: (1 + the largest number of targets,) float32.

        Raises:
            ManifestError: a set or a value that is not known.
        """
        names = list(self.tasks)
        if row[SET] not in names:
            raise ManifestError(f'set is "{row[SET]}"; there are {one_of(names)}')
        own = np.atleast_1d(self.tasks[row[SET]].encode(row)).astype(np.float32)
        encoded = np.full(1 + max(len(t.targets) for t in self.tasks.values()), np.nan, np.float32)
        encoded[0], encoded[1 : 1 + len(own)] = names.index(row[SET]), own
        return encoded

    def describe(self, encoded: Tensor) -> str:
        """Encoded targets in words, for pictures."""
        name = list(self.tasks)[int(encoded[0])]
        task = self.tasks[name]
        return f"{name}: {task.describe(encoded[1 : 1 + len(task.targets)])}"

    def part(self, name: str, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """The items of one set: (B,) bool which they are, and their targets as the set's own task encodes them."""
        task = self.tasks[name]
        own = encoded[:, 0] == list(self.tasks).index(name)
        targets = encoded[own, 1 : 1 + len(task.targets)]
        return own, targets[:, 0].long() if task.exclusive else targets


class MixtureLoss(nn.Module):
    """The mean over a batch of each item's loss under its own set's task; other outputs get no gradient.

    Args:
        mixture: the sets.
        label_smoothing: see `TaskLoss`.
        joint: the mean over the outputs of all sets instead, each a label by itself (binary cross-entropy) that is
            absent in items of other sets; labels that are missing count nowhere.
    """

    def __init__(self, mixture: Mixture, label_smoothing: float = 0.0, *, joint: bool = False) -> None:
        super().__init__()
        self.mixture, self.joint, self.label_smoothing = mixture, joint, label_smoothing
        self.losses = nn.ModuleDict({n: TaskLoss(t, label_smoothing, "none") for n, t in mixture.tasks.items()})

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of (B, out_dim) logits against encoded targets (see `Mixture`)."""
        logits, target = logits.as_subclass(Tensor), target.as_subclass(Tensor)
        if self.joint:
            return self.over_all(logits, target)
        total = logits.sum() * 0
        for name, span in self.mixture.spans.items():
            own, wanted = self.mixture.part(name, target)
            if own.any():
                total = total + self.loss_of(name)(logits[own, span], wanted).sum()
        return total / len(logits)

    def over_all(self, logits: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy over the outputs of all sets."""
        labels = torch.zeros_like(logits, dtype=torch.float32)
        for name, span in self.mixture.spans.items():
            own, wanted = self.mixture.part(name, target)
            exclusive = self.mixture.tasks[name].exclusive
            labels[own, span] = nn.functional.one_hot(wanted, span.stop - span.start).float() if exclusive else wanted
        known = labels.isfinite()
        smoothed = labels.nan_to_num() * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), smoothed, reduction="none")
        return (losses * known).sum() / known.sum().clamp(min=1)

    def activation(self, logits: Tensor) -> Tensor:
        """Logits to probabilities (or units), set by set."""
        parts = [self.loss_of(name).activation(logits[:, span]) for name, span in self.mixture.spans.items()]
        return torch.cat(parts, 1)

    def decodes(self, predictions: Tensor) -> Tensor:
        """Predictions as they are: what a decision is depends on the set."""
        return predictions

    def loss_of(self, name: str) -> TaskLoss:
        """The loss of one set."""
        return cast(TaskLoss, self.losses[name])


class MixtureMetric(EpochMetric):
    """A metric of all validation predictions of one set."""

    def __init__(self, mixture: Mixture, name: str, metric: str) -> None:
        task = mixture.tasks[name]
        super().__init__(f"{metric}_{name}", lambda y, p: point_metrics(task.kind, y, p, metrics=[metric])[metric])
        self.mixture, self.set = mixture, name

    def accumulate(self, learn: Learner) -> None:
        own, targets = self.mixture.part(self.set, learn.y.as_subclass(Tensor))
        span = self.mixture.spans[self.set]
        self.targets.append(targets.detach().cpu())
        self.predictions.append(learn.loss_func.activation(learn.pred)[own, span].detach().cpu())


def mixture_metrics(mixture: Mixture) -> list[Metric]:
    """One metric a set while it is trained: ROC AUC, or R2."""
    return [MixtureMetric(mixture, name, task.measures.main[0]) for name, task in mixture.tasks.items()]


class OnePart(nn.Module):
    """A model of a mixture, cut down to the outputs of one set, so that it predicts like any other model.

    Args:
        model: of all sets.
        span: the outputs to keep.
    """

    def __init__(self, model: nn.Module, span: slice) -> None:
        super().__init__()
        self.model, self.span, self.spec = model, span, spec_of(model)

    def forward(self, x: Tensor) -> Tensor:
        """As the model, with the set's own outputs alone."""
        return self.model(x)[:, self.span]
