"""Models of a few numbers of each scan: what a network has to beat, and members of the ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from slivit.device import cores
from slivit.targets.task import Task

if TYPE_CHECKING:
    from torch import nn

Array = npt.NDArray[Any]
Kind = Literal["linear", "kernel", "forest"]
TREES, LEAF, MOST_A_TREE = 200, 2, 10_000
ENOUGH = 2000
"""Scans on which a penalty is chosen, at most."""
LANDMARKS = 1000
"""Scans that a kernel compares with, at most."""
BEYOND = 0.25
"""Of the range of a feature, how far a linear model follows it beyond: one odd scan would else have a wild value."""
_SMALL = 1e-5  # of the largest variance along an axis of the kernel's space, below which float32 would see noise


@dataclass(frozen=True, eq=False)
class TableModel:
    """A model of a table that was fitted.

    Args:
        described: how `ensemble` describes it.
        tensors: its buffers by name.
    """

    described: dict[str, Any]
    tensors: dict[str, Array]

    def module(self, out_dim: int) -> nn.Module:
        """The model for torch."""
        import torch

        from slivit.models.ensemble import make_member

        module = make_member(self.described, out_dim)
        module.load_state_dict({name: torch.as_tensor(value) for name, value in self.tensors.items()})
        return module


def features_of(stacks: Sequence[Array], names: Sequence[str]) -> dict[str, Array]:
    """(n, k) float32 features by name, of (S, H, W) or (C, S, H, W) uint8 stacks, as the ensemble computes them."""
    import torch

    from slivit.models._table_features import table_features

    parts: dict[str, list[Array]] = {name: [] for name in names}
    for stack in stacks:
        x = torch.from_numpy(np.array(stack).reshape(1, -1, *stack.shape[-3:])).float() / 255
        for name, values in table_features(x, names).items():
            parts[name].append(values[0].numpy())
    return {name: np.stack(values) for name, values in parts.items()}


def mean_of(task: Task, y: Array) -> Array:
    """(out_dim,) what is said of every scan by who looks at none: the shares of classes, or the mean."""
    if task.exclusive:
        return np.bincount(y.astype(int), minlength=task.out_dim) / len(y)
    return np.asarray(np.nanmean(y, axis=0))


def fit_table(kind: Kind, features: Mapping[str, int], x: Array, y: Array, task: Task, seed: int) -> TableModel:
    """Fit a model of a table.

    Args:
        kind: "linear", "kernel" or "forest".
        features: what `x` holds, and how many columns of each, in order.
        x: (n, k) features.
        y: (n,) class numbers, (n, t) 0, 1 or NaN, or (n, t) standardised values.
        task: fitted on these scans.
        seed: of a forest, and of the scans that a kernel compares with.
    """
    widths = list(features.values())
    if kind == "forest":
        described, tensors = _forest(x, y, task, seed)
    elif kind == "kernel":
        described, tensors = _kernel(x, y, task, widths, seed)
    else:
        described, tensors = _linear(x, y, task, widths)
    return TableModel({"kind": kind, "features": list(features), **described}, tensors)


def _standard(x: Array, widths: Sequence[int]) -> tuple[Array, Array, Array]:
    """(n, k) standardised features, and by what: (k,) centers and scales.

    All features of a kind weigh as much together as those of another: 1,728 voxels do not drown four extents.
    """
    center, spread = x.mean(0), x.std(0)
    varies = spread > 1e-7
    scale = np.where(varies, 1 / np.maximum(spread, 1e-7), 0.0)
    for columns in np.split(np.arange(x.shape[1]), np.cumsum(widths)[:-1]):
        scale[columns] /= np.sqrt(max(1, varies[columns].sum()))
    return (x - center) * scale, center, scale


def _regressed(z: Array, y: Array, task: Task) -> tuple[Array, Array]:
    """(k, out_dim) weights and (out_dim,) intercepts, whose penalty is chosen by cross-validation."""
    from sklearn.linear_model import RidgeCV

    if task.makes_calls:
        return _logistic(z, y, task)
    ridge = RidgeCV(np.logspace(-4, 4, 17)).fit(z, y)
    return np.atleast_2d(ridge.coef_).T, np.atleast_1d(ridge.intercept_)


def _linear(x: Array, y: Array, task: Task, widths: Sequence[int]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Ridge or logistic regression, which follows features no further than a little beyond those it was fitted to."""
    z, center, scale = _standard(x, widths)
    weight, bias = _regressed(z, y, task)
    low, high = x.min(0), x.max(0)
    beyond = BEYOND * (high - low)
    tensors = {"center": center, "scale": scale, "weight": weight, "bias": bias}
    tensors |= {"low": low - beyond, "high": high + beyond}
    described = {"width": x.shape[1], "bounded": True}
    return described, {name: np.asarray(value, np.float32) for name, value in tensors.items()}


