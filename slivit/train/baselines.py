"""What size and grey levels alone predict, beside every training: a network that is no better is not needed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from slivit.data.preprocessing import Preprocessing, crop_slices, load_slices
from slivit.errors import SlivitError
from slivit.targets.covariates import encoded
from slivit.train.table_models import Array, answers_of, features_of, fit_table, outputs_of

if TYPE_CHECKING:
    from slivit.train.scans import Part

log = logging.getLogger(__name__)
FEATURES, READS = ("extent", "histogram"), ("size", "histogram")
LEAST = 6
"""Training scans, fewer than which make no baseline."""


def baseline_table(part: Part, settings: Preprocessing, seed: int) -> pd.DataFrame | None:
    """Predict validation and test rows from what of the grid is filled and a histogram of grey levels.

    The model is ridge or logistic regression whose penalty is chosen inside the training rows. Scans are read once.
    Where the task has covariates, they are read beside these, and once more by themselves.

    Args:
        part: the scans, under their fitted task.
        settings: the preprocessing, with its size set.
        seed: of the training.

    Returns:
        `path`, `split`, `baseline` (what it reads) and the columns of predictions; None where there is too little to
        learn from, or a scan is cut into windows.
    """
    train, rest = part.rows("train"), part.rows("val", "test")
    if settings.windows is not None or len(train) < LEAST or not rest:
        return None
    log.info("baseline of size and histogram: %d scans are read once (testing.baselines=false leaves it out)",
             len(train) + len(rest))  # fmt: skip
    try:
        x = _features([str(row["path"]) for row in [*train, *rest]], part, settings)
        return pd.concat([_table(x, names, part, seed) for names, x in _read(x, part)], ignore_index=True)
    except (SlivitError, ValueError) as error:
        log.warning("no baseline of size and histogram: %s", str(error).splitlines()[0])
        return None


def _read(x: dict[str, Array], part: Part) -> Iterator[tuple[tuple[str, ...], dict[str, Array]]]:
    """The features of each baseline, with the words for them."""
    if not part.task.inputs:
        yield READS, x
        return
    rows = [*part.rows("train"), *part.rows("val", "test")]
    z = np.stack([encoded(part.task.inputs, row) for row in rows])
    yield (*READS, *part.task.covariates), x | {"covariates": z}
    yield part.task.covariates, {"covariates": z}


def _table(features: dict[str, Array], names: tuple[str, ...], part: Part, seed: int) -> pd.DataFrame:
    """What a model of some features, those of the training rows first, predicts of the other rows."""
    task, train, rest = part.task, part.rows("train"), part.rows("val", "test")
    x, widths = np.concatenate(list(features.values()), 1), {name: f.shape[1] for name, f in features.items()}
    model = fit_table("linear", widths, x[: len(train)], answers_of(task, train), task, seed)
    p = outputs_of(model, x[len(train) :], task)
    p = p if task.makes_calls else p * np.array(task.spread) + np.array(task.center)
    text = " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
    known = pd.DataFrame({"path": [row["path"] for row in rest], "split": [row["split"] for row in rest]})
    return known.assign(baseline=text, **dict(zip(task.prediction_columns, p.T, strict=True)))


def _features(paths: Sequence[str], part: Part, settings: Preprocessing) -> dict[str, Array]:
    from tqdm import tqdm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        stacks = _stacks(tqdm(paths, "size and histogram", disable=None, leave=False), part, settings)
        scans = [features_of([stack], FEATURES) for stack in stacks]
    return {name: np.concatenate([f[name] for f in scans]) for name in FEATURES}


def _stacks(paths: Any, part: Part, settings: Preprocessing) -> Iterator[Array]:
    load = part.cache.load if part.cache else load_slices
    for path in paths:
        stack = load(path, settings.stored)
        stack = crop_slices(stack, settings.size[1:]) if settings.resize and settings.size else stack
        yield stack.mean(0) if stack.ndim == 4 else stack  # of channels their mean
