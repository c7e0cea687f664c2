"""What a Learner of a segmentation does otherwise: validation by sliding windows, and Dice of the foreground."""

from __future__ import annotations

from typing import Any

import torch
from fastai.learner import Metric
from torch import Tensor

from slivit.data.layout import dense_logits
from slivit.predict.sliding import slide
from slivit.targets.segmentation import IGNORED, Segmentation
from slivit.train.learner import VolumeLearner


class MaskLearner(VolumeLearner):
    """A Learner of a network of patches: it trains on patches, and validates on whole scans, window by window."""

    overlap = 0.0
    """Of windows over validation scans."""

    windows_at_once = 0
    """Of a validation scan; as many as patches in a batch where 0."""

    @property
    def divides(self) -> bool:
        """Whether the parts of a batch add up to it: not where one Dice is over all of its patches."""
        return not self.loss_func.task.mask_loss.together

    def spared(self) -> str:
        windows = self.windows_at_once or self.dls.train.bs
        if windows == 1:
            return ""
        self.windows_at_once = windows // 2
        return f"{self.windows_at_once} of its windows at once"

    def output(self) -> Tensor:
        """Logits of patches, or of a whole validation scan, whose mask goes where its logits are."""
        x, input = self.xb[0].as_subclass(Tensor), self.model_spec.input
        if self.training:
            return dense_logits(self.model, x, input)
        logits = self._slid(x, input)
        self.yb = tuple(y.to(logits.device) for y in self.yb)
        return logits

    def _slid(self, scan: Tensor, input: str) -> Tensor:
        return slide(
            lambda patches: dense_logits(self.model, patches, input),
            scan,
            self.model_spec.size,
            overlap=self.overlap,
            blend="constant",
            at_once=self.windows_at_once or self.dls.train.bs,
            outputs=self.loss_func.task.out_dim,
            device=self.dls.device or "cpu",
        )

    @property
    def model_spec(self) -> Any:
        """What the network takes, whatever it is wrapped in."""
        from slivit.models.registry import spec_of
        from slivit.parallel import bare

        return spec_of(bare(self.model))


class ForegroundDice(Metric):
    """Dice of each structure in each validation scan, on the network's grid; the mean over structures of those means.

    A structure that is neither in the mask nor predicted does not count.
    """

    def __init__(self, task: Segmentation) -> None:
        self.task = task
        self.reset()

    def reset(self) -> None:
        self.dice: list[list[float]] = []

    def accumulate(self, learn: Any) -> None:
        logits, labels = learn.pred.as_subclass(Tensor), learn.y.as_subclass(Tensor)
        labels = labels.to(logits.device)
        known = (labels != IGNORED)[:, None]
        called, true = self.task.called(logits) & known, self.task.truths(labels) & known
        axes = list(range(2, called.ndim))
        sizes, both = called.sum(axes) + true.sum(axes), (called & true).sum(axes)
        self.dice += torch.where(sizes > 0, 2 * both / sizes, torch.nan).tolist()

    @property
    def value(self) -> float:
        """The mean, or NaN where no structure is anywhere."""
        if not self.dice:
            return float("nan")
        return float(torch.tensor(self.dice).nanmean(0).nanmean())

    @property
    def name(self) -> str:
        return "dice"


def mask_metrics(task: Segmentation) -> list[Metric]:
    """The metrics that are shown while a segmentation is trained."""
    return [ForegroundDice(task)]
