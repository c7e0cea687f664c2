"""What a kind of task says of itself on pages and cards (a kind overrides what it says otherwise), and of a cell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import pandas as pd

    from slivit.targets.decision import Decision


class Words:
    """The sentences of a task, as of a quantity without classes."""

    targets: tuple[str, ...]
    unit: str

    part: ClassVar[str] = "quantity"
    """What one of several outputs is called."""

    @property
    def named_targets(self) -> str:
        """All targets, with their unit."""
        return ", ".join(self.targets) + (f" ({self.unit})" if self.unit else "")

    @property
    def promise(self) -> str:
        """What is predicted, behind "Predicts"."""
        return self.named_targets

    @property
    def ranked(self) -> str:
        """What ROC AUC is about: the scans that are ranked, and above which."""
        return ""

    def averaging(self, metric: str) -> str:
        """The sentence that says over what a metric is a mean; empty where it is none."""
        return ""

    def composition(self, counts: Mapping[str, Any]) -> str:
        """The cases by class, as the end of a sentence, from the counts of `metrics.json`, or empty."""
        return ""

    def class_words(self, target: str) -> dict[str, str]:
        """The classes of a target, as in `counts`, each as a row of a table; empty for a quantity."""
        return {}

    def class_adjective(self, name: str) -> str:
        """A class, as in `counts`, before "scan"."""
        return f'"{name}"'

    def tallies(self, counts: Mapping[str, Any]) -> dict[str, str]:
        """The counts of a part of the data as cells of a table, by the heading of each."""
        return {}

    def said_calls(self, decision: Decision) -> str:
        """How probabilities become calls, in words."""
        return ""

    def said_answer(self, row: pd.Series, target: str) -> tuple[str, str]:
        """The truth and the call in a row of predictions, where calls are made."""
        raise NotImplementedError


@dataclass(frozen=True)
class Measures:
    """Names of metrics of `slivit.statistics`, each choice in the order in which it is shown.

    Args:
        main: shown while training and compared between models; the first one chooses heads and stands for an output.
        headlines: what a page puts first.
        logged: the line of a split in a log.
        by_group: drawn for subgroups.
        by_output: a table's columns where there are several outputs.
        gap: the metric whose largest difference between subgroups a page says.
    """

    main: tuple[str, ...]
    headlines: tuple[str, ...]
    logged: tuple[str, ...]
    by_group: tuple[str, ...]
    by_output: tuple[str, ...]
    gap: str


def is_missing(value: Any) -> bool:
    """Whether a manifest cell is empty."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def class_name(value: Any) -> str:
    """The name of a class as text, so that 3, 3.0 and "3" are one class."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
