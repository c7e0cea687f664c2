"""What is read from a table of scans, by which rules, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict

from slivit.data import manifest_checks as checks
from slivit.data import manifest_paths as paths
from slivit.data.table import as_text, missing_columns, read_table, with_numbers, without_missing
from slivit.errors import ManifestError, gather
from slivit.targets.segmentation import Segmentation
from slivit.targets.task import Task

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
        problems, told = target_problems(frame, task, rules.need)
        warnings += told
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


def _targets(raw: pd.DataFrame, task: Task | None, base: Path, rules: Rules) -> tuple[pd.DataFrame, list[str]]:
    if task is None:
        return pd.DataFrame(index=raw.index), []
    if isinstance(task, Segmentation):
        column = raw.get(task.targets[0], pd.Series(dtype=object))
        masks, problems = paths.read_masks(column, base, task, required=rules.require_targets, look=rules.check_files)
        return pd.DataFrame({t: masks for t in task.targets if t in raw}, index=raw.index), problems
    found = {t: checks.read_targets(raw[t], task, rules.require_targets) for t in task.targets if t in raw}
    problems = [p for _, told in found.values() for p in told]
    return pd.DataFrame({t: column for t, (column, _) in found.items()}, index=raw.index), problems


def _others(raw: pd.DataFrame, targets: Sequence[str], rules: Rules) -> pd.DataFrame:
    """The columns that are neither core nor targets; one whose name is taken gets "_original" behind it."""
    taken = {*rules.columns.model_dump().values(), *targets}
    others = {f"{c}_original" if c in _CORE else str(c): with_numbers(raw[c]) for c in raw.columns if c not in taken}
    return pd.DataFrame(others, index=raw.index)


def target_problems(frame: pd.DataFrame, task: Task, need: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is wrong with the targets of the splits that are needed, and what the user should know of them."""
    if task.dense:
        return [], []
    problems, warnings = checks.target_spread(frame, task, need)
    return [*problems, *checks.unseen_classes(frame, task)], warnings
