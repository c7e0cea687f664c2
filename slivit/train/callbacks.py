"""Small fastai callbacks: the best weights, an average of weights, repeatable epochs, runs that can go on."""

from __future__ import annotations

import hashlib
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, TrainEvalCallback
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.tracker import EarlyStoppingCallback, TrackerCallback
from fastcore.foundation import L

from slivit.errors import DIVERGED, CheckpointError, RecipeError, SlivitError
from slivit.files import check_space, whole_file, write_torch
from slivit.folder import PROGRESS
from slivit.models._lora import is_adapter
from slivit.parallel import bare, is_main, rank_and_size, shared_out, whole

log = logging.getLogger(__name__)


def better(monitor: str) -> np.ufunc:
    """Whether a monitored value should fall or rise: losses and errors fall, all other metrics rise."""
    falls = ("loss", "error", "mae", "rmse", "brier")
    return np.less if any(part in monitor for part in falls) else np.greater


def trains(learn: Any) -> bool:
    """Whether a learner trains, and neither looks for a rate nor predicts."""
    return not hasattr(learn, "lr_finder") and not hasattr(learn, "gather_preds")


class KeepBest(TrackerCallback):
    """Keep the weights of the best epoch in memory, and restore them when the fit ends."""

    order = TrackerCallback.order + 1

    def __init__(self, monitor: str = "valid_loss") -> None:
        super().__init__(monitor=monitor, comp=better(monitor))
        self.weights: dict[str, torch.Tensor] | None = None
        self.best_epoch = -1

    def after_epoch(self) -> None:
        super().after_epoch()
        if self.best_epoch < 0 and not np.isfinite(float(self.recorder.values[-1][self.idx])):
            raise Diverged(
                f"{self.monitor} is not a number after the first epoch, so no epoch could be the best one: the "
                "validation rows may hold one class alone, or all have the same prediction; set "
                "fit.monitor=valid_loss, or give validation rows of every class"
            )
        if self.new_best:
            self.best_epoch = self.epoch
            self.weights = {k: v.detach().cpu().clone() for k, v in bare(self.model).state_dict().items()}

    def after_fit(self) -> None:
        super().after_fit()
        if self.weights is not None:
            bare(self.model).load_state_dict(self.weights)

    def progress(self) -> dict[str, Any]:
        """What a resumed run needs to know."""
        return {"best": float(self.best), "best_epoch": self.best_epoch, "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        self.best, self.best_epoch, self.weights = state["best"], state["best_epoch"], state["weights"]


class StopEarly(EarlyStoppingCallback):
    """fastai's early stopping, in the right direction for every metric, and able to resume."""

    order = KeepBest.order + 2

    def __init__(self, monitor: str = "valid_loss", patience: int = 5) -> None:
        super().__init__(monitor=monitor, comp=better(monitor), patience=patience)

    def progress(self) -> dict[str, Any]:
        """What a resumed run needs to know."""
        return {"best": float(self.best), "wait": self.wait}

    def restore(self, state: dict[str, Any]) -> None:
        self.best, self.wait = state["best"], state["wait"]


class SeedEpochs(Callback):
    """Seed everything random at the start of every epoch by the run's seed and the epoch's number.

    So an epoch is the same whether the run came to it in one go or was resumed before it. Of several processes each
    draws its own numbers, but for the order of the items.
    """

    order, run_valid = -20, False

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train(self) -> None:
        if not trains(self.learn):
            return
        rank, _ = rank_and_size()
        seed_everything(self._seed(f"{self.seed}/{self.epoch}" + (f"/{rank}" if rank else "")))
        self.learn.dls.train.rng = random.Random(self._seed(f"{self.seed}/{self.epoch}"))

    @staticmethod
    def _seed(name: str) -> int:
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (fastai and MONAI draw from the global state)
    torch.manual_seed(seed)


class FrozenBackbone(Callback):
    """Run a backbone whose own weights are frozen as it runs in a prediction, so that nothing in it changes.

    In training mode a network without a gradient still moves the running statistics of its BatchNorms, and drops out
    features at random.
    """

    order, run_valid = TrainEvalCallback.order + 1, False

    def before_train(self) -> None:
        backbone = bare(self.learn.model).get_submodule("backbone")
        if not any(p.requires_grad for name, p in backbone.named_parameters() if not is_adapter(name)):
            backbone.eval()


class AverageWeights(Callback):
    """Validate and keep an exponential moving average of the weights (timm's `ModelEmaV3`).

    The network trains on its own weights; from the start of each validation to the start of the next epoch it holds
    the average, so that whatever keeps the best epoch keeps the average.

    Args:
        decay: how much of the average stays at each step; it warms up from 0.
    """

    order = TrackerCallback.order - 10

    def __init__(self, decay: float = 0.99) -> None:
        self.decay, self.steps = decay, 0
        self.ema: Any = None
        self._live: dict[str, torch.Tensor] | None = None

    def before_fit(self) -> None:
        from timm.utils.model_ema import ModelEmaV3

        self.run = trains(self.learn)
        if self.run and self.ema is None:
            self.ema = ModelEmaV3(bare(self.model), decay=self.decay, use_warmup=True)

    def after_step(self) -> None:
        self.steps += 1
        self.ema.update(bare(self.model), step=self.steps)

    def before_validate(self) -> None:
        self._live = {k: v.detach().clone() for k, v in bare(self.model).state_dict().items()}
        bare(self.model).load_state_dict(self.ema.module.state_dict())

    def before_train(self) -> None:
        self._back()

    def _back(self) -> None:
        if self._live is not None:
            bare(self.model).load_state_dict(self._live)
            self._live = None

    def progress(self) -> dict[str, Any]:
        """What a resumed run needs to know."""
        return {"ema": self.ema.module.state_dict(), "live": self._live, "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        self.ema.module.load_state_dict(state["ema"])
        self._live, self.steps = state["live"], state["steps"]


class Diverged(SlivitError):
    """A training whose loss, or the value by which its best epoch is found, is infinite or not a number."""


class StopOnNaN(Callback):
    """Stop at once where the loss is not a number, and say so."""

    order = -9

    def after_batch(self) -> None:
        if self.training and not hasattr(self.learn, "lr_finder") and not torch.isfinite(self.loss):
            raise Diverged(
                f"{DIVERGED} {self.loss.item()} in epoch {self.epoch}; lower fit.lr, or look at the "
                "scans of this manifest for empty or extreme values"
            )


class SaveProgress(Callback):
    """Write, after every epoch, all that a killed run needs to go on: `progress.pt`, whole or not at all.

    The file holds tensors and plain values only and is read with `weights_only=True`.

    Args:
        folder: the run's folder.
        lr_max: the peak of the schedule, which a resumed run must not look for again.
    """

    order = StopEarly.order + 1  # its restore must come after the others have reset themselves

    def __init__(self, folder: Path, lr_max: float) -> None:
        self.path, self.lr_max = Path(folder) / "progress.pt", lr_max

    def before_fit(self) -> None:
        self.run = trains(self.learn)
        if self.run and is_main():
            check_space(self.path.parent, self._needed(), "training")
        if self.run and getattr(self.learn, "first_epoch", False):
            self._restore()

    def _needed(self) -> int:
        """Bytes on the disk at most: two files of progress, one of which replaces the other, and the checkpoint."""
        weights = _bytes(bare(self.model).state_dict())
        moments = 2 * _bytes([p for p in self.model.parameters() if p.requires_grad])
        kept = weights * (1 + len(self._stateful()))
        return 2 * (weights + moments + kept) + weights

    def after_epoch(self) -> None:
        state = {
            "epoch": self.epoch + 1,
            "n_epoch": self.n_epoch,
            "lr_max": self.lr_max,
            "model": whole(bare(self.model).state_dict()),
            "optimiser": _plain(whole(self.opt.state_dict())),
            "callbacks": {type(c).__name__: c.progress() for c in self._stateful()},
            "train_loss": [float(self.recorder.smooth_loss.val), int(self.recorder.smooth_loss.count)],
            "values": [[float(v) for v in row] for row in self.recorder.values],
        }
        if not is_main():
            return
        write_torch(self.path, state, _bytes(state))

    def after_fit(self) -> None:
        self.run = True

    def _stateful(self) -> list[Callback]:
        return [c for c in self.learn.cbs if hasattr(c, "progress") and hasattr(c, "restore")]

    def _restore(self) -> None:
        state = read_progress(self.path)
        model = bare(self.model)
        model.load_state_dict(shared_out(state["model"], model.state_dict()))
        self.opt.load_state_dict(_spread_optimiser(self.opt, state["optimiser"]))
        for callback in self._stateful():
            callback.restore(state["callbacks"][type(callback).__name__])
        self.recorder.values.extend(state["values"])
        smooth, self.recorder.smooth_loss.count = state["train_loss"]
        self.recorder.smooth_loss.val = torch.tensor(smooth)


def _bytes(value: Any) -> int:
    """What the tensors of nested containers take."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(_bytes, parts))


def _spread_optimiser(opt: Any, state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's saved state, with its tensors spread over processes as its parameters are."""
    if not isinstance(state["state"], list):  # one of torch's own, which is not spread
        return state
    parameters = [p for p, *_ in opt.all_params()]
    shared = [shared_out(part, dict.fromkeys(part, p)) for part, p in zip(state["state"], parameters, strict=True)]
    return {**state, "state": shared}


def read_progress(path: Path) -> dict[str, Any]:
    """Read what `SaveProgress` wrote.

    Raises:
        CheckpointError: no such file, or not a whole one.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: nothing to resume; the run ended no epoch") from None
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read ({reason}); start the run anew with --overwrite") from error


def _plain(value: Any) -> Any:
    """Containers of fastai and NumPy scalars to plain ones, so that the file needs no pickled class."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (torch.Tensor, str, bool, int, float)):
        return value
    return [_plain(v) for v in value]


class HalfPrecision(MixedPrecision):
    """fastai's mixed precision, on the device of the data instead of on CUDA alone."""

    entered = False

    def before_fit(self) -> None:
        device = torch.device(self.dls.device or "cpu").type
        if device == "cuda":
            super().before_fit()
            return
        dtype = torch.bfloat16 if self.amp_mode == AMPMode.BF16 else torch.float16
        self.autocast, self.scales = torch.autocast(device, dtype=dtype), L()
        self.learn.scaler = torch.amp.GradScaler(device, enabled=False)

    def before_batch(self) -> None:
        super().before_batch()
        self.entered = True

    def after_loss(self) -> None:
        super().after_loss()
        self.entered = False

    def enter(self) -> None:
        """Begin half precision for a part of a batch."""
        if not self.entered:
            self.autocast.__enter__()
            self.entered = True

    def leave(self) -> None:
        """End half precision where an error ended a batch: what this process does next would be computed in it."""
        if self.entered:
            self.after_loss()


class WriteHistory(Callback):
    """The losses and metrics of all epochs as a CSV, written anew after each; a resumed run has one header and no gap.

    Args:
        path: of the CSV.
    """

    order = 52  # behind fastai's Recorder, which gathers the values

    def __init__(self, path: Path) -> None:
        self.csv = Path(path)

    def after_epoch(self) -> None:
        if not is_main():
            return
        names = ["epoch", *self.recorder.metric_names[1:-1]]
        rows = [[str(i), *(str(float(v)) for v in row)] for i, row in enumerate(self.recorder.values)]
        with whole_file(self.csv) as partial:
            partial.write_text("".join(",".join(row) + "\n" for row in [names, *rows]), "utf-8")


class LogEpochs(Callback):
    """One line a finished epoch to the log: the epoch, the losses, the metrics, the learning rate, the time."""

    order = 51  # behind fastai's Recorder, which gathers the values

    def after_epoch(self) -> None:
        if not trains(self.learn):
            return
        names, values = self.recorder.metric_names[1:], self.recorder.log[1:]
        shown = [f"{n} {v:.4f}" if isinstance(v, float) else f"{n} {v}" for n, v in zip(names, values, strict=False)]
        shown.insert(-1, f"lr {self.opt.hypers[-1]['lr']:.3g}")
        log.info("epoch %d/%d: %s", self.epoch + 1, self.n_epoch, ", ".join(shown))


def progress_of(folder: Path, *, resume: bool) -> dict[str, Any] | None:
    """What `SaveProgress` kept of a run that goes on; None for a new run, and where not one epoch was finished.

    Args:
        folder: of the run.
        resume: whether it goes on.

    Raises:
        RecipeError: a run that is finished.
        CheckpointError: a file that is not whole.
    """
    if not resume:
        return None
    if (folder / PROGRESS).is_file():
        return read_progress(folder / PROGRESS)
    if (folder / "checkpoint").is_dir():
        raise RecipeError(f"{folder}: the run is finished; there is nothing to go on with. --overwrite trains anew")
    log.info("%s: died in its first epoch, and starts from the beginning", folder)
    return None
