"""RSNA-STR pulmonary embolism CT: labels of the study and of each slice."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

from slivit.data.importers.common import Source, finished, numbers, write_slices
from slivit.data.importers.registry import importer
from slivit.targets.task import Task

_SOURCE = Source(
    "RSNA-STR Pulmonary Embolism CT",
    "https://www.kaggle.com/c/rsna-str-pulmonary-embolism-detection",
    "train.csv and a folder train with STUDY/SERIES/SLICE.dcm",
)
_UIDS = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
_SLICE, _NEGATIVE, _UNSURE = "pe_present_on_image", "negative_exam_for_pe", "indeterminate"
_STUDY = [
    "qa_motion", "qa_contrast", "flow_artifact", "rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1", "leftsided_pe", "chronic_pe",
    "true_filling_defect_not_pe", "rightsided_pe", "acute_and_chronic_pe", "central_pe",
]  # fmt: skip


@importer("rsna_pe", "RSNA pulmonary embolism CT: one row a study (pe and its kinds), or one a slice")
def rsna_pe(root: Path, *, level: Literal["study", "slice"] = "study", slices: str = "") -> pd.DataFrame:
    """List the labelled CT of the RSNA pulmonary embolism challenge.

    Studies: the series folder, `pe` (1 unless `negative_exam_for_pe`; indeterminate studies are left out), the other
    labels of the study, `slices` and `n_pe_slices` (how many slices, and how many with an embolus). Slices: the DICOM
    file and `pe_present_on_image`. The set names no patients: each study counts as one.

    Args:
        root: the folder with train.csv and train.
        level: "study" or "slice".
        slices: where to write a table of the slices with an embolus (path, uid) too, as `data.slice_labels.csv` takes
            it.

    Source: Colak et al. 2021, Radiology: AI 3:e200254; columns as on the challenge's data page.
    """
    path = _SOURCE.file(root, "train.csv")
    table = _SOURCE.table(path, [*_UIDS, _SLICE, _NEGATIVE, _UNSURE], _STUDY)
    train = _SOURCE.folder(root, "train")
    series = str(train) + "/" + table[_UIDS[0]] + "/" + table[_UIDS[1]]
    table[_SLICE] = numbers(table[_SLICE])
    if level == "slice":
        frame = pd.DataFrame({"path": series + "/" + table[_UIDS[2]] + ".dcm", "patient": table[_UIDS[0]]})
        frame[_SLICE] = table[_SLICE].astype("int64")
        return finished(frame, Task(kind="binary", targets=(_SLICE,)), (), _SOURCE, root)
    labels = [c for c in _STUDY if c in table]
    table[[_NEGATIVE, _UNSURE, *labels]] = table[[_NEGATIVE, _UNSURE, *labels]].apply(numbers)
    studies = table.assign(path=series, patient=table[_UIDS[0]]).groupby(["path", "patient"], sort=False)
    firsts = studies[[_NEGATIVE, _UNSURE, *labels]].first().astype("int64").reset_index()
    counts = studies[_SLICE].agg(slices="size", n_pe_slices="sum").astype("int64").reset_index(drop=True)
    frame = pd.concat([firsts, counts], axis=1)
    frame.insert(2, "pe", 1 - frame[_NEGATIVE])
    unsure = frame[_UNSURE] == 1
    notes = [f"{unsure.sum()} indeterminate studies: left out"] if unsure.any() else []
    frame = frame[~unsure].drop(columns=[_NEGATIVE, _UNSURE])
    if slices:
        shown = table[(table[_SLICE] == 1) & series.isin(frame["path"])]
        write_slices(slices, pd.DataFrame({"path": series[shown.index], "uid": shown[_UIDS[2]]}))
    return finished(frame, Task(kind="binary", targets=("pe",)), notes, _SOURCE, root)
