"""A model beside what size and grey levels alone predict, on the same scans: the difference and its interval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.evaluate.recipe import Testing
from slivit.evaluate.tables import read_baseline
from slivit.folder import BASELINE as BASELINE_CSV
from slivit.targets.cases import cases_of
from slivit.targets.task import Task

if TYPE_CHECKING:
    import pandas as pd

MODEL, BASELINE = "model", "size and histogram"
NAMED = "baseline"
"""The column that says what a baseline reads."""


def against_baseline(
    table: pd.DataFrame, baseline: pd.DataFrame | None, task: Task, testing: Testing
) -> dict[str, Any] | None:
    """Compare predictions with those of a baseline.

    Args:
        table: predictions with answers; rows of "test" count, or those of "val" where there are none.
        baseline: `path`, `split` and predictions of the same scans, those of several one below the other by their
            column `baseline`; None where there are none.
        task: what is predicted.
        testing: level and draws of the interval.

    Returns:
        The split, the scans, the metric, both values and their difference, with the same of further baselines under
        "others"; None without scans that both predict.
    """
    if baseline is None:
        return None
    named = baseline if NAMED in baseline else baseline.assign(**{NAMED: BASELINE})
    by_name = {str(name): rows for name, rows in named.groupby(NAMED)}
    order = sorted(by_name, key=lambda name: not name.startswith("size"))  # what covariates alone predict comes last
    parts = [_against(table, by_name[name], name, task, testing) for name in order]
    compared = [part for part in parts if part]
    return {**compared[0], **({"others": compared[1:]} if compared[1:] else {})} if compared else None


def _against(
    table: pd.DataFrame, baseline: pd.DataFrame, name: str, task: Task, testing: Testing
) -> dict[str, Any] | None:
    import pandas as pd

    from slivit.statistics import compare_models

    task = task.only(testing.targets)
    split = "test" if (table["split"] == "test").any() else "val"
    outputs = list(task.prediction_columns)
    mine = table[table["split"] == split]
    both = mine.drop(columns=outputs).merge(baseline[baseline["split"] == split], on=["path", "split"])
    if len(both) < 2:
        return None
    options = testing.model_dump(include={"level", "draws", "by_patient", "stratified"})
    cases = {
        MODEL: cases_of(pd.DataFrame(mine[mine["path"].isin(both["path"])]), task, **options),
        name: cases_of(both, task, **options),
    }
    first, metric = cases[MODEL], task.measures.main[0]
    predictions = {who: c.p for who, c in cases.items()}
    test = compare_models(task.kind, first.y, predictions, metrics=[metric], plan=first.plan, names=first.names)[0]
    return {"split": split, "scans": len(both)} | test.to_dict()


def add_baseline(metrics: dict[str, Any], table: pd.DataFrame, task: Task, testing: Testing, run: Path) -> None:
    """Put the comparison with the baseline of a run into its metrics, where the run has one for these scans.

    Args:
        metrics: what `measure` returned; `baseline` is added.
        table: the predictions that were measured.
        task: what is predicted.
        testing: how.
        run: the folder of the run that trained the model.
    """
    file = run / BASELINE_CSV
    if file.is_file() and {"path", "split"} <= set(table):
        metrics["baseline"] = against_baseline(table, read_baseline(file, task.only(testing.targets)), task, testing)
