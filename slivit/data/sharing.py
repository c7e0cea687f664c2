"""Steps of training that several processes make together, each with its share of the items."""

from __future__ import annotations

from fastai.data.core import TfmdDL

from slivit.parallel import from_main, rank_and_size


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
