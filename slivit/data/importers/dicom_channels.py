"""Series of one study side by side, as the channels of one scan: `t1=description~T1 t2=T2`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from slivit.data.importers.dicom_where import Condition, is_condition, meets, parse_conditions
from slivit.data.readers.address import of_parts, with_options
from slivit.errors import ManifestError, gather, one_of

Row = Mapping[str, Any]
_OF_A_SERIES = ("path", "series", "frame", "description")
_OF_A_STUDY = ("patient", "study", "study_date", "accession", "modality", "number", "kind", "slices", "spacing",
               "orientation", "size", "problem", "split")  # fmt: skip
_NEXT = re.compile(rf"\s+(?!(?:{'|'.join((*_OF_A_SERIES, *_OF_A_STUDY))})\s*=)(?=[A-Za-z_]\w*\s*=)")
"""Where a text of several channels begins with the next: at a NAME= that is no column of the archive."""


def parse_channels(given: Sequence[str]) -> dict[str, list[Condition]]:
    """Read which series are the channels, by name.

    Args:
        given: "NAME=PART" takes the series whose description holds PART, "NAME=CONDITIONS" those that meet conditions:
            "t1=description~T1 description!~CE".

    Raises:
        ManifestError: what is no channel, a name twice, or one channel alone.
    """
    rules: dict[str, list[Condition]] = {}
    for text in (part for several in given for part in _NEXT.split(several)):
        name, _, rule = (part.strip() for part in text.partition("="))
        if not name.isidentifier() or not rule or name in (*_OF_A_SERIES, *_OF_A_STUDY, *rules):
            raise ManifestError(
                f'channels: "{text}": write NAME=PART of the description, or NAME=CONDITIONS, such as t1=T1 or '
                '"t1=description~T1 description!~CE"; each NAME once, and none that is a column of the archive'
            )
        rules[name] = parse_conditions([rule if is_condition(rule) else f"description~{rule}"])
    if len(rules) == 1:
        raise ManifestError(f"channels: there is only {one_of(rules)}; one channel is no more than a series: use where")
    return rules


def side_by_side(table: pd.DataFrame, channels: Mapping[str, Sequence[Condition]], notes: list[str]) -> pd.DataFrame:
    """Return one row a study, with a column of paths for each channel, which `data.channels` names.

    Args:
        table: one row a series.
        channels: what each of them is.
        notes: studies that lack a channel are counted here.

    Raises:
        ManifestError: studies with several series for one channel, or none that has all.
    """
    by_channel = {name: _by_study(table[meets(table, conditions)]) for name, conditions in channels.items()}
    several = [_listed(name, rows) for name, held in by_channel.items() for rows in held.values() if len(rows) > 1]
    way_out = 'several series for one channel; say more: "t1=description~T1 description!~CE"'
    gather(several, way_out, ManifestError, limit=20)
    studies = _by_study(table)
    whole = [study for study in studies if all(study in held for held in by_channel.values())]
    lacking = {name: len(studies.keys() - held.keys()) for name, held in by_channel.items()}
    missing = ", ".join(f"{count} have no {name}" for name, count in lacking.items() if count)
    if not whole:
        raise ManifestError(f"none of {len(studies)} studies has all channels: {missing}")
    if len(whole) < len(studies):
        notes.append(f"{len(studies) - len(whole)} of {len(studies)} studies left out: {missing}")
    return pd.DataFrame([_joined({name: held[study][0] for name, held in by_channel.items()}) for study in whole])


def _by_study(table: pd.DataFrame) -> dict[tuple[str, str], list[Row]]:
    """The rows of each study; one UID of two patients, which is wrong, counts as two."""
    studies: dict[tuple[str, str], list[Row]] = {}
    for record in table.to_dict("records"):
        row = {str(name): value for name, value in record.items()}
        studies.setdefault((row["patient"], row["study"]), []).append(row)
    return studies


def _listed(name: str, rows: Sequence[Row]) -> str:
    series = one_of([f'{row["number"] or "?"} "{row["description"]}"' for row in rows])
    return f"patient {rows[0]['patient']}, study {rows[0]['study_date'] or rows[0]['study']}: {name} is {series}"


def _joined(channels: Mapping[str, Row]) -> Row:
    """A study with its channels; what else the table says, it says of the first."""
    paths = {
        name: with_options(row["path"], {option: row[option] for option in ("series", "frame") if option in row})
        for name, row in channels.items()
    }
    first = next(iter(channels.values()))
    rest = {name: value for name, value in first.items() if name not in _OF_A_SERIES}
    described = " | ".join(row["description"] for row in channels.values())
    return {"path": of_parts(list(paths.values())), **paths, **rest, "description": described}
