"""Predicted masks against true ones: overlap, distance of surfaces, volumes and lesions of one structure of one case.

A metric is None where it is not defined (there is nothing to find and nothing was found), and a structure that is only
in one of the two masks has an infinite distance: both are counted, and neither becomes a number in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.statistics.arrays import Array
from slivit.statistics.bootstrap import Plan, bootstrap
from slivit.statistics.estimate import Estimate, StatisticsError

Mask = npt.NDArray[np.bool_]

PERCENT = 95.0
"""The percentile of HD95."""

MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class MaskScores:
    """How one predicted mask compares with the true one.

    Args:
        dice: 2 |A and B| / (|A| + |B|); 0 where one is empty, None where both are.
        hd95: in mm: the larger of the 95th percentiles of the distances from each surface voxel of one mask to the
            nearest surface voxel of the other; infinite where one is empty, None where both are.
        surface_dice: share of the surface voxels of both masks that lie within the tolerance of the other's surface;
            0 where one is empty, None where both are.
        tolerance_mm: the tolerance of `surface_dice`.
        true_ml: volume of the true mask.
        predicted_ml: volume of the predicted mask.
        false_positive_ml: volume of what is in the predicted mask alone.
        false_negative_ml: volume of what is in the true mask alone.
        lesions: connected parts of the true mask.
        lesions_found: those that share a voxel with the predicted mask.
        predicted_lesions: connected parts of the predicted mask.
        false_lesions: those that share no voxel with the true mask.

    Without a spacing in mm, distances, surfaces within a tolerance and volumes are None.
    """

    dice: float | None
    hd95: float | None
    surface_dice: float | None
    tolerance_mm: float
    true_ml: float | None
    predicted_ml: float | None
    false_positive_ml: float | None
    false_negative_ml: float | None
    lesions: int
    lesions_found: int
    predicted_lesions: int
    false_lesions: int

    @property
    def volume_error_ml(self) -> float | None:
        """Predicted less true volume."""
        return None if self.predicted_ml is None or self.true_ml is None else self.predicted_ml - self.true_ml

    @property
    def in_mm(self) -> bool:
        """Whether the spacing is known, so that there are distances and volumes."""
        return self.true_ml is not None

    @property
    def empty(self) -> bool:
        """Whether neither mask holds a voxel, so that overlap and distance are not defined."""
        return self.dice is None

    @property
    def missed(self) -> bool:
        """Whether only one of the masks holds a voxel, so that the distance is infinite."""
        return self.hd95 == math.inf

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, `volume_error_ml` and `missed` as plain Python values, an infinite distance as None."""
        values = asdict(self) | {"volume_error_ml": self.volume_error_ml, "missed": self.missed}
        return values | ({"hd95": None} if self.missed else {})


def score_mask(
    truth: Any, predicted: Any, spacing: Sequence[float] | None, *, tolerance_mm: float = 1.0, ignore: Any = None
) -> MaskScores:
    """Compare the masks of one structure on the same grid.

    Surface voxels are those of a mask with a neighbour through a face that is not in it, or at the border of the
    volume; distances run between the centres of voxels. Parts are connected through faces, edges and corners. An axis
    of one voxel has no neighbours, so that a single slice is measured in its plane.

    Args:
        truth: (S, H, W) bool, or 0 and 1.
        predicted: as `truth`.
        spacing: mm between voxels along the three axes; None where that is not known.
        tolerance_mm: of the surface Dice.
        ignore: (S, H, W) bool, True where voxels count for neither mask.

    Raises:
        StatisticsError: masks of other shapes, with other values, or a spacing that is not above 0.

    Source: Maier-Hein et al., Nat. Methods 21 (2024) 195 (Dice, HD95, normalised surface distance; edge cases).
    """
    sides = None if spacing is None else _spacing(spacing)
    true, called = _mask(truth, "truth"), _mask(predicted, "predicted")
    if true.shape != called.shape:
        raise StatisticsError(f"the masks must have one shape; got truth {true.shape}, predicted {called.shape}.")
    if tolerance_mm < 0:
        raise StatisticsError(f"tolerance_mm must be 0 or more, got {tolerance_mm}.")
    if ignore is not None:
        counted = ~_mask(ignore, "ignore")
        true, called = true & counted, called & counted
    box = _box(true | called)
    # Everything lies in the box of the two masks: outside of it neither has a voxel.
    a, b = _flat(true[box], true.shape), _flat(called[box], true.shape)
    hd95, surface_dice = None, None
    if sides:
        axes = [side for side, n in zip(sides, true.shape, strict=True) if n > 1]
        hd95, surface_dice = _surface_scores(a, b, axes, tolerance_mm)
    lesions, lesions_found = _parts(a, b)
    predicted_lesions, true_predicted = _parts(b, a)
    return MaskScores(
        dice=mask_dice(a, b),
        hd95=hd95,
        surface_dice=surface_dice,
        tolerance_mm=float(tolerance_mm),
        true_ml=_millilitres(a, sides),
        predicted_ml=_millilitres(b, sides),
        false_positive_ml=_millilitres(b & ~a, sides),
        false_negative_ml=_millilitres(a & ~b, sides),
        lesions=lesions,
        lesions_found=lesions_found,
        predicted_lesions=predicted_lesions,
        false_lesions=predicted_lesions - true_predicted,
    )


