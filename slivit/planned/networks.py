"""The networks that a plan tries, and what they cost: which ones, how many epochs, on how many folds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from slivit.data.preprocessing import Preprocessing
from slivit.experiments.study_schedule import spoken_time
from slivit.models.registry import takes_argument
from slivit.settings import Section

LEAST_EPOCHS, ENOUGH_EPOCHS = 8, 25
STEPS = 3000
"""Steps of a training that is long enough from random weights: as many epochs as they take, from 40 to 120."""
FEW_STEPS, LEAST_STEPS = 1500, 600
BATCH, BATCH_OF_MANY, MANY = 16, 64, 2000
"""Scans a step; of many images more, at twice the rate: as good, and 1.7 times as fast."""
FOR_NETWORKS = 0.85
"""Of the time; the rest is for reading, baselines and the report."""
AGAIN = (2, 3)
"""Other seeds of the first network, where time is left after all that fits was trained as long as it takes."""
OVERHEAD, EACH_EPOCH = 1.35, 0.3
"""What batches, moves and the optimiser cost beside the two passes (a factor), and an epoch by itself (seconds)."""


COLOURED = 3
"""Channels that networks of images take."""
VIT = {"vit_dim": 128, "vit_depth": 3, "vit_heads": 4, "dim_head": 32, "mlp_dim": 256, "dropout": 0.1}
"""A small transformer over the slices of a SLIViT."""


class Candidate(Section):
    """A network that is tried.

    Args:
        name: of its folder and its row in the leaderboard.
        model: a registered model.
        args: of the model, beside its size.
        lr: the peak learning rate.
        epochs: passes over the training scans.
        batch_size: scans a step.
        weights: that its backbone starts from; random where empty.
        seed: added to that of the plan.
        seconds: that a fold was thought to take; 0 where that is not known.
        why: the reason that it is here, and how long it was thought to take.
    """

    name: str
    model: str
    args: dict[str, Any] = Field(default_factory=dict)
    lr: float = Field(gt=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    weights: str = ""
    seed: int = 0
    seconds: float = Field(default=0.0, ge=0)
    why: str = ""


@dataclass(frozen=True)
class Option:
    """A network that suits the scans.

    Args:
        name: of the candidate.
        model: a registered model.
        args: of the model.
        lr: the peak learning rate.
        share: of the time that is left when its turn comes.
        why: the reason that it is here.
        weights: that its backbone starts from.
        seed: added to that of the plan.
    """

    name: str
    model: str
    args: dict[str, Any]
    lr: float
    share: float
    why: str
    weights: str = ""
    seed: int = 0


def options_of(size: tuple[int, int, int], channels: int = 0) -> Iterator[Option]:
    """The networks that suit a size and a number of channels, the one that is most likely to do well first."""
    if channels and not (channels == COLOURED and size[0] == 1):
        several = (o for o in options_of((max(size[0], 2), *size[1:])) if takes_argument(o.model, "in_chans"))
        yield from (replace(o, args={**o.args, "slices": size[0], "in_chans": channels}) for o in several)
        return
    slices, side, _ = size
    if slices == 1:
        stride = 8 if side <= 64 else 16 if side <= 128 else 32  # the last map has 4 x 4 cells at least
        args: dict[str, Any] = {"image_size": side, "stride": stride}
        why = "a small 2D residual network, which learns from few images"
        yield Option("resnet10t", "image_classifier", {**args, "backbone": "resnet10t"}, 1e-3, 0.6, why)
        why = "a larger 2D residual network"
        yield Option("resnet18", "image_classifier", {**args, "backbone": "resnet18"}, 1e-3, 0.8, why)
        yield Option(
            "convnext_atto", "image_classifier", {**args, "backbone": "convnext_atto"}, 1e-3, 0.8, "a modern 2D network"
        )
        return
    volume = {"slices": slices, "image_size": side}
    why = "a narrow 3D network learns shape from few scans"
    yield Option("resnet3d", "resnet3d_18", {**volume, "width": 16}, 2e-3, 0.75, why)
    why = "SLIViT with a small backbone: slices first, then their order"
    yield Option("slivit_small", "slivit", {**volume, "backbone": "resnet10t", "stride": 16, **VIT}, 1e-3, 0.6, why)
    why = "the 3D network with more channels"
    yield Option("resnet3d_wide", "resnet3d_18", {**volume, "width": 32}, 2e-3, 1.0, why)


def started_from(weights: Sequence[str], size: tuple[int, int, int]) -> Iterator[Option]:
    """Networks whose backbone starts from runs of one's own, for another size; of images, as backbones of a SLIViT.

    Args:
        weights: folders of runs or checkpoints; what else is named gives frozen features alone.
        size: (S, H, W) of the scans.

    Raises:
        CheckpointError: no checkpoint there, or one that cannot be read.
    """
    from slivit.checkpoint import CONFIG, read_config
    from slivit.errors import CheckpointError
    from slivit.folder import CHECKPOINT

    slices, side, _ = size
    for number, where in enumerate(w for w in weights if Path(w).is_dir()):
        place = next((p for p in (Path(where) / CHECKPOINT, Path(where)) if (p / CONFIG).is_file()), None)
        if place is None:
            raise CheckpointError(f"{where}: holds no checkpoint; --weights takes the folder of a run of yours")
        described = read_config(place)["model"]
        name, args = described["name"], dict(described["args"])
        if name == "ensemble":
            raise CheckpointError(
                f"{where}: is an ensemble; name one of its networks, such as a run in candidates/ or copies/"
            )
        if name == "image_classifier" and slices > 1:
            name, args = "slivit", {k: v for k, v in args.items() if takes_argument("slivit", k)} | VIT
        new = {"slices": slices, "image_size": side, "pretrained": False}
        args |= {key: value for key, value in new.items() if takes_argument(name, key)}
        why = f"{name} that starts from {Path(where).name}"
        yield Option(f"started_{number}", name, args, 3e-4, 0.5, why, str(Path(where).absolute()))


def plan_networks(
    preprocessing: Preprocessing,
    out_dim: int,
    scans: int,
    folds: int,
    seconds: float,
    weights: Sequence[str] = (),
    *,
    fixed: bool = False,
) -> tuple[list[Candidate], Folds, list[str], float]:
    """Choose networks, epochs and folds by the time that there is.

    Args:
        preprocessing: of the scans, with its size.
        out_dim: of the task.
        scans: that train and choose.
        folds: at most.
        seconds: of all workers together.
        weights: runs of one's own, from which networks are started too; not those of several channels.
        fixed: whether there are as many folds as that, however few of them networks are trained on.

    Returns:
        The candidates, the folds that they leave time for, sentences that say why, and the share of a core that other
        work left to this process.
    """
    size = preprocessing.size or (1, 32, 32)
    batch = 8 if scans < 64 else BATCH_OF_MANY if size[0] == 1 and scans >= MANY else BATCH
    most = int(np.clip(STEPS * batch / scans, 40, 120))
    channels = len(preprocessing.channels)
    alone, *others = options_of(size, channels)
    options = [alone, *(() if channels else started_from(weights, size)), *others]
    measured = {o.name: seconds_a_scan(o.model, o.args, out_dim, batch) for o in options}
    share = float(np.clip(np.mean([m.share for m in measured.values()]), 0.1, 1))
    costs = {name: OVERHEAD * m.seconds / share for name, m in measured.items()}
    passes = alone.share * FOR_NETWORKS * seconds / (scans * costs[alone.name])
    chosen = folds_for(folds, passes, min(most, ENOUGH_EPOCHS), fixed=fixed)
    again = [replace(alone, name=f"{alone.name}_{n}", share=1.0, seed=100 * n) for n in AGAIN]
    costs |= {option.name: costs[alone.name] for option in again}
    candidates, reasons = _within(seconds, [*options, *again], costs, scans, chosen, most, batch)
    if channels and any(Path(where).is_dir() for where in weights):
        reasons.append("no network starts from --weights, as scans have several channels: frozen features alone")
    if share < 0.8:
        reasons.insert(0, f"other work leaves {share:.0%} of a core, so networks are thought to take longer by that")
    return candidates, chosen, reasons, share


def _within(
    seconds: float,
    options: Sequence[Option],
    costs: Mapping[str, float],
    scans: int,
    folds: Folds,
    most: int,
    batch: int,
) -> tuple[list[Candidate], list[str]]:
    """The networks for which there is time, each with its epochs; other seeds only where these are the most."""
    chosen, reasons, left = dict[str, int](), [], FOR_NETWORKS * seconds
    an_epoch = {o.name: scans * folds.passes * costs[o.name] + EACH_EPOCH * folds.trained for o in options}
    least = least_epochs(scans * (folds.count - 1) / folds.count / max(8, batch // 2))
    for option in options:
        epochs = int(min(most, option.share * left / an_epoch[option.name]))
        if epochs >= (most if option.seed else least):
            left -= epochs * an_epoch[option.name]
            chosen[option.name] = epochs
        elif not option.seed:
            taken = an_epoch[option.name]
            reasons.append(f"{option.name} is left out: an epoch of all folds takes {taken:.0f} s of a worker")
    for name in chosen:  # what is left goes to the first ones
        more = min(most - chosen[name], int(left / an_epoch[name]))
        chosen[name] += more
        left -= more * an_epoch[name]
    candidates = [
        _candidate(
            o, chosen[o.name], _batch(batch, scans, chosen[o.name]), chosen[o.name] * an_epoch[o.name], folds.trained
        )
        for o in options
        if o.name in chosen
    ]
    return candidates, reasons


def least_epochs(steps: float) -> int:
    """Epochs below which a network is not worth its time: 8, or fewer of many steps each."""
    return int(np.clip(np.ceil(LEAST_STEPS / steps), 3, LEAST_EPOCHS))


def _batch(most: int, scans: int, epochs: int) -> int:
    """Scans a step: half as many where there would be few steps."""
    return most if epochs * scans / most >= FEW_STEPS else max(8, most // 2)


def _candidate(option: Option, epochs: int, batch: int, seconds: float, folds: int) -> Candidate:
    """A network of the plan; `seconds` are those of all folds."""
    return Candidate(
        name=option.name,
        model=option.model,
        args=option.args,
        lr=option.lr * max(1.0, (batch / BATCH) ** 0.5),
        epochs=epochs,
        batch_size=batch,
        weights=option.weights,
        seed=option.seed,
        seconds=round(seconds / folds, 1),
        why=f"{option.why}; about {spoken_time(seconds)} of a worker for all folds",
    )


@dataclass(frozen=True)
class Folds:
    """Into how many folds the scans are cut, and on how many of them networks are trained.

    Args:
        count: folds.
        trained: of them, the first ones.
    """

    count: int
    trained: int

    @property
    def passes(self) -> float:
        """How many scans an epoch of all trained folds sees, as a multiple of the scans."""
        return self.trained * (self.count - 1) / self.count


def folds_for(most: int, passes: float, enough: int, *, fixed: bool = False) -> Folds:
    """The most folds that leave a network enough epochs: fewer ones, then one or two of three or four.

    One network that was trained long enough, and tested on a quarter of the scans, is worth more than three of which
    none was.

    Args:
        most: folds.
        passes: how often a network can see all scans in its share of the time.
        enough: epochs.
        fixed: whether scans are cut into `most` folds whatever the time.
    """
    options = [Folds(most if fixed else k, k) for k in range(most, min(most, 3) - 1, -1)]
    options += [Folds(most if fixed else 3, 2)] if most >= 3 else []
    last = Folds(most if fixed else min(most, 4), 1)
    return next((f for f in options if passes / f.passes >= enough), last)


def keep_of(candidates: Sequence[Candidate]) -> int:
    """How many candidates go on to all folds: all but the worst of three or more."""
    return len(candidates) - 1 if len(candidates) > 2 else len(candidates)


@dataclass(frozen=True)
class Measured:
    """What a step of training costs.

    Args:
        seconds: of one core (or of the GPU) for each scan.
        share: of a core that this process got meanwhile; 1 on a GPU.
    """

    seconds: float
    share: float = 1.0


def seconds_a_scan(model: str, args: dict[str, Any], out_dim: int, batch: int) -> Measured:
    """How long one scan takes in a step of training, on one core or on the GPU: the fastest of three steps."""
    import torch

    from slivit.device import autocast, choose_device, choose_precision
    from slivit.models.registry import create_model, spec_of

    device, threads = choose_device("auto"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = create_model(model, out_dim, **args).train().to(device)
        x = torch.rand(spec_of(network).batch_shape(batch), device=device)
        taken, began = [], time.monotonic()
        for _ in range(3):
            start = _now(device)
            with autocast(choose_precision("auto", device), device):
                loss = network(x).float().square().sum()
            loss.backward()
            taken.append(_now(device) - start)
        waited = time.monotonic() - began
        share = min(1.0, sum(taken) / waited) if device.type == "cpu" else 1.0
        return Measured(max(min(taken), 1e-4) / len(x), share)
    finally:
        torch.set_num_threads(threads)


def _now(device: Any) -> float:
    """Seconds: of this thread on a CPU, which others may use too; by the clock on a GPU, after all that was asked."""
    if device.type == "cpu":
        return time.thread_time()
    import torch

    torch.cuda.synchronize(device)
    return time.monotonic()
