"""Opinions on the same scans: those of several runs, of an ensemble's members, and the calls of people."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slivit.checkpoint import CONFIG
from slivit.data.reviews import scan_key
from slivit.data.table import missing_columns, read_table
from slivit.errors import ManifestError, gather
from slivit.folder import CHECKPOINT
from slivit.targets.decision import Decision
from slivit.targets.task import Task, class_name, is_missing
from slivit.viewer.bench import Bench, Row
from slivit.viewer.server import ViewError

NAMED = 12
"""Runs that an error names at most."""


@dataclass(frozen=True)
class Judgement:
    """What one run, or one reader, says of one scan and one target.

    Args:
        value: probability (of the called class, where classes exclude each other), value in the target's unit, or mean
            Dice of a segmentation.
        call: the call in words; "" where none is made.
        unsure: from 0 (as far from the threshold as can be) to 1; None where there is no probability.
    """

    value: float | None = None
    call: str = ""
    unsure: float | None = None


def judged(task: Task, decision: Decision | None, target: str, row: Row | None) -> Judgement:
    """What a row of predictions says of a target."""
    if row is None:
        return Judgement()
    if task.dense:
        return Judgement(_number(row.get("dice")))
    call = _call(row.get(f"call_{target}"))
    if task.exclusive:
        values = {name: _number(row.get(f"prob_{name}")) for name in task.classes}
        known = {name: v for name, v in values.items() if v is not None}
        if len(known) < len(values):
            return Judgement(None, call)
        best = max(known, key=lambda name: known[name])
        return Judgement(known[best], best, 1 - known[best])
    value = _number(row.get(task.prefix + target))
    if value is None or not task.makes_calls:
        return Judgement(value, call)
    threshold = decision.threshold(target) if decision else 0.5
    beyond = (value - threshold) / max(1 - threshold, 1e-9) if value >= threshold else 1 - value / max(threshold, 1e-9)
    call = call or (str(int(value >= threshold)) if decision else "")
    return Judgement(value, call, 1 - min(max(beyond, 0.0), 1.0))


def _call(cell: Any) -> str:
    """A call as it stands in a table, "1" for 1.0."""
    if is_missing(cell):
        return ""
    number = _number(cell)
    return class_name(number) if number is not None else str(cell)


@dataclass(frozen=True, eq=False)
class Other:
    """A further opinion on the same scans.

    Args:
        name: of the run, the ensemble's member, or the reader.
        rows: predictions or calls by the scan's key.
        decision: how its probabilities become calls.
    """

    name: str
    rows: Mapping[str, Row]
    decision: Decision | None = None


def sort_out(more: Sequence[str | Path]) -> tuple[Path | None, list[Path]]:
    """Tell the one manifest from the runs among what stands behind the first run.

    Raises:
        ViewError: two manifests, or what is not there.
    """
    paths = [Path(path) for path in more]
    for path in paths:
        if not path.exists():
            raise ViewError(f"{path}: there is no such run or CSV")
    files = [path for path in paths if path.is_file()]
    if len(files) > 1:
        raise ViewError(f"{files[0]} and {files[1]}: one CSV of scans can be looked at; people's calls go to --readers")
    return (files[0] if files else None), [path for path in paths if path.is_dir()]


def is_run(folder: str | Path) -> bool:
    """Whether a folder is a run, or a checkpoint, itself."""
    return any((Path(folder) / place / CONFIG).is_file() for place in (".", CHECKPOINT))


def runs_in(folder: str | Path) -> list[Path]:
    """The runs in a folder, at any depth, in the order of their names."""
    return sorted(file.parent.parent for file in Path(folder).glob(f"**/{CHECKPOINT}/{CONFIG}"))


def distinct_names(named: Sequence[tuple[str, Path]]) -> list[str]:
    """Names that differ: those given, or of folders of one name the part of the path in which they differ.

    Args:
        named: names, and folders.
    """
    names = [name for name, _ in named]
    if len(set(names)) == len(names):
        return names
    paths = [list(run.absolute().parts) for _, run in named]
    for end in (0, -1):
        while all(len(parts) > 1 for parts in paths) and len({parts[end] for parts in paths}) == 1:
            for parts in paths:
                del parts[end]
    short = ["/".join(parts) for parts in paths]
    return [name if names.count(name) == 1 else own for name, own in zip(names, short, strict=True)]


def check_runs(folders: Sequence[str | Path]) -> None:
    """Refuse a study beside other runs, and name the runs that are in it; refuse a sweep, which keeps none.

    Raises:
        ViewError: a folder of several runs, or of a sweep.
    """
    for folder in folders:
        inside = [] if is_run(folder) else runs_in(folder)
        best = Path(folder) / "best.toml"
        if not is_run(folder) and not inside and best.is_file():
            train = shlex.join(["slivit", "finetune", str(best), "out=RUN"])
            raise ViewError(f"{folder}: a sweep keeps no weights; train its best trial, and look at that: {train}")
        if inside:
            named = " ".join(map(str, inside[:NAMED]))
            rest = f" (and {len(inside) - NAMED} more)" if len(inside) > NAMED else ""
            raise ViewError(
                f"{folder}: holds {len(inside)} runs; give it alone to choose among them, or name some of them: "
                f"slivit view {named}{rest}"
            )


def read_calls(csv: str | Path, bench: Bench) -> list[Other]:
    """The calls of people, an opinion for each reader.

    Args:
        csv: with `path` (as in the manifest, or relative to the CSV), perhaps `reader` (else the file's name is one),
            and a column of calls for each target that was read: 0 or 1, a class, or a value.
        bench: whose task the calls are of.

    Raises:
        ManifestError: a file that cannot be read, or without such columns.
    """
    task = bench.checkpoint.task
    prefix = "call_" if task.makes_calls else task.prefix
    by_reader: dict[str, dict[str, Row]] = {}
    for name, key, row in rows_of_readers(csv, task.targets):
        said = {prefix + target: row[target] for target in task.targets if target in row}
        by_reader.setdefault(name, {})[key] = said
    return [Other(name, rows) for name, rows in by_reader.items()]


def rows_of_readers(csv: str | Path, targets: Sequence[str]) -> Iterator[tuple[str, str, Row]]:
    """The rows of a table of what people said: the reader's name, the scan's key, and the row.

    Raises:
        ManifestError: a file that cannot be read, or without `path` and one of the targets.
    """
    table, csv = read_table(csv), Path(csv)
    wanted = [] if any(target in table for target in targets) else targets
    gather(missing_columns(table, ["path", *wanted]), str(csv), ManifestError)
    for row in table.to_dict("records"):
        path = Path(str(row["path"])).expanduser()
        named: Row = {str(name): cell for name, cell in row.items()}
        key = scan_key({**named, "path": path if path.is_absolute() else (csv.parent / path).absolute()})
        yield str(row.get("reader") or csv.stem), key, named


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
