"""The few facts about an MP4 or QuickTime file that OpenCV does not tell: is it whole, and are all its frames shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_LARGEST_MOOV = 1 << 26  # bytes; that of an hour of video has a few hundred thousand
_TOLERANCE = 0.02  # seconds by which durations may differ by rounding


@dataclass(frozen=True)
class Box:
    """A box of the file: its kind and its content."""

    kind: bytes
    body: bytes

    def children(self) -> Iterator[Box]:
        """Yield the boxes inside."""
        at = 0
        while at + 8 <= len(self.body):
            length = _integer(self.body, at)
            if length < 8:
                return
            yield Box(self.body[at + 4 : at + 8], self.body[at + 8 : at + length])
            at += length

    def find(self, path: str) -> bytes | None:
        """Return the content of a box by its path, such as "mdia/mdhd", or None."""
        kind, _, rest = path.partition("/")
        for child in self.children():
            if child.kind == kind.encode():
                return child.find(rest) if rest else child.body
        return None


def end_of_boxes(path: Path) -> int:
    """Return where the last top-level box ends: beyond the file, where that is cut short."""
    end, size = 0, path.stat().st_size
    for at, _, length in _top_level(path):
        end = at + length if length else size
    return end


def shows_all_frames(path: Path) -> bool:
    """True where the video track is surely played from its first frame to its last; False where edits may hide some."""
    moov = next((_read(path, at, length) for at, kind, length in _top_level(path) if kind == b"moov"), None)
    if moov is None:
        return False
    tracks = [Box(b"trak", child.body) for child in moov.children() if child.kind == b"trak"]
    videos = [track for track in tracks if (track.find("mdia/hdlr") or b"")[8:12] == b"vide"]
    header = moov.find("mvhd")
    return len(videos) == 1 and header is not None and _is_whole(videos[0], _scale(header))


def _is_whole(track: Box, movie_scale: int) -> bool:
    """True where the edit list has the one entry that every encoder writes: from the first frame on, to the end."""
    edits, header = track.find("edts/elst"), track.find("mdia/mdhd")
    if edits is None:
        return True
    if header is None or edits[:1] != b"\0" or header[:1] != b"\0" or _integer(edits, 4) != 1:
        return False
    shown, start = _integer(edits, 8), _integer(edits, 12)
    delays = track.find("mdia/minf/stbl/ctts") or bytes(16)
    scale, duration = _scale(header), _integer(header, 16)
    if start != _integer(delays, 12) or not movie_scale or not scale:
        return False
    return shown / movie_scale >= (duration - start) / scale - _TOLERANCE


def _scale(header: bytes) -> int:
    """Return the time units a second of an mvhd or mdhd box."""
    return _integer(header, 20 if header[:1] == b"\1" else 12)


def _top_level(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """Yield place, kind and length (0: to the end of the file) of the top-level boxes."""
    at, size = 0, path.stat().st_size
    with path.open("rb") as stream:
        while at + 8 <= size:
            stream.seek(at)
            head = stream.read(16)
            length = _integer(head, 0)
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if not head[4:8].strip(b"\0") or 0 < length < 8:
                return
            yield at, head[4:8], length
            if length == 0:
                return
            at += length


def _read(path: Path, at: int, length: int) -> Box | None:
    """Return the box at a place, or None where it is too large to be a directory."""
    if not 8 < length <= _LARGEST_MOOV:
        return None
    with path.open("rb") as stream:
        stream.seek(at + 8)
        return Box(b"moov", stream.read(length - 8))


def _integer(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")
