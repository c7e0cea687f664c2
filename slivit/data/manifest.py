"""The checked table of scans: where each lies, whose it is, which split it is in, and the known answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict

from slivit.data import manifest_checks as checks
from slivit.data import manifest_paths as paths
from slivit.data.readers.address import short_name
from slivit.data.table import as_shown, as_text, missing_columns, read_table, with_numbers, without_missing
from slivit.errors import ManifestError, gather, one_of
from slivit.files import whole_file
from slivit.targets.segmentation import Segmentation
from slivit.targets.task import Task, class_name

SPLITS = checks.SPLITS
_CORE = ("path", "patient", "split")


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
class _Rules:
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
        return SPLITS if self.require_targets else ()


@dataclass(frozen=True, eq=False, repr=False)
class Manifest:
    """A table of scans that has passed every check; it does not change.

    Its frame has the columns `path` (absolute; with what the columns `series`, `frame`, `axis` and `channel` say of it
    behind a #; of several channels with all of their paths; see `slivit.data.readers.address`), `patient`, `split` (""
    where the table had none), the task's targets (int64 or float64, NaN for a missing label; class names for
    multiclass) and every other column of the table. The index `row` is the line of the file, or the index of the frame
    that it was made from. `read_manifest` and `Manifest.from_frame` make one.

    Example:
        >>> manifest = slivit.read_manifest("scans.csv", slivit.Task(kind="binary", targets=("bright",)))
        >>> len(manifest), manifest.splits
        (40, ('train', 'val', 'test'))
        >>> manifest.rows("test")[0]["bright"]
        0
    """

    _frame: pd.DataFrame
    task: Task
    source: str
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        task: Task,
        *,
        columns: Columns | None = None,
        root: Path | str | None = None,
        require_targets: bool = True,
        check_files: bool = True,
        patient_from_path: bool = False,
        need_splits: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        channels: Sequence[str] = (),
        source: str = "the table",
    ) -> Manifest:
        """Make a manifest from a data frame, with the checks and options of `read_manifest`.

        Relative paths start at `root`, or at the working directory. Messages name rows by the frame's index.
        """
        rules = _Rules(
            columns=columns or Columns(),
            root=root,
            require_targets=require_targets,
            check_files=check_files,
            patient_from_path=patient_from_path,
            need_splits=need_splits,
            where=where or {},
            channels=tuple(channels),
        )
        index = frame.index if frame.index.is_unique else pd.RangeIndex(len(frame))
        return _checked(frame.set_axis(index.rename("row")), task, source, Path(root or "."), rules)

    @property
    def frame(self) -> pd.DataFrame:
        """A copy of the table."""
        return self._frame.copy()

    @property
    def has_split(self) -> bool:
        """Whether the rows are assigned to splits."""
        return bool((self._frame["split"] != "").all())

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have rows, in the order train, val, test."""
        present = set(self._frame["split"])
        return tuple(s for s in SPLITS if s in present)

    def __len__(self) -> int:
        return len(self._frame)

    def __repr__(self) -> str:
        counts = ", ".join(f"{s} {n}" for s, n in self._frame["split"].value_counts(sort=False).items() if s)
        patients = self._frame["patient"].nunique()
        return f"Manifest({len(self)} scans of {patients} patients{', ' + counts if counts else ''}, {self.source})"

    def _repr_html_(self) -> str:
        """What Jupyter shows: scans, patients and targets by split, and the first rows."""
        from slivit.display import facts, grid

        targets = [t for t in self.task.targets if t in self._frame]
        parts = [(s or "no split", part) for s, part in self._frame.groupby("split", sort=False)]
        counts = [[s, len(p), p["patient"].nunique(), *(_in_words(p[t], self.task) for t in targets)] for s, p in parts]
        told = facts(f"Manifest {self.source}", {"scans": len(self), "warnings": "; ".join(self.warnings)})
        head = self._frame.head(3).assign(path=[short_name(p) for p in self._frame["path"].head(3)])
        first = grid([str(column) for column in head], head.to_numpy().tolist())
        return told + grid(["split", "scans", "patients", *targets], counts) + first

    def rows(self, split: str | None = None) -> list[Mapping[str, Any]]:
        """The rows of one split, or all, as mappings from column to plain Python value."""
        frame = self._frame if split is None else self.subset(split)._frame
        return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]

    def subset(self, split: str) -> Manifest:
        """The rows of one split.

        Raises:
            ManifestError: an unknown split, or one without rows.
        """
        if split not in self.splits:
            has = f"has {one_of(self.splits)}" if self.splits else "has no splits: make them with with_split()"
            raise ManifestError(f'{self.source}: no rows of split "{split}"; the manifest {has}')
        return self._with(self._frame[self._frame["split"] == split])

    def without(self, split: str) -> Manifest:
        """The rows of all other splits, so that nothing of this one can be seen by accident."""
        return self._with(self._frame[self._frame["split"] != split])

    def with_split(
        self,
        split: pd.Series | Mapping[Any, str] | None = None,
        *,
        fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
        seed: int = 0,
    ) -> Manifest:
        """The same scans in other splits.

        Args:
            split: "train", "val" or "test" for every row, by the index of `frame`; None makes a patient-disjoint,
                stratified one with `slivit.data.splits.split_patients`.
            fractions: of the rows in train, val and test, where `split` is None.
            seed: of that split.

        Raises:
            ManifestError: too few patients, or splits that share patients or would make training wrong.
        """
        from slivit.data.splits import split_patients

        if split is None:
            split = split_patients(self._frame, self.task, fractions=fractions, seed=seed)
            need: Sequence[str] = [s for s, f in zip(SPLITS, fractions, strict=True) if f > 0]
        else:
            need = ()
        names = pd.Series(split, dtype=object).reindex(self._frame.index)
        names, problems = checks.split_names(as_text(names))
        frame = self._frame.assign(split=names)
        found, warnings = _target_problems(frame, self.task, need)
        problems += [*checks.shared_patients(frame), *checks.empty_splits(frame, need), *found]
        gather(problems, self.source, ManifestError)
        return Manifest(frame, self.task, self.source, (*self.warnings, *warnings))

    def with_train_fraction(self, fraction: float, *, seed: int = 0) -> Manifest:
        """Keep a stratified fraction of the training patients, and all of val and test, for studies of label needs.

        The fractions of one seed are nested: what is in 0.1 is in 0.25 too.
        """
        from slivit.data.splits import nested_subsets

        train = self.subset("train")._frame
        kept = nested_subsets(train, self.task, fractions=(fraction,), seed=seed)[fraction]
        return self._with(self._frame[(self._frame["split"] != "train") | self._frame.index.isin(kept)])

    def with_task(self, task: Task) -> Manifest:
        """The same scans under a task completed by `task.fitted(...)`."""
        return Manifest(self._frame, task, self.source, self.warnings)

    def to_csv(self, path: Path | str) -> None:
        """Write the table with absolute paths, whole or not at all; `read_manifest` reads it back as it is."""
        empty = [] if self.has_split else ["split"]
        with whole_file(path) as part:
            as_shown(self._frame.drop(columns=empty)).to_csv(part, index=False)

    def _with(self, frame: pd.DataFrame) -> Manifest:
        return Manifest(frame, self.task, self.source, self.warnings)


