"""What is checked in a manifest before training. Each check returns its problems, one sentence each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from slivit.data.table import as_classes, as_labels, as_numbers, as_text, capped, missing_columns, without_missing
from slivit.errors import ManifestError, nearest, one_of
from slivit.targets.task import Task, class_name

SPLITS = ("train", "val", "test")
_LEAST_PATIENTS, _MOST_SCANS, _MOSTLY_OWN = 10, 100, 0.9  # by which names of scans are thought to tell of patients
_ALIASES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}


def split_names(text: pd.Series) -> tuple[pd.Series, list[str]]:
    """Bring the names of splits ("Training", "valid", "dev") to train, val and test; say which are unknown."""
    names = text.str.lower().replace(_ALIASES)
    unknown = text[~names.isin(SPLITS)]
    problems = (
        f"row {row}: the split is {'empty' if not name else repr(name)}; allowed are {one_of(SPLITS)}."
        f"{nearest(name.lower(), [*SPLITS, *_ALIASES])}"
        for row, name in unknown.items()
    )
    return names, capped(problems, len(unknown), "rows with an unknown split")


def empty_cells(text: pd.Series) -> list[str]:
    """Rows whose cell in this column is empty."""
    empty = text.index[text == ""]
    return capped([f"row {row}: {text.name} is empty" for row in empty[:10]], len(empty), f"rows without {text.name}")


def kept_rows(raw: pd.DataFrame, where: Mapping[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """The rows whose columns have one of the values wanted, and what is wrong with the wish.

    Args:
        raw: the table.
        where: a value, or several, for each of the columns that count.
    """
    problems = missing_columns(raw, where)
    for name in (n for n in where if n in raw):
        values = where[name] if isinstance(where[name], (list, tuple)) else [where[name]]
        wanted = {class_name(value) for value in values}
        text = as_classes(as_text(raw[name]))
        raw = raw[text.isin(wanted)]
        if raw.empty and not problems:
            problems.append(f"no row has {name} {one_of(sorted(wanted))}; it is {_some(text, 6)}")
    return raw, problems


# -- targets ----------------------------------------------------------------------------------------------------------


def read_targets(column: pd.Series, task: Task, required: bool) -> tuple[pd.Series, list[str]]:
    """Bring a target column to its kind: int64 or float64 numbers (NaN where empty), or class names ("" where empty).

    Args:
        column: the cells, of any type.
        task: what is predicted.
        required: whether an empty cell is a problem (multilabel tasks always allow one).

    Returns:
        The column, and its problems.
    """
    text = as_text(column)
    if task.exclusive:
        names = as_classes(without_missing(text, task.classes))
        return names, _class_problems(names, task, required)
    numbers, bad = as_numbers(as_labels(text) if task.allowed else text)
    problems = _kind_problems(text, numbers, bad, task) or _number_problems(text, numbers, bad, task, required)
    whole = task.two_classes and not numbers.isna().any() and not problems
    return (numbers.astype("int64") if whole else numbers), problems


def _kind_problems(text: pd.Series, numbers: pd.Series, bad: pd.Series, task: Task) -> list[str]:
    """Whether the column as a whole is of another kind than the task: one sentence instead of one a row."""
    filled = numbers.notna() | bad
    if not task.allowed:
        if filled.any() and bad[filled].mean() > 0.5:
            return [f'column "{text.name}" holds text ({_some(text[bad])}); a regression task needs numbers']
        return []
    wrong = bad | (numbers.notna() & ~numbers.isin(task.allowed))
    values = text[filled].unique()
    if wrong.sum() > 2 and wrong[filled].mean() > 0.2:
        other = "regression" if not bad.any() and len(values) > 20 else "multiclass"
        return [
            f'column "{text.name}" holds {len(values)} different values ({_some(text[filled])}); a {task.kind} target '
            f'is 0 or 1. Write it so, or set task.kind = "{other}"'
        ]
    return []


def _number_problems(text: pd.Series, numbers: pd.Series, bad: pd.Series, task: Task, required: bool) -> list[str]:
    wrong = bad | numbers.isin((float("inf"), float("-inf")))
    if required and not task.blanks:
        wrong |= numbers.isna()
    if task.allowed:
        wrong |= numbers.notna() & ~numbers.isin(task.allowed)
    cells = text.where(bad | numbers.notna(), "")[wrong]
    return capped(_messages(task, cells), len(cells), f"wrong values of {text.name}")


def _messages(task: Task, cells: pd.Series) -> Iterator[str]:
    """The task's own words about each wrong cell."""
    fine: dict[str, object] = dict.fromkeys(task.targets, 0.0)
    for row, cell in cells.items():
        try:
            task.encode(fine | {str(cells.name): cell})
            yield f"row {row}: {cells.name} is {cell!r}, which is not allowed"
        except ManifestError as err:
            yield f"row {row}: {err}"


