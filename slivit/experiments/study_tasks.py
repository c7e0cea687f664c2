"""A study of several tasks: one study for each, which share the runs that others start from, and a table over all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from slivit.data.table import read_shown, write_table
from slivit.experiments.recipe_study import StudyRecipe
from slivit.experiments.study_grid import FEATURES, STARTS, layered

TASKS = "tasks.csv"


def studies_of(recipe: StudyRecipe) -> dict[str, StudyRecipe]:
    """The study of each task, by its name, in a folder of that name; the study itself where it names no tasks."""
    if not recipe.tasks:
        return {"": recipe}
    out = Path(recipe.out)
    shared = {"features": {"folder": str(out / FEATURES)}} if recipe.stage == "probe" else {}
    return {
        name: recipe.model_copy(
            update={
                "out": str(out / name),
                "title": ": ".join(text for text in (recipe.title, task.title or name) if text),
                "set": layered(recipe.set, shared, task.set),
                "starts_in": recipe.starts_in or str(out / STARTS),
                "tasks": {},
            }
        )
        for name, task in recipe.tasks.items()
    }


def write_tasks(out: Path, tables: Mapping[str, Path]) -> Path:
    """Write the rows of every task's table under each other, the task first.

    Args:
        out: the folder of the whole study.
        tables: the `study.csv` of each task.
    """
    import pandas as pd

    parts = [read_shown(table, keep_default_na=False).assign(task=name) for name, table in tables.items()]
    whole = pd.concat(parts, ignore_index=True)
    write_table(out / TASKS, whole[["task", *(c for c in whole if c != "task")]])
    return out / TASKS


def under_headings(lines: Mapping[str, Iterator[str]]) -> Iterator[str]:
    """The lines of each task, behind its name where there are several."""
    for name, own in lines.items():
        for line in own:
            yield f"{name}: {line}" if name else line
