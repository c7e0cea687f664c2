"""Fill a cache of preprocessed slices before training, with several processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing import parent_process
from typing import Any

from slivit.data.cache import SliceCache
from slivit.data.preprocessing import Preprocessing
from slivit.data.workers import in_processes
from slivit.errors import ReadError
from slivit.machines import Machines

BUILT, KEPT = "built", "kept"


@dataclass(frozen=True)
class Prepared:
    """What came of filling a cache.

    Args:
        built: scans that were read and kept.
        kept: scans that were kept already.
        failed: path and reason of the scans that cannot be read.
    """

    built: int
    kept: int
    failed: tuple[tuple[str, str], ...]


def prepare(
    rows: Iterable[Mapping[str, Any]],
    settings: Preprocessing,
    cache: SliceCache,
    *,
    workers: int | Machines = 0,
    progress: bool = False,
) -> Prepared:
    """Read, preprocess and keep every scan of a manifest.

    Args:
        rows: with `path`; a scan that occurs twice is prepared once.
        settings: the preprocessing, with its size set.
        cache: where the slices are kept.
        workers: processes that read scans, or the machines of a cluster; 0 reads in this one.
        progress: show a progress bar.

    Returns:
        The counts, and the scans that cannot be read.

    Raises:
        CacheError: the slices cannot be stored; what was stored before stays and is found next time.
    """
    paths = list(dict.fromkeys(str(row["path"]) for row in rows))
    outcomes = in_processes(partial(_build, settings=settings, cache=cache), paths, workers, died=_died)
    by_path = {paths[index]: outcome for index, outcome in _shown(outcomes, len(paths), progress)}
    failed = tuple((path, by_path[path]) for path in paths if by_path[path] not in (BUILT, KEPT))
    counts = list(by_path.values())
    return Prepared(counts.count(BUILT), counts.count(KEPT), failed)


def _build(path: str, settings: Preprocessing, cache: SliceCache) -> str:
    """Keep the slices of one scan; returns what came of it, or why the scan cannot be read."""
    import cv2

    if parent_process() is not None:
        cv2.setNumThreads(1)  # the processes share the processor already
    try:
        return BUILT if cache.build(path, settings) else KEPT
    except ReadError as error:
        return str(error)


def _died(path: str) -> str:
    return f"{path}: its process was killed; the scan may need more memory than there is, or crash its decoder"


def _shown(outcomes: Iterator[tuple[int, str]], total: int, progress: bool) -> Iterator[tuple[int, str]]:
    from tqdm import tqdm

    return iter(
        tqdm(outcomes, desc="prepare", unit="scan", total=total, disable=None if progress else True, leave=False)
    )
