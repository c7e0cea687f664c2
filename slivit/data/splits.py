"""Splits that never part a patient: train/val/test, folds, and nested subsets of the training rows.

All of them are stratified by the task's targets, and depend on the seed and on the patients' names alone, never on the
order of the rows: the order in which patients are drawn comes from a hash of the seed and the name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pandas as pd

from slivit.data.manifest_checks import SPLITS
from slivit.errors import ManifestError
from slivit.targets.task import Task


def split_patients(
    frame: pd.DataFrame, task: Task, *, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0
) -> pd.Series:
    """Assign every row to train, val or test, so that no patient is in two of them and the targets are alike.

    A patient is stratified by the rarest class among its rows (regression: by the quantile bin of its mean target).
    A class (binary, multiclass) with at least three patients is present in each split; a rare label of a multilabel
    task is as far as the sizes of the splits allow it.

    Args:
        frame: with the column `patient` and the task's targets.
        task: what is predicted.
        fractions: of the rows in train, val and test; val or test may be 0.
        seed: another seed, another split.

    Returns:
        The names of the splits, by the index of `frame`.

    Raises:
        ManifestError: fewer patients than splits, or fractions that are not such.
    """
    shares = _shares(fractions)
    _enough(frame, sum(f > 0 for f in shares), "splits")
    parts = _allocate(frame, task, shares, seed)
    return parts.map(dict(enumerate(SPLITS))).rename("split")


def k_folds(frame: pd.DataFrame, task: Task, *, k: int = 5, seed: int = 0) -> pd.Series:
    """Assign every row to one of `k` patient-disjoint, stratified folds of nearly equal size.

    Returns:
        The fold of each row, 0 to k - 1 (int64), by the index of `frame`.

    Raises:
        ManifestError: fewer than two folds, or fewer patients than folds.
    """
    if k < 2:
        raise ManifestError(f"k_folds: k is {k}; cross-validation needs at least 2 folds")
    _enough(frame, k, "folds")
    return _allocate(frame, task, np.full(k, 1 / k), seed).rename("fold")


def given_folds(frame: pd.DataFrame, task: Task, k: int, seed: int = 0) -> pd.Series:
    """The folds of a table: its own column `fold` where it has one, such as a data set's official folds, or new ones.

    Returns:
        The fold of each row, 0 to k - 1, by the index of `frame`.

    Raises:
        ManifestError: a column `fold` with another number of folds, or with a patient in several of them.
    """
    if "fold" not in frame:
        return k_folds(frame, task, k=k, seed=seed)
    named = frame["fold"].astype(str)
    names = sorted(named.unique(), key=lambda name: (len(name), name))
    if len(names) != k or "" in names:
        raise ManifestError(
            f"the table has a column fold with {len(names)} folds ({', '.join(map(repr, names[:6]))}), and {k} were "
            f"asked for: set data.folds = {len(names)}, or call that column something else"
        )
    several = named.groupby(frame["patient"].to_numpy()).nunique()
    if (several > 1).any():
        raise ManifestError(f"patient {several.idxmax()!r} is in {several.max()} folds of the table; one is allowed")
    return named.map({name: number for number, name in enumerate(names)}).astype("int64").rename("fold")


def fold_tested(frame: pd.DataFrame, task: Task, fold: int, *, val: float = 0.1, seed: int = 0) -> pd.Series:
    """The splits in which one fold is tested: a fraction of the other patients is `val`, the rest trains.

    Args:
        frame: with the columns `patient` and `fold`, and the task's targets.
        task: what is predicted.
        fold: that is `test`.
        val: the fraction of the other rows that chooses the best epoch; a tenth, as VISION-MAE has it.
        seed: of the draw.
    """
    rest = frame[frame["fold"] != fold]
    parts = split_patients(rest, task, fractions=(1 - val, val, 0.0), seed=seed)
    return parts.reindex(frame.index).fillna("test")


def nested_subsets(
    frame: pd.DataFrame, task: Task, fractions: Sequence[float] = (0.1, 0.25, 0.5, 1.0), *, seed: int = 0
) -> dict[float, pd.Index]:
    """Draw subsets of the patients, each within the next larger one, to see how few labels are enough.

    Every stratum that fits is in the smallest subset; a subset has `round(fraction * patients)` patients, at least
    one. Call it on training rows.

    Returns:
        For each fraction, the index of its rows in `frame`, in the frame's order.

    Raises:
        ManifestError: fractions outside (0, 1].
    """
    wrong = [f for f in fractions if not 0 < f <= 1]
    if wrong:
        raise ManifestError(f"nested_subsets: fraction {wrong[0]} is outside (0, 1]")
    strata = _strata(frame, task)
    sizes, rank, position = strata.value_counts(), Counter[str](), {}
    for patient in _drawn(strata.index, seed):
        stratum = strata[patient]
        position[patient] = rank[stratum] / sizes[stratum]
        rank[stratum] += 1
    ordered = sorted(position, key=lambda p: position[p])
    counts = {f: max(1, math.floor(f * len(ordered) + 0.5)) for f in fractions}
    return {f: frame.index[frame["patient"].isin(ordered[:n])] for f, n in counts.items()}


def _shares(fractions: Sequence[float]) -> npt.NDArray[np.float64]:
    shares = np.asarray(fractions, dtype=float)
    if shares.shape != (3,) or (shares < 0).any() or shares[0] == 0 or not math.isclose(shares.sum(), 1, abs_tol=1e-6):
        raise ManifestError(
            f"split fractions are {tuple(fractions)}; give three numbers for train, val and test that add up to 1, "
            "with some of it for train"
        )
    return shares


def _enough(frame: pd.DataFrame, needed: int, what: str) -> None:
    patients = frame["patient"].nunique()
    if patients < needed:
        raise ManifestError(
            f"{patients} patients cannot be shared out to {needed} {what}, as no patient may be in two; "
            f"add patients, or ask for fewer {what}"
        )


def _drawn(patients: pd.Index, seed: int) -> list[str]:
    """The patients in an order that looks random and follows from the seed and their names."""
    return sorted(patients, key=lambda p: (blake2b(f"{seed}:{p}".encode(), digest_size=8).digest(), p))


def _strata(frame: pd.DataFrame, task: Task) -> pd.Series:
    """One stratum (text) for each patient."""
    if not any(t in frame for t in task.targets):
        return pd.Series("", index=pd.Index(frame["patient"].unique()))
    tags = task.tags(frame).drop_duplicates()
    count = tags["tag"].map(tags["tag"].value_counts())
    return tags.assign(count=count).sort_values(["count", "tag"]).groupby("patient")["tag"].first()


def _allocate(frame: pd.DataFrame, task: Task, shares: npt.NDArray[np.float64], seed: int) -> pd.Series:
    """Share out the patients, stratum by stratum, the rarest first, each to the part that lacks most rows.

    What a stratum's rounding leaves over is carried to the next one, so that the whole comes out right too.
    """
    strata, rows = _strata(frame, task), frame["patient"].value_counts()
    in_every_part = task.one_class
    drawn = _drawn(strata.index, seed)
    members: dict[str, list[str]] = {}
    for patient in drawn:
        members.setdefault(strata[patient], []).append(patient)
    lack, part = np.zeros(len(shares)), dict[str, int]()
    for stratum in sorted(members, key=lambda s: (len(members[s]), s)):
        patients = members[stratum]
        lack = lack + shares * sum(int(rows[p]) for p in patients)
        waiting = {j for j in range(len(shares)) if shares[j] > 0 and (in_every_part or lack[j] > 0)}
        _share_out(patients, rows, lack, shares, part, waiting)
    return frame["patient"].map(part).astype("int64")


def _share_out(
    patients: Sequence[str],
    rows: pd.Series,
    lack: npt.NDArray[np.float64],
    shares: npt.NDArray[np.float64],
    part: dict[str, int],
    waiting: set[int],
) -> None:
    """Assign the patients of one stratum; fills `part` and takes their rows off `lack`.

    While a part of `waiting` has nobody of this stratum, and only just enough patients are left, it comes first.
    """
    for done, patient in enumerate(patients):
        only = waiting if len(patients) - done <= len(waiting) else range(len(shares))
        chosen = max((j for j in only if shares[j] > 0), key=lambda j: (lack[j], shares[j], -j))
        part[patient] = chosen
        lack[chosen] -= int(rows[patient])
        waiting.discard(chosen)
