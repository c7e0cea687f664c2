"""The network kept in the middle of its pre-training, for a later stage that starts from there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastai.callback.core import Callback

from slivit.ssl.recipe import PretextFit
from slivit.ssl.teacher import FollowStudent


class KeepSteps(Callback):
    """Keep the network after shares of all steps, each in a folder of its own.

    Args:
        folder: of these folders.
        fit: `keep_at` names the shares; `accumulate` batches are a step.
        keep: writes the network to a folder; of several processes all call it.

    Source: Xu et al. 2025, Methods, "High-resolution adaptation" (a second stage from before the end of the first).
    """

    order, run_valid = FollowStudent.order + 1, False

    def __init__(self, folder: Path, fit: PretextFit, keep: Callable[[Path], Any]) -> None:
        self.folder, self.fit, self.keep = folder, fit, keep

    def after_step(self) -> None:
        every = self.fit.accumulate
        a_pass = math.ceil(self.n_iter / every)
        step = self.epoch * a_pass + self.iter // every + 1
        for share in self.fit.keep_at:
            if step == max(1, round(share * self.n_epoch * a_pass)):
                self.keep(self.folder / f"{share:g}")
