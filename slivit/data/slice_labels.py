"""Which slices of a scan show a finding: labels from a column of the manifest, or from a table beside it."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from slivit.data.manifest import Manifest
from slivit.data.table import MISSING, as_labels, as_numbers, capped, missing_columns, read_table
from slivit.errors import ManifestError, gather, nearest
from slivit.targets.task import class_name

log = logging.getLogger(__name__)

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


class SliceLabels(BaseModel):
    """Where the labels of slices are, and how many of them make a window positive.

    Args:
        column: of the manifest: the numbers of the positive slices of each scan, such as "12-30 45"; empty for none.
        csv: a table with the columns `path` (as in the manifest), `slice` (a number or a range) or `uid` (the SOP
            Instance UID of a DICOM slice), and the task's target (0 or 1); every slice listed is positive where that
            column is absent, and slices that are not listed are negative.
        first: the number of a scan's first slice, as the labels count: 0 or 1.
        min_positive_slices: a window with fewer positive slices is negative.

    Slices are counted in the order in which `read_volume` returns them.

    Source: Ke et al. 2023 (arXiv:2304.00546), Methods (a window is positive from four positive slices on).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str = ""
    csv: str = ""
    first: int = Field(default=0, ge=0, le=1)
    min_positive_slices: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.column) == bool(self.csv):
            raise ValueError("name one source of slice labels: a column of the manifest, or a csv")
        return self


@dataclass(frozen=True)
class LabelledSlices:
    """The positive slices of the scans that train and validate.

    Args:
        positive: for each path, the indices of its positive slices, from 0.
        minimum: a window with fewer of them is negative.
    """

    positive: Mapping[str, frozenset[int]]
    minimum: int = 4

    def count(self, path: str, start: int, stop: int) -> int:
        """How many slices from `start` up to `stop` are positive."""
        return sum(start <= s < stop for s in self.positive[path])


def parse_slices(text: str) -> set[int]:
    """Read "12-30 45, 50-52" as the numbers that it names; ranges include both ends.

    Raises:
        ValueError: anything else.
    """
    numbers: set[int] = set()
    for part in re.split(r"[\s,;]+", text.strip()):
        if not part:
            continue
        match = _RANGE.fullmatch(part)
        if not match:
            raise ValueError(f'"{part}" is no slice; write numbers and ranges, such as "12-30 45"')
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise ValueError(f'"{part}" is a range that ends before it begins')
        numbers |= set(range(low, high + 1))
    return numbers


def read_slice_labels(
    settings: SliceLabels,
    manifest: Manifest,
    depths: Mapping[str, int],
    *,
    root: Path | str | None = None,
    reader: Mapping[str, Any] | None = None,
) -> LabelledSlices:
    """Read the labels of slices, and check them against the scans and their own labels.

    Args:
        settings: where they are.
        manifest: of a binary task.
        depths: the number of slices of each scan whose labels are wanted.
        root: where relative paths of the table start; its own folder by default.
        reader: options for `read_volume`.

    Raises:
        ManifestError: all that was found wrong.
    """
    if not manifest.task.two_classes:
        raise ManifestError(f"labels of slices belong to a binary task; this one is {manifest.task.kind}")
    rows = [r for r in manifest.rows() if r["path"] in depths]
    if settings.csv:
        source, read = settings.csv, _from_csv(settings, manifest, depths, root, reader or {})
    else:
        source, read = manifest.source, _from_column(settings, manifest, rows)
    positive = {r["path"]: frozenset(s - settings.first for s in read.get(r["path"], ())) for r in rows}
    gather([*_outside(positive, depths, settings), *_contradictions(rows, positive, manifest)], source, ManifestError)
    return LabelledSlices(positive, settings.min_positive_slices)


def _from_column(settings: SliceLabels, manifest: Manifest, rows: Iterable[Mapping[str, Any]]) -> dict[str, set[int]]:
    name = settings.column
    frame = manifest.frame
    gather(missing_columns(frame, [name]), manifest.source, ManifestError)
    by_path, problems = {}, []
    for row in rows:
        text = class_name(row[name]) if pd.notna(row[name]) else ""
        try:
            by_path[row["path"]] = set() if text.lower() in MISSING else parse_slices(text)
        except ValueError as error:
            problems.append(f"{name} of {row['path']}: {error}")
    gather(capped(problems, len(problems), f"wrong cells of {name}"), manifest.source, ManifestError)
    return by_path


def _from_csv(
    settings: SliceLabels,
    manifest: Manifest,
    wanted: Collection[str],
    root: Path | str | None,
    reader: Mapping[str, Any],
) -> dict[str, set[int]]:
    table = _labelled_table(settings.csv, manifest, Path(root) if root else Path(settings.csv).parent)
    table = table[table["path"].isin(wanted)]
    by_path: dict[str, set[int]] = {}
    problems: list[str] = []
    if "uid" in table:  # a scan without a positive slice need not be opened
        table = table[table.groupby("path")["positive"].transform("any")]
    for path, part in table.groupby("path", sort=False):
        names = _slices_by_uid(str(path), reader, settings.first) if "uid" in part else None
        labels: dict[int, tuple[bool, Any]] = {}
        for row, cell, positive in zip(part.index, part["uid" if names else "slice"], part["positive"], strict=True):
            problems += _keep(labels, row, str(cell), bool(positive), names)
        by_path[str(path)] = {number for number, (positive, _) in labels.items() if positive}
    gather(capped(problems, len(problems), "wrong rows"), settings.csv, ManifestError)
    return by_path


