"""Covariates: what is known of a patient or a scan beside its slices, as numbers that a model reads before its head."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from slivit.errors import ManifestError, gather, one_of
from slivit.targets.words import class_name, is_missing

GEOMETRY = "geometry"
"""The covariate that is no column of a table: it is read from the scan itself."""
SLICES_COLUMN = "geometry_slices"
GEOMETRY_COLUMNS = ("geometry_z_mm", "geometry_y_mm", "geometry_x_mm", SLICES_COLUMN)
"""What it stands for: the extent across slices, along rows and along columns in mm, and the number of slices."""
MOST_LEVELS = 20
Row = Mapping[str, Any]
Matrix = npt.NDArray[np.float64]


class Covariate(BaseModel):
    """One column as the training rows have it.

    Args:
        name: of the column.
        levels: the texts that training rows have; empty for a column of numbers.
        mean: of the training rows' numbers; it stands in where a scan has none.
        spread: their standard deviation.
        gaps: whether a training row lacks it, so that lacking it is a number of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    levels: tuple[str, ...] = Field(default=(), max_length=MOST_LEVELS)
    mean: float = 0.0
    spread: float = Field(default=1.0, gt=0)
    gaps: bool = False

    @property
    def width(self) -> int:
        """How many numbers it becomes."""
        return (len(self.levels) or 1) + self.gaps

    def encode(self, value: Any) -> list[float]:
        """A cell as numbers: standardised, or 1 at its level; then 1 where it is missing, if training rows lack it.

        Raises:
            ManifestError: no number, in a column of numbers.
        """
        missing = is_missing(value)
        if self.levels:
            known = [float(not missing and class_name(value) == level) for level in self.levels]
        else:
            known = [0.0 if missing else (_number(value, self.name) - self.mean) / self.spread]
        return known + [float(missing)] * self.gaps

    def doubt(self, value: Any) -> str:
        """What a prediction rests on where a cell says nothing that training rows said; empty where it does."""
        if is_missing(value):
            stands_in = "no level" if self.levels else f"the training mean, {self.mean:.4g},"
            return "" if self.gaps else f"{self.name} is missing, in no training row: {stands_in} stands in"
        if self.levels and class_name(value) not in self.levels:
            return f"{self.name} is {class_name(value)!r}, training rows have {one_of(self.levels)}: it counts as none"
        return ""

    def __str__(self) -> str:
        fit = f"levels {', '.join(self.levels)}" if self.levels else f"mean {self.mean:.4g}, spread {self.spread:.4g}"
        return f"{self.name} ({fit}{', some rows have none' if self.gaps else ''})"


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ManifestError(f"{name} is {value!r}; training rows have numbers there (an empty cell is a missing one)")
    return number


def columns_of(covariates: Iterable[str]) -> tuple[str, ...]:
    """The columns that covariates stand for."""
    return tuple(c for name in covariates for c in (GEOMETRY_COLUMNS if name == GEOMETRY else (name,)))


def fit_covariates(covariates: Sequence[str], rows: Sequence[Row]) -> tuple[Covariate, ...]:
    """Covariates as the training rows have them.

    Args:
        covariates: of the task.
        rows: of training.

    Raises:
        ManifestError: columns that say nothing, or name something else than a property.
    """
    fitted = [_fitted(name, [row.get(name) for row in rows]) for name in columns_of(covariates)]
    gather([problem for problem in fitted if isinstance(problem, str)], "task.covariates", ManifestError)
    return tuple(c for c in fitted if isinstance(c, Covariate))


def _fitted(name: str, cells: Sequence[Any]) -> Covariate | str:
    known = [cell for cell in cells if not is_missing(cell)]
    gaps = 0 < len(known) < len(cells)
    if not known:  # of scans without a spacing; a column of a table that is empty is a mistake
        return Covariate(name=name) if name in GEOMETRY_COLUMNS else f"{name} is empty in all training rows"
    try:
        numbers = np.array([_number(cell, name) for cell in known])
    except ManifestError:
        levels = tuple(sorted({class_name(cell) for cell in known}))
        if len(levels) <= MOST_LEVELS:
            return Covariate(name=name, levels=levels, gaps=gaps)
        return f"{name} has {len(levels)} different texts, such as {levels[0]!r}; a covariate has {MOST_LEVELS} at most"
    spread = float(numbers.std())
    return Covariate(name=name, mean=float(numbers.mean()), spread=spread if spread > 1e-12 else 1.0, gaps=gaps)


