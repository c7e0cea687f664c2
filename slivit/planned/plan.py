"""The plan of a run: what follows from the scans, the task and the machine, as data that can be read and changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from slivit.data.augmentation import Augmentation
from slivit.data.checking.scan import has_colour
from slivit.data.preprocessing import Preprocessing
from slivit.data.readers.base import COLOURS
from slivit.data.readers.channels import ALL
from slivit.device import cores
from slivit.errors import RecipeError
from slivit.planned.frozen import FOR_FROZEN, Frozen, plan_frozen
from slivit.planned.look import Facts, summary
from slivit.planned.networks import Candidate, Folds, keep_of, plan_networks
from slivit.settings import Section, Seed
from slivit.targets.task import Task
from slivit.train.table_models import Kind

PLAN = "plan.toml"
MOST_SLICES, MOST_PIXELS, MOST_OF_AN_IMAGE, FRAMES = 48, 96, 224, 16
MANY = ("voxels", "frozen", "texture")
"""How features begin that have many columns."""
COVARIATES = "covariates"
"""What baselines call the covariates of a task."""
OWN_FOLDS: Final = "the table"
MOST_FOLDS = 10
RARE = 3
"""Patients, below which a class does not say how many folds there are."""
STEP = 16
"""Sides are multiples of it, so that every network's feature map has whole cells."""

BASELINES: dict[str, dict[str, Any]] = {
    "size": {"features": ["extent"]},
    "histogram": {"features": ["histogram"]},
    "size_and_histogram": {"features": ["extent", "histogram"]},
    "texture": {"features": ["texture"]},
    "everything": {"features": ["extent", "histogram", "voxels8", "texture"]},
    "voxels_6": {"features": ["voxels6"]},
    "voxels_12": {"features": ["voxels12"]},
}


class Baseline(Section):
    """Models of a few numbers of each scan: ridge or logistic regression, plain or with a kernel, and a random forest.

    Args:
        name: of its rows in the leaderboard.
        features: "extent" (what of the grid is filled), "histogram" (of grey levels), "texture" (what stands out from
            its surroundings), "voxelsN" (N cubed averages), "covariates", and "frozen NAME" of the plan's networks.
    """

    name: str
    features: tuple[str, ...]


