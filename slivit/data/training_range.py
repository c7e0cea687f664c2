"""What scans are like before preprocessing: recorded of the training scans, and compared with a new one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from slivit.data.preprocessing import Preprocessing
from slivit.data.workers import in_processes
from slivit.errors import ReadError, SlivitError
from slivit.volume import Volume

Range = tuple[float, float]

MOST = 100
"""Scans that are looked at: enough for ranges, and quick."""

AXES = ("slices", "rows", "columns")
_VALUES = 200_000  # from which percentiles are taken
_SLACK = 0.25  # of the width of the training data's intensities, on either side
_FACTOR = 1.25  # by which a spacing may leave the training data's
_PARALLEL = 40  # fewer scans are read before other processes have started


@dataclass(frozen=True)
class Look:
    """What one scan is like.

    Args:
        shape: (D, H, W) of the whole scan.
        spacing: mm between slices, rows and columns; None where unknown.
        low: 1st percentile of the intensities of the slices that are used.
        middle: their median.
        high: their 99th percentile.
        constant: whether they are all the same.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] | None
    low: float
    middle: float
    high: float
    constant: bool = False


class TrainingRange(BaseModel):
    """What the training scans were like: the least and the greatest of each `Look`. Kept in `config.json`.

    Args:
        scans: how many were looked at.
        of: out of how many.
        shape: of slices, rows and columns.
        spacing: in mm, between slices, rows and columns; None where no training scan has one.
        with_spacing: how many of the scans have one.
        low: of the 1st percentiles of intensities.
        middle: of the medians.
        high: of the 99th percentiles.
        fewer: how many of the scans have fewer slices than the model takes.
        more: how many have more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scans: int
    of: int
    shape: tuple[Range, Range, Range]
    spacing: tuple[Range, Range, Range] | None
    with_spacing: int
    low: Range
    middle: Range
    high: Range
    fewer: int = 0
    more: int = 0


def look_at(volume: Volume) -> Look:
    """Describe a scan, of which perhaps only some slices were read."""
    array = volume.array
    step = max(1, array.size // _VALUES) | 1  # an odd step does not fall into step with rows of even length
    values = array.reshape(-1)[::step].astype(np.float64)
    values = values[np.isfinite(values)]
    low, middle, high = np.percentile(values, (1, 50, 99)) if values.size else (np.nan,) * 3
    shape = (volume.depth, *volume.shape[1:])
    constant = bool(low == high and array.min() == array.max())
    return Look(shape, volume.spacing, float(low), float(middle), float(high), constant)


def training_range(paths: Sequence[str], settings: Preprocessing, *, workers: int = 0) -> TrainingRange | None:
    """Summarise training scans, from at most 100 of them that are spread evenly over the list.

    Args:
        paths: the training scans.
        settings: the preprocessing, with its size set; only the slices that it uses are read.
        workers: processes that read scans.

    Returns:
        None where not one of them can be read.

    Raises:
        ReadError: none of them holds more than one value.
    """
    places = np.unique(np.linspace(0, len(paths) - 1, min(MOST, len(paths))).round().astype(int))
    chosen = [str(paths[i]) for i in places]
    workers = workers if len(chosen) >= _PARALLEL else 0
    settings = settings.model_copy(update={"windows": None})  # a few slices of each scan are enough
    outcomes = in_processes(partial(_look, settings=settings), chosen, workers, died=_died)
    looks = [look for _, look in outcomes if look is not None and np.isfinite(look.middle)]
    if looks and all(look.constant for look in looks):
        raise ReadError(
            f"{chosen[0]}: this scan and all others of the {len(looks)} training scans that were looked at hold one "
            "value each: there is nothing to learn. `slivit check` shows them; look at how they were exported."
        )
    return _summary(looks, len(paths), settings) if looks else None


def _look(path: str, settings: Preprocessing) -> Look | None:
    from slivit.data.readers import read_volume

    try:
        return look_at(read_volume(path, select=settings.select, **settings.reader))
    except SlivitError:
        return None  # training reported it, or will


def _died(path: str) -> Look | None:
    return None


def _summary(looks: Sequence[Look], of: int, settings: Preprocessing) -> TrainingRange:
    wanted = settings.size[0] if settings.size else 0
    known = [look.spacing for look in looks if look.spacing is not None]
    return TrainingRange(
        scans=len(looks),
        of=of,
        shape=_ranges([look.shape for look in looks]),
        spacing=_ranges(known) if known else None,
        with_spacing=len(known),
        **{name: _range([getattr(look, name) for look in looks]) for name in ("low", "middle", "high")},
        fewer=sum(look.shape[0] < wanted for look in looks),
        more=sum(look.shape[0] > wanted for look in looks),
    )


def _range(values: Sequence[float]) -> Range:
    return float(min(values)), float(max(values))


def _ranges(triples: Sequence[tuple[float, float, float]]) -> tuple[Range, Range, Range]:
    first, second, third = (_range(values) for values in zip(*triples, strict=True))
    return first, second, third


def depths_sentence(known: TrainingRange, settings: Preprocessing) -> str:
    """One sentence about the slices of training scans; empty where all have as many as the model takes.

    Args:
        known: of the training scans.
        settings: the preprocessing, with its size set.
    """
    resampled = settings.sampling == "all" or settings.between_slices
    if not settings.size or resampled or not (known.fewer or known.more):
        return ""
    looked_at = f"{known.scans} of {known.of}" if known.scans < known.of else f"{known.of}"
    parts = [f"{known.fewer} have fewer ({_short_how(settings)})"] if known.fewer else []
    parts += [f"{known.more} have more ({_long_how(settings)})"] if known.more else []
    depths = _range_text(known.shape[0])
    return f"{looked_at} training scans: {depths} slices; the model takes {settings.size[0]}: {', '.join(parts)}"


def _short_how(settings: Preprocessing) -> str:
    if settings.short == "pad":
        return "blank slices are put behind them"
    return "their slices are interpolated" if settings.sampling == "resample" else "their slices are repeated evenly"


def _long_how(settings: Preprocessing) -> str:
    if settings.windows:
        return "they are cut into windows"
    return {"middle": "the middle ones are used", "resample": "they are interpolated"}.get(
        settings.sampling, "evenly spread ones are used"
    )


def range_of(training: Any) -> TrainingRange | None:
    """The training range that a checkpoint's "training" holds; None in those made before it was recorded."""
    stored = training.get("scans_range")
    return TrainingRange.model_validate(stored) if stored else None


