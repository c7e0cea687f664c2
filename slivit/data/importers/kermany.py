"""Kermany's 2D OCT images: four classes of the retina."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from slivit.data.importers.common import IMAGES, Source, files_below, finished
from slivit.data.importers.registry import importer
from slivit.targets.task import Task

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")
_NAME = re.compile(r"(CNV|DME|DRUSEN|NORMAL)-(\d+)-(\d+)", re.IGNORECASE)
_SOURCE = Source(
    "The Kermany OCT set",
    "https://doi.org/10.17632/rscbjbr9sj",
    "folders train and test with CNV, DME, DRUSEN and NORMAL, and images named CLASS-PATIENT-NUMBER.jpeg",
)


@importer("kermany", "Kermany 2D OCT: CNV, DME, DRUSEN, NORMAL; patient from the file name")
def kermany(root: Path, *, split: bool = True) -> pd.DataFrame:
    """List the images of the Kermany OCT set (Mendeley rscbjbr9sj, "OCT2017" or "CellData/OCT").

    The patient is the middle number of the file name. Releases differ in whether train and test share patients;
    `make_manifest` leaves shared ones out of train.

    Args:
        root: the folder that holds train and test, or one above it.
        split: whether to keep the split of the folders; without it, the manifest is split by patient when read.

    Source: Kermany et al. 2018, Cell 172:1122; file names as described on the Mendeley page. On the leak: Tampu et al.
        2022, Sci Data 9:580.
    """
    _SOURCE.folder(root)
    rows, odd = [], []
    for path in files_below(root, IMAGES):
        match = _NAME.match(path.name)
        if match is None:
            odd.append(path)
            continue
        folders = [part.strip().lower() for part in path.relative_to(root).parts[:-1]]
        of = next((s for s in ("train", "val", "test") if s in folders), "")
        rows.append((str(path), match[2], of, match[1].upper()))
    frame = pd.DataFrame(rows, columns=["path", "patient", "split", "label"])
    notes = [f'{len(odd)} images are not named CLASS-PATIENT-NUMBER, such as "{odd[0]}": left out'] if odd else []
    if not split or (frame["split"] == "").any():
        frame = frame.drop(columns="split")
    task = Task(kind="multiclass", targets=("label",), classes=CLASSES)
    return finished(frame, task, notes, _SOURCE, root)