class Plan(Section):
    """Everything that `slivit auto` does, before it does it.

    Args:
        out: the run's folder.
        source: where the scans are from.
        seed: of folds, networks and forests.
        minutes: that it may take.
        task: what is predicted.
        folds: patient-wise, stratified; every figure but those of test rows is out of fold.
        folds_from: "the table" for those of its column `fold`; empty for new ones.
        trained: folds on which networks are trained, the first ones, where there is no time for all; 0 for all.
        keep: how many networks go on to all folds, after all were tried on the first one.
        workers: networks that are trained at a time, each on one core.
        preprocessing: how scans become slices, alike for all.
        augmentation: of training scans.
        baselines: tried first.
        frozen: pre-trained networks whose features baselines read.
        candidates: networks that are tried, the cheapest first.
        scans: what the scans are like.
        machine: what there is to compute with.
        reasons: what was read as what, and why the plan is as it is.
    """

    out: str = Field(min_length=1)
    source: str
    seed: Seed = 0
    minutes: float = Field(gt=0)
    task: Task
    folds: int = Field(ge=2)
    folds_from: Literal["", "the table"] = ""
    trained: int = Field(default=0, ge=0)
    keep: int = Field(ge=0)
    workers: int = Field(ge=0)
    preprocessing: Preprocessing
    augmentation: Augmentation
    baselines: tuple[Baseline, ...]
    frozen: tuple[Frozen, ...] = ()
    candidates: tuple[Candidate, ...]
    scans: dict[str, Any] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> Self:
        if self.trained > self.folds:
            raise ValueError(f"trained is {self.trained}, and there are {self.folds} folds")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of paths that are channels; none where a file holds all channels of a scan."""
        return () if self.preprocessing.reader.get("channel") == ALL else self.preprocessing.channels

    @property
    def fold_numbers(self) -> range:
        """The folds on which networks are trained."""
        return range(self.trained or self.folds)


def make_plan(
    out: Path,
    source: str,
    frame: pd.DataFrame,
    task: Task,
    facts: Sequence[Facts],
    *,
    minutes: float,
    seed: int,
    weights: Sequence[str] = (),
    channels: Sequence[str] = (),
) -> Plan:
    """Plan a run.

    Args:
        out: the run's folder.
        source: where the table is from.
        frame: the scans that train and choose (no test rows).
        task: what is predicted.
        facts: of those scans, in the same order.
        minutes: that the run may take.
        seed: of all that is random.
        weights: runs of one's own and published networks, whose features are read; networks start from runs too.
        channels: names of the channels of every scan; none of grey scans.
    """
    known = [f for f in facts if not f.error]
    preprocessing, reasons = plan_preprocessing(known)
    if not channels and has_colour(list(frame["path"]), [f.colour for f in known]):
        reasons.append("scans are of colour, whose red, green and blue are read; preprocessing.reader makes them grey")
        preprocessing = preprocessing.model_copy(update={"reader": {"channel": ALL}})
        channels = COLOURS
    preprocessing = preprocessing.model_copy(update={"channels": tuple(channels)})
    augmentation, why = plan_augmentation(known, task)
    most_folds, why_folds, own = plan_folds(frame, task)
    workers, seconds = workers_of(cores()), 60 * minutes
    frozen, slow = plan_frozen(weights, (preprocessing.size or (1, 0, 0))[0] > 1, len(frame), seconds)
    candidates, folds, left_out, share = plan_networks(
        preprocessing,
        task.out_dim or 2,
        len(known),
        most_folds,
        seconds * workers * (1 - FOR_FROZEN * bool(frozen)),
        weights,
        fixed=own,
    )
    return Plan(
        out=str(out),
        source=source,
        seed=seed,
        minutes=minutes,
        task=task,
        folds=folds.count,
        folds_from=OWN_FOLDS if own else "",
        trained=folds.trained % folds.count,
        keep=keep_of(candidates) if folds.trained > 1 else len(candidates),
        workers=workers,
        preprocessing=preprocessing,
        augmentation=augmentation,
        frozen=tuple(frozen),
        baselines=_baselines(preprocessing, frozen, task),
        candidates=tuple(candidates),
        scans=summary(facts),
        machine={"cores": cores(), "memory_gb": _memory_gb(), "share": round(share, 2)},
        reasons=(*reasons, why, why_folds, *_read(task, frozen), *slow, *_fewer(folds, most_folds), *left_out),
    )


def _read(task: Task, frozen: Sequence[Frozen]) -> Iterator[str]:
    """What models read beside voxels."""
    if task.covariates:
        yield f"read beside the scans by every model: {', '.join(task.covariates)}"
    yield from (f"frozen features of {f.name}: {f.why}" for f in frozen)


def _baselines(preprocessing: Preprocessing, frozen: Sequence[Frozen], task: Task) -> tuple[Baseline, ...]:
    """The baselines; where there are covariates each reads them too, as networks do, and one reads nothing else."""
    beside = (COVARIATES,) if task.covariates else ()
    read = {name: tuple(values["features"]) for name, values in _fitting(preprocessing).items()}
    read |= {f.name: (f.feature,) for f in frozen}
    alone = {COVARIATES: ()} if beside else {}
    return tuple(Baseline(name=name, features=(*own, *beside)) for name, own in (alone | read).items())


def _fewer(folds: Folds, most: int) -> tuple[str, ...]:
    """Why there are fewer folds than there could be, if there are."""
    if folds.count == most and folds.trained == folds.count:
        return ()
    part = f", of which networks are trained on {folds.trained}" if folds.trained < folds.count else ""
    fewer = f" in place of {most}" if folds.count < most else ""
    return (f"{folds.count} folds{fewer}{part}: in this time there are no more epochs",)


def kinds_of(plan: Plan) -> Iterator[tuple[str, Kind, tuple[str, ...]]]:
    """(name, kind, features) of every baseline of a plan; kernels only of what has many features."""
    for baseline in plan.baselines:
        for kind in get_args(Kind):
            if kind == "kernel" and not any(name.startswith(MANY) for name in baseline.features):
                continue
            yield f"{baseline.name}_{kind}", kind, baseline.features


def workers_of(cores: int) -> int:
    """Networks that are trained at a time: one a GPU, or one a core, four at most."""
    import torch

    return torch.cuda.device_count() or max(1, min(4, cores))


def _memory_gb() -> float:
    import psutil

    return round(psutil.virtual_memory().total / 2**30, 1)


def _fitting(preprocessing: Preprocessing) -> dict[str, dict[str, Any]]:
    """The baselines without those that a grid cannot tell: where all of it is filled, there is no size in it."""
    sized = preprocessing.spacing is not None or preprocessing.fit == "pad"
    table = BASELINES if sized else {k: v for k, v in BASELINES.items() if not k.startswith("size")}
    return {k: {"features": [f for f in v["features"] if sized or f != "extent"]} for k, v in table.items()}


def plan_preprocessing(facts: Sequence[Facts]) -> tuple[Preprocessing, list[str]]:
    """The grid and the intensities, with their reasons."""
    values, reasons = _intensities(facts)
    shapes = np.array([f.shape for f in facts], float)
    if all(f.spacing is not None for f in facts) and shapes[:, 0].max() > 1:
        grid, why = _in_mm(shapes, np.array([f.spacing for f in facts], float))
    else:
        grid, why = _by_number(shapes)
    return Preprocessing(**{**values, **grid}), [why, reasons]


def _in_mm(shapes: Any, spacing: Any) -> tuple[dict[str, Any], str]:
    """A grid of one spacing that holds nearly every scan: size is seen."""
    extents = np.percentile(shapes * spacing, 98, axis=0)
    own = np.median(spacing, axis=0)
    slices = int(np.clip(np.ceil(extents[0] / own[0]), 1, MOST_SLICES))
    between = max(own[0], extents[0] / slices)
    side = int(np.clip(np.ceil(extents[1:].max() / own[1:].min() / STEP) * STEP, STEP, MOST_PIXELS))
    within = max(own[1:].min(), extents[1:].max() / side)
    grid = {"size": (slices, side, side), "spacing": tuple(round(float(v), 4) for v in (between, within, within))}
    return grid, (
        f"every scan has a spacing, so all are brought to {between:.3g} x {within:.3g} x {within:.3g} mm and cropped "
        f"or padded to {slices} x {side} x {side}, which holds 98% of each axis: a plain resize would throw size away"
    )


def _by_number(shapes: Any) -> tuple[dict[str, Any], str]:
    """A grid of so many slices, rows and columns; the aspect is kept where scans differ in it."""
    depth, height, width = np.median(shapes, axis=0)
    clips = depth > MOST_SLICES and shapes[:, 0].std() > 0
    slices = FRAMES if clips else int(min(depth, MOST_SLICES))
    most = MOST_PIXELS if slices > 1 else MOST_OF_AN_IMAGE
    side = int(np.clip(np.ceil(max(height, width) / STEP) * STEP, STEP, most))
    aspects = shapes[:, 2] / shapes[:, 1]
    pads = bool(aspects.max() / aspects.min() > 1.05)
    grid = {"size": (slices, side, side), "fit": "pad" if pads else "stretch"}
    how = "aspects differ, so they keep theirs and are padded" if pads else "all have one aspect"
    what = f"{slices} evenly spread slices" if slices > 1 else "images"
    return grid, f"not every scan has a spacing: {what} of {side} x {side}; {how}"


def _intensities(facts: Sequence[Facts]) -> tuple[dict[str, Any], str]:
    if all(f.mask for f in facts):
        return {"stretch": None}, "scans are shapes of two values, which stay as they are"
    if all(f.bytes for f in facts):
        return {"stretch": None}, "scans have 8 bits, which stay as they are"
    if np.median([f.low for f in facts]) < -500:
        low, high = np.percentile([f.low for f in facts], 5), np.percentile([f.high for f in facts], 95)
        window = (round(float(low)), round(float(max(high, low + 1))))
        return {
            "window": window,
            "stretch": None,
        }, f"intensities look like HU: one window for all, {window[0]} to {window[1]}"
    return {"stretch": (1.0, 99.0)}, "intensities have no common scale: each scan is stretched from percentile 1 to 99"


def plan_augmentation(facts: Sequence[Facts], task: Task) -> tuple[Augmentation, str]:
    """Small moves always; mirrors only where no scan says where its left is, a change of size only of images."""
    moves: dict[str, Any] = {"rotate": 10, "translate": 0.05}
    if all(f.shape[0] == 1 for f in facts) and task.makes_calls:
        moves["zoom"] = (0.9, 1.1)
    else:
        moves["shift_slices"] = 1
    if any(f.oriented for f in facts):
        return Augmentation(**moves), "scans have an orientation: turned and moved a little, never mirrored"
    if all(f.mask for f in facts):
        mirrors: dict[str, Any] = {"flip_horizontal": True, "flip_vertical": True, "flip_slices": True}
        why = "shapes without orientation: turned, moved and mirrored; set augmentation where side matters"
        return Augmentation(**moves, **mirrors), why
    why = "no orientation: turned, moved, mirrored from left to right; set augmentation where side matters"
    return Augmentation(**moves, flip_horizontal=True), why


def plan_folds(frame: pd.DataFrame, task: Task) -> tuple[int, str, bool]:
    """The folds of the table, or five; fewer where a class has too few patients. With why, and whose they are."""
    own = frame["fold"].astype(str).nunique() if "fold" in frame else 0
    if 2 <= own <= MOST_FOLDS:
        return own, f'{own} folds of the table\'s own column fold; folds_from = "" makes new ones', True
    counts = _patients_by_answer(frame, task)
    usual = [n for n in counts if n >= RARE] or counts
    fewest = min(usual)
    folds = 5 if fewest >= 10 else 3 if fewest >= RARE else 2
    aside = f"; the table's column fold is left aside, as it holds {own} ({'2' if own < 2 else 'up to 10'} would do)"
    why = f"{folds} folds of patients: the rarest class (or the whole table) has {fewest}"
    if len(usual) < len(counts):
        why += f"; classes of fewer than {RARE} ({len(counts) - len(usual)}) do not count: they can hardly be tested"
    return folds, why + (aside if "fold" in frame else ""), False


def _patients_by_answer(frame: pd.DataFrame, task: Task) -> list[int]:
    """How many patients there are, and of a task with classes how many have each (of labels: each that is 1)."""
    patients = frame["patient"] if "patient" in frame else pd.Series(frame.index, index=frame.index)
    if not task.makes_calls:
        return [patients.nunique()]
    return [
        patients[rows.index].nunique()
        for target in task.targets
        for value, rows in frame.groupby(target)
        if value != 0 or task.two_classes
    ]


def minutes_of(text: str) -> float:
    """Read "45m", "2h" or "90" (minutes).

    Raises:
        RecipeError: none of these.
    """
    factor = {"m": 1.0, "h": 60.0}.get(text[-1:].lower())
    try:
        minutes = float(text[:-1] if factor else text) * (factor or 1.0)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise RecipeError(f'--time "{text}" is no time; give minutes or hours, such as 45m or 2h')
    return minutes
