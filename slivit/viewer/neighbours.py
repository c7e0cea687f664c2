"""The training scans that look most like another one to the model: nearest by what its head reads."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from slivit.checkpoint import read_config
from slivit.data.covariates import covariate_rows
from slivit.data.preprocessing import load_slices
from slivit.data.slices import resize_slices
from slivit.errors import ReadError, SlivitError
from slivit.files import whole_file
from slivit.folder import note_result
from slivit.predict.engine import Engine

SIDE = 96
Features = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A training scan beside another one.

    Args:
        number: of the training scan, in the order of the rows.
        row: of the manifest.
        similarity: cosine of the two vectors of features, both less the training scans' mean; from -1 to 1.
    """

    number: int
    row: Mapping[str, Any]
    similarity: float


class Neighbours:
    """The training scans' features, computed once and kept beside the run.

    Args:
        engine: of the frozen model.
        rows: of the training scans.
        checkpoint: its folder; other weights or preprocessing make all features anew.
        file: where they are kept.
        lock: held while the model computes.
    """

    def __init__(
        self, engine: Engine, rows: Sequence[Mapping[str, Any]], checkpoint: Path, file: Path, lock: threading.Lock
    ) -> None:
        self.engine, self.rows, self.file, self._lock = engine, list(rows), file, lock
        self._known: dict[str, tuple[Features, npt.NDArray[np.uint8]]] = {}
        self.unreadable = 0
        config = read_config(checkpoint)
        self._made_with = json.dumps([1, config["sha256"], config["preprocessing"]], sort_keys=True)
        self._read()

    @property
    def missing(self) -> int:
        """How many training scans have no features yet."""
        return sum(identity(row) not in self._known for row in self.rows) - self.unreadable

    def build(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compute what is missing, and keep it; scans that cannot be read are left out and counted.

        Args:
            progress: is called with the scans done and all; what it raises ends the work, whose part is kept.
        """
        todo = [row for row in self.rows if identity(row) not in self._known]
        self.unreadable = 0
        try:
            for done, row in enumerate(todo, start=1):
                self._add(row)
                if progress:
                    progress(done, len(todo))
        finally:
            self._write()

    def nearest(self, features: Features, count: int = 6, but: str = "") -> list[Neighbour]:
        """The most similar training scans, the nearest first.

        Args:
            features: (n,) of the scan that is compared.
            count: at most this many.
            but: the path of a scan to leave out, the one that is compared.
        """
        known = [(n, row, self._known[i][0]) for n, row in enumerate(self.rows) if (i := identity(row)) in self._known]
        if not known:
            return []
        similarity = cosines(np.stack([own for *_, own in known]), features)
        order = np.argsort(-similarity, kind="stable")
        best = [i for i in order if str(known[i][1]["path"]) != but][:count]
        return [Neighbour(known[i][0], known[i][1], float(similarity[i])) for i in best]

    def thumbnail(self, number: int) -> npt.NDArray[np.uint8] | None:
        """(H, W) the middle slice of a training scan; None where it is not known."""
        known = self._known.get(identity(self.rows[number])) if number < len(self.rows) else None
        return known[1] if known else None

    def _add(self, row: Mapping[str, Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                stack = load_slices(str(row["path"]), self.engine.settings)
                known = covariate_rows([row], self.engine.task, self.engine.settings.reader)
            except ReadError:
                self.unreadable += 1
                return
        with self._lock, self.engine.holding(known):
            features = self.engine.head_input(torch.from_numpy(stack)[None])[0].numpy()
        self._known[identity(row)] = (features, thumbnail(stack))

    def _read(self) -> None:
        if not self.file.is_file():
            return
        try:
            with np.load(self.file, allow_pickle=False) as kept:
                if str(kept["made_with"]) != self._made_with:
                    return
                entries = zip(kept["scans"].tolist(), kept["features"], kept["thumbnails"], strict=True)
                self._known = {scan: (features, picture) for scan, features, picture in entries}
        except (OSError, ValueError, KeyError):  # damaged, or of another version: made anew
            self._known = {}

    def _write(self) -> None:
        """Keep the features; a folder that takes none only costs time at the next start."""
        if not self._known:
            return
        features, thumbnails = zip(*self._known.values(), strict=True)
        try:
            note_result(self.file)
            with whole_file(self.file) as partial:
                arrays: dict[str, Any] = {"features": np.stack(features), "thumbnails": np.stack(thumbnails)}
                np.savez(partial, made_with=self._made_with, scans=np.array(list(self._known)), **arrays)
        except (OSError, SlivitError):
            return


def cosines(table: Features, one: Features) -> Features:
    """(N, n) and (n,) -> (N,) cosines, after the table's mean is taken off: what all scans share tells none apart."""
    mean = table.mean(axis=0)
    table, one = table - mean, one - mean
    lengths = np.linalg.norm(table, axis=1) * np.linalg.norm(one)
    return np.divide(table @ one, lengths, out=np.zeros(len(table), np.float32), where=lengths > 0)


def thumbnail(stack: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The middle one of (S, H, W) slices, small."""
    stack = stack[0] if stack.ndim == 4 else stack
    return resize_slices(stack[len(stack) // 2][None], (SIDE, SIDE))[0]


def identity(row: Mapping[str, Any]) -> str:
    """The path of a scan with what its file or folder looks like, so that a changed scan counts as another."""
    path = str(row["path"])
    try:
        stat = os.stat(path.partition("#")[0])  # noqa: PTH116 (an item of an archive is named behind a #)
    except OSError:
        return path
    return f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
