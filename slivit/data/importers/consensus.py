"""One label of several graders' calls: the majority, where they differ, and how well they agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from slivit.data.importers.common import finished
from slivit.data.importers.registry import importer
from slivit.data.table import MISSING, missing_columns, read_table
from slivit.errors import ManifestError, gather, one_of
from slivit.targets.task import Task

Ties = Literal["leave_out", "lowest", "highest", "first"]
KEPT = ("path", "patient", "split")


@importer("consensus", "The majority of several graders' columns or tables as one label, with kappa")
def consensus(
    root: Path, *, target: str = "label", readers: tuple[str, ...] = (), ties: Ties = "leave_out"
) -> pd.DataFrame:
    """List the scans of a table with the label that most of its graders gave.

    The column `discordant` is 1 where graders differ, and `graders` counts those who graded a scan. Notes tell how
    often they differ, how ties were settled, and Cohen's kappa of each two graders on the scans that both graded.

    Args:
        root: a CSV with `path` and a column a grader, or a folder with a CSV a grader, each with `path` and the
            target's column; the graders are then called as their files.
        target: the name of the label.
        readers: the graders' columns, or files without .csv; in a folder all of them where empty.
        ties: what becomes of a scan whose graders are divided: it is left out, or has the lowest or the highest of the
            labels that tie, or that of the first grader (as `readers` has them) who gave one of these.

    Source: Cohen, Educ Psychol Meas 20 (1960) 37; Light, Psychol Bull 76 (1971) 365 (the mean over pairs of graders).
    """
    if not root.exists():
        raise ManifestError(f"{root}: there is no such table or folder. A table has path and a column a grader")
    frame = _of_folder(root, target, readers) if root.is_dir() else _of_table(root, target, readers)
    names = [name for name in frame.columns if name.startswith("grade_")]
    rows = [[_grade(value) for value in row] for row in frame[names].to_numpy()]
    labels = [_majority(row, ties) for row in rows]
    grades = pd.DataFrame(rows, columns=names, index=frame.index)
    counts = grades.notna().sum(axis=1)
    made = frame.drop(columns=names)
    made[target] = pd.Series(labels, index=made.index, dtype=object)
    made["discordant"], made["graders"] = (grades.nunique(axis=1) > 1).astype(int), counts
    differ = int(made["discordant"].sum())
    notes = [f"graders differ on {differ} of {int((counts > 1).sum())} scans that several graded", *_kappas(grades)]
    kept = made[target].notna()
    if (~kept).any():
        divided = int((~kept & (counts > 0)).sum())
        notes.append(
            f"{divided} scans whose graders are divided and {int((counts == 0).sum())} that none graded: left out"
        )
    if ties != "leave_out":
        notes.append(
            f"ties have the {ties} label" if ties != "first" else f"ties have the label of {names[0][6:]}, or the next"
        )
    made = made[kept]
    return finished(made, _task(made, target), notes)


def _of_table(csv: Path, target: str, readers: Sequence[str]) -> pd.DataFrame:
    """The rows of one table, its graders' columns as grade_NAME."""
    table = read_table(csv)
    if len(readers) < 2:
        raise ManifestError(
            f"consensus: name two graders' columns at least, readers=A,B; {csv} has {one_of(map(str, table))}"
        )
    gather(missing_columns(table, ["path", *readers]), str(csv), ManifestError)
    if target in table and target not in readers:
        raise ManifestError(f'consensus: {csv} has a column "{target}" already; give target= another name')
    return _placed(table.rename(columns={name: f"grade_{name}" for name in readers}), csv.parent)


def _of_folder(folder: Path, target: str, readers: Sequence[str]) -> pd.DataFrame:
    """The scans of all graders' tables, joined by their paths."""
    names = list(readers) or sorted(file.stem for file in folder.glob("*.csv"))
    if len(names) < 2:
        raise ManifestError(
            f"{folder}: two CSVs at least, one a grader, make a consensus; there is {one_of(names) or 'none'}"
        )
    joined = pd.DataFrame()
    for name in names:
        table = read_table(folder / f"{name}.csv")
        gather(missing_columns(table, ["path", target]), f"{folder / name}.csv", ManifestError)
        if (twice := table["path"][table["path"].duplicated()]).any():
            raise ManifestError(f"{folder / name}.csv: {twice.iloc[0]} is graded twice")
        table = table.set_index("path").rename(columns={target: f"grade_{name}"})
        joined = joined.join(table[[f"grade_{name}"]], how="outer").combine_first(
            table[[c for c in KEPT if c in table]]
        )
    grades = [f"grade_{name}" for name in names]
    others = [column for column in KEPT if column in joined]
    return _placed(joined[[*others, *grades]].rename_axis("path").reset_index(), folder)


def _placed(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """A table with whole paths and patients, numbered anew."""
    table = table.reset_index(drop=True)
    table["path"] = [str(folder / Path(path).expanduser()) for path in table["path"]]
    return table if "patient" in table else table.assign(patient=table["path"])


def _grade(value: object) -> str | None:
    """A grade as text, numbers without zeros behind the point; None where there is none."""
    text = "" if value is None or value != value else str(value).strip()
    if text.lower() in MISSING:
        return None
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def _order(grade: str) -> tuple[int, float, str]:
    """Numbers by their size, before texts by the alphabet."""
    try:
        return 0, float(grade), ""
    except ValueError:
        return 1, 0.0, grade


def _majority(grades: Sequence[str | None], ties: Ties) -> str | None:
    """The most frequent grade; None where there is none, or where a tie is left out."""
    counts = Counter(grade for grade in grades if grade is not None)
    most = max(counts.values(), default=0)
    best = sorted((grade for grade, count in counts.items() if count == most), key=_order)
    if len(best) < 2:
        return best[0] if best else None
    given = next(grade for grade in grades if grade in best)
    return {"leave_out": None, "lowest": best[0], "highest": best[-1], "first": given}[ties]


def _kappas(grades: pd.DataFrame) -> list[str]:
    """Cohen's kappa of each two graders, and their mean, in words."""
    from sklearn.metrics import cohen_kappa_score

    kappas = {}
    for a, b in combinations(grades.columns, 2):
        both = grades[[a, b]].dropna()
        if both.empty or len(set(both.to_numpy().ravel())) < 2:
            continue  # not defined
        kappas[f"{a[6:]} and {b[6:]}"] = (cohen_kappa_score(both[a], both[b]), len(both))
    if not kappas:
        return ["kappa is not defined: no two graders graded the same scans, or all grades are the same"]
    pairs = "; ".join(f"{pair} {kappa:.3f} ({n} scans)" for pair, (kappa, n) in kappas.items())
    return [f"Cohen's kappa: {pairs}; mean {np.mean([kappa for kappa, _ in kappas.values()]):.3f}"]


def _task(made: pd.DataFrame, target: str) -> Task:
    classes = sorted(set(made[target]), key=_order)
    if set(classes) <= {"0", "1"}:
        return Task(kind="binary", targets=(target,))
    return Task(kind="multiclass", targets=(target,), classes=tuple(classes))
