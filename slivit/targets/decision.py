"""From a probability to a call: the temperature and the thresholds that were fixed on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from slivit.statistics.reliability import apply_temperature
from slivit.targets.task import Task

if TYPE_CHECKING:
    import pandas as pd

RAW = "raw_"
"""What stands before the name of a column of probabilities as the model gave them, before a temperature."""

DEFAULT_RULE = "0.5"


class Threshold(BaseModel):
    """The threshold of one target, and what it did on the data it was chosen on.

    Args:
        value: a scan is called positive where its probability is this or higher.
        sensitivity: on the validation rows; None where not defined.
        specificity: on the validation rows; None where not defined.
        n: validation rows with a label.
        positives: how many of them are positive.
        why: why the rule gave no threshold, so that `value` is the default, or why a rate is missing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float = 0.5
    sensitivity: float | None = None
    specificity: float | None = None
    n: int = 0
    positives: int = 0
    why: str | None = None


class Decision(BaseModel):
    """How probabilities become calls. Saved in a checkpoint's `config.json` as "operating_point".

    Args:
        rule: as in a recipe's `testing.operating_point`.
        thresholds: by target, for binary and multilabel tasks; a multiclass task calls its most probable class.
        temperature: by which logits are divided before all else; None leaves probabilities as the model gives them.
        fitted_temperature: what `slivit.statistics.fit_temperature` gave, applied or not.
        chosen_on: the rows that all this was chosen on, in words; empty where nothing was chosen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str = DEFAULT_RULE
    thresholds: dict[str, Threshold] = Field(default_factory=dict)
    temperature: float | None = Field(default=None, gt=0)
    fitted_temperature: dict[str, Any] | None = None
    chosen_on: str = ""

    def threshold(self, target: str) -> float:
        """The threshold of a target; the default where none was chosen."""
        return self.thresholds.get(target, Threshold()).value

    def apply(self, table: pd.DataFrame, task: Task) -> pd.DataFrame:
        """Add the calls to a table of predictions, and scale its probabilities by the temperature.

        Args:
            table: with the task's prediction columns.
            task: a classification task.

        Returns:
            A new table. `call_<target>` is 0 or 1, or the name of the class, and empty where there is no prediction.
            Where there is a temperature, `prob_*` are scaled and `raw_prob_*` hold what the model gave.
        """
        table = self._scaled(table, task)
        calls = {f"call_{t}": call for t, call in task.calls(table[list(task.prediction_columns)], self).items()}
        table = table.drop(columns=list(calls), errors="ignore").assign(**calls)
        raw = [RAW + c for c in task.prediction_columns if RAW + c in table]
        return _beside(table, task.prediction_columns, [*raw, *calls])

    def _scaled(self, table: pd.DataFrame, task: Task) -> pd.DataFrame:
        columns = list(task.prediction_columns)
        p = raw_probabilities(table, task)
        table = table.drop(columns=[RAW + c for c in columns], errors="ignore")
        if self.temperature is None:
            return table.assign(**dict(zip(columns, p.T, strict=True)))
        scaled = apply_temperature(task.kind, p, self.temperature).reshape(p.shape)
        raw = {RAW + c: values for c, values in zip(columns, p.T, strict=True)}
        return table.assign(**dict(zip(columns, scaled.T, strict=True)), **raw)


def raw_probabilities(table: pd.DataFrame, task: Task) -> np.ndarray:
    """The probabilities as the model gave them, (n, outputs), whether the table was scaled by a temperature or not."""
    columns = [RAW + c if RAW + c in table else c for c in task.prediction_columns]
    return table[columns].to_numpy(float)


def _beside(table: pd.DataFrame, columns: Sequence[str], moved: Sequence[str]) -> pd.DataFrame:
    """The table with the columns `moved` right behind the last of `columns`."""
    rest = [c for c in table.columns if c not in moved]
    place = max(rest.index(c) for c in columns) + 1
    return table[[*rest[:place], *moved, *rest[place:]]]
