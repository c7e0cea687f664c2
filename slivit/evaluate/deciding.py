"""Thresholds and temperatures, chosen on the validation rows of a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.errors import RecipeError
from slivit.evaluate.tables import read_predictions
from slivit.folder import PREDICTIONS
from slivit.targets.cases import in_order
from slivit.targets.decision import DEFAULT_RULE, Decision, Threshold, raw_probabilities
from slivit.targets.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from slivit.evaluate.recipe import Testing

log = logging.getLogger(__name__)


def decide(val: pd.DataFrame | None, task: Task, testing: Testing, source: str = "the validation rows") -> Decision:
    """Choose thresholds by the recipe's rule, and fit a temperature, on validation rows.

    Args:
        val: predictions of labelled validation rows; None where there are none.
        task: a classification task.
        testing: its `operating_point` and `temperature` say what to choose.
        source: where the rows come from, for the record.

    Raises:
        RecipeError: there is nothing to choose on, or nothing that the rule could choose.
    """
    rule = testing.operating_point or DEFAULT_RULE
    val = None if val is None else in_order(val)
    if val is None or val.empty:
        if testing.temperature or not _fixed(rule):
            what = "a temperature" if testing.temperature else f'the rule "{rule}"'
            raise RecipeError(f"{what} needs validation rows to be chosen on; {source}: there are none")
        return Decision(rule=rule, thresholds=_plain_thresholds(task, rule))
    fitted = _fit_temperature(val, task)
    if testing.temperature and fitted["value"] is None:
        raise RecipeError(f"no temperature fits {source}: {fitted['why']}")
    decision = Decision(temperature=fitted["value"] if testing.temperature else None, fitted_temperature=fitted)
    thresholds = _choose(decision.apply(val, task), task, rule, source)
    return decision.model_copy(update={"rule": rule, "thresholds": thresholds, "chosen_on": source})


def _fixed(rule: str) -> bool:
    from slivit.statistics import parse_rule

    return parse_rule(rule).name == "fixed"


def _plain_thresholds(task: Task, rule: str) -> dict[str, Threshold]:
    return {t: Threshold(value=float(rule)) for t in task.thresholded}


def _choose(val: pd.DataFrame, task: Task, rule: str, source: str) -> dict[str, Threshold]:
    from slivit.statistics import choose_threshold

    columns = [(t, val[f"target_{t}"].to_numpy(float), val[f"prob_{t}"].to_numpy(float)) for t in task.thresholded]
    points = {t: choose_threshold(y, p, rule) for t, y, p in columns}
    unmet = {t: point.why for t, point in points.items() if point.threshold is None}
    if unmet and len(unmet) == len(points):
        reasons = "; ".join(f"{t}: {why}" for t, why in unmet.items())
        raise RecipeError(f'the rule "{rule}" gives no threshold on {source}: {reasons}')
    for target, why in unmet.items():
        log.warning('%s: the rule "%s" gives no threshold (%s); %s is used', target, rule, why, DEFAULT_RULE)
    return {t: _threshold(point) for t, point in points.items()}


def _threshold(point: Any) -> Threshold:
    value = float(DEFAULT_RULE) if point.threshold is None else point.threshold
    kept = {name: getattr(point, name) for name in ("sensitivity", "specificity", "n", "positives", "why")}
    return Threshold(value=value, **kept)


def _fit_temperature(val: pd.DataFrame, task: Task) -> dict[str, Any]:
    from slivit.statistics import fit_temperature

    return fit_temperature(task.kind, task.arrays(val)[0], raw_probabilities(val, task)).to_dict()


def validation_rows(checkpoint: Path, task: Task) -> tuple[pd.DataFrame | None, str]:
    """The validation rows of the run that a checkpoint came out of, as its `predictions.csv` holds them.

    Args:
        checkpoint: the checkpoint folder.
        task: its task.

    Returns:
        The rows, None where there are none, and where they were looked for.
    """
    file = checkpoint.parent / PREDICTIONS
    if not file.is_file():
        return None, f"{checkpoint.parent.name}/{PREDICTIONS} (no such file)"
    table, _ = read_predictions(file, task)
    val = table[table["split"] == "val"]
    return (None if val.empty else val), f"the validation rows of {checkpoint.parent.name}/{PREDICTIONS}"
