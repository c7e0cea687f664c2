"""Nearest neighbours in a frozen network's features, weighted by how alike they are. Pure functions of tensors.

Papers: Wu et al. 2018 (arXiv:1805.01978), section 3.4; Caron et al. 2021 (arXiv:2104.14294), section 4.1.
Origin: written for this project from the papers. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from slivit.errors import ModelError

NEIGHBOURS = (10, 20, 100, 200)
"""The numbers of neighbours that DINO compares."""

TEMPERATURE = 0.07
CHUNK = 2048  # test rows at a time, so that similarities of large sets fit in memory


def knn_scores(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, k: int = 20, temperature: float = TEMPERATURE
) -> Tensor:
    """What the k most alike training scans say of each test scan; see `knn_grid`.

    Returns:
        (m, classes) probabilities where `train_y` is (n,) class numbers, else (m, outputs) averages of `train_y`.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> knn_scores(x, torch.tensor([0, 0, 1]), torch.tensor([[2.0, 0.0]]), k=2)
        tensor([[1., 0.]])
    """
    return knn_grid(train_x, train_y, test_x, [k], temperature)[k]


def knn_grid(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, ks: Iterable[int], temperature: float = TEMPERATURE
) -> dict[int, Tensor]:
    """Answers of the k nearest training scans by cosine similarity s, each weighted by exp(s / temperature).

    The neighbours of the largest k are found once and serve all. A k above the number of training scans takes all.

    Args:
        train_x: (n, d) features.
        train_y: (n,) int64 class numbers, or (n, outputs) float: quantities, or 0 and 1 a label, NaN where missing.
        test_x: (m, d) features.
        ks: numbers of neighbours, each at least 1.
        temperature: above 0; the smaller, the more the very nearest count.

    Returns:
        By k: (m, classes) probabilities, or (m, outputs) weighted averages; NaN where no neighbour has that answer.

    Raises:
        ModelError: features of different lengths, no training scan, or a k or temperature that is not allowed.

    Source: Wu et al. 2018, equation 13; Caron et al. 2021, section 4.1 (k = 20, temperature 0.07).
    """
    ks = list(ks)
    _check(train_x, train_y, test_x, ks, temperature)
    answers = F.one_hot(train_y).float() if train_y.ndim == 1 else train_y.float()
    train = F.normalize(train_x.float(), dim=1)
    means: dict[int, list[Tensor]] = {k: [] for k in ks}
    for rows in test_x.float().split(CHUNK):
        similar, nearest = (F.normalize(rows, dim=1) @ train.T).topk(min(max(ks), len(train)), dim=1)
        # Relative to the nearest, so that a small temperature does not overflow; the factor cancels out.
        weights = ((similar - similar[:, :1]) / temperature).exp()
        for k in ks:
            means[k].append(_weighted_mean(answers[nearest[:, :k]], weights[:, :k]))
    empty = answers.new_zeros(0, answers.shape[1])
    return {k: torch.cat([empty, *parts]) for k, parts in means.items()}


def _weighted_mean(answers: Tensor, weights: Tensor) -> Tensor:
    """(m, k, outputs) answers, NaN where missing, and (m, k) weights -> (m, outputs)."""
    known = ~answers.isnan() * weights[..., None]
    return (answers.nan_to_num() * known).sum(1) / known.sum(1)


def _check(train_x: Tensor, train_y: Tensor, test_x: Tensor, ks: list[int], temperature: float) -> None:
    if train_x.ndim != 2 or test_x.ndim != 2 or train_x.shape[1] != test_x.shape[1]:
        raise ModelError(f"k-NN takes (n, d) and (m, d) features; got {tuple(train_x.shape)} and {tuple(test_x.shape)}")
    if len(train_x) == 0 or len(train_y) != len(train_x):
        raise ModelError(f"k-NN needs an answer for each training scan; got {len(train_y)} for {len(train_x)}")
    if train_y.ndim == 1 and train_y.is_floating_point():
        raise ModelError("k-NN takes (n,) whole numbers of classes, or (n, outputs) numbers; got (n,) numbers")
    if not ks or min(ks) < 1 or not temperature > 0:
        raise ModelError(f"k-NN: k must be at least 1 and the temperature above 0; got {ks} and {temperature}")
