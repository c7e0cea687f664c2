"""Whether a network still tells its inputs apart: spread of features, use of prototypes, and a warning."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, MutableMapping
from typing import Any, ClassVar

import torch
from fastai.callback.core import Callback
from torch import Tensor
from torch.nn import functional as F

log = logging.getLogger(__name__)

SPREAD, ENTROPY, EVENNESS = "feature_std", "prototype_entropy", "target_entropy"


@torch.no_grad()
def feature_spread(features: Tensor) -> Tensor:
    """How far features differ: 1 for directions that are spread evenly, 0 where all inputs get the same features.

    Args:
        features: (N, D), N at least 2.

    Returns:
        A scalar: the standard deviation over the N features at length 1, on average over the axes, times sqrt(D).

    Source: Chen and He 2021 (SimSiam, arXiv:2011.10566), section 4.1.
    """
    unit = F.normalize(features.float(), dim=1)
    return unit.std(0, correction=0).mean() * math.sqrt(features.shape[1])


@torch.no_grad()
def prototype_entropy(logits: Tensor, temperature: float) -> Tensor:
    """How evenly prototypes are used: 0 where every input chooses the same one, 1 where they share all out.

    Args:
        logits: (N, K), the teacher's.
        temperature: of its softmax.

    Returns:
        A scalar: the entropy of the mean probabilities, as a fraction of the most that N inputs and K prototypes allow.
    """
    mean = (logits.float() / temperature).softmax(1).mean(0)
    entropy = -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()
    return (entropy / math.log(min(logits.shape))).clamp(max=1) if min(logits.shape) > 1 else entropy


@torch.no_grad()
def target_entropy(targets: Tensor) -> Tensor:
    """How little a teacher's targets say: 1 where they are even over all prototypes, 0 where each names one.

    Args:
        targets: (N, K) probabilities.

    Returns:
        A scalar: their mean entropy, as a fraction of the largest.
    """
    entropy = -(targets * targets.clamp_min(torch.finfo(targets.dtype).tiny).log()).sum(1).mean()
    return entropy / math.log(targets.shape[1])


class WatchCollapse(Callback):
    """Measure on the validation images whether features still differ; warn once where they do not.

    What is measured stands among the metrics of every epoch.

    Args:
        measure: the model's outputs -> values by name; `feature_std`, `prototype_entropy` and `target_entropy` are
            watched.
        parts: the pretext's, where the values go.
        after: part of the training in which nothing is said: fresh networks give nearly the same features to all.
    """

    # By name: what is still healthy, and what an unhealthy value means.
    healthy: ClassVar[dict[str, tuple[float, float, str]]] = {
        SPREAD: (0.02, math.inf, "the features of different images are becoming the same"),
        ENTROPY: (0.1, math.inf, "all images choose the same prototypes"),
        EVENNESS: (-math.inf, 0.999, "the teacher's targets are even, and teach nothing"),
    }

    order = 45  # before fastai's Recorder takes the metrics

    def __init__(
        self,
        measure: Callable[[Any], dict[str, Tensor]],
        parts: MutableMapping[str, float],
        *,
        after: float = 0.2,
    ) -> None:
        self.measure, self.parts, self.after, self.warned = measure, parts, after, False
        self._seen: list[dict[str, float]] = []

    def before_validate(self) -> None:
        self._seen = []

    def after_loss(self) -> None:
        if self.training:
            return
        values = {name: float(value) for name, value in self.measure(self.pred).items()}
        self.parts.update(values)
        self._seen.append(values)

    def after_validate(self) -> None:
        if self.warned or not self._seen or float(self.pct_train) < self.after:
            return
        means = {name: sum(seen[name] for seen in self._seen) / len(self._seen) for name in self._seen[0]}
        for name, value in means.items():
            low, high, meaning = self.healthy[name]
            if not low <= value <= high:
                self.warned = True
                log.warning(
                    "epoch %d: %s is %.4g: %s (collapse). Lower the learning rate or the teacher's temperature, let "
                    "crops overlap by more, or take a larger batch",
                    self.epoch + 1,
                    name,
                    value,
                    meaning,
                )
