"""Trying the features during pre-training: a probe on a small labelled set, whose labels train nothing."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from fastai.callback.core import Callback
from torch import Tensor

from slivit.files import whole_file
from slivit.probing.knn import knn_scores
from slivit.statistics.summary import point_metrics
from slivit.targets.task import Task

log = logging.getLogger(__name__)

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
ProbeKind = Literal["knn", "linear"]


def probe_score(
    kind: ProbeKind, task: Task, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], neighbours: int = 20
) -> float:
    """How much of the targets can be read off frozen features.

    Args:
        kind: "knn" (cosine similarity, weighted) or "linear" (logistic or ridge regression on standardised features).
        task: what the targets are, fitted.
        train: (n, D) features and their encoded targets.
        val: the same of the scans on which it is measured.
        neighbours: k of "knn".

    Returns:
        ROC AUC (mean over classes or labels), or R2; NaN where it is not defined.
    """
    said = _neighbours(train, val[0], neighbours) if kind == "knn" else _linear(task, train, val[0])
    name = task.measures.main[0]
    value = point_metrics(task.kind, val[1].double().numpy(), said, metrics=[name])[name]
    return float("nan") if value is None else float(value)


def _neighbours(train: tuple[Tensor, Tensor], features: Tensor, k: int) -> np.ndarray:
    return knn_scores(*train, features, min(k, len(train[0]))).double().numpy()


def _linear(task: Task, train: tuple[Tensor, Tensor], features: Tensor) -> np.ndarray:
    return task.readout(train[0].double().numpy(), train[1].numpy(), features.numpy())


class FeatureProbe(Callback):
    """Probe the features every few epochs, and after the last; the scores go to the log and to a CSV.

    Args:
        features: (B, S, H, W) uint8 -> (B, D), without gradients.
        train: gives the labelled batches that the probe learns from.
        val: gives those on which it is measured.
        task: what the targets are, fitted.
        path: of the CSV.
        every: epochs between two probes.
        kind: see `probe_score`.
        neighbours: see `probe_score`.
    """

    order = 53  # behind the callback that writes the history

    def __init__(
        self,
        features: Callable[[Tensor], Tensor],
        train: Batches,
        val: Batches,
        task: Task,
        path: Path,
        *,
        every: int = 5,
        kind: ProbeKind = "knn",
        neighbours: int = 20,
    ) -> None:
        self.features, self.batches, self.task, self.path = features, (train, val), task, Path(path)
        self.every, self.kind, self.neighbours = every, kind, neighbours
        self.scores: list[tuple[int, float]] = []

    def before_fit(self) -> None:
        self.run = not hasattr(self.learn, "lr_finder") and not hasattr(self.learn, "gather_preds")

    def after_epoch(self) -> None:
        if (self.epoch + 1) % self.every and self.epoch + 1 != self.n_epoch:
            return
        state = torch.get_rng_state()  # a probe must not change what training draws next
        train, val = (self._gathered(batches()) for batches in self.batches)
        torch.set_rng_state(state)
        score = probe_score(self.kind, self.task, train, val, self.neighbours)
        self.scores.append((self.epoch, score))
        name = self.task.measures.main[0].upper().replace("_", " ")
        log.info("epoch %d/%d: %s probe, %s %.4f", self.epoch + 1, self.n_epoch, self.kind, name, score)
        self._write()

    def _gathered(self, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        features, targets = [], []
        with torch.no_grad():
            for stacks, wanted in batches:
                features.append(self.features(stacks.to(self.dls.device)).float().cpu())
                targets.append(wanted)
        return torch.cat(features), torch.cat(targets)

    def _write(self) -> None:
        with whole_file(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("epoch", "score"), *self.scores])

    def progress(self) -> dict[str, Any]:
        """What a resumed run needs to know."""
        return {"scores": [[epoch, score] for epoch, score in self.scores]}

    def restore(self, state: dict[str, Any]) -> None:
        self.scores = [(int(epoch), float(score)) for epoch, score in state["scores"]]
