"""What is read from a table of scans, by which rules, and what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict

from slivit.data import manifest_checks as checks
from slivit.data.manifest_checks import empty_cells
from slivit.data.readers.address import ROW_OPTIONS, of_parts, parts_of, split_address, with_options
from slivit.data.readers.geometry import TOWARDS
from slivit.data.table import as_classes, as_text, capped, missing_columns, read_table, with_numbers, without_missing
from slivit.errors import ManifestError, gather, mounting, nearest, one_of
from slivit.targets.segmentation import Segmentation
from slivit.targets.task import Task

_CORE = ("path", "patient", "split")
_READ_BY = "the columns series, frame, axis and channel say how a scan is read; rename one that means something else"


class Columns(BaseModel):
    """What a table calls its columns of paths, patients and splits.

    Example:
        >>> slivit.Columns(patient="subject_id").split
        'split'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = "path"
    patient: str = "patient"
    split: str = "split"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How strictly a table is read; the fields are the options of `read_manifest`."""

    columns: Columns = field(default_factory=Columns)
    root: Path | str | None = None
    require_targets: bool = True
    check_files: bool = True
    patient_from_path: bool = False
    need_splits: Sequence[str] | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    channels: Sequence[str] = ()

    @property
    def need(self) -> tuple[str, ...]:
        if self.need_splits is not None:
            return tuple(self.need_splits)
        return checks.SPLITS if self.require_targets else ()


@dataclass(frozen=True, eq=False)
class Inspection:
    """A table as it is, with what is wrong with it.

    Args:
        frame: canonical columns; cells that could not be understood are as they were, or empty.
        problems: what makes training or testing wrong, one sentence each.
        warnings: what the user should know.
    """

    frame: pd.DataFrame
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def inspect_manifest(
    csv: Path | str,
    task: Task | None = None,
    *,
    columns: Columns | None = None,
    root: Path | str | None = None,
    patient_from_path: bool = False,
    need_splits: Sequence[str] = (),
    where: Mapping[str, Any] | None = None,
    channels: Sequence[str] = (),
) -> Inspection:
    """Read a CSV of scans as `read_manifest` does, but tell what is wrong instead of raising; scans are not looked for.

    Without a task the targets are not checked, and stay among the other columns.

    Raises:
        ManifestError: the file is no table at all, or has no column of paths.
    """
    rules = Rules(
        columns=columns or Columns(),
        root=root,
        check_files=False,
        require_targets=task is not None,
        patient_from_path=patient_from_path,
        need_splits=need_splits,
        where=where or {},
        channels=tuple(channels),
    )
    raw = read_table(csv)
    gather(missing_columns(raw, rules.channels or [rules.columns.path]), str(csv), ManifestError)
    return inspected(raw, task, Path(root) if root else Path(csv).parent, rules)


def inspected(raw: pd.DataFrame, task: Task | None, base: Path, rules: Rules) -> Inspection:
    """Bring a table to canonical columns, and say what is wrong with it.

    Args:
        raw: the table as it was read.
        task: what is predicted, if anything.
        base: where relative paths start.
        rules: how strictly it is read.
    """
    targets_wanted = task.targets if task else ()
    raw, unknown = checks.kept_rows(raw, rules.where)
    problems = [*_column_problems(raw, targets_wanted, rules), *unknown]
    base = Path(base).expanduser().absolute()
    core, unusable, warnings = _core(raw, base, rules)
    taken = [*targets_wanted, *rules.columns.model_dump().values(), *rules.channels]
    core["path"], wrong = addresses(core["path"], raw, taken)
    unusable += wrong
    targets, wrong = _targets(raw, task, base, rules)
    frame = pd.concat([core, targets, _others(raw, targets_wanted, rules)], axis=1)
    frame = frame.assign(**{name: absolute(raw[name], base) for name in rules.channels if name in raw})
    problems += [*unusable, *wrong, *scan_problems(core["path"], base, rules.check_files)]
    problems += [*checks.shared_patients(frame), *checks.empty_splits(frame, rules.need)]
    if task is not None and not problems:
        problems, cautions = target_problems(frame, task, rules.need)
        warnings += cautions
    return Inspection(frame, tuple(problems), tuple(warnings))


def _column_problems(raw: pd.DataFrame, targets: Sequence[str], rules: Rules) -> list[str]:
    names = rules.columns
    clash = [f'target "{t}" is also a column of paths, patients or splits' for t in targets if t in _CORE]
    wanted = [*(rules.channels or [names.path])] + ([] if rules.patient_from_path else [names.patient])
    if names.split != Columns().split:
        wanted.append(names.split)
    if rules.require_targets:
        wanted += targets
    problems = missing_columns(raw, wanted)
    if names.patient not in raw and not rules.patient_from_path:
        problems.append(
            "without patients a split can leak: name the column in `columns.patient`, or set patient_from_path = true "
            "where every scan is of another patient"
        )
    return clash + problems


def _core(raw: pd.DataFrame, base: Path, rules: Rules) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The columns path, patient and split, with their problems and warnings."""
    names, problems, warnings = rules.columns, [], []
    split = pd.Series("", index=raw.index, dtype=object)
    path, wrong = scan_paths(raw, rules.channels or [names.path], base)
    problems += wrong
    patient = without_missing(as_text(raw[names.patient])) if names.patient in raw else path
    if names.patient in raw:
        problems += [*checks.empty_cells(patient.rename(names.patient)), *checks.rounded_patients(patient)]
        warnings += checks.similar_patients(patient)
    elif rules.patient_from_path:
        text = "there is no patient column: each scan counts as a patient of its own"
        if (seen := checks.patients_in_names(path)) is not None:
            one = seen.value_counts().index[0]
            text += f", though their names look like {seen.nunique()} patients (such as {one}): name them in a column"
        warnings.append(text)
    if names.split in raw:
        split = without_missing(as_text(raw[names.split]))
        if (split != "").any():
            split, unknown = checks.split_names(split)
            problems += unknown
    return pd.DataFrame({"path": path, "patient": patient, "split": split}, index=raw.index), problems, warnings


