"""From what a user has to a table of scans and a task: every guess is said, and can be overruled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from slivit.data.importers import list_importers, make_manifest
from slivit.data.recipe import Data
from slivit.data.sources import named_source
from slivit.data.table import as_numbers, as_text, is_table, read_table
from slivit.errors import ManifestError, nearest, one_of
from slivit.targets.task import Task

NAMES = {
    "path": ("path", "file", "filename", "filepath", "file_path", "scan", "image", "volume", "img"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id", "participant", "eid", "mrn", "pid"),
    "split": ("split", "set", "subset", "partition"),
    "target": ("target", "label", "class", "diagnosis", "outcome", "y", "grade"),
}
"""How columns are called, in the order in which they are looked for; in any case, with blanks or dashes."""

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
SPLITS |= {"test": "test", "testing": "test", "holdout": "test"}
_MANY = 10  # whole numbers with more values than this are a quantity, with fewer they are classes


@dataclass(frozen=True, eq=False)
class ScanTable:
    """Scans, what is known of them, and what is to be predicted.

    Args:
        frame: `path`, `patient` where known, `split` where known, the targets, and every other column.
        task: not yet fitted.
        source: where it is from.
        sentences: what was read and guessed, for the user.
    """

    frame: pd.DataFrame
    task: Task
    source: str
    sentences: tuple[str, ...] = field(default=())


def scan_table(
    scans: str | Path | pd.DataFrame,
    *,
    target: str | Sequence[str] = (),
    kind: str = "",
    labels: str | Path = "",
    importer: str = "",
) -> ScanTable:
    """Read a table of scans, and guess what is not said.

    Args:
        scans: a CSV or a spreadsheet; a folder of class folders; a folder of scans (with `labels`); a MedMNIST file or
            "medmnist:NAME"; a folder of a public data set (with `importer`); or a table in memory.
        target: the column, or columns, to predict.
        kind: of the task: "binary", "multiclass", "multilabel" or "regression".
        labels: a table whose rows name the scans of a folder, or their patients.
        importer: one of `slivit list importers`.

    Raises:
        ManifestError: nothing there, or a guess that the table does not allow; it says what to name.
    """
    wanted = (target,) if isinstance(target, str) and target else tuple(target)
    imported = None if isinstance(scans, pd.DataFrame) else _imported(str(scans), str(labels), importer)
    if imported:
        frame, source, task = imported
        if task and not wanted and not kind:
            return ScanTable(frame, task, source, tuple(_sentences(frame, task, source)))
        wanted = wanted or (task.targets if task else ())
    else:
        frame, source = (
            _columns_named(_raw(scans, str(labels))),
            "the table" if isinstance(scans, pd.DataFrame) else str(scans),
        )
    wanted = wanted or (_guessed_target(frame, source),)
    for name in wanted:
        if name not in frame:
            raise ManifestError(f'{source}: has no column "{name}".{nearest(name, frame.columns)} {_columns(frame)}')
    frame, task = _with_task(frame, wanted, kind, source)
    return ScanTable(frame, task, source, tuple(_sentences(frame, task, source)))


def _imported(scans: str, labels: str, importer: str) -> tuple[pd.DataFrame, str, Task | None] | None:
    """The table of a data set that an importer reads; None for a table, and for a folder with labels beside it."""
    if labels or is_table(scans):
        return None
    if importer and importer not in {spec.name for spec in list_importers()}:
        known = [spec.name for spec in list_importers()]
        raise ManifestError(f'no importer "{importer}".{nearest(importer, known)} There are {one_of(known)}.')
    path = Path(scans)
    if not path.exists() and not scans.startswith("medmnist:"):
        beside = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ManifestError(f"{scans}: there is no such file or folder.{nearest(scans, beside)}")
    place, name = named_source(Data(manifest=scans, importer=importer))
    made = make_manifest(name, place)
    return made.frame, str(place), made.task


def _raw(scans: str | Path | pd.DataFrame, labels: str) -> pd.DataFrame:
    """The rows as text, with absolute paths where they are relative to the table."""
    if isinstance(scans, pd.DataFrame):
        return scans.apply(as_text)
    place = Path(scans)
    if place.is_dir():
        return _with_labels(place, read_table(labels))
    frame = read_table(place)
    path = _find(frame, "path") or _paths_by_content(frame, place.parent)
    if path is None:
        raise ManifestError(f"{place}: no column holds paths of scans; call it path. {_columns(frame)}")
    frame[path] = [str(place.parent / cell) if cell and not Path(cell).is_absolute() else cell for cell in frame[path]]
    return frame.rename(columns={path: "path"})


def _with_labels(folder: Path, labels: pd.DataFrame) -> pd.DataFrame:
    """Every entry of a folder that a row of the labels names: by file, by name without ending, or by patient.

    Raises:
        ManifestError: no column of the labels names the entries.
    """
    places: dict[str, list[Path]] = {}
    for entry in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        for name in {entry.name, entry.name.partition(".")[0]}:
            places.setdefault(name, []).append(entry)
    named = {column: [cell if cell in places else Path(cell).name for cell in labels[column]] for column in labels}
    column = max(named, key=lambda c: sum(cell in places for cell in named[c]))
    rows = [
        {**row, "path": str(place)}
        for name, row in zip(named[column], labels.to_dict("records"), strict=True)
        for place in dict.fromkeys(places.get(name, ()))
    ]
    if not rows:
        raise ManifestError(
            f"{folder}: no column of the labels names what lies in it (such as {next(iter(places), 'nothing')}); name "
            f"files, or files without their ending. {_columns(labels)}"
        )
    return pd.DataFrame(rows)


def _paths_by_content(frame: pd.DataFrame, base: Path) -> str | None:
    """The column whose first cells are files or folders."""
    for column in frame:
        cells = [cell for cell in frame[column].head(5) if cell]
        if cells and all((base / cell).exists() for cell in cells):
            return str(column)
    return None


def _find(frame: pd.DataFrame, what: str) -> str | None:
    """The column that has one of the usual names."""
    plain = {str(c).strip().lower().replace(" ", "_").replace("-", "_"): str(c) for c in frame.columns}
    return next((plain[name] for name in NAMES[what] if name in plain), None)


def _columns_named(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns path, patient and split under these names, and splits under theirs."""
    found = {column: what for what in ("path", "patient", "split") if (column := _find(frame, what))}
    frame = frame.rename(columns=found)
    if "split" in frame:
        named = frame["split"].str.lower().map(SPLITS)
        frame = frame.assign(split=named) if named.notna().all() else frame.rename(columns={"split": "split_column"})
    return frame


