"""Medical Segmentation Decathlon: the ten tasks, with targets derived from their masks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slivit.data.importers.common import Source, finished
from slivit.data.importers.registry import importer
from slivit.errors import ManifestError, nearest, one_of
from slivit.targets.segmentation import Segmentation
from slivit.targets.task import Task

_SOURCE = Source(
    "The Medical Segmentation Decathlon",
    "http://medicaldecathlon.com",
    "a folder for each task (Task03_Liver) with dataset.json, imagesTr, labelsTr and imagesTs",
)


@importer("msd", "Medical Segmentation Decathlon: one task's volumes, masks, and the volume of a label in mL")
def msd(root: Path, *, label: str = "", presence: bool = False, masks: bool = False, frame: int = 0) -> pd.DataFrame:
    """List the labelled volumes of one task, with their masks and, for each label, its volume in mL (`ml_<label>`).

    The masks are read for the volumes. The unlabelled imagesTs are not listed. File names stand for patients.

    Args:
        root: the folder of one task.
        label: the label of the suggested task ("cancer"); by default the last one of dataset.json.
        presence: suggest whether the label is there (`has_<label>`, binary) instead of its volume (regression).
        masks: suggest to segment all labels instead; the masks are not read then, and all channels are kept.
        frame: for tasks with several channels (Task01, Task05): which one the reader should take; written in the
            column `frame`.

    Source: Antonelli et al. 2022, Nat Commun 13:4128; dataset.json as shipped (labels, training, modality).
    """
    spec = _spec(_SOURCE.file(root, "dataset.json"))
    names = {int(k): str(v) for k, v in spec["labels"].items() if int(k) > 0}
    chosen = label or list(names.values())[-1]
    if chosen not in names.values():
        raise ManifestError(f'{root}: the task has no label "{chosen}".{nearest(chosen, names.values())}')
    if not 0 <= frame < len(spec["modality"]):
        raise ManifestError(f"{root}: frame is {frame}; the task has the channels {one_of(spec['modality'].values())}")
    channels = len(spec["modality"])
    if masks:
        return _to_segment(root, spec, names)
    rows = [_row(root, item, names) for item in spec["training"]]
    table = pd.DataFrame(rows)
    notes = [f"the volumes have {channels} channels; the column `frame` names the one to read"] if channels > 1 else []
    if channels > 1:
        table["frame"] = frame
    for name in names.values():
        table[f"has_{name}"] = (table[f"ml_{name}"] > 0).astype("int64")
    task = Task(kind="regression", targets=(f"ml_{chosen}",), unit="mL")
    if presence:
        task = Task(kind="binary", targets=(f"has_{chosen}",))
    return finished(table, task, notes, _SOURCE, root)


def _spec(path: Path) -> dict[str, Any]:
    try:
        spec = json.loads(path.read_text("utf-8"))
    except ValueError as err:
        raise _SOURCE.error(f"{path}: is not JSON ({err})") from None
    missing = [key for key in ("labels", "training", "modality") if key not in spec]
    if missing:
        raise _SOURCE.error(f"{path}: lacks {one_of(missing)}")
    return spec


def _to_segment(root: Path, spec: dict[str, Any], names: dict[int, str]) -> pd.DataFrame:
    """The volumes and their masks, for the task of segmenting all labels."""
    labels = {re.sub(r"\W+", "_", name): value for value, name in names.items()}
    channels = len(spec["modality"])
    notes = [f'set preprocessing.reader.channel = "all" and model.in_chans = {channels}'] if channels > 1 else []
    rows = [_case(root, item) for item in spec["training"]]
    return finished(pd.DataFrame(rows), Segmentation(kind="segmentation", labels=labels), notes, _SOURCE, root)


def _case(root: Path, item: dict[str, str]) -> dict[str, str]:
    image, mask = (root / item[key].removeprefix("./") for key in ("image", "label"))
    return {"path": str(image), "patient": image.name.removesuffix(".gz").removesuffix(".nii"), "mask": str(mask)}


def _row(root: Path, item: dict[str, str], names: dict[int, str]) -> dict[str, Any]:
    case = _case(root, item)
    return {**case, **_volumes(Path(case["mask"]), names)}


def _volumes(mask: Path, names: dict[int, str]) -> dict[str, float]:
    """The volume of each label in mL."""
    import nibabel as nib

    if not mask.is_file():
        raise _SOURCE.error(f"{mask}: the mask is missing")
    try:
        image: Any = nib.load(mask)
        values = np.asarray(image.dataobj).astype(np.int64).ravel()
        voxel = float(np.prod(image.header.get_zooms()[:3])) / 1000
    except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as err:
        raise _SOURCE.error(f"{mask}: cannot be read ({err})") from None
    counts = np.bincount(values[values > 0], minlength=max(names) + 1)
    return {f"ml_{name}": round(float(counts[value]) * voxel, 4) for value, name in names.items()}
