"""LIDC-IDRI: lung CT with the nodules that up to four radiologists marked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Literal
from xml.etree import ElementTree

import pandas as pd

from slivit.data.importers.common import Source, files_below, finished, series_folders
from slivit.data.importers.registry import importer
from slivit.targets.task import Task

_SOURCE = Source(
    "LIDC-IDRI",
    "https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX",
    "folders LIDC-IDRI-0001/STUDY/SERIES with DICOM slices and the radiologists' XML (also as LIDC-XML-only)",
)
_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
_UNSURE = 3
Target = Literal["malignant", "malignancy", "nodules"]


@importer("lidc", "LIDC-IDRI lung CT: malignancy and number of nodules by the radiologists' XML")
def lidc(root: Path, *, target: Target = "malignant", xml: str = "") -> pd.DataFrame:
    """List the CT series of LIDC-IDRI with what the radiologists marked, one row a scan.

    `nodules`: the most nodules (of 3 mm and more) that one reader rated. `malignancy`: the median over the readers of
    their highest rating (1 to 5; empty without nodules). `malignant`: 1 where that is above 3, 0 where it is below or
    no reader rated a nodule; a scan at exactly 3 has none. These are readings, not biopsies.

    Args:
        root: the folder of the patients' folders, or one above it.
        target: the target of the suggested task; scans without it are left out.
        xml: the folder of the XML files, where they do not lie beside the slices.

    Source: Armato et al. 2011, Med Phys 38:915; the XML as described on the collection's page at TCIA.
    """
    _SOURCE.folder(root)
    readings = dict(_readings(_SOURCE.folder(Path(xml).expanduser()) if xml else root))
    if not readings:
        raise _SOURCE.error(f"{xml or root}: no XML with a CT reading was found")
    rows, unread = [], 0
    for folder in series_folders(root, (".dcm",)):
        patient = _PATIENT.search(str(folder.relative_to(root.parent)))
        found = readings.get(folder.name) or readings.get(str(folder))
        if patient is None or found is None:
            unread += 1
            continue
        rows.append((str(folder), patient[0], *found))
    frame = pd.DataFrame(rows, columns=["path", "patient", "malignant", "malignancy", "nodules"])
    notes = [f"{unread} series without a CT reading (such as chest radiographs): left out"] if unread else []
    known = frame[target].notna()
    if not known.all():
        notes.append(f"{(~known).sum()} scans without {target}: left out")
    kind: Literal["binary", "regression"] = "binary" if target == "malignant" else "regression"
    return finished(frame[known], Task(kind=kind, targets=(target,)), notes, _SOURCE, root)


def _readings(folder: Path) -> Iterator[tuple[str, tuple[int | None, float | None, int]]]:
    """For each CT reading, under its series UID and under its folder: malignant, malignancy, nodules."""
    for path in files_below(folder, (".xml",)):
        try:
            tree = ElementTree.parse(path).getroot()
        except ElementTree.ParseError as err:
            raise _SOURCE.error(f"{path}: this is not XML ({err})") from None
        uid = tree.find(".//{*}ResponseHeader/{*}SeriesInstanceUid")
        if uid is None or not uid.text:
            continue
        reading = _summary([_ratings(session) for session in tree.iterfind("{*}readingSession")])
        yield uid.text.strip(), reading
        yield str(path.parent), reading


def _ratings(session: ElementTree.Element) -> list[int]:
    """The malignancy of each nodule that one reader rated; nodules below 3 mm carry none."""
    found = session.iterfind("{*}unblindedReadNodule/{*}characteristics/{*}malignancy")
    return [int(rating.text) for rating in found if rating.text and rating.text.strip().isdigit()]


def _summary(readers: list[list[int]]) -> tuple[int | None, float | None, int]:
    highest = [max(ratings) for ratings in readers if ratings]
    if not highest:
        return 0, None, 0
    malignancy = float(median(highest))
    malignant = None if malignancy == _UNSURE else int(malignancy > _UNSURE)
    return malignant, malignancy, max(len(ratings) for ratings in readers)
