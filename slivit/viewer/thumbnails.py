"""Thumbnails of a manifest's scans, made one after the other in the background and kept beside the run."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slivit.errors import SlivitError
from slivit.files import whole_file
from slivit.folder import note_result
from slivit.viewer.bench import Bench
from slivit.viewer.neighbours import identity, thumbnail

FOLDER = "thumbnails"
SIDE = 96


class Thumbnails:
    """Small pictures of the middle slices that a model sees, by the row's number.

    A scan of a manifest that has no prediction yet is predicted on the way, as it has been read then. All scans of an
    ensemble are read, one after the other, to ask its members.

    Args:
        bench: the scans, and how they are read.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench, self.folder = bench, bench.run / FOLDER
        self._kept: dict[int, bytes | Path] = {}
        self.failed: dict[int, str] = {}
        self._wanted: list[int] = []
        self._ready = threading.Condition()
        self._writable = True
        self._thread: threading.Thread | None = None

    def want(self, numbers: Sequence[int]) -> list[int]:
        """Ask for the pictures of rows, before all others.

        Returns:
            Those that there are, or that cannot be made (see `failed`).
        """
        numbers = [n for n in numbers if 0 <= n < len(self.bench.rows)]
        ready = [n for n in numbers if self.get(n) is not None or n in self.failed]
        with self._ready:
            later = [n for n, row in enumerate(self.bench.rows) if not self.bench.has_members(row)]
            self._wanted = list(dict.fromkeys([*(n for n in numbers if n not in ready), *later]))
            if self._wanted and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._make_all, daemon=True, name="slivit-thumbnails")
                self._thread.start()
        return ready

    @property
    def left(self) -> int:
        """How many scans are still to be read."""
        return len(self._wanted)

    def get(self, number: int) -> bytes | None:
        """The picture of a row as JPEG; None where it is not made yet."""
        if number not in self._kept:
            file = self._file(number)
            if not file.is_file():
                return None
            self._kept[number] = file
        kept = self._kept[number]
        return kept if isinstance(kept, bytes) else kept.read_bytes()

    def _file(self, number: int) -> Path:
        row = self.bench.rows[number]
        name = f"{identity(row)}|{row.get('series', '')}|{self.bench.settings.model_dump_json()}"
        return self.folder / f"{hashlib.blake2b(name.encode(), digest_size=12).hexdigest()}.jpg"

    def _make_all(self) -> None:
        while True:
            with self._ready:
                if not self._wanted:
                    return
                number = self._wanted.pop(0)
            self._make(number)

    def _make(self, number: int) -> None:
        row = self.bench.rows[number]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                stack = self.bench.slices_of(row)
        except SlivitError as error:
            self.failed[number] = str(error)
            return
        self._keep(number, jpeg(thumbnail(stack)))
        self.bench.look(row, torch.from_numpy(stack)[None])

    def _keep(self, number: int, data: bytes) -> None:
        """Keep a picture as a file; a folder that takes none only costs time at the next start."""
        try:
            if self._writable:
                note_result(self.folder)
                with whole_file(self._file(number)) as partial:
                    Path(partial).write_bytes(data)
        except (SlivitError, OSError):
            self._writable = False
        self._kept[number] = data  # once its file is there, so that who sees it finds both


def jpeg(picture: Any) -> bytes:
    """A grey (H, W) uint8 picture as JPEG."""
    import cv2

    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture), [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not done:
        raise RuntimeError("OpenCV could not write a JPEG")
    return bytes(data.tobytes())
