"""The plan of a run: what follows from the scans, the task and the machine, as data that can be read and changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from slivit.data.augmentation import Augmentation
from slivit.data.preprocessing import Preprocessing
from slivit.planned.look import Facts, summary
from slivit.settings import Section
from slivit.targets.task import Task

PLAN = "plan.toml"
MOST_SLICES, MOST_PIXELS, FRAMES = 48, 96, 16
STEP = 16
"""Sides are multiples of it, so that every network's feature map has whole cells."""

BASELINES: dict[str, dict[str, Any]] = {
    "size": {"features": ["extent"]},
    "histogram": {"features": ["histogram"]},
    "size_and_histogram": {"features": ["extent", "histogram"]},
    "voxels_6": {"features": ["voxels6"]},
    "voxels_12": {"features": ["voxels12"]},
    "everything": {"features": ["extent", "histogram", "voxels8"]},
}


class Candidate(Section):
    """A network that is tried.

    Args:
        name: of its folder and its row in the leaderboard.
        model: a registered model.
        args: of the model, beside its size.
        lr: the peak learning rate.
        epochs: passes over the training scans.
        batch_size: scans a step.
        why: the reason that it is here, and how long it was thought to take.
    """

    name: str
    model: str
    args: dict[str, Any] = Field(default_factory=dict)
    lr: float = Field(gt=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    why: str = ""


class Baseline(Section):
    """Models of a few numbers of each scan: ridge or logistic regression, and a random forest.

    Args:
        name: of its rows in the leaderboard.
        features: "extent" (what of the grid is filled), "histogram" (of grey levels) and "voxelsN" (N cubed averages).
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
        keep: how many networks go on to all folds, after all were tried on the first one.
        workers: networks that are trained at a time, each on one core.
        preprocessing: how scans become slices, alike for all.
        augmentation: of training scans.
        baselines: tried first.
        candidates: networks that are tried, the cheapest first.
        scans: what the scans are like.
        machine: what there is to compute with.
        reasons: why the plan is as it is.
    """

    out: str = Field(min_length=1)
    source: str
    seed: int = 0
    minutes: float = Field(gt=0)
    task: Task
    folds: int = Field(ge=2)
    keep: int = Field(ge=0)
    workers: int = Field(ge=0)
    preprocessing: Preprocessing
    augmentation: Augmentation
    baselines: tuple[Baseline, ...]
    candidates: tuple[Candidate, ...]
    scans: dict[str, Any] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=dict)
    reasons: tuple[str, ...] = ()