def width_of(inputs: Sequence[Covariate]) -> int:
    """How many numbers fitted covariates become."""
    return sum(covariate.width for covariate in inputs)


def encoded(inputs: Sequence[Covariate], row: Row) -> npt.NDArray[np.float32]:
    """(k,) what a model reads of a row beside the slices.

    Raises:
        ManifestError: a column that the row lacks, or a text in one of numbers.
    """
    if lacking := [c.name for c in inputs if c.name not in row]:
        raise ManifestError(f"{row.get('path', 'the scan')}: {_lacking(lacking)}")
    return np.array([number for c in inputs for number in c.encode(row[c.name])], np.float32)


def rebased(own: Sequence[Covariate], common: Sequence[Covariate]) -> tuple[Matrix, Matrix]:
    """How covariates as some rows standardise them follow from what more rows make of them.

    Args:
        own: as some training rows have them.
        common: the same columns as all have them.

    Returns:
        (k, m) weights and (k,) constants: encoded by `own` is weights @ encoded by `common` + constants.

    Raises:
        ManifestError: a column that is numbers in some rows and texts in others.
    """
    weights, shift = np.zeros((width_of(own), width_of(common))), np.zeros(width_of(own))
    row = column = 0
    for mine, theirs in zip(own, common, strict=True):
        if bool(mine.levels) != bool(theirs.levels):
            raise ManifestError(
                f"{mine.name} holds numbers in some training rows and texts in others; write one of both"
            )
        for number, level in enumerate(mine.levels):
            weights[row + number, column + theirs.levels.index(level)] = 1.0
        if not mine.levels:
            shift[row] = (theirs.mean - mine.mean) / mine.spread
            weights[row, column] = theirs.spread / mine.spread
            if theirs.gaps:  # where it is missing, both say 0
                weights[row, column + 1] = -shift[row]
        if mine.gaps:
            weights[row + mine.width - 1, column + theirs.width - 1] = 1.0
        row, column = row + mine.width, column + theirs.width
    return weights, shift


def doubts(inputs: Sequence[Covariate], row: Row) -> Iterator[str]:
    """What of a row was in no training row, one sentence each."""
    yield from (doubt for c in inputs if (doubt := c.doubt(row.get(c.name))))


def check_cells(inputs: Sequence[Covariate], rows: Sequence[Row]) -> None:
    """Check that rows have what a model reads, but for the geometry, before anything long is run.

    Raises:
        ManifestError: columns that are missing, and texts in those of numbers.
    """
    own, problems = [c for c in inputs if c.name not in GEOMETRY_COLUMNS], []
    for row in rows:
        where = str(row.get("path", "a scan"))
        check_columns([c.name for c in own], row, where)
        for covariate in own:
            try:
                covariate.encode(row[covariate.name])
            except ManifestError as error:
                problems.append(f"{where}: {error}")
    gather(problems, "covariates", ManifestError)


def check_columns(covariates: Sequence[str], there: Iterable[str], where: str) -> None:
    """Check that a table has the covariates; those of the scan itself are read from it.

    Raises:
        ManifestError: the columns that are missing.
    """
    there = [str(name) for name in there]
    if lacking := [name for name in covariates if name not in there and name != GEOMETRY]:
        raise ManifestError(f"{where}: {_lacking(lacking)}; there are {one_of(there)}")


def _lacking(names: Sequence[str]) -> str:
    what = "column {} is" if len(names) == 1 else "columns {} are"
    return (
        f"the model reads covariates beside the slices, and the {what.format(', '.join(names))} missing; give scans as "
        "a table that has them"
    )


def extents(shape: Sequence[int], spacing: Sequence[float] | None) -> dict[str, float]:
    """The columns of the geometry of a scan.

    Args:
        shape: (D, H, W).
        spacing: (z, y, x) in mm; the extents are missing where it is unknown.
    """
    mm = [n * s for n, s in zip(shape, spacing, strict=True)] if spacing else [math.nan] * 3
    return dict(zip(GEOMETRY_COLUMNS, [*map(float, mm), float(shape[0])], strict=True))
