"""Which scans a step draws: its share where several processes train, and rarer classes as often as the rest."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fastai.data.core import TfmdDL

from slivit.errors import SlivitError
from slivit.parallel import from_main, rank_and_size
from slivit.targets.task import Task


class SharedSteps(TfmdDL):
    """A fastai DataLoader whose batches are shares of those that all processes make together.

    With n processes a step takes n batches that lie next to each other in the epoch's order, one each; so n processes
    see in a step what one would see with a batch n times as large.
    """

    def order(self) -> list[int]:
        """All items in the order of an epoch."""
        return list(super().get_idxs())

    def get_idxs(self) -> list[int]:
        """The items of this process, in the order of the epoch."""
        order = from_main(self.order())
        rank, size = rank_and_size()
        step = self.bs * size
        steps = [order[start : start + step] for start in range(0, len(order), step)]
        if self.drop_last:
            steps = [items for items in steps if len(items) == step]
        return [item for items in steps for item in _share(items, rank, size)]

    def __len__(self) -> int:
        """The number of batches of this process."""
        step = self.bs * rank_and_size()[1]
        rest = self.n % step // rank_and_size()[1]
        return self.n // step + (1 if rest and not self.drop_last else 0)


def _share(items: list[int], rank: int, size: int) -> list[int]:
    """One process's part of a step; what cannot be shared out evenly is left out, as all must do the same."""
    each = len(items) // size
    return items[rank * each : (rank + 1) * each]


def item_classes(rows: Sequence[Mapping[str, Any]], task: Task) -> list[int]:
    """The class of every row of a classification, as a number.

    A row of several labels counts as its rarest one, or as none: then rare labels are drawn as often as the rest,
    though a label that comes with a rarer one is drawn more often than that.

    Raises:
        SlivitError: another kind of task.
    """
    if not task.makes_calls:
        raise SlivitError(f"oversampling is for classification, not for a {task.kind} task")
    if task.one_class:
        return [int(np.ravel(task.encode(row))[0]) for row in rows]
    positive = np.stack([np.ravel(task.encode(row)) for row in rows]) == 1  # a missing label is none
    counts = positive.sum(0)
    rarest = np.where(positive, counts, len(rows) + 1).argmin(1)
    return [int(label) if any_label else -1 for label, any_label in zip(rarest, positive.any(1), strict=True)]


def oversampled(classes: Sequence[int], rng: random.Random) -> list[int]:
    """Indices among which every class is equally frequent: those of rarer classes are repeated.

    Args:
        classes: of the items.
        rng: chooses which items are repeated once more than others of their class.

    Returns:
        Every index at least once; those of the most frequent class exactly once, and no two of one class differ by
        more than one. In order of the classes.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, name in enumerate(classes):
        members[name].append(index)
    most = max(len(m) for m in members.values())
    drawn = []
    for _, own in sorted(members.items()):
        drawn += own * (most // len(own)) + rng.sample(own, most % len(own))
    return drawn


class OversampledDL(SharedSteps):
    """A DataLoader whose epochs hold every class equally often, where `classes` are given.

    Full steps are shared out among processes; validation items come as they are.

    Args:
        dataset: as `TfmdDL` takes it.
        classes: the class of every item; None draws every item once.
        **options: of `TfmdDL`.
    """

    def __init__(self, dataset: Any = None, *, classes: Sequence[int] | None = None, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.classes = classes
        if classes is not None:
            self.n = len(oversampled(classes, random.Random(0)))

    def order(self) -> list[int]:
        """The indices of an epoch, in the order in which they are drawn."""
        if self.classes is None:
            return super().order()
        drawn = oversampled(self.classes, self.rng)
        return self.shuffle_fn(drawn) if self.shuffle else drawn

    def get_idxs(self) -> list[int]:
        """The items of this process, in the order of the epoch."""
        return super().get_idxs() if self.drop_last else self.order()

    def __len__(self) -> int:
        """The number of batches of this process."""
        return super().__len__() if self.drop_last else -(-self.n // self.bs)
