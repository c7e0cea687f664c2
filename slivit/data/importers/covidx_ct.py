"""COVIDx CT: single slices of chest CT, normal, pneumonia or COVID-19, with official lists."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from slivit.data.importers.common import Source, finished
from slivit.data.importers.registry import importer
from slivit.targets.task import Task

_SOURCE = Source(
    "COVIDx CT",
    "https://www.kaggle.com/datasets/hgunraj/covidxct",
    "train_COVIDx_CT-3A.txt, val_COVIDx_CT-3A.txt, test_COVIDx_CT-3A.txt and a folder 3A_images",
)
CLASSES = ("normal", "pneumonia", "covid19")
# CNCB's files name a patient, a scan and a slice: NCP_96_1328_0032.png; others a scan and a slice.
_CNCB = re.compile(r"((?:NCP|CP|Normal)_\d+)_\d+_\d+\.\w+")
_SCAN = re.compile(r"(.+?)[-_]?\d+\.\w+")


@importer("covidx_ct", "COVIDx CT: slices of chest CT, normal, pneumonia or COVID-19, official lists")
def covidx_ct(root: Path, *, images: str = "") -> pd.DataFrame:
    """List COVIDx CT with its classes and official split, one row a slice.

    Args:
        root: the folder with the three lists.
        images: the folder of the images; 3A_images (2A_images) in `root` where empty.

    Source: Gunraj et al. 2022, Front Med 8:729287; the lists hold the file, the class (0, 1, 2) and the body's box.
    """
    folder = _SOURCE.folder(Path(images).expanduser()) if images else _SOURCE.folder(root, "3A_images", "2A_images")
    parts = [_rows(_SOURCE.file(root, f"{split}_COVIDx_CT*.txt"), folder, split) for split in ("train", "val", "test")]
    frame = pd.concat(parts, ignore_index=True)
    boxes = "the columns x_min, y_min, x_max and y_max hold the body's box; images are not cropped to it"
    return finished(frame, Task(kind="multiclass", targets=("label",), classes=CLASSES), [boxes], _SOURCE, root)


def _rows(path: Path, folder: Path, split: str) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        name, *values = line.split()
        if len(values) != 5 or values[0] not in ("0", "1", "2"):
            raise _SOURCE.error(f"{path}, line {number}: expected a file, a class and four numbers, got {line!r}")
        rows.append((str(folder / name), _patient(name), split, CLASSES[int(values[0])], *map(int, values[1:])))
    return pd.DataFrame(rows, columns=["path", "patient", "split", "label", "x_min", "y_min", "x_max", "y_max"])


def _patient(name: str) -> str:
    match = _CNCB.fullmatch(name) or _SCAN.fullmatch(name)
    return match[1] if match else name
