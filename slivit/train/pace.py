"""What a training costs: its memory before the first step, its time after a few, its epochs for whoever follows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from fastai.callback.core import Callback
from torch.utils._pytree import tree_leaves, tree_map

from slivit.device import Memory
from slivit.errors import ModelError, SlivitError
from slivit.parallel import bare, rank_and_size
from slivit.train.callbacks import SaveProgress, trains
from slivit.train.steps import checkpoint_activations

if TYPE_CHECKING:
    from torch import nn

    from slivit.train.steps import SparingLearner

log = logging.getLogger(__name__)
_WARM, _MEASURED = 1, 4
_MUCH = 0.5
"""Of the time spent waiting for scans, from which on it is worth a word."""
_ROWS = 2
"""Of a batch that are measured: two, so that what is kept once counts by half."""
_SHARE = 0.9
"""Of the free memory that a step may plan with."""


class Pace(Callback):
    """Measure the steps after the first one of a fit, and log one line.

    Args:
        items: what a batch consists of, in the plural.
        work: count the operations of a step, by one more forward pass of one item.
    """

    order, run_valid = 60, False  # behind all that belongs to a step

    def __init__(self, items: str = "scans", *, work: bool = True) -> None:
        self.items, self.work = items, work

    def before_fit(self) -> None:
        self.run = trains(self.learn)
        self.steps, self.waited, self.spent, self.operations = 0, 0.0, 0.0, 0.0
        self.memory = Memory(torch.device(self.dls.device or "cpu"))

    def before_train(self) -> None:
        self.ended = time.perf_counter()  # a validation is no step

    def before_batch(self) -> None:
        if self.steps >= _WARM:
            self.waited += time.perf_counter() - self.ended

    def after_batch(self) -> None:
        """Tell after the last of the steps that are measured, or at the end of a short epoch."""
        if self.steps == _WARM + _MEASURED:
            return
        self.steps += 1
        self.memory.wait()
        if self.steps == _WARM:
            self.operations = 3 * operations(bare(self.model), self.xb) if self.work else 0.0
        else:
            self.spent += time.perf_counter() - self.ended
            if self.steps == _WARM + _MEASURED or self.iter + 1 == self.n_iter:
                self._tell(self.steps - _WARM)
                self.steps = _WARM + _MEASURED
        self.ended = time.perf_counter()

    def after_fit(self) -> None:
        self.run = True

    def _tell(self, steps: int) -> None:
        step, size = self.spent / steps, len(self.xb[0]) * rank_and_size()[1]
        parameters = sum(p.numel() for p in bare(self.model).parameters())
        left = ((self.n_epoch - self.epoch) * self.n_iter - self.iter - 1) * step
        work = f"{self.operations / 1e9:.3g} GFLOPs a step, " if self.operations else ""
        waiting, peak = self.waited / self.spent, self.memory.peak() / 1e9
        log.info(
            f"{parameters / 1e6:.3g} million parameters, {work}{size / step:.3g} {self.items} a second ({waiting:.0%} "
            f"of the time waiting for them), at most {peak:.2g} GB; training takes {_span(left)} more, validation aside"
        )
        if waiting > _MUCH and left > 60:
            log.warning("reading is slower than training: more data.workers, or a data.cache, would help")


def operations(model: nn.Module, batch: tuple[Any, ...]) -> float:
    """Floating-point operations of a forward pass of a batch, counted on its first item; the model stays as it is."""
    from torch.utils.flop_counter import FlopCounterMode

    modes = [(module, module.training) for module in model.modules()]
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            model.eval()._call_impl(*(part[:1] for part in batch))  # its hooks too, but nothing compiled
    finally:
        for module, training in modes:
            module.training = training
    return float(counter.get_total_flops()) * len(batch[0])


def _span(seconds: float) -> str:
    """A time as people say it: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class TrackEpochs(Callback):
    """The losses, the metrics and the learning rate of every finished epoch to whoever follows the run.

    Args:
        send: takes the values by name, and the number of the epoch, counted from 1.
    """

    order = SaveProgress.order + 1  # all of the epoch is written by then, so `send` may end the fit by raising

    def __init__(self, send: Callable[[dict[str, float], int], None]) -> None:
        self.send = send

    def after_epoch(self) -> None:
        if not trains(self.learn):
            return
        pairs = zip(self.recorder.metric_names[1:-1], self.recorder.log[1:], strict=False)
        values = {name: float(value) for name, value in pairs if value is not None}
        self.send({**values, "lr": float(self.opt.hypers[-1]["lr"])}, self.epoch + 1)


def later_epochs(callbacks: Sequence[Callback], epochs: int) -> list[Callback]:
    """Callbacks for one of several fits of a run: what is followed counts on from the `epochs` of those before it."""

    def later(send: Callable[[dict[str, float], int], None]) -> Callable[[dict[str, float], int], None]:
        return lambda values, number: send(values, number + epochs)

    return [TrackEpochs(later(c.send)) if isinstance(c, TrackEpochs) else c for c in callbacks]


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