def _guessed_target(frame: pd.DataFrame, source: str) -> str:
    others = [str(c) for c in frame.columns if c not in ("path", "patient", "split")]
    named = _find(frame, "target")
    if named or len(others) == 1:
        return named or others[0]
    raise ManifestError(f"{source}: name the column to predict with --target. {_columns(frame)}")


def _columns(frame: pd.DataFrame) -> str:
    return f"The columns are {one_of([str(c) for c in frame.columns])}."


def _with_task(frame: pd.DataFrame, targets: Sequence[str], kind: str, source: str) -> tuple[pd.DataFrame, Task]:
    """The rows with an answer, and the task that the answers suggest."""
    frame = frame.assign(**{t: as_text(frame[t]) for t in targets})
    if not kind:
        _refuse_slips(frame, targets, source)
    kind = kind or _guessed_kind(frame, targets)
    known = (
        (frame[list(targets)] != "").any(axis=1) if kind == "multilabel" else (frame[list(targets)] != "").all(axis=1)
    )
    frame = frame[known]
    if frame.empty:
        raise ManifestError(f"{source}: no row has a value in {one_of(targets)}")
    if kind != "multiclass":
        numbers = {t: as_numbers(frame[t]) for t in targets}
        for name, (_, bad) in numbers.items():
            if bad.any():
                raise ManifestError(
                    f"{source}: {name} is {frame[name][bad].iloc[0]!r}, which is no number; try --kind multiclass"
                )
        frame = frame.assign(**{name: values for name, (values, _) in numbers.items()})
    if all(frame[t].dropna().nunique() < 2 for t in targets):
        value = frame[targets[0]].iloc[0]
        raise ManifestError(
            f"{source}: {one_of(targets)} is {value} for all of {len(frame)} scans, so there is nothing to tell apart"
        )
    return frame.reset_index(drop=True), _task(kind, tuple(targets))


