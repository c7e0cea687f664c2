"""A fastai Learner for volumes: loss and metrics of the task, parameter groups, and a fit that can go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from fastai.callback import progress, schedule  # noqa: F401 (they give Learner its bars, fit_one_cycle and lr_find)
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback, CancelEpochException
from fastai.callback.schedule import ParamScheduler
from fastai.data.core import DataLoaders
from fastai.learner import Learner, Metric
from fastai.optimizer import SGD, Adam
from torch import nn

from slivit.data.window_loaders import ScanDL
from slivit.data.windows import Windows
from slivit.data.workers import readers_watched
from slivit.device import choose_precision
from slivit.errors import ModelError, SlivitError
from slivit.models._depthwise import quicken
from slivit.models._lora import is_adapted, is_adapter
from slivit.models._steady import steady
from slivit.parallel import bare, rank_and_size
from slivit.settings import Precision, changed
from slivit.targets.loss import TaskLoss
from slivit.targets.task import Task
from slivit.train.callbacks import FrozenBackbone, HalfPrecision, seed_everything
from slivit.train.metrics import WholeLoss, task_metrics
from slivit.train.recipe import Fit
from slivit.train.replicas import replicated
from slivit.train.schedules import backbone_depth, layered_groups, scheduler, warmup_poly
from slivit.train.steps import SharedLoss, SparingLearner, checkpoint_activations, step_callbacks

log = logging.getLogger(__name__)
MOMENTUM = 0.9


class VolumeLearner(SparingLearner):
    """A fastai Learner whose fit can start at a later epoch of the same schedule, its `first_epoch`.

    `rates` are those of its parameter groups, as fractions of the peak.
    """

    first_epoch = 0
    rates: npt.NDArray[np.float64] = np.ones(1)

    def peak(self, lr: float) -> Any:
        """The peak rates of the groups: one number where all are alike."""
        return lr if (self.rates == 1).all() else lr * self.rates

    def _do_fit(self) -> None:
        """Run the epochs that are left. (fastai's own `start_epoch` runs the callbacks of skipped epochs too.)

        Raises:
            ReadError: a process that reads scans died.
        """
        loader = getattr(self.dls.train, "fake_l", None)
        try:
            with readers_watched(getattr(loader, "num_workers", 0)):
                for epoch in range(self.first_epoch, self.n_epoch):
                    self.epoch = epoch
                    self._with_events(self._do_epoch, "epoch", CancelEpochException)
        finally:
            self.first_epoch = 0
            self.leave_precision()

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to pickle the learner: opening such a file runs whatever code is in it.

        Raises:
            SlivitError: always, with the way out.
        """
        raise SlivitError(
            "learn.export() would pickle the learner, and opening a pickle runs the code in it, so it is not done. "
            "Keep the model with slivit.save_checkpoint(folder, learn.model, task, settings), share it with `slivit "
            "export`, and open it with slivit.from_pretrained(folder)."
        )


class MixUp(Callback):
    """Mix the scans of each training batch in pairs; the loss is that of both targets, with the same shares.

    Args:
        alpha: of the Beta distribution from which a batch's share is drawn.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization".
    """

    run_valid = False

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def before_batch(self) -> None:
        """Mix the batch with itself in another order."""
        self.share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        self.pairs = torch.randperm(len(self.xb[0])).to(self.xb[0].device)
        self.others = tuple(y[self.pairs] for y in self.yb)
        self.learn.xb = tuple(self.share * x + (1 - self.share) * x[self.pairs] for x in self.xb)

    def after_loss(self) -> None:
        """Mix the losses of both targets."""
        other = self.learn.loss_func(self.pred, *(y[self.learn.rows] for y in self.others))
        self.learn.loss_grad = self.share * self.learn.loss_grad + (1 - self.share) * other
        self.learn.loss = self.learn.loss_grad.clone()


def parameter_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of a model in three groups: backbone, integrator (all that is in neither), head.

    Of an adapted backbone those of its adapters count alone.

    Raises:
        ModelError: a model without `.backbone` or `.head`.
    """
    for part in ("backbone", "head"):
        if not isinstance(getattr(model, part, None), nn.Module):
            raise ModelError(f"{type(model).__name__} has no module .{part}; parameter groups need .backbone and .head")
    backbone, head = list(model.get_submodule("backbone").parameters()), list(model.get_submodule("head").parameters())
    taken = {id(p) for p in backbone + head}
    if is_adapted(model):
        backbone = [p for name, p in model.get_submodule("backbone").named_parameters() if is_adapter(name)]
    return [backbone, [p for p in model.parameters() if id(p) not in taken], head]


def volume_learner(
    dls: DataLoaders,
    model: nn.Module,
    task: Task,
    fit: Fit | None = None,
    *,
    loss_func: nn.Module | None = None,
    metrics: Sequence[Metric] | None = None,
    opt_func: Callable[..., Any] | None = None,
    channels_last: bool | None = None,
    path: str | Path = ".",
    seed: int | None = None,
    cbs: Sequence[Callback] = (),
) -> VolumeLearner:
    """An ordinary fastai Learner for a volume model.

    Args:
        dls: from `slivit.volume_dataloaders`, or any that give a model's input and encoded targets.
        model: from `slivit.create_model`, with `.backbone` and `.head`.
        task: the task, fitted on the training rows.
        fit: its optimiser, weight decay, rates by layer, label smoothing, mixup, frozen backbone, precision,
            compiling and what is kept for the gradients count here, not its schedule.
        loss_func: in place of the task's own loss; with an `activation`, as `TaskLoss` has.
        metrics: in place of the task's own.
        opt_func: a fastai optimiser in place of that of `fit`.
        channels_last: memory format of the weights; on for tiled models where None, as 2D convolutions run faster so.
        path: the folder in which fastai keeps its files.
        seed: seeds Python, NumPy and torch.
        cbs: further callbacks.

    Returns:
        A Learner: `lr_find()`, `fit_one_cycle(...)`, `get_preds()` and so on. `get_preds` gives probabilities, or
        values in the target's unit, never logits.

    Example:
        >>> task = slivit.Task(kind="binary", targets=("bright",))
        >>> manifest = slivit.read_manifest("scans.csv", task)
        >>> model = slivit.create_model("slivit", 1, backbone="resnet10t", slices=4, image_size=32, stride=16)
        >>> settings = slivit.Preprocessing(size=model.spec.size)
        >>> dls = slivit.volume_dataloaders(manifest, model.spec, settings, batch_size=8)
        >>> learn = slivit.volume_learner(dls, model, task)
        >>> with learn.no_bar(), learn.no_logging():
        ...     learn.fit_one_cycle(1, 1e-3)
        ...     probabilities, known = learn.get_preds(dl=dls.valid)
        >>> probabilities.shape
        torch.Size([8, 1])
    """
    if seed is not None:
        seed_everything(seed)
    fit = fit or Fit()
    if torch.device(dls.device or "cpu").type == "cpu":
        quicken(model)
        steady(model)
    if channels_last is None:
        channels_last = getattr(getattr(model, "spec", None), "input", "") == "tiled"
    if fit.checkpoint_activations is True:
        checkpoint_activations(model)
    splitter, rates = groups(model, fit)
    model, shared = _over_processes(model, fit, dls, channels_last=channels_last)
    learn = _kind_of_learner(task)(
        dls,
        model,
        loss_func=loss_func or TaskLoss(task, fit.label_smoothing),
        metrics=task_metrics(task, _windows(dls)) if metrics is None else list(metrics),
        splitter=lambda network: splitter(bare(network)),
        opt_func=opt_func or optimiser(fit),
        wd=fit.weight_decay,
        path=Path(path),
        train_bn=not (fit.freeze_backbone or fit.adapt),
        cbs=[
            *precision_callbacks(fit.precision, dls),
            *([ChannelsLast()] if channels_last else []),
            FrozenBackbone(),
            *([MixUp(fit.mixup)] if fit.mixup else []),
            *step_callbacks(fit.compile),
            *shared,
            *cbs,
        ],
    )
    learn.rates, learn.keeps_less = rates, fit.checkpoint_activations
    learn.recorder.loss = WholeLoss()
    if fit.freeze_backbone:
        learn.freeze_to(1)
    return learn


def _over_processes(
    model: nn.Module, fit: Fit, dls: DataLoaders, *, channels_last: bool
) -> tuple[nn.Module, list[Callback]]:
    """A copy of the model in every process, and what makes their losses one; nothing of that in a single process."""
    if rank_and_size()[1] == 1:
        return model, []
    if fit.freeze_backbone:  # copies wait for the gradient of whatever is trained
        model.get_submodule("backbone").requires_grad_(False)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    return replicated(model, torch.device(dls.device or "cpu")), [SharedLoss()]


def _kind_of_learner(task: Any) -> type[VolumeLearner]:
    if not getattr(task, "dense", False):
        return VolumeLearner
    from slivit.train.mask_learner import MaskLearner

    return MaskLearner


def _windows(dls: DataLoaders) -> Windows | None:
    """How the validation scans are cut into windows, if they are."""
    return dls.valid.windows if isinstance(dls.valid, ScanDL) else None


def precision_callbacks(precision: Precision, dls: DataLoaders) -> list[Callback]:
    """What a Learner needs for a precision: nothing, or automatic mixed precision.

    Raises:
        SlivitError: float16 on a CPU.
    """
    precision = choose_precision(precision, torch.device(dls.device or "cpu"))
    return [] if precision == "float32" else [HalfPrecision("bf16" if precision == "bfloat16" else "fp16")]


def find_lr(learn: Learner, steps: int = 100) -> float:
    """Find a learning rate by fastai's `lr_find` (valley), and leave the weights as they were.

    Args:
        learn: the learner; its rate finder trains for `steps` mini-batches.
        steps: at most this many.

    Returns:
        The suggested peak learning rate.

    Raises:
        SlivitError: the loss gave no suggestion.

    Source: Smith 2017, "Cyclical Learning Rates for Training Neural Networks".

    Example:
        >>> rate = slivit.find_lr(learn, steps=20)  # doctest: +SKIP
        >>> learn.fit_one_cycle(10, rate)  # doctest: +SKIP
    """
    with learn.no_bar():
        suggestion = learn.lr_find(num_it=steps, show_plot=False)
    rate = float(suggestion.valley)
    if not 0 < rate < 10:
        raise SlivitError(f"lr_find suggested {rate}; give fit.lr as a number")
    log.info("lr_find suggests %.2e", rate)
    return rate


def optimiser(fit: Fit) -> Callable[..., Any]:
    """The fastai optimiser that a recipe names."""
    if fit.optimiser == "sgd":
        return partial(SGD, mom=MOMENTUM)
    mom, sqr_mom = fit.betas
    return partial(Adam, mom=mom, sqr_mom=sqr_mom, eps=fit.eps, decouple_wd=fit.optimiser == "adamw")


def groups(model: nn.Module, fit: Fit) -> tuple[Callable[..., Any], npt.NDArray[np.float64]]:
    """How parameters are grouped, and the rate of each group as a fraction of the peak."""
    if fit.layer_decay == 1:
        return parameter_groups, np.array([fit.backbone_lr, 1.0, 1.0])
    parameter_groups(model)
    return layered_groups(model, backbone_depth(model), fit.layer_decay)


def scheduled(learn: VolumeLearner, fit: Fit, peak: float, cbs: Sequence[Callback] = ()) -> Callable[[], None]:
    """What trains a learner under a recipe's schedule, when it is called.

    Args:
        learn: the learner.
        fit: its epochs, schedule, warm-up and betas.
        peak: the peak rate.
        cbs: further callbacks.
    """
    rates = learn.peak(peak)
    if fit.schedule == "constant":
        return partial(learn.fit, fit.epochs, rates, cbs=[*cbs])
    if fit.schedule == "cosine":
        plan = scheduler(rates, end=0.0, warmup=fit.warmup, weight_decay=fit.weight_decay)
        return partial(learn.fit, fit.epochs, rates, cbs=[plan, *cbs])
    if fit.schedule == "poly":
        plan = ParamScheduler({"lr": warmup_poly(rates, fit.warmup)})
        return partial(learn.fit, fit.epochs, rates, cbs=[plan, *cbs])
    moms = {"moms": (fit.betas[0],) * 3} if changed(fit, "betas") else {}
    return partial(learn.fit_one_cycle, fit.epochs, rates, pct_start=fit.warmup, cbs=[*cbs], **moms)
