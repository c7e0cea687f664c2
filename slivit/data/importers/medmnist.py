"""MedMNIST 2D and 3D: one `.npz` a data set, with its official split."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from slivit.data.importers.common import Source, finished
from slivit.data.importers.medmnist_scans import scan_disjoint
from slivit.data.importers.registry import importer
from slivit.data.table import as_shown
from slivit.errors import ManifestError, one_of
from slivit.files import whole_file
from slivit.targets.task import Task

_SPLITS = ("train", "val", "test")

CHEST_NAMES = (
    "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
    "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia",
)  # fmt: skip
"""The 14 labels of ChestMNIST in the order of their columns."""


_SOURCE = Source("MedMNIST", "https://medmnist.com", "one .npz a data set, with train, val and test images and labels")


@importer("medmnist", "MedMNIST 2D and 3D .npz files with their official split; scan-disjoint by option")
def medmnist(root: Path, *, dataset: str = "", names: tuple[str, ...] = (), scans: str = "") -> pd.DataFrame:
    """List the items of a MedMNIST file with their official split.

    The files name no patients, so each item counts as one; but several items may come from one scan. The official
    split of NoduleMNIST3D puts nodules of the same LIDC scan into train and test. Where `scans` tells the scans,
    they become the patients, `split` is a scan-disjoint one of the same size, and `split_official` the official one.

    Args:
        root: the .npz file, or a folder with it.
        dataset: the file in the folder ("organmnist3d_64"), where there are several.
        names: target columns of a multilabel file; by default "label_0" and so on (ChestMNIST: its findings).
        scans: a table that tells the scan of each item: a CSV with split, index and scan, or JSON with a list of scans
            for train, val and test in the order of the items ("LIDC-IDRI-0078", "0078_nodule_1" or 78).

    Returns:
        The columns `path` (`FILE.npz#train/17`), `patient` ("train-17", or the scan), `split`, and `label` (int64),
        or one column for each label of a multilabel file.

    Raises:
        ManifestError: no such file, or one that is not laid out so.

    Source: Yang et al. 2023, MedMNIST v2, Sci Data 10:41, "Data Records".
    """
    npz = _npz(root, dataset)
    parts = [_split_rows(npz, split, labels, names) for split, labels in _labels(npz).items()]
    frame = pd.concat(parts, ignore_index=True)
    notes: list[str] = []
    targets = tuple(c for c in frame.columns if c not in ("path", "patient", "split"))
    task = Task(kind="multilabel", targets=targets)
    if len(targets) == 1:
        classes = sorted(set(frame[targets[0]]))
        binary = classes == [0, 1]
        task = Task(kind="binary" if binary else "multiclass", targets=targets)
        task = task if binary else task.model_copy(update={"classes": tuple(str(c) for c in classes)})
    if scans:
        frame, notes = scan_disjoint(frame, Path(scans).expanduser(), task)
    elif npz.stem.startswith("nodulemnist3d"):
        notes = ["the official split shares LIDC scans between train and test: give scans= for one that does not"]
    return finished(frame, task, notes, _SOURCE, root)


def medmnist_manifest(
    npz: Path | str, out_csv: Path | str | None = None, *, names: tuple[str, ...] = ()
) -> pd.DataFrame:
    """List the items of one MedMNIST file (see `medmnist`), and write the table where `out_csv` is given.

    Example:
        >>> manifest = slivit.medmnist_manifest("nodulemnist3d.npz")  # doctest: +SKIP
    """
    frame = medmnist(Path(npz).expanduser().absolute(), names=names)
    if out_csv is not None:
        with whole_file(out_csv) as part:
            as_shown(frame).to_csv(part, index=False)
    return frame


def _npz(root: Path, dataset: str) -> Path:
    if not root.is_dir():
        if not root.is_file():
            raise _SOURCE.error(f"{root}: there is no such file or folder")
        return root
    files = {p.stem: p for p in sorted(root.glob("*.npz"))}
    if dataset.removesuffix(".npz") in files:
        return files[dataset.removesuffix(".npz")]
    if dataset or len(files) != 1:
        wanted = f'"{dataset}" is not there' if dataset else "name one as dataset="
        raise _SOURCE.error(f"{root}: {wanted}; the folder has {one_of(files) or 'no .npz file'}")
    return next(iter(files.values()))


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
