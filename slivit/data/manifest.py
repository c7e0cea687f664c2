"""The checked table of scans: where each lies, whose it is, which split it is in, and the known answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slivit.data import manifest_checks as checks
from slivit.data.inspection import Columns, Rules, inspected, target_problems
from slivit.data.readers.address import short_name
from slivit.data.table import as_shown, as_text, read_table
from slivit.errors import ManifestError, gather, one_of
from slivit.files import whole_file
from slivit.targets.task import Task, class_name

SPLITS = checks.SPLITS


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
        rules = Rules(
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
        title = facts(f"Manifest {self.source}", {"scans": len(self), "warnings": "; ".join(self.warnings)})
        head = self._frame.head(3).assign(path=[short_name(p) for p in self._frame["path"].head(3)])
        first = grid([str(column) for column in head], head.to_numpy().tolist())
        return title + grid(["split", "scans", "patients", *targets], counts) + first

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
        wrong, warnings = target_problems(frame, self.task, need)
        problems += [*checks.shared_patients(frame), *checks.empty_splits(frame, need), *wrong]
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
    """Read a CSV of scans and check it; everything that is wrong is reported in one error, by line of the file.

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
    rules = Rules(
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


def _checked(raw: pd.DataFrame, task: Task, source: str, base: Path, rules: Rules) -> Manifest:
    """Bring a table to canonical columns, check it, and make the manifest."""
    inspection = inspected(raw, task, base, rules)
    gather(inspection.problems, source, ManifestError)
    return Manifest(inspection.frame, task, source, inspection.warnings)
