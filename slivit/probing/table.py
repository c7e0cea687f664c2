"""Heads on a table of embeddings: logistic or ridge regression, a forest, nearest neighbours; validation chooses."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from slivit.errors import RecipeError
from slivit.evaluate.recipe import Testing
from slivit.plugins import Plugged
from slivit.probing.embedding import Embeddings, chosen_parts, read_embeddings
from slivit.probing.linear import Scaler, join
from slivit.probing.recipe import Knn
from slivit.settings import Seed
from slivit.targets.task import Task

if TYPE_CHECKING:
    from slivit.data.manifest import Manifest
    from slivit.probing.heads import Candidate, Choice, Probed

log = logging.getLogger(__name__)
Kind = Literal["linear", "forest", "neighbours"]
PENALTIES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
LEAVES = (1, 5)


class TableRecipe(Plugged):
    """Which heads are tried on a table of embeddings.

    Args:
        out: the folder of results.
        embeddings: the table that `slivit embed` wrote, with the labels of its manifest.
        task: what to predict.
        features: sets of the table's features to try, such as "mean", "statistics" and "raptor"; all where empty.
        heads: kinds of heads: "linear" (logistic regression; ridge regression of a quantity), "forest", "neighbours".
        trees: of the forest.
        choose_by: the metric that chooses on validation rows; see `ProbeRecipe`.
        seed: of the forest.
        testing: how predictions are measured.
        page: draw the page of results.
    """

    out: str = Field(min_length=1)
    embeddings: str
    task: Task
    features: tuple[str, ...] = ()
    heads: tuple[Kind, ...] = ("linear", "forest", "neighbours")
    trees: int = Field(default=300, ge=1)
    choose_by: str = ""
    seed: Seed = 0
    testing: Testing = Testing()
    page: bool = True


@dataclass(frozen=True)
class Linear:
    """Logistic or ridge regression.

    Args:
        penalty: the strength of the penalty of squared weights, a scan.
        scans: that it learns from.
    """

    penalty: float
    scans: int

    def classifier(self) -> Any:
        """A logistic regression."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=1 / (self.penalty * self.scans), max_iter=2000)

    def regressor(self) -> Any:
        """A ridge regression."""
        from sklearn.linear_model import Ridge

        return Ridge(alpha=self.penalty * self.scans)


@dataclass(frozen=True)
class Forest:
    """A random forest.

    Args:
        leaf: scans that a leaf has at least.
        trees: how many.
        seed: of what it draws.
    """

    leaf: int
    trees: int
    seed: int

    def classifier(self) -> Any:
        """A forest of classes."""
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(self.trees, min_samples_leaf=self.leaf, random_state=self.seed)

    def regressor(self) -> Any:
        """A forest of values; a third of the features is looked at for a split."""
        from sklearn.ensemble import RandomForestRegressor

        options: dict[str, Any] = {"max_features": 1 / 3, "random_state": self.seed}
        return RandomForestRegressor(self.trees, min_samples_leaf=self.leaf, **options)


def best_head(
    embeddings: Embeddings,
    task: Task,
    *,
    features: Sequence[str] = (),
    heads: Sequence[Kind] = ("linear", "forest", "neighbours"),
    metric: str = "",
    trees: int = 300,
    seed: int = 0,
) -> tuple[Choice, Manifest]:
    """Try heads on embeddings, and choose by the validation rows.

    Args:
        embeddings: with patient, split and labels in their frame.
        task: what to predict; completed by the training rows.
        features: see `TableRecipe`; so are the others.
        heads: kinds.
        metric: that chooses; the task's main one where empty.
        trees: of the forest.
        seed: of the forest.

    Returns:
        The grid with every head's metric, the best head's predictions by split, and the rows under the fitted task.
    """
    from slivit.probing.heads import choose, chosen_metric

    manifest, order = _labelled(embeddings, task)
    probed = _probed(embeddings, manifest, order, features)
    tried = [candidate for kind in heads for candidate in _candidates(kind, probed, trees, seed)]
    return choose(tried, probed, chosen_metric(manifest.task, metric)), manifest


