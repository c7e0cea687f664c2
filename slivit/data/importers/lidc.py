"""LIDC-IDRI: lung CT with the nodules that up to four radiologists marked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Literal
from xml.etree import ElementTree

import pandas as pd
from pydantic import Field

from slivit.data.importers.common import Source, files_below, finished, series_folders, write_slices
from slivit.data.importers.registry import importer
from slivit.targets.task import Task

_SOURCE = Source(
    "LIDC-IDRI",
    "https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX",
    "folders LIDC-IDRI-0001/STUDY/SERIES with DICOM slices and the radiologists' XML (also as LIDC-XML-only)",
)
_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
_UNSURE = 3
Target = Literal["malignant", "malignancy", "nodules", "nodule"]
Summary = tuple[int | None, float | None, int]
"""Malignant, malignancy, nodules."""


@importer("lidc", "LIDC-IDRI lung CT: nodules and their malignancy by the radiologists' XML")
def lidc(
    root: Path,
    *,
    target: Target = "malignant",
    xml: str = "",
    readers: Annotated[int, Field(ge=1)] = 3,
    slices: str = "",
) -> pd.DataFrame:
    """List the CT series of LIDC-IDRI with what the radiologists marked, one row a scan.

    `nodules`: the most nodules (of 3 mm and more) that one reader rated. `nodule`: 1 where some slice shows a nodule
    of 3 mm and more to as many readers as `readers` says. `malignancy`: the median over the readers of their highest
    rating (1 to 5; empty without nodules). `malignant`: 1 where that is above 3, 0 where it is below or no reader rated
    a nodule; a scan at exactly 3 has none. These are readings, not biopsies.

    Args:
        root: the folder of the patients' folders, or one above it.
        target: the target of the suggested task; scans without it are left out.
        xml: the folder of the XML files, where they do not lie beside the slices.
        readers: how many of the four must have marked a slice.
        slices: where to write a table of such slices (path, uid) too, as `data.slice_labels.csv` takes it.

    Source: Armato et al. 2011, Med Phys 38:915; the XML as described on the collection's page at TCIA.
    """
    _SOURCE.folder(root)
    readings = dict(_readings(_SOURCE.folder(Path(xml).expanduser()) if xml else root, readers))
    if not readings:
        raise _SOURCE.error(f"{xml or root}: no XML with a CT reading was found")
    rows, marked, unread = [], [], 0
    for folder in series_folders(root, (".dcm",)):
        patient = _PATIENT.search(str(folder.relative_to(root.parent)))
        reading = readings.get(folder.name) or readings.get(str(folder))
        if patient is None or reading is None:
            unread += 1
            continue
        uids, summary = reading
        rows.append((str(folder), patient[0], int(bool(uids)), *summary))
        marked += [(str(folder), uid) for uid in uids]
    frame = pd.DataFrame(rows, columns=["path", "patient", "nodule", "malignant", "malignancy", "nodules"])
    notes = [f"{unread} series without a CT reading (such as chest radiographs): left out"] if unread else []
    known = frame[target].notna()
    if not known.all():
        notes.append(f"{(~known).sum()} scans without {target}: left out")
    if slices:
        write_slices(slices, pd.DataFrame(marked, columns=["path", "uid"]))
    kind: Literal["binary", "regression"] = "binary" if target in ("malignant", "nodule") else "regression"
    return finished(frame[known], Task(kind=kind, targets=(target,)), notes, _SOURCE, root)


def _readings(folder: Path, readers: int) -> Iterator[tuple[str, tuple[list[str], Summary]]]:
    """For each CT reading, under its series UID and under its folder: the marked slices, and what was rated."""
    for path in files_below(folder, (".xml",)):
        try:
            tree = ElementTree.parse(path).getroot()
        except ElementTree.ParseError as err:
            raise _SOURCE.error(f"{path}: this is not XML ({err})") from None
        uid = tree.find(".//{*}ResponseHeader/{*}SeriesInstanceUid")
        if uid is None or not uid.text:
            continue
        sessions = list(tree.iterfind("{*}readingSession"))
        counts = Counter(slice_uid for session in sessions for slice_uid in _slices(session))
        marked = sorted(slice_uid for slice_uid, n in counts.items() if n >= readers)
        reading = marked, _summary([_ratings(session) for session in sessions])
        yield uid.text.strip(), reading
        yield str(path.parent), reading


def _slices(session: ElementTree.Element) -> set[str]:
    """The SOP Instance UIDs of the slices in which one reader outlined a nodule of 3 mm and more.

    Smaller nodules are marked by a single point, and carry no characteristics.
    """
    uids = set()
    for nodule in session.iterfind("{*}unblindedReadNodule"):
        if nodule.find("{*}characteristics/{*}malignancy") is None:
            continue
        for outline in nodule.iterfind("{*}roi"):
            uid, inside = outline.find("{*}imageSOP_UID"), outline.find("{*}inclusion")
            if uid is not None and uid.text and (inside is None or (inside.text or "").strip().upper() != "FALSE"):
                uids.add(uid.text.strip())
    return uids


def _ratings(session: ElementTree.Element) -> list[int]:
    """The malignancy of each nodule that one reader rated; nodules below 3 mm carry none."""
    ratings = session.iterfind("{*}unblindedReadNodule/{*}characteristics/{*}malignancy")
    return [int(rating.text) for rating in ratings if rating.text and rating.text.strip().isdigit()]


def _summary(readers: list[list[int]]) -> Summary:
    highest = [max(ratings) for ratings in readers if ratings]
    if not highest:
        return 0, None, 0
    malignancy = float(median(highest))
    malignant = None if malignancy == _UNSURE else int(malignancy > _UNSURE)
    return malignant, malignancy, max(len(ratings) for ratings in readers)
