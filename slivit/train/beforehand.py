"""Looked at before the first step: what a batch needs of the device's memory, so that nothing has to run out first."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from fastai.callback.core import Callback
from torch.utils._pytree import tree_leaves, tree_map

from slivit.device import Memory
from slivit.errors import ModelError, SlivitError
from slivit.parallel import bare, rank_and_size
from slivit.train.steps import checkpoint_activations

if TYPE_CHECKING:
    from slivit.train.steps import SparingLearner

log = logging.getLogger(__name__)
_ROWS = 2
"""Of a batch that are measured: two, so that what is kept once counts by half."""
_SHARE = 0.9
"""Of the free memory that a step may plan with."""


class Beforehand(Callback):
    """Before the first step of a fit, measure what a part of its batch keeps for the gradients, and plan by it.

    A batch that memory will not do for is taken in parts from the start, or features are computed again; a scan that
    cannot be trained at all is refused with the numbers. One line says what was found.

    Args:
        items: what a batch consists of, in the plural.
        free: bytes of free memory; looked at where None.
    """

    order, run_valid = 50, False  # when the batch is as the network takes it
    learn: SparingLearner

    def __init__(self, items: str = "scans", free: int | None = None) -> None:
        self.items, self.free = items, free

    def before_fit(self) -> None:
        self.run = not hasattr(self.learn, "lr_finder") and not hasattr(self.learn, "gather_preds")

    def before_batch(self) -> None:
        """Look, once."""
        self.run = False
        rows = {len(leaf) for leaf in tree_leaves(self.learn.xb) if isinstance(leaf, torch.Tensor)}
        compiled = getattr(bare(self.model), "_compiled_call_impl", None) is not None
        if len(rows) > 1 or compiled or rank_and_size()[1] > 1:
            return  # a part of the batch would be another network's work; where memory does not do, steps tell
        free = Memory(torch.device(self.dls.device or "cpu")).free() if self.free is None else self.free
        steady, size = self._steady(), self.learn.at_once or self.learn.batch_rows
        needed = steady + size * self._kept()
        if needed > _SHARE * free:
            self._spare(free, steady, size)
            size = self.learn.at_once or size
            needed = steady + size * self._kept()
        parts = f" ({size} at a time)" if self.learn.at_once else ""
        log.info(
            "a step on %d %s%s needs about %.2g GB: %.2g GB for gradients and optimiser, the rest for features; "
            "%.2g GB are free", self.learn.batch_rows, self.items, parts, needed / 1e9, steady / 1e9, free / 1e9
        )  # fmt: skip

    def after_fit(self) -> None:
        self.run = True

    def _spare(self, free: int, steady: int, rows: int) -> None:
        """Plan for less memory: parts of a batch, then fewer features.

        Raises:
            SlivitError: it does not do for one alone with the least that is kept.
        """
        learn = self.learn
        able = learn.divides
        for again in (False, True):
            if again and not self._keep_less():
                break
            each = self._kept()
            fit = int((_SHARE * free - steady) // max(each, 1))
            if fit >= rows or (able and fit >= 1):
                learn.at_once = 0 if fit >= rows else fit
                return
        each, least = self._kept(), 1 if able else rows
        if steady + least * each > free:
            raise SlivitError(
                f"{least} at once needs {(steady + least * each) / 1e9:.3g} GB ({each / 1e9:.3g} GB of features each, "
                f"{steady / 1e9:.3g} GB for gradients and optimiser), and {free / 1e9:.3g} GB are free: lower the "
                'batch size, the number of slices or their size, take a smaller network, or set precision to "bfloat16"'
            )
        learn.at_once = 1 if able else learn.at_once

    def _keep_less(self) -> bool:
        """Compute features again for the gradients, where the recipe and the network allow it."""
        if self.learn.keeps_less != "auto":
            return False
        try:
            checkpoint_activations(bare(self.learn.model))
        except ModelError:
            return False
        self.learn.keeps_less = True
        log.info("features are computed again for the gradients, as memory would not do otherwise")
        return True

    def _steady(self) -> int:
        """Bytes that a step needs beside features: gradients, and two moments of each weight that is trained."""
        trained = sum(p.nbytes for p in bare(self.model).parameters() if p.requires_grad)
        return 3 * trained

    def _kept(self) -> int:
        """Bytes that the network keeps of one item for the gradients; weights, random numbers and modes stay."""
        learn, model = self.learn, bare(self.model)
        whole, rows = learn.xb, min(_ROWS, learn.batch_rows)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        modes = [(module, module.training) for module in model.modules()]
        learn.xb = tree_map(lambda leaf: leaf[:rows] if isinstance(leaf, torch.Tensor) else leaf, whole)
        try:
            model.eval()
            device = torch.device(self.dls.device or "cpu")
            devices = [device] if device.type == "cuda" else []
            with torch.random.fork_rng(devices), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
                output = learn.output()
            del output
        finally:
            learn.xb = whole
            for module, training in modes:
                module.training = training
        return sum(size for place, size in kept.items() if place not in weights) // rows