def make_plan(
    out: Path, source: str, frame: pd.DataFrame, task: Task, facts: Sequence[Facts], *, minutes: float, seed: int
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
    """
    known = [f for f in facts if not f.error]
    cores = os.cpu_count() or 1
    machine = {"cores": cores, "memory_gb": _memory_gb()}
    preprocessing, reasons = plan_preprocessing(known)
    augmentation, why = plan_augmentation(known)
    folds, why_folds = plan_folds(frame, task)
    workers = max(1, min(4, cores))
    candidates = plan_candidates(preprocessing, task, len(known), folds, minutes, workers)
    return Plan(
        out=str(out),
        source=source,
        seed=seed,
        minutes=minutes,
        task=task,
        folds=folds,
        keep=max(1, len(candidates) - 1) if candidates else 0,
        workers=workers,
        preprocessing=preprocessing,
        augmentation=augmentation,
        baselines=tuple(Baseline(name=name, **values) for name, values in _fitting(preprocessing).items()),
        candidates=tuple(candidates),
        scans=summary(facts),
        machine=machine,
        reasons=(*reasons, why, why_folds),
    )


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
    side = int(np.clip(np.ceil(max(height, width) / STEP) * STEP, STEP, MOST_PIXELS))
    aspects = shapes[:, 2] / shapes[:, 1]
    pads = bool(aspects.max() / aspects.min() > 1.05)
    grid = {"size": (slices, side, side), "fit": "pad" if pads else "stretch"}
    how = "aspects differ, so slices keep theirs and are padded" if pads else "all slices have one aspect"
    return grid, f"not every scan has a spacing: {slices} evenly spread slices of {side} x {side}; {how}"


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


def plan_augmentation(facts: Sequence[Facts]) -> tuple[Augmentation, str]:
    """Small moves always; mirrors only where no scan says where its left is."""
    moves: dict[str, Any] = {"rotate": 10, "zoom": (0.9, 1.1), "translate": 0.05}
    if any(f.oriented for f in facts):
        return Augmentation(**moves), "scans have an orientation: turned and moved a little, never mirrored"
    if all(f.mask for f in facts):
        mirrors: dict[str, Any] = {"flip_horizontal": True, "flip_vertical": True, "flip_slices": True}
        return Augmentation(
            **moves, **mirrors
        ), "shapes without orientation: mirrored too, set augmentation where side matters"
    return Augmentation(
        **moves, flip_horizontal=True
    ), "no orientation: mirrored from left to right; set augmentation where side matters"


def plan_folds(frame: pd.DataFrame, task: Task) -> tuple[int, str]:
    """Five folds; fewer where a class has too few patients."""
    patients = frame["patient"].nunique() if "patient" in frame else len(frame)
    fewest = patients
    for target in task.targets if task.makes_calls else ():
        fewest = min(fewest, *(len(rows) for value, rows in frame.groupby(target) if value != 0 or task.two_classes))
    folds = 5 if fewest >= 10 else 3 if fewest >= 3 else 2
    return folds, f"{folds} folds of patients: the rarest class (or the whole table) has {fewest}"


def plan_candidates(
    preprocessing: Preprocessing, task: Task, scans: int, folds: int, minutes: float, workers: int
) -> list[Candidate]:
    """The networks that fit, with as many epochs as their share of the time allows."""
    slices, side, _ = preprocessing.size or (1, STEP, STEP)
    options = list(_networks(slices, side))
    share = 0.8 * minutes * 60 * workers / max(len(options), 1)  # the rest is for reading, baselines and the report
    batch = 16 if scans >= 64 else 8
    planned = []
    for name, model, args, lr, most, why in options:
        cost = seconds_a_scan(model, args, task.out_dim or 2, preprocessing)
        epochs = int(np.clip(share / (folds * scans * (1 - 1 / folds) * cost), 0, most))
        if epochs >= 5:
            text = f"{why}; {cost:.3f} s a scan and step on one core"
            planned.append(
                Candidate(name=name, model=model, args=args, lr=lr, epochs=epochs, batch_size=batch, why=text)
            )
    return planned


Network = tuple[str, str, dict[str, Any], float, int, str]


def _networks(slices: int, side: int) -> Iterator[Network]:
    """(name, model, args, rate, most epochs, why) of what suits a size."""
    if slices == 1:
        for name, width in (("resnet10t", "small"), ("convnext_atto", "modern")):
            args: dict[str, Any] = {"backbone": name, "image_size": side, "stride": min(32, side)}
            yield f"image_{name}", "image_classifier", args, 1e-3, 40, f"a {width} 2D network"
        return
    size = {"slices": slices, "image_size": side}
    yield "resnet3d", "resnet3d_18", {**size, "width": 16}, 2e-3, 60, "a narrow 3D network learns shape from few scans"
    vit = {"vit_dim": 128, "vit_depth": 3, "vit_heads": 4, "dim_head": 32, "mlp_dim": 256, "dropout": 0.1}
    args = {**size, "backbone": "resnet10t", "stride": 16, **vit}
    yield "slivit_small", "slivit", args, 1e-3, 40, "SLIViT with a small backbone: slices first, then their order"


def seconds_a_scan(model: str, args: dict[str, Any], out_dim: int, preprocessing: Preprocessing) -> float:
    """How long one scan takes in a step of training, on one core: the faster of two small steps."""
    import time

    import torch

    from slivit.models.registry import create_model, spec_of

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = create_model(model, out_dim, **args).train()
        x = torch.rand(spec_of(network).batch_shape(4))
        taken = []
        for _ in range(2):
            start = time.thread_time()
            network(x).square().sum().backward()
            taken.append(time.thread_time() - start)
        return max(min(taken), 1e-4) / len(x)
    finally:
        torch.set_num_threads(threads)


def minutes_of(text: str) -> float:
    """Read "45m", "2h" or "90" (minutes).

    Raises:
        ValueError: none of these.
    """
    factor = {"m": 1.0, "h": 60.0}.get(text[-1:].lower())
    minutes = float(text[:-1] if factor else text) * (factor or 1.0)
    if not minutes > 0:
        raise ValueError(f'"{text}" is no time')
    return minutes