def _spacing(spacing: Sequence[float]) -> tuple[float, ...]:
    sides = tuple(float(side) for side in spacing)
    if len(sides) != 3 or not all(math.isfinite(side) and side > 0 for side in sides):
        raise StatisticsError(f"spacing must be three lengths in mm above 0, got {sides}.")
    return sides


def _mask(values: Any, what: str) -> Mask:
    array = np.asarray(values)
    if array.ndim != 3 or not array.size:
        raise StatisticsError(f"{what} must be a volume (S, H, W); got shape {array.shape}.")
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise StatisticsError(f"{what} must hold 0 and 1 alone: one structure; got {np.unique(array)[:5].tolist()}.")
    return array.astype(np.bool_, copy=False)


def _millilitres(mask: Mask, sides: tuple[float, ...] | None) -> float | None:
    return None if sides is None else float(mask.sum() * math.prod(sides) / MM3_PER_ML)


def _box(union: Mask) -> tuple[slice, ...]:
    """The smallest box that holds a mask; nothing of an empty one."""
    from scipy.ndimage import find_objects

    box = find_objects(union.astype(np.uint8), max_label=1)[0]
    return box or (slice(0, 0),) * union.ndim


def _flat(part: Mask, whole: tuple[int, ...]) -> Mask:
    """The part of a volume without the axes along which the whole volume has one voxel."""
    return part.reshape([n for n, side in zip(part.shape, whole, strict=True) if side > 1] or [part.size])