def _class_problems(names: pd.Series, task: Task, required: bool) -> list[str]:
    filled = names[names != ""]
    if task.classes:
        wrong = filled[~filled.isin(task.classes)]
        messages = (f"{t}.{nearest(str(c), task.classes)}" for t, c in zip(_messages(task, wrong), wrong, strict=False))
        problems = capped(messages, len(wrong), "unknown classes")
    elif len(filled) >= 10 and filled.nunique() > len(filled) / 2:
        problems = [
            f'column "{names.name}" holds {filled.nunique()} different values in {len(filled)} rows ({_some(filled)}); '
            'classes repeat. For numbers set task.kind = "regression"'
        ]
    else:
        problems = []
    return problems + _spellings(filled) + (empty_cells(names) if required else [])


def _spellings(names: pd.Series) -> list[str]:
    """Class names that differ in letter case or spaces alone: one class that would be trained as several."""
    counts = names.value_counts()
    alike: dict[str, list[str]] = {}
    for name in counts.index:
        alike.setdefault(re.sub(r"\s+", "", str(name).casefold()), []).append(f'"{name}" ({counts[name]} rows)')
    return [
        f'column "{names.name}" holds {" and ".join(same)}, which differ in letter case or spaces alone; write one name'
        for same in alike.values()
        if len(same) > 1
    ]


def _some(text: pd.Series, limit: int = 4) -> str:
    values = list(text.unique())
    return ", ".join(f'"{v}"' for v in values[:limit]) + (", ..." if len(values) > limit else "")


# -- splits -----------------------------------------------------------------------------------------------------------


def shared_patients(frame: pd.DataFrame) -> list[str]:
    """Patients with scans in more than one split."""
    known = frame[frame["split"].isin(SPLITS) & (frame["patient"] != "")]
    firsts = known.reset_index(names="row").groupby(["patient", "split"], sort=False)["row"].first().reset_index()
    firsts = firsts[firsts.duplicated("patient", keep=False)]
    problems = []
    for patient, rows in firsts.groupby("patient", sort=False):
        rows = rows.sort_values("row", kind="stable")
        places = " and ".join(f"in {s} (row {r})" for s, r in zip(rows["split"][:-1], rows["row"][:-1], strict=True))
        last = rows.iloc[-1]
        problems.append(
            f'row {last["row"]}: patient "{patient}" is {places} and in {last["split"]}; splits must not share patients'
        )
    return capped(problems, len(problems), "patients in two splits")


def similar_patients(patient: pd.Series) -> list[str]:
    """Patients whose names differ in letter case, spaces, leading zeros or a ".0" alone, as spreadsheets change them.

    They may be one patient each, who could then stand in two splits.
    """
    names = pd.Series(patient.unique())
    alike = names.groupby(names.map(_plain_name), sort=False).agg(list)
    groups = ["patients " + " and ".join(f'"{n}"' for n in same) for same in alike if len(same) > 1 and same[0]]
    if not groups:
        return []
    more = f", and {len(groups) - 3} more such" if len(groups) > 3 else ""
    return [f"{'; '.join(groups[:3])}{more}: taken for different patients; if they are not, give them one name"]


