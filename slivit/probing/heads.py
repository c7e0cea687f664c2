"""The heads of a probe: each of a grid is scored on the validation rows, and the best one is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from slivit.errors import RecipeError, nearest, one_of
from slivit.probing import knn
from slivit.probing.linear import LEARNING_RATES, HeadGrid, Scaler, join, train_heads
from slivit.probing.recipe import Knn, Linear
from slivit.targets.loss import TaskLoss
from slivit.targets.task import Task

if TYPE_CHECKING:
    import pandas as pd

Splits = Mapping[str, Tensor]


@dataclass(frozen=True)
class Probed:
    """What heads read and what they are to say, by split.

    Args:
        task: fitted on the training rows.
        parts: by split, then by name of the part: (n, d) features, standardised where asked.
        y: by split, the encoded targets.
        sets: by name, the parts that a head reads one behind the other.
        scalers: by part, what was done to the features.
    """

    task: Task
    parts: Mapping[str, Mapping[str, Tensor]]
    y: Splits
    sets: Mapping[str, tuple[str, ...]]
    scalers: Mapping[str, Scaler]

    def scaler(self, name: str) -> Scaler:
        """What was done to the features of a set."""
        used = [self.scalers[part] for part in self.sets[name]]
        return Scaler(torch.cat([s.mean for s in used]), torch.cat([s.spread for s in used]))


@dataclass(frozen=True)
class Candidate:
    """One head of a grid.

    Args:
        name: what it is: the set of features, and the learning rate or the number of neighbours.
        predictions: by split: (n, outputs) probabilities, or values in the unit of the target.
    """

    name: Mapping[str, Any]
    predictions: Splits


@dataclass(frozen=True)
class Choice:
    """The best head of a grid.

    Args:
        grid: a row a head: what it is, its metric on the validation rows, and whether it was chosen.
        chosen: what the best one is, with its metric.
        predictions: its own, by split.
    """

    grid: pd.DataFrame
    chosen: Mapping[str, Any]
    predictions: Splits


def chosen_metric(task: Task, name: str = "") -> str:
    """The metric that chooses.

    Raises:
        RecipeError: one that this kind of task has not, or that says neither good nor bad.
    """
    from slivit.statistics.summary import METRICS, higher_is_better

    name = name or task.measures.main[0]
    allowed = [metric for metric in METRICS[task.kind] if higher_is_better(metric) is not None]
    if name not in allowed:
        raise RecipeError(
            f'choose_by: a {task.kind} task is not chosen by "{name}".{nearest(name, allowed)} There are '
            f"{one_of(allowed)}."
        )
    return name


def probe_linear(
    probed: Probed, settings: Linear, metric: str, seed: int, progress: Callable[[int], None] | None = None
) -> tuple[Choice, HeadGrid]:
    """Train the whole grid of linear heads, and choose one."""
    loss = TaskLoss(probed.task).to(probed.y["train"].device)
    grid = train_heads(
        probed.parts["train"],
        probed.y["train"],
        loss,
        probed.task.out_dim,
        sets=probed.sets,
        rates=settings.rates or LEARNING_RATES,
        iterations=settings.iterations,
        batch_size=settings.batch_size,
        seed=seed,
        progress=progress,
    )
    return choose(list(_linear_candidates(probed, grid, loss)), probed, metric), grid


def _linear_candidates(probed: Probed, grid: HeadGrid, loss: TaskLoss) -> Iterator[Candidate]:
    logits = {split: grid.logits(probed.parts[split]) for split in probed.y if split != "train"}
    for name in grid.sets:
        for index, rate in enumerate(grid.rates):
            said = {split: loss.activation(by_set[name][index]) for split, by_set in logits.items()}
            yield Candidate({"features": name, "learning_rate": rate}, said)


def probe_knn(probed: Probed, settings: Knn, metric: str) -> Choice:
    """Ask the nearest neighbours, by every set of features and every number of neighbours, and choose one."""
    return choose(list(knn_candidates(probed, settings)), probed, metric)


def knn_candidates(probed: Probed, settings: Knn) -> Iterator[Candidate]:
    """The nearest neighbours by every set of features and every number of neighbours."""
    train_y = _answers(probed.task, probed.y["train"])
    ks = sorted({min(k, len(train_y)) for k in settings.neighbours or knn.NEIGHBOURS})
    splits = [split for split in probed.y if split != "train"]
    for name, parts in probed.sets.items():
        train_x = join(probed.parts["train"], parts)
        grids = {
            split: knn.knn_grid(train_x, train_y, join(probed.parts[split], parts), ks, settings.temperature)
            for split in splits
        }
        for k in ks:
            yield Candidate({"features": name, "neighbours": k}, {split: grids[split][k] for split in splits})


def _answers(task: Task, y: Tensor) -> Tensor:
    """The targets as neighbours say them: every class of the task has its column, also one without a training scan."""
    return torch.nn.functional.one_hot(y, task.out_dim).float() if task.exclusive else y


def choose(candidates: Sequence[Candidate], probed: Probed, metric: str) -> Choice:
    """Score every head on the validation rows; the first of the best is chosen.

    Raises:
        RecipeError: the metric is defined for none of them.
    """
    import pandas as pd

    from slivit.statistics.summary import higher_is_better

    scores = [_score(c.predictions["val"], probed, metric) for c in candidates]
    known = [i for i, score in enumerate(scores) if score is not None]
    if not known:
        raise RecipeError(
            f"{metric} is not defined on the {len(probed.y['val'])} validation rows (one class only, or no label), so "
            "no head can be chosen; give more validation rows, or another choose_by"
        )
    sign = 1 if higher_is_better(metric) else -1
    best = max(known, key=lambda i: sign * (scores[i] or 0.0))
    rows = [{**c.name, metric: s, "chosen": i == best} for i, (c, s) in enumerate(zip(candidates, scores, strict=True))]
    return Choice(pd.DataFrame(rows), {**candidates[best].name, metric: scores[best]}, candidates[best].predictions)


def _score(predicted: Tensor, probed: Probed, metric: str) -> float | None:
    """The metric of a head on the validation rows; None where it is not defined, or the head has diverged."""
    from slivit.statistics.summary import point_metrics

    p, y = predicted.cpu().double().numpy(), probed.y["val"].cpu().double().numpy()
    if not np.isfinite(p).all():
        return None
    return point_metrics(probed.task.kind, y, p, metrics=[metric])[metric]
