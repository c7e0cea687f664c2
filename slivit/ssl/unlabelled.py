"""From a recipe's data section to scans without labels: which of them train, and which only measure."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.data.inspection import inspect_manifest
from slivit.data.readers.address import of_parts, parts_of, split_address
from slivit.data.recipe import Data
from slivit.data.sources import imported_frame, named_source
from slivit.data.table import missing_columns, read_table
from slivit.errors import ManifestError, gather, nearest
from slivit.ssl.recipe import Images

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def unlabelled_frame(data: Data, images: Images, seed: int = 0) -> pd.DataFrame:
    """The scans of a recipe, whatever their labels: rows with path, patient, split and the other columns.

    Rows of a test split are left out: what tests a model must not have trained it, labels or not.

    Args:
        data: the recipe's data section.
        images: what to leave out, and how much to keep for validation.
        seed: of what is drawn.

    Returns:
        Every row has the split "train" or "val".

    Raises:
        ManifestError: all that was found wrong.
    """
    frame, source = _read(data)
    tested = frame["split"] == "test"
    if tested.any():
        log.info("%s: %d test rows are left out", source, tested.sum())
    frame = frame[~tested]
    frame = thinned(frame, images, seed, source)
    frame = _with_validation(frame, images.validation, seed, source)
    log.info("%s: %s", source, ", ".join(f"{name} {n}" for name, n in frame["split"].value_counts().items()))
    return frame.reset_index(drop=True)


def _read(data: Data) -> tuple[pd.DataFrame, str]:
    path, importer = named_source(data)
    if importer:
        frame = imported_frame(importer, path, data)
        gather(missing_columns(frame, data.channels), str(path), ManifestError)
        if data.channels:
            frame = frame.assign(path=[of_parts(row) for row in frame[list(data.channels)].to_numpy().tolist()])
        return _channel_by_channel(frame, data.channels, str(path)), str(path)
    names = data.columns
    known = _columns_of(path)
    inspection = inspect_manifest(
        path,
        None,
        columns=names,
        root=data.root or None,
        patient_from_path=names.patient not in known,
        where=data.where,
        channels=data.channels,
    )
    gather(inspection.problems, str(path), ManifestError)
    frame = _channel_by_channel(inspection.frame, data.channels, str(path))
    missing = [p for p in frame["path"] if not Path(split_address(p)[0]).exists()]
    gather([f"there is no {p}" for p in missing], str(path), ManifestError)
    return frame, str(path)


def _channel_by_channel(frame: pd.DataFrame, channels: Sequence[str], source: str) -> pd.DataFrame:
    """Make each channel of a scan a scan of its own, since the methods see one at a time: the network learns of all."""
    if not channels:
        return frame
    log.info("%s: the channels %s of %d scans are scans of their own", source, ", ".join(channels), len(frame))
    return frame.assign(path=frame["path"].map(parts_of)).explode("path", ignore_index=True)


def _columns_of(path: Path) -> Iterable[str]:
    return set(read_table(path).columns)


def thinned(frame: pd.DataFrame, images: Images, seed: int, source: str) -> pd.DataFrame:
    """Keep at most `per_group` scans of each group.

    Raises:
        ManifestError: no such column.
    """
    if not images.per_group:
        return frame
    if images.group_by not in frame:
        hint = nearest(images.group_by, [str(c) for c in frame])
        raise ManifestError(f'{source}: images.group_by is "{images.group_by}", but there is no such column.{hint}')
    drawn = frame.sample(frac=1, random_state=seed).groupby(images.group_by, sort=False).head(images.per_group)
    return frame.loc[frame.index.isin(drawn.index)]


def _with_validation(frame: pd.DataFrame, fraction: float, seed: int, source: str) -> pd.DataFrame:
    """Give every row the split train or val; whole patients go to val."""
    frame = frame.assign(split=frame["split"].where(frame["split"] != "", "train"))
    if (frame["split"] == "val").any():
        return frame
    patients = frame["patient"].drop_duplicates()
    if len(patients) < 2:
        raise ManifestError(f"{source}: {len(patients)} patient(s); at least two are needed, one for validation")
    held = patients.sample(max(1, round(fraction * len(patients))), random_state=seed)
    return frame.assign(split=frame["split"].where(~frame["patient"].isin(held), "val"))


def scan_depths(frame: pd.DataFrame, reader: dict[str, Any], workers: int) -> pd.Series:
    """The number of slices of every scan, in the order of the rows.

    A column `slices` of the manifest is believed where it holds whole numbers; otherwise each scan is opened once.

    Raises:
        ReadError: a scan that cannot be read.
    """
    import pandas as pd
    from tqdm import tqdm

    from slivit.data.images import count_slices

    known = pd.to_numeric(frame.get("slices", pd.Series(dtype=float)), errors="coerce")
    if len(known) and (known > 0).all() and (known % 1 == 0).all():
        return known.astype(int)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        counts = pool.map(lambda path: count_slices(path, reader), frame["path"])
        return pd.Series(list(tqdm(counts, "slices", len(frame), unit="scan", disable=None)), index=frame.index)
