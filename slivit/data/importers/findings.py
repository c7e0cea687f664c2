"""Five findings that sets of chest radiographs share, under the same names in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import pandas as pd

Findings = Literal["own", "chexpert5"]
CHEXPERT5: tuple[str, ...] = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")
"""The findings of CheXpert's competition.

Source: Irvin et al. 2019, AAAI (the five observations that are evaluated).
"""
SYNONYMS = {"effusion": "pleural_effusion", "pleural effusion": "pleural_effusion"}


def five_of(table: pd.DataFrame, names: Iterable[str]) -> tuple[pd.DataFrame, list[str]]:
    """The five findings of a table whose columns have a set's own names, with notes.

    Args:
        table: one column a finding.
        names: of these columns.

    Returns:
        The five columns in their order, and a note for each that the set does not have, whose labels are missing.
    """
    own = {SYNONYMS.get(name.lower(), name.lower()): name for name in names}
    columns = {five: table[own[five]] if five in own else float("nan") for five in CHEXPERT5}
    notes = [f"the set has no {five}: its labels are missing" for five in CHEXPERT5 if five not in own]
    return pd.DataFrame(columns, index=table.index), notes


def five_within(lists: pd.Series, words: Mapping[str, str] | None = None) -> tuple[pd.DataFrame, list[str]]:
    """The five findings of lists of labels: 1 where any label contains the finding's name.

    Args:
        lists: a list of labels a row, such as ["laminar atelectasis", "edema"].
        words: the text that is looked for, by finding; the finding's name with blanks where it is not given.

    Returns:
        The five columns of 0 and 1, and a note for each finding without a case.
    """
    sought = {five: five.replace("_", " ") for five in CHEXPERT5} | dict(words or {})
    columns = {
        five: lists.map(lambda labels, text=text: int(any(text in label.lower() for label in labels)))
        for five, text in sought.items()
    }
    table = pd.DataFrame(columns, index=lists.index).astype("int64")
    return table, [f"no image has {five}: its labels are 0" for five in CHEXPERT5 if not table[five].any()]