def _targets(raw: pd.DataFrame, task: Task | None, base: Path, rules: Rules) -> tuple[pd.DataFrame, list[str]]:
    if task is None:
        return pd.DataFrame(index=raw.index), []
    if isinstance(task, Segmentation):
        column = raw.get(task.targets[0], pd.Series(dtype=object))
        masks, problems = read_masks(column, base, task, required=rules.require_targets, look=rules.check_files)
        return pd.DataFrame({t: masks for t in task.targets if t in raw}, index=raw.index), problems
    read = {t: checks.read_targets(raw[t], task, rules.require_targets) for t in task.targets if t in raw}
    problems = [p for _, wrong in read.values() for p in wrong]
    return pd.DataFrame({t: column for t, (column, _) in read.items()}, index=raw.index), problems


def _others(raw: pd.DataFrame, targets: Sequence[str], rules: Rules) -> pd.DataFrame:
    """The columns that are neither core nor targets; one whose name is taken gets "_original" behind it."""
    taken = {*rules.columns.model_dump().values(), *targets}
    others = {f"{c}_original" if c in _CORE else str(c): with_numbers(raw[c]) for c in raw.columns if c not in taken}
    return pd.DataFrame(others, index=raw.index)


def target_problems(frame: pd.DataFrame, task: Task, need: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is wrong with the targets of the splits that are needed, and what the user should know of them."""
    if task.dense:
        return [], []
    problems, warnings = checks.constant_targets(frame, task, need)
    return [*problems, *checks.unseen_classes(frame, task)], warnings


def scan_paths(raw: pd.DataFrame, columns: Sequence[str], base: Path) -> tuple[pd.Series, list[str]]:
    """The absolute address of each scan, and what is wrong with the cells.

    Args:
        raw: the table.
        columns: of paths: one, or one for each channel; a table that lacks one was reported before.
        base: where relative paths start.

    Returns:
        The addresses; "" where a cell is empty.
    """
    cells = {name: absolute(raw[name], base) for name in columns if name in raw}
    problems = [problem for column in cells.values() for problem in empty_cells(column)]
    if not cells:
        return pd.Series("", index=raw.index, dtype=object), problems
    rows = [row if all(row) else () for row in zip(*cells.values(), strict=True)]
    twice = {at: row for at, row in zip(raw.index, rows, strict=True) if len(set(row)) < len(row)}
    messages = (f"row {at}: {' and '.join(cells)} name one file twice: {of_parts(row)}" for at, row in twice.items())
    problems += capped(messages, len(twice), "rows that name a file twice")
    return pd.Series([of_parts(row) for row in rows], index=raw.index, dtype=object), problems


def absolute(column: pd.Series, base: Path) -> pd.Series:
    """The cells as absolute addresses; "" where empty. Paths that were written on Windows are read elsewhere too."""

    def whole(part: str) -> str:
        place = os.path.normpath(os.path.join(base, os.path.expanduser(part)))  # noqa: PTH111, PTH118
        if "\\" in part and os.sep == "/" and not os.path.exists(split_address(place)[0]):  # noqa: PTH110
            return whole(part.replace("\\", "/"))
        return place

    text = without_missing(as_text(column))
    return text.map(lambda cell: of_parts([whole(part) for part in parts_of(cell)]) if cell else "")


def read_masks(
    column: pd.Series, base: Path, task: Segmentation, *, required: bool, look: bool
) -> tuple[pd.Series, list[str]]:
    """Bring a column of masks to absolute paths, or patterns of paths ("" where empty).

    Args:
        column: the cells.
        base: where relative paths start.
        task: whose labels a pattern is filled with.
        required: whether an empty cell is a problem.
        look: whether the files must exist.

    Returns:
        The column, and its problems.
    """
    masks = absolute(column, base)
    problems = empty_cells(masks) if required else []
    if look:
        files = ((row, file) for row, mask in masks.items() if mask for file in task.files(mask).values())
        absent = [(row, file) for row, file in files if not Path(split_address(file)[0]).exists()]
        messages = (f'row {row}: mask "{file}" does not exist.{_neighbour(file)}' for row, file in absent)
        problems += capped(messages, len(absent), "masks that do not exist")
    return masks, problems


def scan_problems(paths: pd.Series, base: Path, check_files: bool) -> list[str]:
    """Scans that do not exist, and scans that are listed twice (also by another spelling, a link or a hard link).

    Args:
        paths: absolute addresses: a path may end in a fragment (`scans.npz#train/17`), or be one of several channels.
        base: the folder that relative paths were taken from, for the message.
        check_files: whether to look at the disk; otherwise only the names are compared.
    """
    named = [p for p in paths.unique() if p]
    parts = {p: [split_address(part) if check_files else (part, "") for part in parts_of(p)] for p in named}
    files = {file for pairs in parts.values() for file, _ in pairs}
    identity: Mapping[str, object] = {f: _identity(f) if check_files else os.path.normcase(f) for f in files}
    absent = {p: [f for f, _ in pairs if identity[f] is None] for p, pairs in parts.items()}
    problems = _absent(paths, {p: gone[0] for p, gone in absent.items() if gone}, base)
    keys = {p: tuple((identity[f], item) for f, item in pairs) for p, pairs in parts.items() if not absent[p]}
    return problems + _repeated(paths[paths.isin(keys)], keys)


def _identity(file: str) -> object | None:
    """What tells one file from another whatever it is called; None where there is no such file."""
    try:
        status = Path(file).stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.normcase(os.path.realpath(file))


def _absent(paths: pd.Series, absent: Mapping[str, str], base: Path) -> list[str]:
    """The messages on scans that are not there; `absent` gives the first file that a scan lacks."""
    rows = paths[paths.isin(absent)]
    messages = (
        f'row {row}: scan "{_shown(p, absent[p])}" does not exist.{_neighbour(absent[p])}' for row, p in rows.items()
    )
    problems = capped(messages, len(rows), "scans that do not exist")
    if len(rows) and len(rows) == len(paths):
        problems.append(f'no scan exists: relative paths start at "{base}"; give `root` for another folder')
    return problems


def _shown(path: str, file: str) -> str:
    return file if len(parts_of(path)) > 1 else path


def _neighbour(path: str) -> str:
    file = Path(path)
    try:
        names = [p.name for p in file.parent.iterdir()]
    except OSError:
        return mounting(path) or f' Nor does its folder "{file.parent}".'
    return nearest(file.name, names) if len(names) <= 2000 else ""


def _repeated(paths: pd.Series, keys: Mapping[str, object]) -> list[str]:
    first: dict[object, tuple[object, str]] = {}
    problems = []
    for row, path in paths.items():
        seen = first.setdefault(keys[path], (row, path))
        if seen[0] != row:
            spelled = "" if seen[1] == path else f' (there as "{seen[1]}")'
            problems.append(f'row {row}: scan "{path}" is already in row {seen[0]}{spelled}; list every scan once')
    return capped(problems, len(problems), "repeated scans")


def addresses(paths: pd.Series, raw: pd.DataFrame, skip: Sequence[str]) -> tuple[pd.Series, list[str]]:
    """Put what the columns `series`, `frame`, `axis` and `channel` say of a scan into its address.

    Args:
        paths: absolute paths.
        raw: the table.
        skip: columns that mean something else, such as targets.

    Returns:
        The addresses, by which every stage reads the scans, and what is wrong in these columns.
    """
    names = [name for name in ROW_OPTIONS if name in raw and name not in skip]
    if not names:
        return paths, []
    cells = {name: as_classes(without_missing(as_text(raw[name]))) for name in names}
    problems = _option_problems(cells)
    rows = zip(paths, *cells.values(), strict=True)
    texts = [with_options(path, dict(zip(names, values, strict=True))) if path else "" for path, *values in rows]
    return pd.Series(texts, index=paths.index, name=paths.name, dtype=object), problems


def _option_problems(cells: Mapping[str, pd.Series]) -> list[str]:
    problems = []
    for name, allowed, pattern in (
        ("frame", "a whole number from 0", r"\d+"),
        ("axis", one_of(TOWARDS), "|".join(TOWARDS)),
    ):
        column = cells.get(name, pd.Series(dtype=object))
        wrong = column[(column != "") & ~column.astype(str).str.fullmatch(pattern)]
        messages = [f"row {row}: {name} is {cell!r}; it must be {allowed} ({_READ_BY})" for row, cell in wrong.items()]
        problems += capped(messages, len(messages), f"wrong values of {name}")
    return problems
