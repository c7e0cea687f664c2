"""From what a user has to a table of scans and a task: every guess is said, and can be overruled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from slivit.data.inspection import absolute, scan_paths
from slivit.data.manifest_checks import patients_in_names
from slivit.data.table import MISSING, as_numbers, as_text, read_table, without_missing
from slivit.errors import ManifestError, gather, nearest, one_of
from slivit.planned.folders import listed_folder
from slivit.targets.covariates import GEOMETRY
from slivit.targets.task import Task

NAMES = {
    "path": ("path", "file", "filename", "filepath", "file_path", "scan", "image", "volume", "img"),
    "patient": (
        *("patient", "patient_id", "patientid", "subject", "subject_id", "subjectid", "participant", "participant_id"),
        *("case", "case_id", "eid", "mrn", "pid", "id"),
    ),
    "split": ("split", "set", "subset", "partition"),
    "target": ("target", "label", "class", "diagnosis", "outcome", "y", "grade"),
    "age": ("age", "age_years", "age_at_scan", "patient_age"),
    "sex": ("sex", "gender", "patient_sex"),
    "bmi": ("bmi",),
}
"""How columns are called, in the order in which they are looked for; in any case, with blanks or dashes."""

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
SPLITS |= {"test": "test", "testing": "test", "holdout": "test"}
COVARIATES = ("age", "sex", "bmi")
"""What is taken for a covariate without being asked for: never what a clinician would write after the diagnosis."""
NO_COVARIATES = "none"
NO_OPTIONS: Mapping[str, Any] = {}
_MANY = 10  # whole numbers with more values than this are a quantity, with fewer they are classes


@dataclass(frozen=True, eq=False)
class ScanTable:
    """Scans, what is known of them, and what is to be predicted.

    Args:
        frame: `path`, `patient` where known, `split` where known, the targets, and every other column.
        task: not yet fitted.
        source: where it is from.
        sentences: what was read and guessed, for the user.
        channels: the columns whose scans are the channels of one; `path` names all of them.
    """

    frame: pd.DataFrame
    task: Task
    source: str
    sentences: tuple[str, ...] = field(default=())
    channels: tuple[str, ...] = ()


def scan_table(
    scans: str | Path | pd.DataFrame,
    *,
    target: str | Sequence[str] = (),
    kind: str = "",
    labels: str | Path = "",
    importer: str = "",
    importer_options: Mapping[str, Any] = NO_OPTIONS,
    covariates: Sequence[str] = (),
    channels: Sequence[str] = (),
) -> ScanTable:
    """Read a table of scans, and guess what is not said.

    Args:
        scans: a CSV or a spreadsheet; a folder of class folders; a folder of scans (with `labels`); a MedMNIST file or
            "medmnist:NAME"; a folder of a public data set (with `importer`); or a table in memory.
        target: the column, or columns, to predict.
        kind: of the task: "binary", "multiclass", "multilabel" or "regression".
        labels: a table whose rows name the scans of a folder, or their patients.
        importer: one of `slivit list importers`.
        importer_options: of the importer, as text or values.
        covariates: columns that are read beside the scans, and "geometry"; age, sex and BMI where nothing is named, and
            ("none",) for no column.
        channels: columns of paths, whose scans are the channels of one.

    Raises:
        ManifestError: nothing there, or a guess that the table does not allow; it says what to name.
    """
    wanted = (target,) if isinstance(target, str) and target else tuple(target)
    listed = None
    if not isinstance(scans, pd.DataFrame):
        listed = listed_folder(str(scans), str(labels), importer, importer_options)
    known, notes = (listed.task, list(listed.notes)) if listed else (None, [])
    source = listed.source if listed else "the table" if isinstance(scans, pd.DataFrame) else str(scans)
    if listed:
        channels, wanted = channels or listed.channels, wanted or (known.targets if known else ())
        frame = _columns_named(_with_channels(listed.frame, channels, Path(), source), source)
    else:
        frame = _columns_named(_raw(scans, channels), source)
    wanted = wanted or (_guessed_target(frame, source, channels),)
    check_there([*wanted, *(c for c in covariates if c not in (NO_COVARIATES, GEOMETRY))], frame, source)
    if known and not kind and tuple(known.targets) == tuple(wanted):
        task = known
    else:
        frame, task, more = _with_task(frame, wanted, kind, source)
        notes += more
    frame, more = _with_patients(frame, task)
    notes += more
    task = _with_covariates(frame, task, covariates)
    sentences = (*_sentences(frame, task, source, channels), *notes)
    return ScanTable(frame, task, source, sentences, tuple(channels))


def check_there(names: Sequence[str], frame: pd.DataFrame, source: str) -> None:
    """Raise where a table lacks a column.

    Raises:
        ManifestError: with the nearest that it has.
    """
    for name in names:
        if name not in frame:
            raise ManifestError(f'{source}: has no column "{name}".{nearest(name, frame.columns)} {_columns(frame)}')


def _with_covariates(frame: pd.DataFrame, task: Task, named: Sequence[str]) -> Task:
    """The task with the covariates that were named, or that are called so and differ between scans."""
    covariates = [c for c in named if c != NO_COVARIATES]
    if not named:
        columns = [c for what in COVARIATES if (c := _find(frame, what)) and c not in task.targets]
        covariates = [c for c in columns if _fits(frame[c])]
    return Task.model_validate(task.model_dump() | {"covariates": tuple(covariates)}) if covariates else task


def _fits(column: pd.Series) -> bool:
    """Whether a column that nobody named tells scans apart, as numbers or by a few texts, and is known of most."""
    text = without_missing(as_text(column))
    known = text[text != ""]
    numeric = not as_numbers(known)[1].any()
    return len(known) >= len(text) / 2 and known.nunique() > 1 and (numeric or known.nunique() <= 5)


def _with_patients(frame: pd.DataFrame, task: Task) -> tuple[pd.DataFrame, list[str]]:
    """The table with the patients that the names of scans tell of, where it has none."""
    if "patient" in frame or "fold" in frame or "split" in frame:
        return frame, []
    named = patients_in_names(frame["path"], frame[task.targets[0]].nunique() if task.exclusive else 0)
    if named is None:
        return frame, []
    one = named.value_counts().index[0].rpartition("/")[2]
    return frame.assign(patient=named), [
        f"patients by the names of scans, such as {one}; a column patient overrules it"
    ]


def _raw(scans: str | Path | pd.DataFrame, channels: Sequence[str]) -> pd.DataFrame:
    """The rows as text, with absolute paths where they are relative to the table."""
    in_memory = isinstance(scans, pd.DataFrame)
    place = Path() if in_memory else Path(str(scans))
    frame, base = (scans.apply(as_text), Path()) if in_memory else (read_table(place), place.parent)  # type: ignore[union-attr]
    source = "the table" if in_memory else str(place)
    if channels:
        return _with_channels(frame, channels, base, source)
    path = _find(frame, "path") or _paths_by_content(frame, base, source)
    if path is None:
        raise ManifestError(f"{source}: no column holds paths of scans; call it path. {_columns(frame)}")
    return frame.assign(**{path: absolute(frame[path], base.absolute())}).rename(columns={path: "path"})


def _with_channels(frame: pd.DataFrame, channels: Sequence[str], base: Path, source: str) -> pd.DataFrame:
    """The table with the scans of several columns as the channels of one, whose `path` names them all."""
    if not channels:
        return frame
    if len(set(channels)) < 2:
        raise ManifestError(f"{source}: --channel {channels[0]}: name two columns of paths or more, each once")
    check_there(channels, frame, source)
    frame = frame.assign(**{name: absolute(frame[name], base.absolute()) for name in channels})
    path, problems = scan_paths(frame, channels, base)
    gather(problems, source, ManifestError)
    return frame.assign(path=path)


def _paths_by_content(frame: pd.DataFrame, base: Path, source: str) -> str | None:
    """The column whose first cells are files or folders.

    Raises:
        ManifestError: there are several.
    """
    first = {str(column): [cell for cell in frame[column].head(5) if cell] for column in frame}
    held = [
        name
        for name, cells in first.items()
        if cells and all(Path(cell).exists() for cell in absolute(pd.Series(cells), base))
    ]
    if len(held) > 1:
        together = " ".join(f"--channel {name}" for name in held)
        raise ManifestError(
            f"{source}: {one_of(held)} all hold paths: {together} takes them for the channels of one scan; or call the "
            "one that counts path"
        )
    return held[0] if held else None


def _find(frame: pd.DataFrame, what: str) -> str | None:
    """The column that has one of the usual names."""
    plain = {str(c).strip().lower().replace(" ", "_").replace("-", "_"): str(c) for c in frame.columns}
    return next((plain[name] for name in NAMES[what] if name in plain), None)


def _columns_named(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """The columns path, patient and split under these names, and splits under theirs.

    Raises:
        ManifestError: a split that is none among others that are.
    """
    names = {column: what for what in ("path", "patient", "split") if (column := _find(frame, what))}
    if "path" in frame:
        names = {column: what for column, what in names.items() if what != "path"}
    frame = frame.rename(columns=names)
    if "split" in frame:
        named = frame["split"].str.lower().map(SPLITS)
        if named.isna().all():
            return frame.rename(columns={"split": "split_column"})
        unknown = frame["split"][named.isna()]
        if len(unknown):
            raise ManifestError(
                f"{source}: row {unknown.index[0]}: the split is {unknown.iloc[0]!r} ({len(unknown)} rows are so), and "
                f"others are {one_of(sorted(named.dropna().unique()))}; write train, val or test everywhere"
            )
        frame = frame.assign(split=named)
    return frame


def _guessed_target(frame: pd.DataFrame, source: str, channels: Sequence[str]) -> str:
    known = {"path", "patient", "split", "fold", *channels, *(_find(frame, what) for what in COVARIATES)}
    others = [str(c) for c in frame.columns if c not in known]
    named = _find(frame, "target")
    if named or len(others) == 1:
        return named or others[0]
    raise ManifestError(f"{source}: name the column to predict with --target. {_columns(frame)}")


def _columns(frame: pd.DataFrame) -> str:
    return f"The columns are {one_of([str(c) for c in frame.columns])}."


def _with_task(
    frame: pd.DataFrame, targets: Sequence[str], kind: str, source: str
) -> tuple[pd.DataFrame, Task, list[str]]:
    """The rows with an answer, the task that the answers suggest, and notes on them."""
    frame = frame.assign(**{t: _answers(frame[t]) for t in targets})
    if not kind:
        _refuse_slips(frame, targets, source)
    kind = kind or _guessed_kind(frame, targets)
    every = frame[list(targets)] != ""
    known = every.any(axis=1) if kind == "multilabel" else every.all(axis=1)
    notes = (
        [f"left out: {int((~known).sum())} of {len(frame)} scans without {one_of(targets)}"] if not known.all() else []
    )
    frame = frame[known]
    if frame.empty:
        raise ManifestError(f"{source}: no row has a value in {one_of(targets)}")
    if kind == "multiclass":
        frame, merged = _one_spelling(frame, targets[0])
        notes += merged
    else:
        frame = _numbers(frame, targets, source)
    if all(frame[t].dropna().nunique() < 2 for t in targets):
        value = frame[targets[0]].iloc[0]
        raise ManifestError(
            f"{source}: {one_of(targets)} is {value} for all of {len(frame)} scans, so there is nothing to tell apart"
        )
    return frame, _task(kind, tuple(targets)), notes


def _answers(column: pd.Series) -> pd.Series:
    """The cells as text, "" where nothing is known; "none" is a grade where others are words, too."""
    text = as_text(column)
    known = text[~text.str.lower().isin(MISSING)]
    words = len(known) and as_numbers(known)[1].all()
    return without_missing(text, text[text.str.lower() == "none"].unique() if words else ())


def _one_spelling(frame: pd.DataFrame, target: str) -> tuple[pd.DataFrame, list[str]]:
    """Classes that differ in letter case or blanks alone as one, under the name that most scans have."""
    counts = frame[target].value_counts()
    plain = {name: "".join(str(name).casefold().split()) for name in counts.index}
    first: dict[str, str] = {}
    for name in counts.index:
        first.setdefault(plain[name], str(name))
    same = {kept: [str(n) for n in counts.index if plain[n] == key] for key, kept in first.items()}
    notes = [
        f"{target}: {', '.join(names)} are taken for one class, {kept}"
        for kept, names in same.items()
        if len(names) > 1
    ]
    return frame.assign(**{target: frame[target].map(lambda name: first[plain[name]])}), notes


def _numbers(frame: pd.DataFrame, targets: Sequence[str], source: str) -> pd.DataFrame:
    """The targets as numbers."""
    numbers = {t: as_numbers(frame[t]) for t in targets}
    for name, (_, bad) in numbers.items():
        if bad.any():
            raise ManifestError(
                f"{source}: {name} is {frame[name][bad].iloc[0]!r}, which is no number; try --kind multiclass"
            )
    return frame.assign(**{name: values for name, (values, _) in numbers.items()})


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


def _sentences(frame: pd.DataFrame, task: Task, source: str, channels: Sequence[str]) -> Iterator[str]:
    """What is read as what, in a few lines."""
    patients = f"{frame['patient'].nunique()} patients" if "patient" in frame else "each taken for its own patient"
    yield f"{source}: {len(frame)} scans, {patients}"
    yield f"to predict: {', '.join(task.targets)} ({task.kind}: {_values(frame, task)}); other with --target and --kind"
    if "split" in frame:
        counts = ", ".join(f"{n} {split}" for split, n in frame["split"].value_counts(sort=False).items())
        yield f"split as the table says: {counts}; test rows are read once, at the end"
    else:
        yield "no column split: everything is measured out of fold"
    if channels:
        yield f"channels of one scan: {', '.join(channels)}"
    if task.covariates:
        yield (
            f"read beside the scans: {', '.join(task.covariates)}, so predictions need them too; others with "
            "--covariate, none with --covariate none"
        )
    known: set[Any] = {"path", "patient", "split", "source", "fold", *task.targets, *task.covariates, *channels}
    if others := [str(c) for c in frame.columns if c not in known]:
        yield f"not used: {', '.join(others)}; --covariate NAME takes one that a prediction may use"


def _values(frame: pd.DataFrame, task: Task) -> str:
    if not task.makes_calls:
        return ", ".join(f"{frame[t].min():.4g} to {frame[t].max():.4g}" for t in task.targets)
    if task.exclusive:
        counts = frame[task.targets[0]].value_counts().head(8)
        return ", ".join(f"{n} {name}" for name, n in counts.items())
    return ", ".join(f"{int((frame[t] == 1).sum())} of {int(frame[t].notna().sum())}" for t in task.targets)
