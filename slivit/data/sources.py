"""From a recipe's data section to a checked manifest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slivit.data.importers import make_manifest
from slivit.data.importers.bids import is_bids
from slivit.data.inspection import addresses
from slivit.data.manifest import Manifest, read_manifest
from slivit.data.manifest_checks import kept_rows
from slivit.data.medmnist_files import fetch_medmnist
from slivit.data.recipe import MEDMNIST, Data
from slivit.data.table import is_table, read_table
from slivit.errors import ManifestError, gather
from slivit.targets.task import Task

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def load_manifest(
    data: Data,
    task: Task,
    need_splits: tuple[str, ...] = ("train", "val"),
    *,
    split: bool = True,
    channels: tuple[str, ...] = (),
) -> Manifest:
    """Read the manifest of a recipe, split it where it is not, and put an external test set beside it.

    Args:
        data: the recipe's data section.
        task: the recipe's task, not yet fitted.
        need_splits: the splits that must have rows.
        split: split a manifest that has no split column.
        channels: those of a checkpoint, which count where the table has columns of these names and `data` names none.

    Raises:
        ManifestError: all that was found wrong.
    """
    if data.val_from_train:
        need_splits = tuple(s for s in need_splits if s != "val")
    manifest = _read(data.manifest, data, task, () if data.also else need_splits, channels)
    if data.also:
        manifest = together([manifest, *(_read(name, data, task, (), channels) for name in data.also)], need_splits)
    if split and not manifest.has_split:
        manifest = manifest.with_split(fractions=_fractions(data), seed=data.split_seed)
    if data.val_from_train and "val" not in manifest.splits:
        manifest = with_val_from_train(manifest, data.val_from_train, data.split_seed)
    if data.test_manifest:
        manifest = with_external_test(manifest, _read(data.test_manifest, data, task, ()))
    if data.train_fraction < 1:
        seed = data.fraction_seed if data.fraction_seed >= 0 else data.split_seed
        manifest = manifest.with_train_fraction(data.train_fraction, seed=seed)
    for warning in manifest.warnings:
        log.warning("%s: %s", manifest.source, warning)
    return manifest


def with_val_from_train(manifest: Manifest, fraction: float, seed: int) -> Manifest:
    """Move a stratified fraction of the training patients to val, as data sets without one need it."""
    from slivit.data.splits import split_patients

    frame = manifest.frame
    train = frame[frame["split"] == "train"]
    divided = split_patients(train, manifest.task, fractions=(1 - fraction, fraction, 0.0), seed=seed)
    return manifest.with_split(divided.reindex(frame.index).fillna(frame["split"]))


def together(manifests: Sequence[Manifest], need_splits: tuple[str, ...] = ()) -> Manifest:
    """Several manifests as one; a patient is named by its manifest too, so that none is shared in name alone.

    Raises:
        ManifestError: the same scan in two of them, or a split without a row.
    """
    import pandas as pd

    frames = []
    for number, manifest in enumerate(manifests, 1):
        frame = manifest.frame
        frames.append(frame.assign(patient=f"{number}/" + frame["patient"].astype(str)))
    frame, source = pd.concat(frames, ignore_index=True), " with ".join(manifest.source for manifest in manifests)
    return Manifest.from_frame(frame, manifests[0].task, source=source, need_splits=need_splits)


def with_external_test(manifest: Manifest, external: Manifest) -> Manifest:
    """Replace the test rows of a manifest by all rows of another one.

    Raises:
        ManifestError: a patient or a scan of the external table is in train or val too.
    """
    import pandas as pd

    own = manifest.frame
    frame = pd.concat([own[own["split"] != "test"], external.frame.assign(split="test")], ignore_index=True)
    return Manifest.from_frame(frame, manifest.task, source=f"{manifest.source} with {external.source}", need_splits=())


def _fractions(data: Data) -> tuple[float, float, float]:
    """The split's fractions; with an external test set, its own test share goes to training."""
    train, val, test = data.fractions
    return (train + test, val, 0.0) if data.test_manifest else data.fractions


def named_source(data: Data, name: str = "") -> tuple[Path, str]:
    """The file or folder of a data section, and the importer that lists it; "" where it is a table itself."""
    name = name or data.manifest
    if name.startswith(MEDMNIST):
        name = str(fetch_medmnist(name.removeprefix(MEDMNIST), Path(data.root or "."), data.download))
    path = Path(name).expanduser()
    return path, "" if is_table(path) else data.importer or _importer_of(path)


def imported_frame(importer: str, path: Path, data: Data) -> pd.DataFrame:
    """The table that an importer makes of a data set."""
    options = {"val": data.val_from_train or 0.1, "seed": data.split_seed, **data.importer_options}
    imported = make_manifest(importer, path, **options)
    for note in imported.notes:
        log.info("%s: %s", path, note)
    frame, problems = kept_rows(imported.frame, data.where)
    gather(problems, str(path), ManifestError)
    return frame if data.channels else frame.assign(path=addresses(frame["path"], frame, ())[0])


def _read(name: str, data: Data, task: Task, need_splits: tuple[str, ...], channels: tuple[str, ...] = ()) -> Manifest:
    path, importer = named_source(data, name)
    if importer:
        frame = imported_frame(importer, path, data)
        channels = data.channels or columns_of(frame, channels)
        return Manifest.from_frame(frame, task, source=str(path), need_splits=need_splits, channels=channels)
    return read_manifest(
        path,
        task,
        columns=data.columns,
        root=data.root or None,
        need_splits=need_splits,
        where=data.where,
        channels=data.channels or (columns_of(read_table(path), channels) if channels else ()),
    )


def columns_of(frame: pd.DataFrame, channels: tuple[str, ...]) -> tuple[str, ...]:
    """The channels of a checkpoint where a table has a column for each; else none, and `path` tells the scan."""
    return channels if channels and set(channels) <= set(frame.columns) else ()


def _importer_of(path: Path) -> str:
    if not path.is_dir():
        return "medmnist" if path.suffix == ".npz" else ""
    return "bids" if is_bids(path) else "folders"