def mask_dice(a: Mask, b: Mask) -> float | None:
    """Dice's coefficient of two masks of one shape; None where neither holds a voxel."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else None


def _surface_scores(a: Mask, b: Mask, spacing: list[float], tolerance_mm: float) -> tuple[float | None, float | None]:
    """HD95 in mm and surface Dice of two masks in their box; infinite and 0 where one is empty, None where both are."""
    if not a.any() or not b.any():
        return (math.inf, 0.0) if a.any() or b.any() else (None, None)
    edge_a, edge_b = _surface(a), _surface(b)
    to_b, to_a = _distances(edge_a, edge_b, spacing), _distances(edge_b, edge_a, spacing)
    hd95 = max(float(np.percentile(d, PERCENT)) for d in (to_b, to_a))
    within = int((to_b <= tolerance_mm).sum()) + int((to_a <= tolerance_mm).sum())
    return hd95, within / (len(to_b) + len(to_a))


def _surface(mask: Mask) -> Mask:
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask)


def _distances(start: Mask, end: Mask, spacing: list[float]) -> Array:
    """The distance in mm from each voxel of `start` to the nearest of `end`."""
    from scipy.ndimage import distance_transform_edt

    return np.asarray(distance_transform_edt(~end, sampling=spacing or None))[start]


def _parts(mask: Mask, other: Mask) -> tuple[int, int]:
    """The number of connected parts of a mask, and of those that share a voxel with the other mask."""
    from scipy.ndimage import label

    parts, count = label(mask, structure=np.ones((3,) * mask.ndim))
    return int(count), len(np.unique(parts[other & mask]))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


VALUES = {
    "dice": lambda s: _or_nan(s.dice),
    "hd95": lambda s: _or_nan(s.hd95),
    "surface_dice": lambda s: _or_nan(s.surface_dice),
    "volume_error_ml": lambda s: _or_nan(s.volume_error_ml),
    "absolute_volume_error_ml": lambda s: abs(_or_nan(s.volume_error_ml)),
    "false_positive_ml": lambda s: _or_nan(s.false_positive_ml),
    "false_negative_ml": lambda s: _or_nan(s.false_negative_ml),
}
"""What is averaged over cases, by name."""

CASE_METRICS = tuple(VALUES)
"""What is measured of each case, and averaged over cases."""

RATIOS = {
    "lesion_sensitivity": ("lesions_found", "lesions"),
    "lesion_precision": ("true_lesions", "predicted_lesions"),
}
"""Shares of lesions over all cases together."""

HIGHER_IS_BETTER: Mapping[str, bool | None] = {
    "dice": True,
    "hd95": False,
    "surface_dice": True,
    "volume_error_ml": None,
    "absolute_volume_error_ml": False,
    "false_positive_ml": False,
    "false_negative_ml": False,
    "lesion_sensitivity": True,
    "lesion_precision": True,
}


class MaskSample:
    """The scores of one structure over cases as a `Sample` for the bootstrap.

    Args:
        scores: of each case.
        penalty_mm: what a missed structure's infinite distance counts as; None leaves such cases out of the mean.
    """

    def __init__(self, scores: Sequence[MaskScores], penalty_mm: float | None = None) -> None:
        if penalty_mm is not None and not (math.isfinite(penalty_mm) and penalty_mm >= 0):
            raise StatisticsError(f"penalty_mm must be a length in mm, 0 or more, or None; got {penalty_mm}.")
        self.scores, self.n, self.penalty_mm = tuple(scores), len(scores), penalty_mm

    @cached_property
    def columns(self) -> dict[str, Array]:
        """For each name of VALUES the values of all cases, (n,), NaN where a case is left out."""
        columns = {name: np.array([value(s) for s in self.scores], dtype=float) for name, value in VALUES.items()}
        missed = np.isinf(columns["hd95"])
        columns["hd95"][missed] = math.nan if self.penalty_mm is None else self.penalty_mm
        return columns

    @cached_property
    def counts(self) -> dict[str, Array]:
        """Numbers of lesions of all cases, (n,)."""
        names = ("lesions", "lesions_found", "predicted_lesions", "false_lesions")
        counts = {name: np.array([getattr(s, name) for s in self.scores], dtype=float) for name in names}
        return counts | {"true_lesions": counts["predicted_lesions"] - counts["false_lesions"]}

    def values(self, weights: Array) -> dict[str, Array]:
        """Return every mean and share, (B,), NaN where no case defines it, from counts (B, n)."""
        means = {}
        for name, column in self.columns.items():
            known = ~np.isnan(column)
            means[name] = weights[:, known] @ column[known] / weights[:, known].sum(axis=1)
        shares = {
            name: weights @ self.counts[above] / (weights @ self.counts[below])
            for name, (above, below) in RATIOS.items()
        }
        return means | shares

    def size(self, name: str) -> int:
        """Return the number of cases that count, or of lesions for a share of lesions."""
        if name in RATIOS:
            return int(self.counts[RATIOS[name][1]].sum())
        return int((~np.isnan(self.columns[name])).sum())

    def why(self, name: str) -> str:
        """Return what a reader must know of the statistic: which cases are left out, and what missed ones count as."""
        if name in RATIOS:
            return "" if self.size(name) else "there is no such lesion"
        notes = []
        empty, missed = sum(s.empty for s in self.scores), sum(s.missed for s in self.scores)
        if name != "dice" and (unknown := sum(not s.in_mm for s in self.scores)):
            notes.append(f"{unknown} of {self.n} cases are left out: their spacing in mm is not known")
        if empty and name in ("dice", "hd95", "surface_dice"):
            notes.append(f"{empty} of {self.n} cases are left out: the structure is in neither mask")
        if missed and name == "hd95":
            counted = "left out" if self.penalty_mm is None else f"counted as {self.penalty_mm:g} mm"
            notes.append(
                f"{missed} of {self.n} cases have an infinite distance, as one mask is empty, and are {counted}"
            )
        return "; ".join(notes) or ("" if self.n else "there is no case")


def summarise_masks(
    scores: Sequence[MaskScores], *, plan: Plan | None = None, penalty_mm: float | None = None
) -> dict[str, Estimate]:
    """Means over cases of one structure's scores, and shares of its lesions, each with its interval.

    Args:
        scores: of each case.
        plan: how to draw; 95% and 1,000 draws of cases where None. Give `groups` to draw patients.
        penalty_mm: what a missed structure's infinite distance counts as in the mean of HD95; None leaves such cases
            out. Either is said in the estimate's `why`.

    Source: Maier-Hein et al., Nat. Methods 21 (2024) 195 (aggregation of invalid values).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return bootstrap(MaskSample(scores, penalty_mm), plan or Plan(level=0.95))
