"""The series of a whole archive: which scans a tree of DICOM files holds, and how each one is asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os.path import commonpath
from pathlib import Path

from slivit.data.readers.base import natural_order
from slivit.data.readers.dicom import SUFFIXES
from slivit.data.readers.dicom_choice import Groups, lasting_name, main_images, series_groups, without_copies
from slivit.data.readers.dicom_headers import Frame, read_frames
from slivit.data.readers.dicom_pixels import check_compression
from slivit.data.readers.dicom_series import Stack, stack_frames
from slivit.data.readers.entries import FileEntry
from slivit.errors import ReadError


@dataclass(frozen=True)
class Header:
    """What the header of one file says.

    Args:
        path: the file.
        frames: its images; none where it is no DICOM image.
        problem: why it cannot be read, or "".
    """

    path: Path
    frames: list[Frame] = field(default_factory=list)
    problem: str = ""


@dataclass(frozen=True)
class FoundSeries:
    """One scan of an archive.

    Args:
        path: the file or folder to read.
        series: the option `series` that it needs there, or "".
        frames: its images; none where a file cannot be read.
        problem: why the path cannot be read at all, or "".
    """

    path: Path
    series: str
    frames: list[Frame]
    problem: str = ""

    def stack(self, frame: int | None = None) -> Stack:
        """Return its slices in order.

        Args:
            frame: where each place holds several images, which of them to keep, from 0.

        Raises:
            ReadError: it cannot be read without further options, or not at all.
        """
        if self.problem:
            raise ReadError(self.problem)
        check_compression(self.frames, str(self.path))
        return stack_frames(self.frames, str(self.path), frame)


def header_of(entry: FileEntry) -> Header:
    """Return the header of a file; what is wrong with it is a value, never an exception."""
    try:
        content = read_frames(entry, str(entry.path))
    except ReadError as error:
        return Header(entry.path, problem=str(error))
    except OSError as error:
        return Header(entry.path, problem=f"{entry.path}: cannot be opened ({error.strerror or error}).")
    if content is None and entry.name.casefold().endswith(SUFFIXES):
        return Header(entry.path, problem=f"{entry.path}: is not a DICOM file, or its header is cut short.")
    return Header(entry.path, content if isinstance(content, list) else [])


def find_series(headers: Sequence[Header]) -> list[FoundSeries]:
    """Return every scan that the files hold, each once, in the natural order of their paths.

    A scan is what `read_volume(path, series=series)` reads: a series, or each part of one whose images do not belong
    together (patients, clips, derived images). Its path is the folder of its files, or the file where there is one.
    Copies of a scan in another folder are passed over. Files that cannot be read stand for themselves.

    Args:
        headers: of all files, in natural order.
    """
    tree = _Tree(headers)
    frames = without_copies(main_images([f for header in headers for f in header.frames])[0])[0]
    series = [tree.series(group) for group in series_groups(frames).values()]
    series += [FoundSeries(h.path, "", [], h.problem) for h in headers if h.problem]
    order = natural_order(str(one.path) for one in series)
    return sorted(series, key=lambda one: (order(str(one.path)), one.series))


class _Tree:
    """What lies below each folder."""

    def __init__(self, headers: Sequence[Header]) -> None:
        self._below: dict[Path, list[Header]] = defaultdict(list)
        self._groups: dict[Path, Groups] = {}
        for header in headers:
            for place in (header.path, *header.path.parents):
                self._below[place].append(header)

    def series(self, group: Sequence[Frame]) -> FoundSeries:
        """Return how a group of frames is asked for."""
        files = {_path(frame) for frame in group}
        first, several = _path(group[0]), group[0].count > 1
        place = first if len(files) == 1 and several else Path(commonpath([file.parent for file in files]))
        if len(files) == 1 and len(self._held(place)) > 1:
            place = first
        groups = self._held(place)
        label = next(label for label, frames in groups.items() if any(frame is group[0] for frame in frames))
        series = "" if len(groups) == 1 else lasting_name(groups, label)
        problem = next((h.problem for h in self._below[place] if h.problem), "")
        return FoundSeries(place, series, groups[label], problem)

    def _held(self, place: Path) -> Groups:
        """Return what reading a path would find there."""
        if place not in self._groups:
            frames = [frame for header in self._below[place] for frame in header.frames]
            self._groups[place] = series_groups(without_copies(main_images(frames)[0])[0])
        return self._groups[place]


def _path(frame: Frame) -> Path:
    if frame.entry.path is None:
        raise ValueError("a series of an archive lies in files")
    return frame.entry.path


def series_below(entries: Sequence[FileEntry]) -> Iterator[FoundSeries]:
    """Yield the scans of DICOM files, read one after the other."""
    yield from find_series([header_of(entry) for entry in entries])
