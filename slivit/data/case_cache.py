"""Scans and masks on a network's grid, kept on disk: float16 channels and uint8 labels of a scan in one file.

An entry lies in the folder of a `SliceCache`, found as its slices are: by the content of all files of the scan and the
mask, by every setting, and by the code that reads and prepares.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slivit.data.cache import SliceCache, code_version
from slivit.data.cache_limit import Limit
from slivit.data.case import Align, Case, read_case, sliding_of
from slivit.data.content import Digests, files_of
from slivit.data.preprocessing import Preprocessing
from slivit.errors import SlivitError
from slivit.files import whole_file
from slivit.targets.segmentation import Segmentation

log = logging.getLogger(__name__)
SEEN = ("spacing", "resize", "window", "stretch", "reader", "foreground")
"""The settings of the preprocessing that a case depends on."""


class CaseReader:
    """Cases by the row of a manifest: from the cache where there is one, and the last one from memory.

    Args:
        task: which values are labels.
        settings: the preprocessing.
        align: see `slivit.data.case.read_mask`.
        cache: where cases are kept; read anew each time without one.
        mask: read masks too.
    """

    def __init__(
        self,
        task: Segmentation,
        settings: Preprocessing,
        align: Align = "error",
        cache: SliceCache | None = None,
        *,
        mask: bool = True,
    ) -> None:
        self.task, self.settings, self.align, self.cache, self.mask = task, settings, align, cache, mask
        self._last: tuple[str, Case] | None = None

    def __call__(self, row: Mapping[str, Any]) -> Case:
        """The case of a row."""
        path = str(row["path"])
        if self._last is None or self._last[0] != path:
            self._last = path, self._load(row)
        return self._last[1]

    @property
    def last(self) -> Case:
        """The case that was given last.

        Raises:
            SlivitError: there is none yet.
        """
        if self._last is None:
            raise SlivitError("no case has been read yet")
        return self._last[1]

    def _load(self, row: Mapping[str, Any]) -> Case:
        if self.cache is None:
            return self._read(row)
        entry = self._entry(row, self.cache)
        if (kept := _kept(entry)) is not None:
            return kept
        case = self._read(row)
        self._keep(entry, case, self.cache)
        return case

    def _read(self, row: Mapping[str, Any]) -> Case:
        return read_case(row, self.task, self.settings, self.align, mask=self.mask)

    def _entry(self, row: Mapping[str, Any], cache: SliceCache) -> Path | None:
        """Where the case of a row is kept; None where its files cannot be looked at."""
        digests = Digests(cache.folder / "contents", cache.verify)
        paths = [str(row["path"]), *(self.task.files(self.task.encode(row)).values() if self.mask else ())]
        try:
            contents = [(digests.of(path, files := files_of(path)), files.item) for path in paths]
        except OSError:
            return None  # reading the case will tell what is wrong with it
        text = json.dumps([contents, str(row.get("spacing", ""))])
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return cache.folder / "stacks" / self._settings_name() / name[:2] / f"{name}.safetensors"

    def _settings_name(self) -> str:
        task = self.task.model_dump(mode="json", include={"labels", "ignore"})
        kept = self.settings.model_dump(mode="json", include=set(SEEN))
        scale = sliding_of(self.settings).values
        values = {"settings": kept, "values": scale, "task": task, "align": self.align, "code": _version()}
        return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()

    def _keep(self, entry: Path | None, case: Case, cache: SliceCache) -> None:
        """Keep a case; where the disk refuses, say so, and go on without."""
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        if entry is None:
            return
        tensors: dict[str, Any] = {"image": case.image.astype(np.float16), "places": case.places}
        tensors |= {} if case.labels is None else {"labels": case.labels}
        size = sum(array.nbytes for array in tensors.values())
        try:
            if not Limit(cache.folder, cache.folder / "stacks", cache.max_bytes).reserve(size):
                return
            facts = {"settings": self.settings.model_dump(mode="json"), "code": code_version()}
            described = entry.parents[1] / "settings.json"
            if not described.is_file():
                with whole_file(described) as partial:
                    partial.write_text(json.dumps(facts, sort_keys=True), "utf-8")
            with whole_file(entry) as partial:
                save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, partial)
        except (OSError, SafetensorError) as error:
            log.warning("%s: a case is not kept (%s)", entry.parent, error)


def _kept(entry: Path | None) -> Case | None:
    """A kept case; None where there is none, or a damaged one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if entry is None:
        return None
    try:
        tensors = load_file(entry)
        os.utime(entry)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError) as error:
        log.warning("%s: is damaged (%s); the case is prepared anew", entry, error)
        return None
    return Case(tensors["image"], tensors.get("labels"), tensors["places"])


def _version() -> str:
    own = [Path(__file__), Path(__file__).with_name("case.py"), Path(__file__).with_name("sliding.py")]
    return code_version() + hashlib.blake2b(b"".join(p.read_bytes() for p in own), digest_size=8).hexdigest()
