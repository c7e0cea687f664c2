"""A fastai Learner for a self-supervised method, its optimiser and its schedule."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from fastai.callback.core import Callback, CancelBackwardException, CancelBatchException, CancelStepException
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.learner import AvgMetric
from fastai.optimizer import SGD, Adam
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from slivit.data.cache import SliceCache
from slivit.data.images import (
    LoadImage,
    LoadItem,
    Row,
    count_slices,
    for_crops,
    slice_items,
    unlabelled_dataloaders,
)
from slivit.data.preprocessing import Preprocessing
from slivit.data.workers import readers_with_room
from slivit.errors import ModelError
from slivit.models._depthwise import quicken
from slivit.models._steady import steady
from slivit.parallel import bare
from slivit.ssl._lars import lars
from slivit.ssl.pretext import MakeViews, Pretext
from slivit.ssl.recipe import PretextFit
from slivit.ssl.teacher import FollowStudent
from slivit.train.callbacks import seed_everything
from slivit.train.learner import VolumeLearner, precision_callbacks
from slivit.train.replicas import replicated
from slivit.train.schedules import layered_groups, scheduler
from slivit.train.steps import checkpoint_activations

if TYPE_CHECKING:
    from slivit.ssl.pretext import Pretext

log = logging.getLogger(__name__)

Optimiser = Literal["adamw", "sgd", "lars"]
SGD_MOMENTUM = 0.9


class ClipNetworks(GradientClip):
    """Clip the norm of the gradient of each network by itself, or of all parameters where none is named.

    Args:
        largest: norm.
        networks: each with a gradient of its own.

    Source: Oquab et al. 2023 and Xu et al. 2025, released codes (backbone and heads one by one).
    """

    def __init__(self, largest: float, networks: Sequence[torch.nn.Module] = ()) -> None:
        super().__init__(largest)
        self.networks = networks

    def before_step(self) -> None:
        for parameters in [network.parameters() for network in self.networks] or [self.parameters()]:
            torch.nn.utils.clip_grad_norm_(parameters, self.max_norm, self.norm_type)


class PretextLearner(VolumeLearner):
    """A fastai Learner of a `Pretext`; `rates` are its groups' rates as fractions of the peak."""

    pretext: Pretext
    rates: np.ndarray
    settings: PretextFit

    @property
    def divides(self) -> bool:
        """As the method's loss allows."""
        return self.pretext.divides

    def create_opt(self) -> None:
        """As of any Learner (no weight decay of biases and norms), and none of what `undecayed` names."""
        super().create_opt()
        for name, parameter in bare(self.model).named_parameters():
            if parameter.requires_grad and undecayed(name, parameter, self.pretext):
                self.opt.state[parameter]["do_wd"] = False

    @property
    def batch_rows(self) -> int:
        """How many views of images a batch has."""
        return len(tree_leaves(self.xb[0])[0])

    def _in_parts(self) -> None:
        """A training step, `at_once` views at a time; the gradient is that of the whole batch, also of losses over it.

        All parts go through the network without gradients; the loss of all outputs gives the gradient of each output,
        with which each part goes through again. Only layers that look at a batch as a whole (BatchNorm) see a part.

        Source: Gao et al. 2021 (arXiv:2101.06983), section 3.
        """
        parts, device = _split(self.xb[0], -(-self.batch_rows // self.at_once)), torch.device(self.dls.device or "cpu")
        before = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        with torch.no_grad():
            outputs = [self._of_part(part) for part in parts]
        made = tree_map(lambda *leaves: torch.cat(leaves).requires_grad_(leaves[0].is_floating_point()), *outputs)
        self.pred = made
        self.enter_precision()
        self("after_pred")
        self.loss_grad = self.loss_func(self.pred, *self.yb)
        self.loss = self.loss_grad.clone()
        self("after_loss")
        self._with_events(self._backward, "backward", CancelBackwardException)
        gradients = _split(tree_map(lambda leaf: leaf.grad, made), len(parts))
        torch.set_rng_state(before[0])  # the second time is the same as the first
        if before[1] is not None:
            torch.cuda.set_rng_state(before[1], device)
        for part, gradient in zip(parts, gradients, strict=True):
            pairs = zip(tree_leaves(self._of_part(part)), tree_leaves(gradient), strict=True)
            kept = [(output, own) for output, own in pairs if own is not None and output.requires_grad]
            torch.autograd.backward([output for output, _ in kept], [own for _, own in kept])
        self._with_events(self._step, "step", CancelStepException)
        self.opt.zero_grad()

    def _of_part(self, part: Any) -> Any:
        """What the network gives for a part of a batch, in the precision of the fit."""
        self.enter_precision()
        output = self.model(part)
        self.leave_precision()
        return output


def _split(batch: Any, count: int) -> list[Any]:
    """The tensors of a batch, in whatever tuples and dicts they are, cut into as many parts of rows."""
    leaves, spec = tree_flatten(batch)
    cut = [leaf.tensor_split(count) if leaf is not None else [None] * count for leaf in leaves]
    return [tree_unflatten(list(part), spec) for part in zip(*cut, strict=True)]


def undecayed(name: str, parameter: Tensor, pretext: Pretext) -> bool:
    """Whether a parameter has no weight decay: vectors (biases, norms, scales of layers), and what the method names."""
    return parameter.ndim < 2 or any(part in name for part in pretext.undecayed)


def pretext_dataloaders(
    scans: Sequence[str | Path | Row],
    pretext: Pretext,
    settings: Preprocessing,
    *,
    slices: int | Literal["all"] = "all",
    validation: float = 0.05,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device | None = None,
    cache: SliceCache | None = None,
) -> DataLoaders:
    """fastai DataLoaders of scans without labels, as a pretext takes them.

    Args:
        scans: paths, or rows with "path" and "split" ("train" or "val"); a column "slices" spares opening each scan
            to count them.
        pretext: a method in 2D has single slices as items, one in 3D whole scans.
        settings: the preprocessing, with its size set; a method in 2D gets slices up to 1.5 times as large, from which
            it cuts crops.
        slices: of each scan and epoch, or "all".
        validation: the fraction of paths kept for the validation loss, at least one; rows tell it themselves.
        batch_size: items a step.
        workers: processes that read.
        device: fastai's default device where None.
        cache: where the slices of scans are kept, for a pretext in 2D, so that each scan is decoded once.

    Raises:
        ReadError: a scan that cannot be read.

    Example:
        >>> model = slivit.create_model("image_classifier", 1, backbone="resnet10t", image_size=32, stride=16)
        >>> pretext, settings = slivit.create_pretext("simclr", model), slivit.Preprocessing(size=model.spec.size)
        >>> dls = slivit.pretext_dataloaders([f"scan{i}.nii" for i in range(8)], pretext, settings, batch_size=4)
    """
    rows = [scan if isinstance(scan, Mapping) else {"path": str(scan), "split": ""} for scan in scans]
    held = max(1, round(validation * len(rows)))
    splits = [row["split"] or ("val" if i < held else "train") for i, row in enumerate(rows)]
    items = [{**row, "split": split, "reader": settings.reader} for row, split in zip(rows, splits, strict=True)]
    if pretext.load is None:
        counted = {
            row["path"]: row["slices"] if "slices" in row else count_slices(row["path"], settings.reader)
            for row in (items if slices == "all" else ())
        }
        if slices != "all" and (held := count_slices(items[0]["path"], settings.reader)) > slices:
            text = (
                'an epoch sees %d of the slices of a scan (the first one has %d); images.slices = "all" takes every one'
            )
            log.info(text, slices, held)
        settings = for_crops(settings, [str(row["path"]) for row in items])
        items = slice_items(items, slices, counted)
    load = LoadImage(settings, cache) if pretext.load is None else LoadItem(pretext.load)
    if workers:
        one = sum(leaf.nbytes for leaf in tree_leaves(load.read(items[0], "one")) if isinstance(leaf, Tensor))
        workers = readers_with_room(workers, batch_size * one)
    return unlabelled_dataloaders(
        items,
        load,
        batch_size=batch_size,
        workers=workers,
        device=device,
        collate=pretext.collate,
    )


def pretext_learner(
    dls: DataLoaders,
    pretext: Pretext,
    fit: PretextFit | None = None,
    *,
    path: str | Path = ".",
    seed: int | None = None,
    cbs: Sequence[Callback] = (),
) -> PretextLearner:
    """An ordinary fastai Learner that pre-trains the encoder of a pretext.

    Args:
        dls: from `pretext_dataloaders`, or any that give what the pretext's views take.
        pretext: from `slivit.ssl.create_pretext`.
        fit: how it is trained; the schedule in it is for `fit_pretext`.
        path: the folder in which fastai keeps its files.
        seed: seeds Python, NumPy and torch.
        cbs: further callbacks.

    Returns:
        A Learner: `fit_one_cycle(...)`, or `fit_pretext(learn)` with the schedule of the papers.

    Example:
        >>> learn = slivit.pretext_learner(dls, pretext, seed=0)  # doctest: +SKIP
    """
    if seed is not None:
        seed_everything(seed)
    fit = fit or PretextFit()
    if torch.device(dls.device or "cpu").type == "cpu":
        quicken(pretext.model)
        steady(pretext.model)
    if fit.checkpoint_activations is True:
        checkpoint_activations(pretext.model)
    if fit.shards and fit.optimiser == "lars":
        raise ModelError('fit.shards: "lars" needs whole weights; take "adamw" or "sgd", or shards = false')
    model = replicated(pretext.model, torch.device(dls.device or "cpu"), fit.shards)
    splitter, rates = _groups(pretext, fit.layer_decay, fit.patch_lr)
    limits: list[Callback] = [Accumulate(fit.accumulate)] if fit.accumulate > 1 else []
    limits += [ClipNetworks(fit.clip, pretext.networks)] if fit.clip else []
    learn = PretextLearner(
        dls,
        model,
        loss_func=pretext.loss,
        metrics=part_metrics(pretext, tuple(pretext.parts)),
        splitter=splitter,
        opt_func=_optimiser(fit.optimiser, fit.betas),
        wd=fit.weight_decay,
        path=Path(path),
        cbs=[MakeViews(pretext.views), *precision_callbacks(fit.precision, dls), *limits, *pretext.callbacks, *cbs],
    )
    learn.pretext, learn.rates, learn.settings = pretext, rates, fit
    learn.keeps_less = fit.checkpoint_activations
    return learn


def fit_pretext(learn: PretextLearner, *, cbs: Sequence[Callback] = (), start_epoch: int = 0) -> None:
    """Train under the schedule of the papers, or under fastai's one cycle.

    Args:
        learn: from `pretext_learner`; its `fit` has the epochs, the rate and the schedule. The warm-up is at most half
            of the epochs.
        cbs: further callbacks.
        start_epoch: the first epoch, of a resumed run.

    Example:
        >>> learn = slivit.pretext_learner(dls, pretext, slivit.PretextFit(epochs=100, lr=5e-4))  # doctest: +SKIP
        >>> slivit.fit_pretext(learn)  # doctest: +SKIP
    """
    fit, learn.first_epoch = learn.settings, start_epoch
    peak = fit.lr * learn.rates if len(learn.rates) > 1 else fit.lr
    rising = min(fit.warmup / fit.epochs, 0.5)
    if fit.schedule == "one_cycle":
        learn.fit_one_cycle(fit.epochs, peak, pct_start=max(rising, 0.01), cbs=list(cbs))
        return
    ends_at = fit.weight_decay_end if fit.weight_decay_end >= 0 else None
    plan = scheduler(peak, end=fit.lr_end, warmup=rising, weight_decay=learn.wd, weight_decay_end=ends_at)
    learn.fit(fit.epochs, lr=peak, cbs=[plan, *cbs])


def _groups(pretext: Pretext, decay: float, patch: float) -> tuple[Callable[..., Any], np.ndarray]:
    if (decay == 1 and patch == 1) or pretext.depth_of is None:
        return (lambda model: [[p for p in model.parameters() if p.requires_grad]]), np.ones(1)
    return layered_groups(pretext.model, pretext.depth_of, decay, patch)


def _optimiser(name: Optimiser, betas: tuple[float, float]) -> Callable[..., Any]:
    if name == "sgd":
        return partial(SGD, mom=SGD_MOMENTUM)
    if name == "lars":
        return partial(lars, mom=SGD_MOMENTUM)
    return partial(Adam, mom=betas[0], sqr_mom=betas[1], eps=1e-8)


def part_metrics(pretext: Pretext, names: Sequence[str]) -> list[AvgMetric]:
    """Metrics that show named parts of the loss, or other scalars that a method keeps, in the table of epochs."""
    metrics = []
    for name in names:
        metric = AvgMetric(lambda *_, key=name: torch.tensor(pretext.parts.get(key, float("nan"))))
        metric.func.__name__ = name
        metrics.append(metric)
    return metrics


class Accumulate(Callback):
    """Take the mean gradient of several batches for a step; the last step of an epoch takes those that are left.

    So no gradient goes from one epoch into the next, which a resumed run would not have, and an epoch with fewer
    batches still trains. (fastai's own counts the rows of a target, which are not the images of a method with views.)

    Args:
        batches: a step.
    """

    order, run_valid = GradientAccumulation.order, False

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def after_loss(self) -> None:
        self.learn.loss_grad = self.loss_grad / self._together()

    def before_step(self) -> None:
        self.learn.loss_grad = self.loss_grad * self._together()  # so that the loss is shown as it is
        if (self.iter + 1) % self.batches and self.iter + 1 < self.n_iter:
            raise CancelBatchException

    def _together(self) -> int:
        """How many batches make the step that this one belongs to."""
        first = self.iter - self.iter % self.batches
        return min(self.batches, self.n_iter - first)


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