def warnings_for(look: Look, settings: Preprocessing, known: TrainingRange | None) -> tuple[str, ...]:
    """What makes a prediction for a scan doubtful, one sentence each.

    Args:
        look: of the scan.
        settings: the preprocessing, with its size set.
        known: of the training scans; without it only the number of slices is looked at.
    """
    return (*_few_slices(look, settings), *(_unlike(look, known) if known else ()))


def _few_slices(look: Look, settings: Preprocessing) -> Iterator[str]:
    depth, wanted = look.shape[0], settings.size[0] if settings.size else 0
    if depth < wanted and not settings.between_slices:
        yield f"too few slices: {depth}, and the model takes {wanted}"


def _unlike(look: Look, known: TrainingRange) -> Iterator[str]:
    fewest, most = known.shape[0]
    if not fewest / _FACTOR <= look.shape[0] <= most * _FACTOR:
        yield f"{look.shape[0]} slices, training scans have {_range_text(known.shape[0])}"
    slack = _SLACK * (known.high[1] - known.low[0])
    names = {"low": "1st percentile", "middle": "median", "high": "99th percentile"}
    for name, words in names.items():
        value, (least, greatest) = getattr(look, name), getattr(known, name)
        if not least - slack <= value <= greatest + slack:
            yield f"intensities unlike those of training: {words} {value:.5g}, there {_range_text((least, greatest))}"
    yield from _spacing(look, known)


def _spacing(look: Look, known: TrainingRange) -> Iterator[str]:
    if known.spacing is None:
        return
    if look.spacing is None:
        if known.with_spacing == known.scans:
            yield "spacing unknown, training scans have one"
        return
    for axis, value, (least, greatest) in zip(AXES, look.spacing, known.spacing, strict=True):
        if not least / _FACTOR <= value <= greatest * _FACTOR:
            yield f"other spacing between {axis}: {value:.3g} mm, in training {_range_text((least, greatest))} mm"


def _range_text(bounds: Range) -> str:
    least, greatest = (f"{v:.5g}" for v in bounds)
    return least if least == greatest else f"{least} to {greatest}"