def _kernel(
    x: Array, y: Array, task: Task, widths: Sequence[int], seed: int
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Ridge or logistic regression in the space of a Gaussian kernel, which some of the scans span.

    Source: Williams and Seeger 2000, "Using the Nystroem Method to Speed Up Kernel Machines", section 3.
    """
    import torch

    from slivit.models.ensemble import KernelTable

    z, center, scale = _standard(x, widths)
    landmarks = z[np.random.default_rng(seed).permutation(len(z))[:LANDMARKS]]
    gamma = np.asarray(1 / max(z.var(0).sum(), 1e-7))
    tensors = {"center": center, "scale": scale, "landmarks": landmarks, "gamma": gamma}
    near = KernelTable(x.shape[1], len(landmarks), 1).double()
    near.landmarks, near.gamma = torch.from_numpy(landmarks), torch.from_numpy(gamma)
    values, vectors = np.linalg.eigh(near.nearness(torch.from_numpy(landmarks)).numpy())
    kept = values > _SMALL * values.max()
    whiten = vectors[:, kept] / np.sqrt(values[kept])
    weight, tensors["bias"] = _regressed(near.nearness(torch.from_numpy(z)).numpy() @ whiten, y, task)
    tensors["weight"] = whiten @ weight
    described = {"width": x.shape[1], "landmarks": len(landmarks)}
    return described, {name: np.asarray(value, np.float32) for name, value in tensors.items()}


def _logistic(z: Array, y: Array, task: Task) -> tuple[Array, Array]:
    """(k, out_dim) weights and (out_dim,) intercepts of logistic regression, one model a label."""
    if task.exclusive:
        model = _chosen_logistic(z, y)
        weight, bias = np.zeros((z.shape[1], task.out_dim)), np.full(task.out_dim, -20.0)
        if len(model.classes_) == 2:  # scikit-learn keeps one vector for two classes
            pair = [int(c) for c in model.classes_]
            weight[:, pair[1]], bias[pair] = model.coef_[0], (0.0, model.intercept_[0])
        else:
            weight[:, model.classes_.astype(int)], bias[model.classes_.astype(int)] = model.coef_.T, model.intercept_
        return weight, bias
    columns = []
    for target in y.T:
        known = ~np.isnan(target)
        if len(np.unique(target[known])) < 2:
            columns.append((np.zeros(z.shape[1]), 20.0 * (2 * target[known].mean() - 1) if known.any() else 0.0))
            continue
        model = _chosen_logistic(z[known], target[known])
        columns.append((model.coef_[0], model.intercept_[0]))
    return np.stack([w for w, _ in columns], 1), np.array([b for _, b in columns])


def _chosen_logistic(z: Array, y: Array) -> Any:
    """Logistic regression on all scans, its penalty chosen by cross-validation on so many of them as that needs."""
    import warnings

    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

    rows = np.random.default_rng(0).permutation(len(z))[:ENOUGH]
    fewest = np.unique(y[rows], return_counts=True)[1].min()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that ran out for the weakest penalties, which are not chosen
        if fewest < 3:
            return LogisticRegression(C=0.1, max_iter=300).fit(z, y)
        penalties = np.logspace(-3, 4, 8)
        chosen = LogisticRegressionCV(Cs=penalties, cv=3, scoring="neg_log_loss", max_iter=200).fit(z[rows], y[rows])
        if len(rows) == len(z):
            return chosen
        return LogisticRegression(C=float(np.mean(chosen.C_)), max_iter=200).fit(z, y)


def _forest(x: Array, y: Array, task: Task, seed: int) -> tuple[dict[str, Any], dict[str, Array]]:
    """A random forest, its trees as tables of nodes."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    options: dict[str, Any] = {"n_estimators": TREES, "min_samples_leaf": LEAF, "random_state": seed, "n_jobs": cores()}
    options["max_samples"] = MOST_A_TREE if len(x) > MOST_A_TREE else None
    if task.exclusive:
        forest = RandomForestClassifier(max_features="sqrt", **options).fit(x, y)
        places = forest.classes_.astype(int)
    else:  # 0 and 1 are averaged to probabilities by a regression as well, of several labels at once
        filled = np.where(np.isnan(y), np.nanmean(y, axis=0), y)
        share = 1 / 3 if not task.makes_calls else "sqrt"
        forest = RandomForestRegressor(max_features=share, **options).fit(
            x, filled[:, 0] if y.shape[1] == 1 else filled
        )
        places = np.arange(y.shape[1])
    return _tables([tree.tree_ for tree in forest.estimators_], places, task)


def _tables(trees: Sequence[Any], places: Array, task: Task) -> tuple[dict[str, Any], dict[str, Array]]:
    nodes, depth = max(t.node_count for t in trees), max(t.max_depth for t in trees)
    shape = (len(trees), nodes)
    feature, branch = np.zeros(shape, np.int64), np.tile(np.arange(nodes), (2, len(trees), 1))
    threshold, value = np.zeros(shape, np.float32), np.zeros((*shape, task.out_dim), np.float32)
    for i, tree in enumerate(trees):
        n, inner = tree.node_count, tree.children_left >= 0
        feature[i, :n] = np.where(inner, tree.feature, 0)
        threshold[i, :n] = _below(tree.threshold)
        for side, children in enumerate((tree.children_left, tree.children_right)):
            branch[side, i, :n] = np.where(inner, children, np.arange(n))
        values = tree.value[:, 0, :] if task.exclusive else tree.value[:, :, 0]
        total = values.sum(1, keepdims=True) if task.exclusive else 1.0
        value[i, :n][:, places] = values / total
    described = {"trees": len(trees), "nodes": nodes, "depth": int(depth)}
    return described, {"feature": feature, "threshold": threshold, "branch": branch, "value": value}


def _below(threshold: Array) -> Array:
    """Thresholds in float32, never above those in float64, so that float32 features fall on the same side."""
    narrow = threshold.astype(np.float32)
    return np.where(narrow > threshold, np.nextafter(narrow, np.float32(-np.inf)), narrow)


def answers_of(task: Task, rows: Sequence[Mapping[str, Any]]) -> Array:
    """What models of tables are fitted to: (n,) class numbers, (n, t) 0, 1 or NaN, or (n, t) standardised values."""
    y = np.stack([np.asarray(task.encode(row)) for row in rows]).astype(np.float64)
    return y if task.makes_calls else (y - np.array(task.center)) / np.array(task.spread)


def outputs_of(model: TableModel, x: Array, task: Task) -> Array:
    """(n, out_dim) probabilities, or standardised values, of a model of a table for (n, k) features."""
    import torch

    with torch.inference_mode():
        outputs = model.module(task.out_dim)(torch.as_tensor(x, dtype=torch.float32)).double()
    if model.described["kind"] != "forest" and task.makes_calls:
        outputs = outputs.softmax(-1) if task.exclusive else outputs.sigmoid()
    return np.asarray(outputs.numpy())
