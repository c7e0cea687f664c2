"""What self-distillation needs beside a loss: a teacher that follows the student, targets that sharpen, frozen layers.

Papers: Caron et al. 2021 (arXiv:2104.14294), section 3.1; Oquab et al. 2023 (arXiv:2304.07193), section 4.
Origin: written for this project. Licence: Apache-2.0.

Nothing here has a state of its own: teachers and centres are parts of the model, and where a schedule stands follows
from how much of the training is done. So a resumed run goes on as if nothing had happened.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Self, TypeVar

import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientClip
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slivit.settings import Count, NonNegative, Positive, Share
from slivit.ssl.collapse import (
    ENTROPY,
    EVENNESS,
    SPREAD,
    WatchCollapse,
    feature_spread,
    prototype_entropy,
    target_entropy,
)
from slivit.ssl.heads import DinoHead
from slivit.ssl.losses.targets import SoftmaxCentring, sinkhorn_knopp

Centring = Literal["sinkhorn", "softmax"]
Network = TypeVar("Network", bound=nn.Module)


def copy_teacher(student: Network) -> Network:
    """A copy of the student without gradients."""
    return copy.deepcopy(student).requires_grad_(False)


class Distillation(nn.Module):
    """A student and a teacher, which stays in evaluation mode.

    Only its batch norms take their statistics from the batch in training, as the student's do; with running ones of
    other weights the two would not speak of the same features.

    Args:
        student: what is trained.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, copy_teacher(student)

    def train(self, mode: bool = True) -> Self:
        """As for any module, but for the teacher."""
        super().train(mode)
        self.teacher.eval()
        for module in self.teacher.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode)
        return self


@dataclass(frozen=True, kw_only=True)
class Distilling:
    """The settings of a method that distils itself over prototypes.

    Args:
        prototypes: outputs of the head.
        head_layers: linear layers of a head's perceptron.
        head_hidden: their width.
        bottleneck: the width of the last of them.
        centring: of the teacher's logits, "softmax" (a running mean is taken off) or "sinkhorn" (Sinkhorn-Knopp).
        student_temperature: of the student.
        teacher_temperature: of the teacher: at first, and after the warm-up.
        temperature_warmup: epochs of that warm-up.
        momentum: of the teacher, at first and in the end.
        freeze_last: epochs in which a head's last layer stays as it is.
    """

    prototypes: Count = 65_536
    head_layers: Count = 3
    head_hidden: Count = 2048
    bottleneck: Count = 256
    centring: Centring = "softmax"
    student_temperature: Positive = 0.1
    teacher_temperature: tuple[Positive, Positive] = (0.04, 0.07)
    temperature_warmup: NonNegative = 30.0
    momentum: tuple[Share, Share] = (0.996, 1.0)
    freeze_last: NonNegative = 1.0

    def head(self, dim: int, prototypes: int = 0) -> DinoHead:
        """A head over tokens of width `dim`, of another number of prototypes where one is given."""
        sizes = {"layers": self.head_layers, "hidden": self.head_hidden, "bottleneck": self.bottleneck}
        return DinoHead(dim, prototypes or self.prototypes, **sizes)

    def callbacks(
        self, pair: Distillation, targets: Sequence[Targets], heads: Sequence[DinoHead], parts: dict[str, float]
    ) -> list[Callback]:
        """What a training needs.

        Args:
            pair: student and teacher.
            targets: theirs, those of whole images first.
            heads: of the student.
            parts: of the pretext, where the measures of a collapse go.
        """
        return [
            WarmTemperature(targets, *self.teacher_temperature, self.temperature_warmup),
            FreezeLast([head.last_layer for head in heads], self.freeze_last),
            FollowStudent(pair, *self.momentum),
            WatchCollapse(partial(signs_of_collapse, targets[0]), parts),
        ]


def signs_of_collapse(targets: Targets, out: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a teacher's "features", "scores" (logits) and "targets" tells a collapse."""
    return {
        SPREAD: feature_spread(out["features"]),
        ENTROPY: prototype_entropy(out["scores"], targets.temperature),
        EVENNESS: target_entropy(out["targets"]),
    }


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's weights towards the student's: momentum * teacher + (1 - momentum) * student."""
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.lerp_(new.detach().to(old.dtype), 1 - momentum)


class FollowStudent(Callback):
    """The teacher follows the student after each step, ever more slowly.

    Args:
        pair: holds `.student` and `.teacher`.
        start: momentum of the first step.
        end: momentum of the last; a half cosine lies between them.

    Source: Caron et al. 2021, section 3.1 (0.996 to 1); Oquab et al. 2023 (0.992 to 1).
    """

    run_valid = False

    def __init__(self, pair: Distillation, start: float, end: float = 1.0) -> None:
        self.pair, self.start, self.end = pair, start, end

    def after_step(self) -> None:
        momentum = half_cosine(self.start, self.end, float(self.pct_train))
        follow(self.pair.teacher, self.pair.student, momentum)


def half_cosine(start: float, end: float, done: float) -> float:
    """The value between `start` and `end` when a part `done` of the way, from 0 to 1, lies behind."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


class Targets(nn.Module):
    """A teacher's logits to the probabilities that the student learns.

    Args:
        prototypes: K, the length of the logits.
        centring: "sinkhorn" (Sinkhorn-Knopp over the batch) or "softmax" (a running mean is taken off).
        momentum: of that mean.

    Source: Oquab et al. 2023, section 4; Caron et al. 2021, section 3.1.
    """

    temperature: float = 0.04

    def __init__(self, prototypes: int, centring: Centring, momentum: float = 0.9) -> None:
        super().__init__()
        self.centre = SoftmaxCentring(prototypes, momentum) if centring == "softmax" else None

    @torch.no_grad()
    def forward(self, logits: Tensor) -> Tensor:
        """(N, K) logits -> (N, K) float32 probabilities; in training the mean moves afterwards."""
        if self.centre is None:
            return sinkhorn_knopp(logits, self.temperature)
        targets = self.centre(logits, self.temperature)
        if self.training:
            self.centre.update(logits)
        return targets


class WarmTemperature(Callback):
    """The teacher's temperature rises in a line over the first epochs, and then stays.

    Args:
        targets: whose temperature it is.
        start: of the first step.
        end: after the warm-up.
        epochs: how long the warm-up is.

    Source: Caron et al. 2021, section 4 (0.04 to 0.07 in 30 epochs).
    """

    def __init__(self, targets: Sequence[Targets], start: float, end: float, epochs: float) -> None:
        self.targets, self.start, self.end, self.epochs = targets, start, end, epochs

    def before_batch(self) -> None:
        done = min(1.0, float(self.pct_train) * self.n_epoch / self.epochs) if self.epochs else 1.0
        for target in self.targets:
            target.temperature = self.start + (self.end - self.start) * done


class FreezeLast(Callback):
    """Leave the last layers as they are in the first epochs, while the features are still noise.

    Args:
        layers: whose parameters wait.
        epochs: how long; fractions of an epoch count.

    Source: Caron et al. 2021, appendix D ("freeze the last layer").
    """

    order, run_valid = GradientClip.order + 1, False  # so that the clipping is that of all gradients

    def __init__(self, layers: Sequence[nn.Module], epochs: float) -> None:
        self.layers, self.epochs = layers, epochs

    def before_step(self) -> None:
        if float(self.pct_train) * self.n_epoch >= self.epochs:
            return
        for layer in self.layers:
            for parameter in layer.parameters():
                parameter.grad = None
