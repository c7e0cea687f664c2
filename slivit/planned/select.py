"""From out-of-fold predictions of many models to weights of a few: greedy selection with replacement.

Source: Caruana et al. 2004, section 2 (doi:10.1145/1015330.1015432): the best model first, then with replacement.
Here: averaged over draws of the scans. Bags of models, as there, give weight to poor ones where one is far the best.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from slivit.targets.task import Task

Array = npt.NDArray[np.float64]
BAGS, STEPS, LEAST = 20, 25, 0.02
WORTH, FEW = 0.2, 300
"""The share of the ensemble below which models that predict a part of the scans are left out of it, where that part has
fewer scans than these: without them it can be tested on all."""
_SURE = 1e-6


def losses(task: Task, y: Array, p: Array) -> Array:
    """What selection makes small, of each answer: the log loss of a probability, or a standardised squared error.

    Args:
        task: what is predicted.
        y: (n,) class numbers; (n, t) 0, 1 or NaN; or (n, t) standardised values.
        p: (n, out_dim).

    Returns:
        (n,), or (n, t) with NaN where there is no answer.
    """
    if not task.makes_calls:
        return np.asarray((p - y) ** 2)
    p = np.clip(p, _SURE, 1 - _SURE)
    if task.exclusive:
        return np.asarray(-np.log(p[np.arange(len(y)), y.astype(int)] / p.sum(1)))
    return np.asarray(-(y * np.log(p) + (1 - y) * np.log(1 - p)))


def loss(task: Task, y: Array, p: Array) -> float:
    """The mean of `losses` over all answers."""
    return float(np.nanmean(losses(task, y, p)))


def temperature(task: Task, y: Array, p: Array) -> float:
    """By what a model's logits are divided to make its probabilities right on average; 1 for values."""
    if not task.makes_calls:
        return 1.0
    tried = np.exp(np.linspace(np.log(0.25), np.log(8), 41))
    return float(min(tried, key=lambda t: loss(task, y, calibrated(task, p, t))))


def calibrated(task: Task, p: Array, by: float) -> Array:
    """(n, out_dim) probabilities whose logits are divided by a temperature; values as they are."""
    if not task.makes_calls or by == 1:
        return p
    p = np.clip(p, _SURE, 1 - _SURE)
    if task.exclusive:
        raised = p ** (1 / by)
        return np.asarray(raised / raised.sum(1, keepdims=True))
    return np.asarray(1 / (1 + ((1 - p) / p) ** (1 / by)))


def greedy(task: Task, y: Array, predictions: Mapping[str, Array], seed: int = 0) -> dict[str, float]:
    """Choose models and their weights.

    Args:
        task: what is predicted.
        y: see `loss`.
        predictions: (n, out_dim) out of fold, by model; calibrated.
        seed: of the draws of scans.

    Returns:
        The weights of those that were chosen, adding up to 1.
    """
    rng, names = np.random.default_rng(seed), sorted(predictions)
    votes = dict.fromkeys(names, 0.0)
    for _ in range(BAGS):
        rows = rng.integers(0, len(y), len(y))
        chosen = _chosen(task, y[rows], {name: predictions[name][rows] for name in names})
        for name in chosen:
            votes[name] += 1 / len(chosen)
    kept = {name: n / BAGS for name, n in votes.items() if n / BAGS >= LEAST}
    return {name: share / sum(kept.values()) for name, share in kept.items()}


def weights_of(task: Task, y: Array, predictions: Mapping[str, Array], seed: int = 0) -> dict[str, float]:
    """Weights of all models, where some predict only a part of the scans (NaN elsewhere).

    Those that predict all are chosen on all, so that few scans do not decide among many models; then the others are
    chosen beside what came of it, on the scans that they predict, and left out where few come to little (see `WORTH`).

    Args:
        task: what is predicted.
        y: see `loss`.
        predictions: (n, out_dim) by model; one at least predicts all.
        seed: of the draws of scans.
    """
    whole = {name: p for name, p in predictions.items() if not np.isnan(p).any()}
    first = greedy(task, y, whole, seed)
    part = {name: p for name, p in predictions.items() if name not in whole}
    rows = ~np.isnan(np.concatenate(list(part.values()), 1)).any(1) if part else np.zeros(len(y), bool)
    if not rows.any():
        return first
    together = np.sum([share * whole[name] for name, share in first.items()], axis=0)
    second = greedy(task, y[rows], {"": together[rows], **{name: p[rows] for name, p in part.items()}}, seed)
    if rows.sum() < FEW and 1 - second.get("", 0.0) < WORTH:
        return first
    weights = {name: share * second.get("", 0.0) for name, share in first.items()} | second
    return {name: share for name, share in weights.items() if name and share > 0}


def _chosen(task: Task, y: Array, predictions: Mapping[str, Array]) -> list[str]:
    """The models of one draw, each as often as it was taken, up to the number at which the loss was least."""
    first = min(predictions, key=lambda name: loss(task, y, predictions[name]))
    chosen, total = [first], predictions[first].copy()
    best, kept = loss(task, y, total), 1
    for _ in range(STEPS - 1):
        after = {n: loss(task, y, (total + p) / (len(chosen) + 1)) for n, p in predictions.items()}
        name = min(after, key=lambda n: after[n])
        chosen.append(name)
        total += predictions[name]
        if after[name] < best - 1e-9:
            best, kept = after[name], len(chosen)
    return chosen[:kept]
