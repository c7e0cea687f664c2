"""Data sets with masks, each from its folders as they are published: BraTS 2021, BTCV, LA-SEG 2018, TDSC-ABUS 2023."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from slivit.data.importers.common import Source, files_below, finished, walk
from slivit.data.importers.registry import importer
from slivit.data.readers.address import of_parts
from slivit.targets.segmentation import Segmentation

SEQUENCES = ("t1", "t1ce", "t2", "flair")
"""The channels of BraTS, in the order of the columns."""

_BRATS = Source(
    "BraTS 2021",
    "https://www.synapse.org/Synapse:syn27046444",
    "a folder for each case, BraTS2021_00000, with BraTS2021_00000_t1.nii.gz, _t1ce, _t2, _flair and _seg",
)
_BTCV = Source(
    "BTCV (Beyond the Cranial Vault, abdomen)",
    "https://www.synapse.org/Synapse:syn3193805",
    "RawData/Training with img/img0001.nii.gz and label/label0001.nii.gz",
)
_LA = Source(
    "The 2018 Left Atrial Segmentation Challenge",
    "https://www.cardiacatlas.org/atriaseg2018-challenge/",
    '"Training Set" and "Testing Set" with a folder for each scan, which holds lgemri.nrrd and laendo.nrrd',
)
_ABUS = Source(
    "TDSC-ABUS 2023",
    "https://tdsc-abus2023.grand-challenge.org",
    "Train, Validation and Test with DATA/DATA_000.nrrd, MASK/MASK_000.nrrd and labels.csv",
)

ORGANS = (
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior_vena_cava",
    "portal_and_splenic_vein",
    "pancreas",
    "right_adrenal_gland",
    "left_adrenal_gland",
)
"""The labels 1 to 13 of BTCV."""


@importer("brats", "BraTS 2021: four sequences of brain tumours, with masks of their parts")
def brats(root: Path) -> pd.DataFrame:
    """List the cases that have a mask, with the four sequences in columns of their own.

    `path` names all four, so that none is taken alone by accident; a recipe names the columns in `data.channels`.
    There is no official split of the cases with masks.

    Source: Baid et al. 2021 (arXiv:2107.02314), section 2 (labels 1, 2 and 4; the regions ET, TC and WT).
    """
    _BRATS.folder(root)
    rows, without = [], 0
    for folder, _, held in walk(root):
        names = {match[2].lower(): folder / f for f in held if (match := re.fullmatch(_CASE, f, re.IGNORECASE))}
        missing = [name for name in SEQUENCES if name not in names]
        if not names or len(missing) == len(SEQUENCES):
            continue
        if missing:
            raise _BRATS.error(f"{folder}: has no {' and no '.join(missing)}")
        if "seg" not in names:
            without += 1
            continue
        files = {name: str(names[name]) for name in (*SEQUENCES, "seg")}
        mask = files.pop("seg")
        rows.append({"path": of_parts(list(files.values())), **files, "mask": mask, "patient": folder.name})
    labels = {"necrosis": 1, "edema": 2, "enhancing": 4}
    regions = {"TC": (1, 4), "WT": (1, 2, 4), "ET": (4,)}
    notes = [f"set data.channels = {list(SEQUENCES)} and model.in_chans = {len(SEQUENCES)}"]
    notes += [f"{without} cases without a mask were left out"] if without else []
    task = Segmentation(kind="segmentation", labels=labels, regions=regions)
    return finished(pd.DataFrame(rows), task, notes, _BRATS, root)


_CASE = r"(.+)[_-](t1|t1ce|t2|flair|seg)\.nii(?:\.gz)?"


@importer("btcv", "BTCV: abdominal CT with masks of 13 organs")
def btcv(root: Path) -> pd.DataFrame:
    """List the CT scans that have a mask: `img0001.nii.gz` with `label0001.nii.gz`, in whatever folders they lie.

    There is no official split of them.

    Source: Landman et al. 2015, Multi-Atlas Labeling Beyond the Cranial Vault, the challenge's page (labels 1 to 13).
    """
    _BTCV.folder(root)
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for file in files_below(root, (".nii.gz", ".nii")):
        if match := re.match(r"(img|label)(\d{4})\.nii", file.name):
            (images if match[1] == "img" else masks)[match[2]] = file
    task = Segmentation(kind="segmentation", labels={name: number for number, name in enumerate(ORGANS, 1)})
    return _paired(images, masks, task, _BTCV, root)


@importer("la_seg", "LA-SEG 2018: late gadolinium MR of the heart, with masks of the left atrium")
def la_seg(root: Path) -> pd.DataFrame:
    """List the scans that have a mask, the testing set as test; val is drawn from the training set (`val=0.2`: 20).

    Source: Xiong et al. 2021, Med Image Anal 67:101832, section 2 (100 scans for training, 54 for testing); the mask's
    value 255 as shipped.
    """
    rows = []
    for split, names in {"train": ("Training Set", "Training_Set"), "test": ("Testing Set", "Testing_Set")}.items():
        if split == "test" and not any((root / name).is_dir() for name in names):
            continue
        for folder, _, files in walk(_LA.folder(root, *names)):
            if {"lgemri.nrrd", "laendo.nrrd"} <= set(files):
                scan, mask = str(folder / "lgemri.nrrd"), str(folder / "laendo.nrrd")
                rows.append({"path": scan, "mask": mask, "patient": folder.name, "split": split})
    task = Segmentation(kind="segmentation", labels={"left_atrium": 255})
    return finished(pd.DataFrame(rows), task, (), _LA, root)


@importer("tdsc_abus", "TDSC-ABUS 2023: automated breast ultrasound, with masks of tumours")
def tdsc_abus(root: Path) -> pd.DataFrame:
    """List the scans that have a mask, in the official split; `label` says whether the tumour is malignant (M) or not.

    Source: Luo et al. 2025 (arXiv:2501.15588), section 3 (100 scans for training, 30 for validation, 70 for testing).
    """
    frames, notes = [], []
    _ABUS.folder(root)
    task = Segmentation(kind="segmentation", labels={"tumour": 1})
    for split, names in {"train": ("Train",), "val": ("Validation", "Val"), "test": ("Test",)}.items():
        if split != "train" and not any((root / name).is_dir() for name in names):
            continue
        folder = _ABUS.folder(root, *names)
        frame = _paired(_numbered(folder, "DATA"), _numbered(folder, "MASK"), task, _ABUS, folder)
        notes += [f"{split}: {note}" for note in frame.attrs["notes"]]
        known = _labels(folder)
        frame["label"] = frame["patient"].map(lambda number, known=known: known.get(int(number), ""))
        frames.append(frame.assign(split=split, patient=f"{split}-" + frame["patient"]))
    return finished(pd.concat(frames), task, notes, _ABUS, root)


def _numbered(folder: Path, kind: str) -> dict[str, Path]:
    """The files DATA_000.nrrd or MASK_000.nrrd below a folder, by their number."""
    pattern = re.compile(rf"{kind}_(\d+)\.nrrd", re.IGNORECASE)
    files = files_below(folder, (".nrrd",))
    return {match[1]: file for file in files if (match := pattern.fullmatch(file.name))}


def _labels(folder: Path) -> Mapping[int, str]:
    """What labels.csv says of each case; nothing where there is none."""
    files = [file for file in folder.rglob("labels.csv") if file.is_file()]
    if not files:
        return {}
    table = _ABUS.table(files[0], ["case_id", "label"])
    return {int(float(number)): label for number, label in zip(table["case_id"], table["label"], strict=True)}


def _paired(
    images: Mapping[str, Path], masks: Mapping[str, Path], task: Segmentation, source: Source, root: Path
) -> pd.DataFrame:
    """One row for each image with its mask; those without are counted."""
    rows = list(_rows(images, masks))
    left = len(images) - len(rows)
    notes = [f"{left} scans without a mask were left out"] if left else []
    return finished(pd.DataFrame(rows), task, notes, source, root)


def _rows(images: Mapping[str, Path], masks: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    for number in sorted(set(images) & set(masks)):
        yield {"path": str(images[number]), "mask": str(masks[number]), "patient": number}