def _refuse_slips(frame: pd.DataFrame, targets: Sequence[str], source: str) -> None:
    """Refuse to take for classes what is a quantity but for a few cells, or what hardly two scans have in common."""
    for name in targets:
        cells = frame[name][frame[name] != ""]
        bad = as_numbers(cells)[1]
        many = cells[~bad].nunique() > _MANY
        if many and 0 < bad.sum() < len(cells) / 2:
            raise ManifestError(
                f"{source}: {name} is a number for {int((~bad).sum())} scans and {cells[bad].iloc[0]!r} for another "
                f"({int(bad.sum())} in all): correct them or leave them empty; or say --kind multiclass"
            )
        if bad.any() and len(cells) >= _MANY and cells.nunique() > len(cells) / 2:
            raise ManifestError(
                f"{source}: {name} has {cells.nunique()} different values for {len(cells)} scans, and classes need "
                f"several scans each; name another column with --target. {_columns(frame)}"
            )


def _task(kind: str, targets: tuple[str, ...]) -> Task:
    """The task; of numbers with the squared error, by which models are chosen too."""
    loss: dict[str, Any] = {"loss": "mse"} if kind == "regression" else {}
    return Task(kind=kind, targets=targets, **loss)  # type: ignore[arg-type]


def _guessed_kind(frame: pd.DataFrame, targets: Sequence[str]) -> str:
    cells = {t: frame[t][frame[t] != ""] for t in targets}
    if all(set(c) <= {"0", "1"} for c in cells.values()):
        return "binary" if len(targets) == 1 else "multilabel"
    numeric = all(not as_numbers(c)[1].any() for c in cells.values())
    whole = all((as_numbers(c)[0] % 1 == 0).all() for c in cells.values()) if numeric else False
    if numeric and (not whole or len(targets) > 1 or any(c.nunique() > _MANY for c in cells.values())):
        return "regression"
    return "multiclass"


def _sentences(frame: pd.DataFrame, task: Task, source: str) -> Iterator[str]:
    """What is read as what, in at most four lines."""
    patients = f"{frame['patient'].nunique()} patients" if "patient" in frame else "each taken for its own patient"
    yield f"{source}: {len(frame)} scans, {patients}"
    yield f"to predict: {', '.join(task.targets)} ({task.kind}: {_values(frame, task)}); other with --target and --kind"
    if "split" in frame:
        counts = ", ".join(f"{n} {split}" for split, n in frame["split"].value_counts(sort=False).items())
        yield f"split as the table says: {counts}; test rows are read once, at the end"
    else:
        yield "no column split: everything is measured out of fold"
    known: set[Any] = {"path", "patient", "split", "source", *task.targets}
    if others := [str(c) for c in frame.columns if c not in known]:
        yield f"not used: {', '.join(others)}; --covariates takes those that a prediction may use"


def _values(frame: pd.DataFrame, task: Task) -> str:
    if not task.makes_calls:
        return ", ".join(f"{frame[t].min():.4g} to {frame[t].max():.4g}" for t in task.targets)
    if task.exclusive:
        counts = frame[task.targets[0]].value_counts().head(8)
        return ", ".join(f"{n} {name}" for name, n in counts.items())
    return ", ".join(f"{int((frame[t] == 1).sum())} of {int(frame[t].notna().sum())}" for t in task.targets)
