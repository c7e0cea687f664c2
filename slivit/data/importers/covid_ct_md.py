"""COVID-CT-MD: chest CT of COVID-19, community acquired pneumonia (CAP) and normal lungs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from slivit.data.importers.common import Source, finished, numbers, series_folders
from slivit.data.importers.registry import importer
from slivit.targets.task import Task

_SOURCE = Source(
    "COVID-CT-MD",
    "https://doi.org/10.6084/m9.figshare.12991592",
    'folders "COVID-19 subjects", "CAP subjects" and "Normal subjects" with a folder of DICOM slices a patient',
)
_CLASSES = ("COVID-19", "CAP", "Normal")


@importer("covid_ct_md", "COVID-CT-MD chest CT: COVID-19, CAP, Normal; infected slices where labelled")
def covid_ct_md(root: Path) -> pd.DataFrame:
    """List the CT scans of COVID-CT-MD with their class.

    Where Index.csv and Slice-level-labels.npy are there, `infected_slices` counts the slices that the radiologists
    marked (only a part of the patients has such labels). Both spellings of the folders, "... subjects" and
    "... Cases", are known.

    Source: Afshar et al. 2021, Sci Data 8:121; README of the authors' repository ShahinSHH/COVID-CT-MD.
    """
    rows = []
    for name in _CLASSES:
        folder = _SOURCE.folder(root, f"{name} subjects", f"{name} cases", name)
        rows += [(str(path), path.name, name) for path in series_folders(folder) if path != folder]
    frame = pd.DataFrame(rows, columns=["path", "patient", "label"])
    infected = _infected_slices(root)
    if infected is not None:
        frame["infected_slices"] = frame["patient"].map(infected)
    return finished(frame, Task(kind="multiclass", targets=("label",), classes=_CLASSES), (), _SOURCE, root)


def _infected_slices(root: Path) -> dict[str, int] | None:
    """How many slices of each labelled patient are marked; None where the labels are not there.

    The label index jumps over 43, so that the row of the array is the rank of a patient's index, not the index.
    """
    labels = sorted(root.glob("Slice-level-labels*.npy"))
    if not labels or not (root / "Index.csv").is_file():
        return None
    index = _SOURCE.table(root / "Index.csv", ["Label Index", "Folder/ID"])
    try:
        marked = np.load(labels[-1], allow_pickle=False)
    except (OSError, ValueError) as err:
        raise _SOURCE.error(f"{labels[-1]}: cannot be read ({err})") from None
    if len(marked) != len(index):
        raise _SOURCE.error(f"{labels[-1]}: has {len(marked)} rows, Index.csv has {len(index)}")
    rank = numbers(index["Label Index"]).rank().astype(int) - 1
    return {patient: int(marked[row].sum()) for patient, row in zip(index["Folder/ID"], rank, strict=True)}
