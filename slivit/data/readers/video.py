"""Video clips, through OpenCV's FFmpeg."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slivit.data.readers import mp4
from slivit.data.readers.base import (
    COLOUR_NOTE,
    Array,
    Recounted,
    Scan,
    ScanInfo,
    check_size,
    decoding,
    keeps_colour,
    to_grey,
)
from slivit.errors import ReadError

if TYPE_CHECKING:
    import cv2
    from PIL.Image import Image

SUFFIXES = (".avi", ".mp4", ".mpeg", ".mpg", ".mov", ".m4v", ".mkv", ".webm", ".wmv", ".gif")


@dataclass(frozen=True)
class Stream:
    """What the container says, and what counting its packets found.

    Args:
        promised: frames by the header.
        packets: frames by the packets.
        still: (H, W) where each packet is a JPEG image of its own (Motion JPEG) and the first decodes; else None.
    """

    promised: int
    packets: int
    still: tuple[int, int] | None


def open_video(path: Path, source: str) -> Scan:
    """Open a clip: each frame is a slice, as stored; a variable frame rate is not evened out.

    The number of frames is counted, because headers are often wrong. The packets are counted, which needs no decoding;
    where they differ from the header, or an edit list may hide some (as in trimmed clips), the frames themselves are.

    Args:
        path: the clip.
        source: its name for messages.
    """
    if _is_gif(path):
        return _open_gif(path, source)
    is_mp4 = _check_complete(path, source)
    stream = _count_packets(path, source)
    whole = not is_mp4 or mp4.shows_all_frames(path)
    if stream.still is not None and whole:
        return _scan(path, source, (stream.packets, *stream.still), _load_stills)
    sure = whole and stream.packets == stream.promised
    depth = stream.packets if sure else _count_frames(path, source)
    return _scan(path, source, (depth, *_frame_size(path, source)), _load)


def _scan(path: Path, source: str, shape: tuple[int, int, int], load: Callable[..., Array]) -> Scan:
    info = ScanInfo("video", shape, "uint8", None, source, notes=(COLOUR_NOTE,))
    return Scan(info, partial(load, path, info))


def _is_gif(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"GIF8"


def _open_gif(path: Path, source: str) -> Scan:
    """Open a GIF: each image is a frame as it is shown, laid over those before it where it changes a part alone."""
    import PIL.Image

    with decoding(source, "GIF"), PIL.Image.open(path) as image:
        width, height = image.size
        shape = (int(getattr(image, "n_frames", 1)), height, width)
        check_size(source, shape, 1, path.stat().st_size)

    def load(indices: Sequence[int]) -> Array:
        with decoding(source, "GIF"), PIL.Image.open(path) as image:
            return np.stack([_gif_frame(image, index) for index in indices])

    return Scan(ScanInfo("video", shape, "uint8", None, source, notes=(COLOUR_NOTE,)), load)


def _gif_frame(image: Image, index: int) -> Array:
    image.seek(index)
    return to_grey(np.asarray(image.convert("RGB")))


@contextmanager
def _capture(path: Path, source: str, *properties: int) -> Iterator[cv2.VideoCapture]:
    """Open a clip with OpenCV and FFmpeg silent, on one thread (data loaders bring their own processes)."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2
    from cv2.utils import logging as cv2_logging

    level = cv2_logging.setLogLevel(cv2_logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1, *properties])
    try:
        if not capture.isOpened():
            raise ReadError(
                f"{source}: cannot be opened as a video; it is damaged, cut short, or of a codec that OpenCV's FFmpeg "
                "does not know. Copy it again, or convert it to MP4 (H.264) or AVI (Motion JPEG)."
            )
        yield capture
    finally:
        capture.release()
        cv2_logging.setLogLevel(level)


def _count_packets(path: Path, source: str) -> Stream:
    """Walk through the packets without decoding them."""
    import cv2

    with _capture(path, source, cv2.CAP_PROP_FORMAT, -1) as capture:
        promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        shape = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        codec = (int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, "little").upper()
        if not capture.grab():
            raise ReadError(f"{source}: the video holds no frame; it is damaged or cut short. Copy it again.")
        first = _still(capture) if codec in (b"MJPG", b"JPEG") else None
        packets = 1
        while capture.grab():
            packets += 1
    return Stream(promised, packets, shape if first is not None and first.shape == shape else None)


