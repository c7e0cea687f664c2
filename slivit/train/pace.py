"""What a training costs, said once its first steps are made, and what becomes of its epochs, for whoever follows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from fastai.callback.core import Callback

from slivit.device import Memory
from slivit.parallel import bare, rank_and_size
from slivit.train.callbacks import SaveProgress, trains

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)
_WARM, _MEASURED = 1, 4
_MUCH = 0.5
"""Of the time spent waiting for scans, from which on it is worth a word."""


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
