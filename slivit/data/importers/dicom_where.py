"""Conditions on the columns of a table, as a user writes them: `modality=MR description~T1 slices>=20`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from slivit.errors import ManifestError, nearest, one_of

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*([A-Za-z_]\w*)\s*(>=|<=|!=|!~|=|~|>|<)")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


@dataclass(frozen=True)
class Condition:
    """One condition: a column, an operator (`= != ~ !~ < <= > >=`) and what it is compared with.

    `=` and `~` (contains) compare text without regard to case; `=` takes several values: `modality=CT|MR`. The others
    compare numbers, in a column of several numbers ("3 x 0.7 x 0.7") the first.
    """

    column: str
    operator: str
    value: str

    def holds(self, cells: pd.Series) -> pd.Series:
        """Return for each cell whether the condition holds."""
        if self.operator in _OPERATORS:
            return pd.Series([self._compares(str(cell)) for cell in cells], index=cells.index, dtype=bool)
        folded, wanted = cells.astype(str).str.casefold(), [v.strip().casefold() for v in self.value.split("|")]
        if self.operator.endswith("="):
            matches = folded.isin(wanted)
        else:
            matches = pd.Series([any(v in cell for v in wanted) for cell in folded], index=cells.index, dtype=bool)
        return ~matches if self.operator.startswith("!") else matches

    def _compares(self, cell: str) -> bool:
        number = _NUMBER.match(cell)
        return number is not None and _OPERATORS[self.operator](float(number[0]), float(self.value))


def is_condition(text: str) -> bool:
    """Whether a text begins as a condition does."""
    return _CONDITION.match(text) is not None


def parse_conditions(text: Sequence[str]) -> list[Condition]:
    """Read conditions; each text holds one or several, divided by blanks or commas.

    Raises:
        ManifestError: a text that is no condition.
    """
    conditions = []
    for part in text:
        starts = [m.start() for m in re.finditer(r"(?:^|[\s,])" + _CONDITION.pattern, part)]
        if not starts or part[: starts[0]].strip(" ,"):
            raise ManifestError(
                f'"{part}" is no condition; write COLUMN, one of = != ~ < <= > >=, and a value: modality=MR slices>=20'
            )
        conditions += [_condition(part[a:b].strip(" ,")) for a, b in zip(starts, [*starts[1:], None], strict=True)]
    return conditions


def _condition(text: str) -> Condition:
    match = _CONDITION.match(text)
    if match is None:
        raise ManifestError(f'"{text}" is no condition; write COLUMN=VALUE, COLUMN~PART or COLUMN>=NUMBER')
    condition = Condition(match[1], match[2], text[match.end() :].strip(" \"'"))
    if condition.operator in _OPERATORS and not _NUMBER.fullmatch(condition.value):
        raise ManifestError(f'"{text}": {condition.operator} needs a number; got "{condition.value}"')
    return condition


def meets(frame: pd.DataFrame, conditions: Sequence[Condition]) -> pd.Series:
    """Return which rows meet all conditions.

    Raises:
        ManifestError: a condition on a column that is not there.
    """
    kept = pd.Series(True, index=frame.index)
    for condition in conditions:
        if condition.column not in frame:
            columns = [str(c) for c in frame.columns]
            raise ManifestError(
                f'where: there is no column "{condition.column}".{nearest(condition.column, columns)} There are '
                f"{one_of(columns)}."
            )
        kept &= condition.holds(frame[condition.column])
    return kept