def _still(capture: cv2.VideoCapture) -> Array | None:
    """Return the luminance of the packet at hand, decoded as a JPEG image, or None."""
    import cv2

    ok, packet = capture.retrieve()
    if not ok or packet is None or not packet.size:
        return None
    if not keeps_colour():
        return cv2.imdecode(packet, cv2.IMREAD_GRAYSCALE)
    picture = cv2.imdecode(packet, cv2.IMREAD_COLOR)
    return None if picture is None else to_grey(picture[..., ::-1])


def _count_frames(path: Path, source: str) -> int:
    """Return the number of frames that decode."""
    with _capture(path, source) as capture:
        frames = 0
        while capture.grab():
            frames += 1
    if frames == 0:
        raise ReadError(f"{source}: no frame of the video can be decoded; it is damaged or cut short. Copy it again.")
    return frames


def _frame_size(path: Path, source: str) -> tuple[int, int]:
    """Return (H, W) of the first frame as it decodes: headers can be wrong."""
    with _capture(path, source) as capture:
        ok, frame = capture.read()
    if not ok:
        raise ReadError(f"{source}: the first frame of the video cannot be decoded. Copy or convert the file again.")
    return int(frame.shape[0]), int(frame.shape[1])


def _load_stills(path: Path, info: ScanInfo, indices: Sequence[int]) -> Array:
    """Decode the chosen frames alone, of a clip whose packets are images of their own."""
    import cv2

    stack = np.empty((len(indices), *info.shape[1:]), np.uint8)
    wanted = {index: place for place, index in enumerate(indices)}
    with _capture(path, info.source, cv2.CAP_PROP_FORMAT, -1) as capture:
        for index in range(indices[-1] + 1):
            still = _still(capture) if capture.grab() and index in wanted else None
            if index in wanted:
                stack[wanted[index]] = _checked(still, index, info)
    return stack


def _load(path: Path, info: ScanInfo, indices: Sequence[int]) -> Array:
    """Decode up to the last chosen frame, and convert the chosen ones alone.

    Jumping to a frame is not exact in most codecs, and in OpenCV costs about 16 frames of decoding a jump.
    """
    import cv2

    stack = np.empty((len(indices), *info.shape[1:]), np.uint8)
    wanted = {index: place for place, index in enumerate(indices)}
    frame: Array | None = None
    with _capture(path, info.source) as capture:
        for index in range(indices[-1] + 1):
            if not capture.grab():
                break
            if index in wanted:
                _, frame = capture.retrieve(frame)
                picture = _checked(frame, index, info)
                grey = to_grey(picture[..., ::-1]) if keeps_colour() else cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
                stack[wanted[index]] = grey
        else:
            return stack
    # Fewer frames than counted: the caller chooses anew among those that decode.
    raise Recounted(_scan(path, info.source, (_count_frames(path, info.source), *info.shape[1:]), _load))


def _checked(frame: Array | None, index: int, info: ScanInfo) -> Array:
    if frame is None or frame.shape[:2] != info.shape[1:]:
        raise ReadError(
            f"{info.source}: frame {index} is damaged, or of another size than the first. Convert the clip again."
        )
    return frame


def _check_complete(path: Path, source: str) -> bool:
    """Return whether a clip is an MP4 or QuickTime file; raise where any clip ends before its own structure says.

    Such clips decode in part, without an error. A program stream (MPEG) cut exactly between two packets cannot be told
    from a shorter one.
    """
    needed = size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(12)
    is_mp4 = head[4:8] in mp4.STARTS
    if head[:4] == b"RIFF":
        needed = 8 + int.from_bytes(head[4:8], "little")
    elif head[:4] == b"\0\0\x01\xba":
        needed = _end_of_packets(path)
    elif is_mp4:
        needed = mp4.end_of_boxes(path)
    if needed > size + 1:  # some writers count the padding byte that they leave out
        raise ReadError(f"{source}: the video is cut short: it has {size} of {needed} bytes. Copy it again.")
    return is_mp4


def _end_of_packets(path: Path) -> int:
    """Return where the last packet of an MPEG program stream ends, or the file's size where the chain breaks."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, size = 0, len(data)
        while at + 14 <= size:
            if data[at : at + 3] != b"\0\0\x01":
                return size
            kind = data[at + 3]
            if kind == 0xB9:  # the end code
                return size
            if kind == 0xBA:  # a pack header, of MPEG-2 or MPEG-1
                at += 14 + (data[at + 13] & 7) if data[at + 4] >> 6 == 1 else 12
            else:
                at += 6 + int.from_bytes(data[at + 4 : at + 6], "big")
        return at