def _slices_by_uid(path: str, reader: Mapping[str, Any], first: int) -> dict[str, int]:
    from slivit.data.readers import open_scan

    names = open_scan(path, **reader).names
    if not names:
        raise ManifestError(f"{path}: its slices have no UIDs, as they are no slices of a DICOM series; number them")
    return {uid: index for index, uid in enumerate(names, first)}


def _keep(
    labels: dict[int, tuple[bool, Any]], row: Any, cell: str, positive: bool, names: Mapping[str, int] | None
) -> Iterator[str]:
    """Add the slices of one row to those of its scan; yields what is wrong with it."""
    if names and cell not in names:
        yield f'row {row}: the scan has no slice with the UID "{cell}".{nearest(cell, names)}'
        return
    try:
        numbers = {names[cell]} if names else parse_slices(cell)
    except ValueError as error:
        yield f"row {row}: {error}"
        return
    for number in sorted(numbers):
        before = labels.setdefault(number, (positive, row))
        if before[0] != positive:
            yield f"row {row}: slice {number} is {int(positive)} here and {int(before[0])} in row {before[1]}"


def _labelled_table(csv: str, manifest: Manifest, base: Path) -> pd.DataFrame:
    """A table of slices: path (absolute), slice or uid (text) and whether it is positive."""
    table, target = read_table(csv), manifest.task.targets[0]
    name = "uid" if "uid" in table else "slice"
    gather(missing_columns(table, ["path", name]), csv, ManifestError)
    if {"uid", "slice"} <= set(table.columns):
        raise ManifestError(f"{csv}: has the columns uid and slice; name slices in one way, and drop the other column")
    numbers, bad = as_numbers(as_labels(table[target] if target in table else pd.Series("1", index=table.index)))
    wrong = bad | ~numbers.isin((0, 1))
    messages = [f"row {row}: {target} is {table[target][row]!r}; a slice is 0 or 1" for row in table.index[wrong]]
    gather(capped(messages, len(messages), f"wrong values of {target}"), csv, ManifestError)
    folder = Path(base).expanduser().absolute()
    known = {r["path"] for r in manifest.rows()}
    places = {p: os.path.normpath(folder / Path(p).expanduser()) for p in table["path"].unique()}
    address = _addresses(known)
    paths = table["path"].map({p: address.get(place, place) for p, place in places.items()})
    labelled = pd.DataFrame({"path": paths, name: table[name], "positive": numbers == 1})
    others = paths[~paths.isin(known)].unique()
    if len(others) == paths.nunique():
        raise ManifestError(
            f'{csv}: no path in it is one of the manifest\'s; the first is "{others[0]}".{nearest(others[0], known)} '
            "Relative paths start at data.root, or at the table's own folder"
        )
    if len(others):
        log.info('%s: %d scans in it are not in the manifest, such as "%s"', csv, len(others), others[0])
    return labelled


def _addresses(known: Collection[str]) -> dict[str, str]:
    """The address (STUDY#series=4, say) of each file of which the manifest reads one scan."""
    files = Counter(address.rpartition("#")[0] for address in known)
    return {file: address for address in known if files[file := address.rpartition("#")[0]] == 1 and file not in known}


def _outside(positive: Mapping[str, frozenset[int]], depths: Mapping[str, int], settings: SliceLabels) -> list[str]:
    first = settings.first
    way_out = "" if first else "; if the labels count from 1, set data.slice_labels.first = 1"
    problems = [
        f"slice {wrong[0] + first} of {path} is labelled, but it has {depths[path]} slices, {first} to "
        f"{depths[path] - 1 + first}{way_out}"
        for path, slices in positive.items()
        if (wrong := sorted(s for s in slices if not 0 <= s < depths[path]))
    ]
    return capped(problems, len(problems), "scans with labels of slices that they lack")


def _contradictions(
    rows: Iterable[Mapping[str, Any]], positive: Mapping[str, frozenset[int]], manifest: Manifest
) -> list[str]:
    target = manifest.task.targets[0]
    problems = []
    for row in rows:
        slices = positive[row["path"]]
        if slices and int(row[target]) == 0:
            problems.append(f"{target} of {row['path']} is 0, but {len(slices)} of its slices are labelled positive")
        if not slices and int(row[target]) == 1:
            problems.append(f"{target} of {row['path']} is 1, but none of its slices is labelled positive")
    return capped(problems, len(problems), f"scans whose {target} contradicts their slices")