def _in_words(column: pd.Series, task: Task) -> str:
    """The values of a target in a few words: counts of classes, or mean and standard deviation."""
    known = column.dropna()
    if task.dense:
        return f"{int((known != '').sum())} masks"
    if not task.makes_calls:
        return f"{known.mean():.3g} ± {known.std():.2g} {task.unit}".rstrip()
    counts = ", ".join(f"{class_name(name)}: {n}" for name, n in known.value_counts().sort_index().items())
    missing = len(column) - len(known)
    return counts + (f", missing: {missing}" if missing else "")


def read_manifest(
    csv: Path | str,
    task: Task,
    *,
    columns: Columns | None = None,
    root: Path | str | None = None,
    require_targets: bool = True,
    check_files: bool = True,
    patient_from_path: bool = False,
    need_splits: Sequence[str] | None = None,
    where: Mapping[str, Any] | None = None,
    channels: Sequence[str] = (),
) -> Manifest:
    """Read a CSV of scans and check it; everything that is wrong is told in one error, by line of the file.

    Args:
        csv: the table; comma, semicolon or tab, UTF-8.
        task: what is predicted, which names the target columns.
        columns: what the table calls its columns of paths, patients and splits. The split may be absent.
        root: where relative paths start; the folder of the CSV by default. A path may name an item in a file:
            `scans.npz#train/17`.
        require_targets: False for prediction: target columns may be absent or have empty cells.
        check_files: whether every scan must exist.
        patient_from_path: where the table has no patient column, take each scan for a patient of its own (and warn:
            two scans of one patient may then stand in different splits).
        need_splits: splits that must have rows where the table has a split column; train, val and test by default
            (none without `require_targets`). Pass () for an external test table.
        where: keep the rows whose columns have these values: {"modality": ["CT", "MR"]}; others are not looked at.
        channels: columns of paths, one for each channel of a scan, in place of `columns.path`; `path` becomes the
            address of them all (see `slivit.data.readers.address`).

    Raises:
        ManifestError: all that was found wrong.

    Example:
        >>> task = slivit.Task(kind="regression", targets=("size",), unit="px")
        >>> manifest = slivit.read_manifest("scans.csv", task)
        >>> manifest.with_task(task.fitted(manifest.rows("train"))).task.center
        (3.9583333333333335,)
    """
    rules = _Rules(
        columns=columns or Columns(),
        root=root,
        require_targets=require_targets,
        check_files=check_files,
        patient_from_path=patient_from_path,
        need_splits=need_splits,
        where=where or {},
        channels=tuple(channels),
    )
    path = Path(csv)
    return _checked(read_table(path), task, str(csv), Path(root) if root else path.parent, rules)


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
    rules = _Rules(
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
    return _inspect(raw, task, Path(root) if root else Path(csv).parent, rules)


def _checked(raw: pd.DataFrame, task: Task, source: str, base: Path, rules: _Rules) -> Manifest:
    """Bring a table to canonical columns, check it, and make the manifest."""
    found = _inspect(raw, task, base, rules)
    gather(found.problems, source, ManifestError)
    return Manifest(found.frame, task, source, found.warnings)


def _inspect(raw: pd.DataFrame, task: Task | None, base: Path, rules: _Rules) -> Inspection:
    targets_wanted = task.targets if task else ()
    raw, unknown = checks.kept_rows(raw, rules.where)
    problems = [*_column_problems(raw, targets_wanted, rules), *unknown]
    base = Path(base).expanduser().absolute()
    core, found, warnings = _core(raw, base, rules)
    taken = [*targets_wanted, *rules.columns.model_dump().values(), *rules.channels]
    core["path"], wrong = paths.addresses(core["path"], raw, taken)
    found += wrong
    targets, wrong = _targets(raw, task, base, rules)
    frame = pd.concat([core, targets, _others(raw, targets_wanted, rules)], axis=1)
    frame = frame.assign(**{name: paths.absolute(raw[name], base) for name in rules.channels if name in raw})
    problems += [*found, *wrong, *paths.scan_problems(core["path"], base, rules.check_files)]
    problems += [*checks.shared_patients(frame), *checks.empty_splits(frame, rules.need)]
    if task is not None and not problems:
        problems, told = _target_problems(frame, task, rules.need)
        warnings += told
    return Inspection(frame, tuple(problems), tuple(warnings))


def _column_problems(raw: pd.DataFrame, targets: Sequence[str], rules: _Rules) -> list[str]:
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


def _core(raw: pd.DataFrame, base: Path, rules: _Rules) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The columns path, patient and split, with their problems and warnings."""
    names, problems, warnings = rules.columns, [], []
    split = pd.Series("", index=raw.index, dtype=object)
    path, wrong = paths.scan_paths(raw, rules.channels or [names.path], base)
    problems += wrong
    patient = without_missing(as_text(raw[names.patient])) if names.patient in raw else path
    if names.patient in raw:
        problems += [*checks.empty_cells(patient.rename(names.patient)), *checks.rounded_patients(patient)]
        warnings += checks.similar_patients(patient)
    elif rules.patient_from_path:
        warnings.append("there is no patient column: each scan counts as a patient of its own")
    if names.split in raw:
        split = without_missing(as_text(raw[names.split]))
        if (split != "").any():
            split, found = checks.split_names(split)
            problems += found
    return pd.DataFrame({"path": path, "patient": patient, "split": split}, index=raw.index), problems, warnings


def _targets(raw: pd.DataFrame, task: Task | None, base: Path, rules: _Rules) -> tuple[pd.DataFrame, list[str]]:
    if task is None:
        return pd.DataFrame(index=raw.index), []
    if isinstance(task, Segmentation):
        column = raw.get(task.targets[0], pd.Series(dtype=object))
        masks, problems = paths.read_masks(column, base, task, required=rules.require_targets, look=rules.check_files)
        return pd.DataFrame({t: masks for t in task.targets if t in raw}, index=raw.index), problems
    found = {t: checks.read_targets(raw[t], task, rules.require_targets) for t in task.targets if t in raw}
    problems = [p for _, told in found.values() for p in told]
    return pd.DataFrame({t: column for t, (column, _) in found.items()}, index=raw.index), problems


def _others(raw: pd.DataFrame, targets: Sequence[str], rules: _Rules) -> pd.DataFrame:
    """The columns that are neither core nor targets; one whose name is taken gets "_original" behind it."""
    taken = {*rules.columns.model_dump().values(), *targets}
    others = {f"{c}_original" if c in _CORE else str(c): with_numbers(raw[c]) for c in raw.columns if c not in taken}
    return pd.DataFrame(others, index=raw.index)


def _target_problems(frame: pd.DataFrame, task: Task, need: Sequence[str]) -> tuple[list[str], list[str]]:
    if task.dense:
        return [], []
    problems, warnings = checks.target_spread(frame, task, need)
    return [*problems, *checks.unseen_classes(frame, task)], warnings
