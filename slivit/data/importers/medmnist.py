"""MedMNIST 2D and 3D: one `.npz` a data set, with its official split."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from slivit.errors import ManifestError
from slivit.files import whole_file

_SPLITS = ("train", "val", "test")

CHEST_NAMES = (
    "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
    "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia",
)  # fmt: skip
"""The 14 labels of ChestMNIST in the order of their columns."""


def medmnist_manifest(
    npz: Path | str, out_csv: Path | str | None = None, *, names: tuple[str, ...] = ()
) -> pd.DataFrame:
    """List the items of a MedMNIST file with their official split.

    Args:
        npz: a MedMNIST file, with `train_images`, `train_labels` and the same of val and test.
        out_csv: where to write the table, whole or not at all; None for the data frame alone.
        names: target columns of a multilabel file; by default "label_0" and so on (ChestMNIST: its findings).

    Returns:
        The columns `path` (`FILE.npz#train/17`), `patient` ("train-17": the files do not name patients, so each item
        counts as one), `split`, and `label` (int64), or one column for each label of a multilabel file.

    Raises:
        ManifestError: no such file, or one that is not laid out so.

    Source: Yang et al. 2023, MedMNIST v2, Sci Data 10:41, "Data Records".
    """
    npz = Path(npz).expanduser().absolute()
    frame = pd.concat([_split_rows(npz, split, labels, names) for split, labels in _labels(npz).items()])
    frame = frame.reset_index(drop=True)
    if out_csv is not None:
        with whole_file(out_csv) as part:
            frame.to_csv(part, index=False)
    return frame


def _split_rows(npz: Path, split: str, labels: npt.NDArray[np.int64], names: tuple[str, ...]) -> pd.DataFrame:
    items = range(len(labels))
    columns = {
        "path": [f"{npz}#{split}/{i}" for i in items],
        "patient": [f"{split}-{i}" for i in items],
        "split": split,
    }
    targets = _target_names(npz, labels.shape[1], names)
    return pd.DataFrame({**columns, **dict(zip(targets, labels.T, strict=True))})


def _target_names(npz: Path, count: int, names: tuple[str, ...]) -> tuple[str, ...]:
    if names and len(names) != count:
        raise ManifestError(f"{npz}: {len(names)} names were given for {count} labels: {names}")
    if names or count == 1:
        return names or ("label",)
    if npz.stem.startswith("chestmnist") and count == len(CHEST_NAMES):
        return CHEST_NAMES
    return tuple(f"label_{i}" for i in range(count))


def _labels(npz: Path) -> dict[str, npt.NDArray[np.int64]]:
    """The labels of every split, (n, labels); images are counted by their headers alone, not read."""
    if not npz.is_file():
        raise ManifestError(f"{npz}: there is no such file; MedMNIST files are at https://medmnist.com")
    try:
        with np.load(npz, allow_pickle=False) as arrays:
            missing = [f"{s}_{what}" for s in _SPLITS for what in ("images", "labels") if f"{s}_{what}" not in arrays]
            if missing:
                raise ManifestError(f"{npz}: not a MedMNIST file, it lacks {', '.join(missing)}")
            labels = {s: np.asarray(arrays[f"{s}_labels"]).astype(np.int64) for s in _SPLITS}
        counts = {s: _image_shape(npz, f"{s}_images.npy")[0] for s in _SPLITS}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as err:
        raise ManifestError(f"{npz}: cannot be read as a MedMNIST file: {err}") from None
    for split, values in labels.items():
        if len(values) != counts[split]:
            raise ManifestError(f"{npz}: {split} has {counts[split]} images and {len(values)} labels")
    return {s: v.reshape(len(v), -1) for s, v in labels.items()}


def _image_shape(npz: Path, member: str) -> tuple[int, ...]:
    with zipfile.ZipFile(npz) as archive, archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return tuple(read(file)[0])