def run(recipe: TableRecipe, *, overwrite: bool = False) -> Path:
    """Try heads on a table of embeddings, measure the best on the test rows, and write what `slivit probe` writes."""
    from slivit.evaluate.measure import check_testing
    from slivit.files import write_json, write_text
    from slivit.folder import RECIPE, SPLIT, logged, open_results
    from slivit.probing.command import PROBE, report
    from slivit.recipe import resolved_toml

    check_testing(recipe.testing, recipe.task)
    embeddings = read_embeddings(recipe.embeddings)
    folder = open_results(Path(recipe.out), overwrite=overwrite)
    with logged(folder):
        options: dict[str, Any] = {"features": recipe.features, "heads": recipe.heads, "metric": recipe.choose_by}
        choice, manifest = best_head(embeddings, recipe.task, trees=recipe.trees, seed=recipe.seed, **options)
        write_text(folder / RECIPE, resolved_toml(recipe))
        manifest.to_csv(folder / SPLIT)
        report(folder, recipe, manifest, choice)
        facts = {"embeddings": dict(embeddings.about), "chosen": dict(choice.chosen), "heads": len(choice.grid)}
        write_json(folder / PROBE, facts)
    return folder


def _labelled(embeddings: Embeddings, task: Task) -> tuple[Manifest, list[int]]:
    """The rows under the fitted task, and the place of each in the table."""
    from slivit.data.manifest import Manifest

    options: dict[str, Any] = {"check_files": False, "source": "the embeddings", "need_splits": ("train", "val")}
    manifest = Manifest.from_frame(embeddings.frame, task, **options)
    if not manifest.has_split:
        manifest = manifest.with_split()
    manifest = manifest.with_task(task.fitted(manifest.rows("train")))
    return manifest, [int(i) for i in manifest.frame.index]


def _probed(embeddings: Embeddings, manifest: Manifest, order: Sequence[int], features: Sequence[str]) -> Probed:
    """Features and answers by split, standardised by the training rows."""
    from slivit.probing.heads import Probed

    rows = manifest.rows()
    places = {s: torch.tensor([i for i, row in enumerate(rows) if row["split"] == s]) for s in manifest.splits}
    if not {"train", "val"} <= places.keys():
        raise RecipeError("heads are chosen on the validation rows: the table needs the splits train and val")
    parts = {name: part[torch.tensor(order)] for name, part in embeddings.parts.items()}
    scalers = {name: Scaler.fitted(part[places["train"]]) for name, part in parts.items()}
    scaled = {name: scalers[name](part) for name, part in parts.items()}
    y = torch.from_numpy(np.stack([np.asarray(manifest.task.encode(row)) for row in rows]))
    return Probed(
        manifest.task,
        {split: {name: part[i] for name, part in scaled.items()} for split, i in places.items()},
        {split: y[i] for split, i in places.items()},
        chosen_parts(embeddings, features),
        scalers,
    )


def _candidates(kind: Kind, probed: Probed, trees: int, seed: int) -> Iterator[Candidate]:
    """All heads of one kind, on every set of features."""
    from slivit.probing.heads import Candidate, knn_candidates

    if kind == "neighbours":
        yield from knn_candidates(probed, Knn(run=True, neighbours=(5, 10, 20, 50)))
        return
    count = len(probed.y["train"])
    for name, parts in probed.sets.items():
        x = {split: join(probed.parts[split], parts) for split in probed.y}
        if kind == "linear":
            x = in_span(x)
            models: Mapping[str, Any] = {f"penalty {p:g}": Linear(p, count) for p in PENALTIES}
        else:
            models = {f"leaves of {leaf}": Forest(leaf, trees, seed) for leaf in LEAVES}
        for setting, model in models.items():
            log.info("%s on %s, %s", kind, name, setting)
            yield Candidate({"head": kind, "features": name, "setting": setting}, _said(probed, x, model))


def _said(probed: Probed, x: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The predictions of a model for every split but the one that it learned from."""
    known, y = x["train"].double().numpy(), probed.y["train"].numpy()
    others = [split for split in probed.y if split != "train"]
    other = torch.cat([x[split] for split in others]).double().numpy()
    said = torch.from_numpy(probed.task.readout(known, y, other, model))
    return dict(zip(others, said.split([len(x[split]) for split in others]), strict=True))


def in_span(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Features as coordinates in the span of the training rows, where those are fewer than the features.

    A linear model with a penalty of squared weights computes the same there, in a fraction of the time.

    Args:
        x: (n, d) by split, with "train".
    """
    train = x["train"].double()
    if train.shape[0] >= train.shape[1]:
        return dict(x)
    values, vectors = torch.linalg.eigh(train @ train.mT)
    kept = values > values[-1] * 1e-10
    if not kept.any():  # features that are the same for all scans: one of them says as much
        return {split: part[:, :1].double() for split, part in x.items()}
    back = vectors[:, kept] / values[kept].sqrt()
    return {split: (part.double() @ train.mT) @ back for split, part in x.items()}
