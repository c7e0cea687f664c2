"""Series of one study side by side, as the channels of one scan: `t1=description~T1 t2=T2`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from slivit.data.importers.dicom_where import Condition, is_condition, meets, parse_conditions
from slivit.data.readers.address import of_parts, with_options
from slivit.errors import ManifestError, gather, one_of

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
    found: dict[str, list[Condition]] = {}
    for text in (part for several in given for part in _NEXT.split(several)):
        name, _, rule = (part.strip() for part in text.partition("="))
        if not name.isidentifier() or not rule or name in (*_OF_A_SERIES, *_OF_A_STUDY, *found):
            raise ManifestError(
                f'channels: "{text}": write NAME=PART of the description, or NAME=CONDITIONS, such as t1=T1 or '
                '"t1=description~T1 description!~CE"; each NAME once, and none that is a column of the archive'
            )
        found[name] = parse_conditions([rule if is_condition(rule) else f"description~{rule}"])
    if len(found) == 1:
        raise ManifestError(f"channels: there is only {one_of(found)}; one channel is no more than a series: use where")
    return found


def side_by_side(table: pd.DataFrame, channels: Mapping[str, Sequence[Condition]], notes: list[str]) -> pd.DataFrame:
    """Return one row a study, with a column of paths for each channel, which `data.channels` names.

    Args:
        table: one row a series.
        channels: what each of them is.
        notes: studies that lack a channel are counted here.

    Raises:
        ManifestError: studies with several series for one channel, or none that has all.
    """
    table = table.set_index(pd.Index(zip(table["patient"], table["study"], strict=True), tupleize_cols=False))
    chosen = {name: table[meets(table, conditions)] for name, conditions in channels.items()}
    several = [
        f"patient {study[0]}, study {rows['study_date'].iloc[0] or study[1]}: {name} is "
        + one_of([f'{n or "?"} "{d}"' for n, d in zip(rows["number"], rows["description"], strict=True)])
        for name, found in chosen.items()
        for study, rows in found.groupby(level=0, sort=False)
        if len(rows) > 1
    ]
    way_out = 'several series for one channel; say more: "t1=description~T1 description!~CE"'
    gather(several, way_out, ManifestError, limit=20)
    studies = list(dict.fromkeys(table.index))
    whole = [s for s in studies if all(s in found.index for found in chosen.values())]
    lacking = {name: sum(s not in found.index for s in studies) for name, found in chosen.items()}
    told = ", ".join(f"{count} have no {name}" for name, count in lacking.items() if count)
    if not whole:
        raise ManifestError(f"none of {len(studies)} studies has all channels: {told}")
    if len(whole) < len(studies):
        notes.append(f"{len(studies) - len(whole)} of {len(studies)} studies left out: {told}")
    return _joined({name: found[found.index.isin(whole)].sort_index() for name, found in chosen.items()})


def _joined(channels: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The studies with their channels, each a table of the same studies; the rest is said of the first channel."""
    paths = {name: [_address(row) for _, row in rows.iterrows()] for name, rows in channels.items()}
    described = zip(*(rows["description"] for rows in channels.values()), strict=True)
    first = next(iter(channels.values())).reset_index(drop=True)
    joined = {"path": [of_parts(parts) for parts in zip(*paths.values(), strict=True)], **paths}
    joined["description"] = [" | ".join(parts) for parts in described]
    return pd.DataFrame(joined).join(first.drop(columns=[name for name in _OF_A_SERIES if name in first]))


def _address(row: pd.Series) -> str:
    return with_options(row["path"], {name: row[name] for name in ("series", "frame") if name in row})
