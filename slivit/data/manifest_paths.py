"""Which files the cells of a manifest name: absolute addresses, how each is read, whether they are there, and once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from slivit.data.manifest_checks import empty_cells
from slivit.data.readers.address import ROW_OPTIONS, of_parts, parts_of, split_address, with_options
from slivit.data.readers.geometry import TOWARDS
from slivit.data.table import as_classes, as_text, capped, without_missing
from slivit.errors import nearest, one_of
from slivit.targets.segmentation import Segmentation


def scan_paths(raw: pd.DataFrame, columns: Sequence[str], base: Path) -> tuple[pd.Series, list[str]]:
    """The absolute address of each scan, and what is wrong with the cells.

    Args:
        raw: the table.
        columns: of paths: one, or one for each channel; a table that lacks one has been told of that.
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
    told = (f"row {at}: {' and '.join(cells)} name one file twice: {of_parts(row)}" for at, row in twice.items())
    problems += capped(told, len(twice), "rows that name a file twice")
    return pd.Series([of_parts(row) for row in rows], index=raw.index, dtype=object), problems


def absolute(column: pd.Series, base: Path) -> pd.Series:
    """The cells as absolute addresses; "" where empty."""

    def whole(part: str) -> str:
        return os.path.normpath(os.path.join(base, os.path.expanduser(part)))  # noqa: PTH111, PTH118

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
        told = (f'row {row}: mask "{file}" does not exist.{_neighbour(file)}' for row, file in absent)
        problems += capped(told, len(absent), "masks that do not exist")
    return masks, problems


def scan_problems(paths: pd.Series, base: Path, check_files: bool) -> list[str]:
    """Scans that do not exist, and scans that are listed twice (also by another spelling, a link or a hard link).

    Args:
        paths: absolute addresses: a path may end in a fragment (`scans.npz#train/17`), or be one of several channels.
        base: the folder that relative paths were taken from, for the message.
        check_files: whether to look at the disk; otherwise only the names are compared.
    """
    parts = {
        p: [split_address(part) if check_files else (part, "") for part in parts_of(p)] for p in paths.unique() if p
    }
    files = {file for found in parts.values() for file, _ in found}
    identity: Mapping[str, object] = {f: _identity(f) if check_files else os.path.normcase(f) for f in files}
    absent = {p: [f for f, _ in found if identity[f] is None] for p, found in parts.items()}
    problems = _absent(paths, {p: gone[0] for p, gone in absent.items() if gone}, base)
    keys = {p: tuple((identity[f], item) for f, item in found) for p, found in parts.items() if not absent[p]}
    return problems + _repeated(paths[paths.isin(keys)], keys)


def _identity(file: str) -> object | None:
    """What tells one file from another whatever it is called; None where there is no such file."""
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.normcase(os.path.realpath(file))


def _absent(paths: pd.Series, absent: Mapping[str, str], base: Path) -> list[str]:
    """What is told of scans that are not there; `absent` gives the first file that a scan lacks."""
    rows = paths[paths.isin(absent)]
    told = (
        f'row {row}: scan "{_shown(p, absent[p])}" does not exist.{_neighbour(absent[p])}' for row, p in rows.items()
    )
    problems = capped(told, len(rows), "scans that do not exist")
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
        return _slashes(path) or f' Nor does its folder "{file.parent}".'
    return _slashes(path) or (nearest(file.name, names) if len(names) <= 2000 else "")


def _slashes(path: str) -> str:
    """What to change in a path that was written on Windows."""
    if "\\" not in path or os.sep == "\\":
        return ""
    name = os.path.basename(path).replace("\\", "/")  # noqa: PTH119
    return f" Its name has backslashes, which part folders on Windows alone: write {name}."


def _repeated(paths: pd.Series, keys: Mapping[str, object]) -> list[str]:
    first: dict[object, tuple[object, str]] = {}
    problems = []
    for row, path in paths.items():
        seen = first.setdefault(keys[path], (row, path))
        if seen[0] != row:
            spelled = "" if seen[1] == path else f' (there as "{seen[1]}")'
            problems.append(f'row {row}: scan "{path}" is already in row {seen[0]}{spelled}; list every scan once')
    return capped(problems, len(problems), "repeated scans")


_READ_BY = "the columns series, frame, axis and channel say how a scan is read; rename one that means something else"


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
    told = [with_options(path, dict(zip(names, values, strict=True))) if path else "" for path, *values in rows]
    return pd.Series(told, index=paths.index, name=paths.name, dtype=object), problems


def _option_problems(cells: Mapping[str, pd.Series]) -> list[str]:
    problems = []
    for name, allowed, pattern in (
        ("frame", "a whole number from 0", r"\d+"),
        ("axis", one_of(TOWARDS), "|".join(TOWARDS)),
    ):
        column = cells.get(name, pd.Series(dtype=object))
        wrong = column[(column != "") & ~column.astype(str).str.fullmatch(pattern)]
        told = [f"row {row}: {name} is {cell!r}; it must be {allowed} ({_READ_BY})" for row, cell in wrong.items()]
        problems += capped(told, len(told), f"wrong values of {name}")
    return problems
