"""Which scans a file, a folder, a zip archive or a manifest holds."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slivit.data.archive import unpack
from slivit.data.content import files_of
from slivit.data.importers.bids import suffixes_of
from slivit.data.readers import npz, sniff
from slivit.data.readers.address import ROW_OPTIONS
from slivit.data.readers.base import natural_order
from slivit.data.readers.dicom_archive import series_below
from slivit.data.readers.dispatch import suffixes
from slivit.data.readers.entries import FileEntry, folder_entries
from slivit.data.scan_reading import ScanRef
from slivit.data.table import is_table
from slivit.errors import ManifestError, ReadError, gather, no_text, one_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finder:
    """Finds scans.

    Args:
        slices: how many the model takes; with one slice every image is a scan, else a folder of images is one.
        scratch: gives a new, empty folder for each archive that is unpacked.
        channels: those that the model takes: columns of paths in a manifest, in place of `path` where it has them.
    """

    slices: int
    scratch: Callable[[], Path]
    channels: tuple[str, ...] = ()

    def find(self, given: Sequence[str]) -> list[ScanRef]:
        """The scans of all that was given, each once, in order; rows of a manifest stay as they are.

        Args:
            given: files, folders, zip archives, manifests (CSV with a column `path`) and "FILE.npz#SPLIT/INDEX".

        Raises:
            ReadError: a path that is not there, or that holds no scan at all, or whose name is no text.
            ManifestError: a CSV that is no manifest.
        """
        refs: dict[str, ScanRef] = {}
        rows = []
        for path in given:
            if is_table(path):
                rows += _rows(Path(path), self.channels)
            else:
                refs |= {ref.key: ref for ref in self._in(path) if ref.key not in refs}
        gather([problem for key in refs if (problem := no_text(key))], "scans", ReadError, limit=10)
        return [_with_state(ref) for ref in (*refs.values(), *rows)]

    def _in(self, path: str) -> list[ScanRef]:
        place = Path(path)
        if place.is_dir():
            return self._in_folder(place, str(place))
        if place.is_file():
            kind = _kind(FileEntry(place, place.name))
            if kind == "zip":
                return self._in_archive(place)
            if kind == "npz":
                return _items(place, path)
        return [ScanRef(path, path)]  # reading it tells what is wrong with it, if anything is

    def _in_archive(self, archive: Path) -> list[ScanRef]:
        folder = self.scratch()
        unpack(archive, folder)
        state = _state(str(archive))
        refs = [replace(ref, state=state) for ref in self._in_folder(folder, str(archive))]
        # An archive of one scan is called by its own name, whatever the folders in it are called.
        return [replace(ref, name=str(archive)) for ref in refs] if len(refs) == 1 else refs

    def _in_folder(self, folder: Path, name: str) -> list[ScanRef]:
        kinds: dict[str, list[FileEntry]] = defaultdict(list)
        for entry in folder_entries(folder):
            if isinstance(entry, FileEntry):
                kinds[_kind(entry) or "unknown"].append(entry)
        refs = [*_series(kinds.pop("dicom", []))]
        images, unknown = kinds.pop("image", []), kinds.pop("unknown", [])
        names = {entry.name for entries in kinds.values() for entry in entries}
        for kind, entries in kinds.items():
            for entry in entries:
                if kind == "npz":
                    refs += _items(entry.path, str(entry.path))
                elif not _is_half(entry.name, names):
                    refs.append(ScanRef(str(entry.path), str(entry.path)))
        refs += self._images(images, alone=not refs)
        if not refs:
            held = f"none of the {len(unknown)} files in it is of a known format" if unknown else "it is empty"
            raise ReadError(f"{name}: holds no scan; {held}.")
        if len(shown := suffixes_of(ref.key for ref in refs)) > 1:
            listed = "slivit manifest bids FOLDER scans.csv suffix=NAME lists those of one"
            log.warning("%s: holds images of %s, all of which are taken; %s", name, one_of(shown), listed)
        order = natural_order(ref.key for ref in refs)
        return [_renamed(ref, folder, name) for ref in sorted(refs, key=lambda ref: order(ref.key))]

    def _images(self, images: Sequence[FileEntry], alone: bool) -> Iterator[ScanRef]:
        """Images: each a scan for a model of one slice or where it has pages, else the frames of their folder."""
        folders: dict[Path, list[FileEntry]] = defaultdict(list)
        for entry in images:
            if self.slices == 1 or _has_pages(entry.path):
                yield ScanRef(str(entry.path), str(entry.path))
            else:
                folders[entry.path.parent].append(entry)
        if folders and not alone:
            log.warning("%d single images beside other scans are left out", sum(map(len, folders.values())))
            return
        yield from (ScanRef(str(folder), str(folder)) for folder in folders)


def _kind(entry: FileEntry) -> str | None:
    """The format of a file, "zip", or None."""
    try:
        return sniff.recognise_file(entry, entry.name, suffixes())
    except (ReadError, OSError):
        return None


def _series(entries: Sequence[FileEntry]) -> Iterator[ScanRef]:
    """DICOM files: each series is a scan, each file of several frames too, and so is each part of a mixed series."""
    for series in series_below(entries):
        yield ScanRef(str(series.path), str(series.path), {"series": series.series} if series.series else {})


def _is_half(name: str, names: set[str]) -> bool:
    """Whether a file is the values of a header beside it (Analyze)."""
    stem, dot, suffix = name.rpartition(".")
    return suffix.casefold() == "img" and any(f"{stem}{dot}{end}" in names for end in ("hdr", "HDR"))


def _has_pages(path: Path) -> bool:
    """Whether an image file holds a stack of slices."""
    if path.suffix.casefold() not in (".tif", ".tiff"):
        return False
    import tifffile

    try:
        with tifffile.TiffFile(path) as opened:
            return len(opened.pages) > 1
    except (OSError, ValueError, tifffile.TiffFileError):
        return False


def _items(path: Path, name: str) -> list[ScanRef]:
    """Every item of a MedMNIST archive."""
    stat = path.stat()
    try:
        counts = npz.counts_of_splits(str(path), stat.st_mtime_ns, stat.st_size)
    except ReadError:
        return [ScanRef(name, str(path))]
    return [ScanRef(f"{name}#{s}/{i}", f"{path}#{s}/{i}") for s, count in counts.items() for i in range(count)]


def _renamed(ref: ScanRef, folder: Path, name: str) -> ScanRef:
    """The reference under the name that the folder was given, which for an archive is not where it lies."""
    inside = Path(ref.name).relative_to(folder).as_posix()
    return replace(ref, name=name if inside == "." else f"{name}/{inside}")


def _rows(csv: Path, channels: tuple[str, ...]) -> list[ScanRef]:
    """The rows of a manifest: the addresses of its scans, and columns to be carried over."""
    from slivit.data.inspection import inspect_manifest
    from slivit.data.sources import columns_of
    from slivit.data.table import read_table

    table = read_table(csv)
    added = {"patient", "split"} - set(table.columns)
    inspection = inspect_manifest(csv, patient_from_path=True, channels=columns_of(table, channels))
    frame = inspection.frame.drop(columns=list(added))
    empty = [f"row {row}: path is empty" for row, path in frame["path"].items() if not path]
    gather(empty, str(csv), ManifestError)
    return [_row(row) for row in frame.to_dict("records")]


def _row(row: Mapping[Any, Any]) -> ScanRef:
    held = {"path", *ROW_OPTIONS}  # an address holds them all
    return ScanRef(row["path"], row["path"], columns={str(k): v for k, v in row.items() if k not in held})


def _with_state(ref: ScanRef) -> ScanRef:
    return ref if ref.state else replace(ref, state=_state(ref.path))


def _state(path: str) -> str:
    try:
        return files_of(path).state
    except (OSError, ReadError):
        return ""
