"""Read and preprocess one scan for prediction, in any process: what comes of it is a value, never an exception."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing import parent_process
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.data.preprocessing import Preprocessing, preprocess
from slivit.data.training_range import Look, look_at
from slivit.errors import SlivitError
from slivit.volume import Volume


@dataclass(frozen=True)
class ScanRef:
    """A scan to be read.

    Args:
        name: what the table calls it.
        path: where it is read from; another place than `name` for a scan out of an archive.
        options: for `read_volume`, such as {"series": UID}.
        columns: what a manifest says of it.
        state: a number that changes with the files; "" where they cannot be looked at.
    """

    name: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    state: str = ""

    @property
    def key(self) -> str:
        """What tells it from every other scan."""
        series = self.options.get("series")
        return f"{self.name}#series={series}" if series else self.name


@dataclass(frozen=True, eq=False)
class ReadScan:
    """A scan as it comes out of a reading process.

    Args:
        stack: (S, H, W) or (C, S, H, W) uint8, None where it could not be read.
        look: what the scan is like.
        notes: what the reader noticed.
        error: why it could not be read.
        doubts: what of its covariates no training scan had.
    """

    stack: npt.NDArray[np.uint8] | None
    look: Look | None = None
    notes: tuple[str, ...] = ()
    error: str = ""
    doubts: tuple[str, ...] = ()


def read_scan(ref: ScanRef, settings: Preprocessing) -> ReadScan:
    """Read and preprocess a scan.

    Args:
        ref: the scan.
        settings: the preprocessing, with its size set.
    """
    _one_thread()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            volume = _volume(ref, settings)
            stack = preprocess(volume, settings)
    except SlivitError as error:
        return ReadScan(None, error=str(error).replace(ref.path, ref.name))
    except MemoryError:
        return ReadScan(None, error=f"{ref.name}: there is not enough memory to read it")
    notes = [*volume.notes, *(str(w.message) for w in caught)]
    renamed = tuple(dict.fromkeys(note.replace(ref.path, ref.name) for note in notes))
    return ReadScan(stack, look_at(volume), renamed)


def _volume(ref: ScanRef, settings: Preprocessing) -> Volume:
    from slivit.data.readers import read_volume

    return read_volume(ref.path, select=settings.select, **{**settings.reader, **ref.options})


def _one_thread() -> None:
    """The reading processes share the processor already."""
    if parent_process() is not None:
        import cv2

        cv2.setNumThreads(1)


def died(ref: ScanRef) -> ReadScan:
    """What a scan counts as on which its process died."""
    why = "its process was killed; the scan may need more memory than there is, or crash its decoder"
    return ReadScan(None, error=f"{ref.name}: {why}")
