"""What importers share: finding the folders and tables of a data set, and saying clearly which one is missing."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from slivit.data.table import missing_columns, write_table
from slivit.errors import ManifestError, nearest
from slivit.targets.task import Task

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
VIDEOS = (".avi", ".mp4", ".mpeg", ".mpg", ".mov", ".gif")
SLICES = (".dcm", ".dicom")
VOLUMES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".dcm", ".dicom", ".zip", ".vol", ".e2e")


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, for messages.

    Args:
        title: the name of the data set.
        url: where it is to be had; empty for data of the user's own.
        layout: its folders and tables in a few words.
    """

    title: str
    url: str
    layout: str

    def error(self, problem: str, hint: str = "") -> ManifestError:
        """An error that says what is wrong, how the data set is laid out, and where it is to be had."""
        stop = "" if problem.endswith((".", "?")) else "."
        where = f"; it is to be had at {self.url}" if self.url else ""
        return ManifestError(f"{problem}{stop}{hint} {self.title} has {self.layout}{where}")

    def folder(self, root: Path, *names: str) -> Path:
        """The first folder of `names` in `root`, in whatever case; `root` itself where no name is given."""
        if not root.is_dir():
            raise self.error(f"{root}: there is no such folder")
        if not names:
            return root
        have = {p.name.strip().lower(): p for p in sorted(root.iterdir()) if p.is_dir()}
        for name in names:
            if name.lower() in have:
                return have[name.lower()]
        wanted = " or ".join(f'"{n}"' for n in names)
        raise self.error(f"{root}: the folder {wanted} is missing", nearest(names[0], [p.name for p in have.values()]))

    def file(self, root: Path, *names: str) -> Path:
        """The first file of `names` (patterns of `glob` count) in `root`."""
        self.folder(root)
        for name in names:
            files = sorted(root.glob(name))
            if files:
                return files[0]
        wanted = " or ".join(f'"{n}"' for n in names)
        raise self.error(f"{root}: the file {wanted} is missing", nearest(names[0], [p.name for p in root.iterdir()]))

    def table(self, path: Path, needed: Sequence[str], optional: Iterable[str] = ()) -> pd.DataFrame:
        """Read columns of a CSV (also gzipped) as stripped text.

        Raises:
            ManifestError: an unreadable file, or one that lacks a column of `needed`.
        """
        opener = gzip.open if path.suffix == ".gz" else open
        try:
            with opener(path, "rt", encoding="utf-8-sig", errors="replace") as stream:
                header = pd.read_csv(stream, nrows=0)
            missing = missing_columns(header, needed)
            if missing:
                raise self.error(f"{path}: {missing[0]}")
            columns = [*needed, *(c for c in optional if c in header.columns)]
            frame = pd.read_csv(
                path, usecols=columns, dtype=str, keep_default_na=False, encoding_errors="replace", index_col=False
            )
        except (OSError, ValueError) as err:
            raise self.error(f"{path}: cannot be read as a CSV ({' '.join(str(err).split())})") from None
        return frame[columns].apply(lambda column: column.str.strip())


def finished(
    frame: pd.DataFrame,
    task: Task | None,
    notes: Iterable[str] = (),
    source: Source | None = None,
    where: Path | None = None,
) -> pd.DataFrame:
    """Give a frame the task that its targets suggest, and notes for the user (`attrs["task"]`, `attrs["notes"]`).

    A table without targets has no task.

    Raises:
        ManifestError: an empty frame.
    """
    if frame.empty and source is not None:
        raise source.error(f"{where}: no scan was found")
    frame = frame.reset_index(drop=True)
    frame.attrs.update(task=task, notes=tuple(notes))
    return frame


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk`, sorted, through links once, without hidden files; edit the folders in place to prune."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        yield Path(folder), folders, sorted(f for f in files if not f.startswith("."))


def files_below(root: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """All files below `root` with one of the suffixes (lower case)."""
    for folder, _, files in walk(root):
        for name in files:
            if name.lower().endswith(tuple(suffixes)):
                yield folder / name


def by_name(root: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Where each file name lies below `root`, however the images are spread over folders."""
    return {path.name: path for path in files_below(root, suffixes)}


def located(names: pd.Series, places: Mapping[str, Path], root: Path) -> pd.Series:
    """The path of each name; a name that is nowhere is placed in `root`, where it will be reported as missing."""
    return names.map(lambda name: str(places.get(name, root / name)))


def series_folders(root: Path, suffixes: Sequence[str] = (".dcm", ".dicom", ".ima")) -> Iterator[Path]:
    """All folders below `root` that hold DICOM slices (by suffix, or files without any suffix)."""
    for folder, _, files in walk(root):
        if any(name.lower().endswith(tuple(suffixes)) or re.fullmatch(r"[\w-]+", name) for name in files):
            yield folder


def multi_hot(lists: pd.Series, names: Sequence[str]) -> pd.DataFrame:
    """One 0/1 column for each of `names` from a column of lists of names."""
    return pd.DataFrame(
        {name: [int(name in labels) for labels in lists] for name in names}, index=lists.index, dtype="int64"
    )


def numbers(column: pd.Series) -> pd.Series:
    """Text as numbers, NaN where it is none."""
    return pd.to_numeric(column, errors="coerce")


def write_slices(path: str, table: pd.DataFrame) -> None:
    """Write a table of positive slices (path, uid) beside a manifest."""
    write_table(Path(path).expanduser(), table)