def rounded_patients(patient: pd.Series) -> list[str]:
    """Patients that a spreadsheet has written as rounded numbers (1.23E+12), under which several may hide."""
    rounded = patient[patient.str.fullmatch(r"\d([.,]\d+)?[eE]\+?\d+")]
    messages = (
        f"row {row}: patient is {cell!r}, a number that a spreadsheet has rounded; export the column as text"
        for row, cell in rounded.items()
    )
    return capped(messages, len(rounded), "rounded patients")


def _plain_name(name: str) -> str:
    name = re.sub(r"^(\d+)\.0+$", r"\1", name.casefold())
    return re.sub(r"\s+|(?<!\d)0+(?=\d)", "", name)


def patients_in_names(path: pd.Series, classes: int = 0) -> pd.Series | None:
    """The patients that the names of scans tell of, where a table has none: P07 of P07_1.png, or the folder of a scan.

    Args:
        path: of every scan.
        classes: of the scans, of which each may have a folder.

    Returns:
        A patient for every scan, where there are ten at least (and twice as many as classes), a tenth of the scans is
        not the first of its patient, and none stands for a hundred scans; None where names tell nothing.
    """
    if len(path) < _LEAST_PATIENTS:
        return None
    whole = path.str.replace("\\", "/").str.rstrip("/")
    folder, name = whole.str.rpartition("/")[0], whole.str.rpartition("/")[2].str.partition(".")[0]
    upto = [name.str.extract(rf"^((?:[^0-9]*[0-9]+[^\W_]*[\W_]+){{{n}}})")[0].str.rstrip("-_ ") for n in (1, 2)]
    for patient in (folder, *(part.fillna(name) for part in upto)):
        count = patient.nunique()
        if max(_LEAST_PATIENTS, 2 * classes, len(path) / _MOST_SCANS) <= count <= _MOSTLY_OWN * len(path):
            return patient
    return None


def empty_splits(frame: pd.DataFrame, need: Sequence[str]) -> list[str]:
    """Splits that are needed and have no row, where the table has splits at all."""
    present = set(frame["split"])
    absent = [s for s in need if s not in present]
    if not absent or present == {""}:
        return []
    there = one_of(sorted(present & set(SPLITS), key=SPLITS.index)) or "none"
    ways = {"val": "; data.val_from_train=0.15 moves that share of the training patients there"}
    return [
        f'split "{s}" has no row (there are {there}); add its rows, or leave the column out'
        + (ways.get(s, "") if "train" in present else "")
        for s in absent
    ]


def constant_targets(frame: pd.DataFrame, task: Task, need: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits whose targets do not vary: problems where training is wrong, warnings where a metric is undefined."""
    problems, warnings = [], []
    for target in (t for t in task.targets if t in frame):
        filled = frame[frame[target].notna() & (frame[target] != "")]
        for split in filled["split"].unique():
            values = filled.loc[filled["split"] == split, target]
            if values.nunique() == 1 and (task.makes_calls or len(values) > 1 or split == "train"):
                fact = f"{target} is {values.iloc[0]} in all {len(values)} rows{f' of {split}' if split else ''}"
                trains = split == "train" or (split == "" and "train" in need)
                if trains and not task.blanks:
                    problems.append(f"{fact}; there is nothing to learn")
                else:
                    warnings.append(f"{fact}; some metrics are undefined there")
    return problems, warnings


def unseen_classes(frame: pd.DataFrame, task: Task) -> list[str]:
    """Classes of a multiclass task that have rows in val or test and none in train."""
    if not task.exclusive or task.targets[0] not in frame or not (frame["split"] == "train").any():
        return []
    names = frame[frame[task.targets[0]] != ""]
    seen = {*names.loc[names["split"] == "train", task.targets[0]], *task.classes}
    unseen = names[~names[task.targets[0]].isin(seen)]
    counts = Counter(zip(unseen[task.targets[0]], unseen["split"], strict=True))
    return [f'class "{name}" has {n} rows in {split} and none in train' for (name, split), n in counts.items()]


def split_place(split: str) -> tuple[int, str]:
    """By what splits are sorted: train, val and test in this order, others behind them by name."""
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS)), str(split)
