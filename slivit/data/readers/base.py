"""What all readers share: an opened scan, the translation of decoder errors, and the step from colour to grey."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from slivit.errors import ReadError, SlivitError, install_command

Array = npt.NDArray[Any]
Load = Callable[[Sequence[int]], Array]
Affine = npt.NDArray[np.float64]

_GREY_TYPES = (np.uint8, np.uint16, np.float32)  # those that OpenCV converts
_SMALL, _LARGE = 1 << 26, 1 << 30  # bytes: of scans that fit anywhere, and of those that are never suspected
_DENSEST = 100  # scans shrink to a half or a tenth, never to a hundredth; gzip's best ratio is 1032 to 1
MAX_GB, MAX_FILES = "SLIVIT_MAX_SCAN_GB", "SLIVIT_MAX_FILES"
"""Environment variables that raise (or lower) what one scan may take in memory, and the files of one archive."""
_FILES = 50_000  # of one archive: a series of images has thousands
_END_OF_ZIP = (1 << 16) + 200  # bytes in which the record at the end of an archive stands, with the longest comment
_LISTED = 150  # bytes of an archive's list a file; fewer only with short names


@dataclass(frozen=True)
class ScanInfo:
    """What the header of a scan says, before any pixel is decoded.

    Args:
        format: the name of the reader, such as "dicom" or "nifti".
        shape: (D, H, W) of the whole scan.
        dtype: the type of the values that reading returns, as numpy writes it.
        spacing: mm between slices, rows and columns; None where the format does not say.
        source: the file, folder or item as it was asked for.
        affine: (4, 4) from the voxel index (d, h, w, 1) to RAS coordinates in mm; None where unknown.
        notes: what the reader noticed and the user should know.
        channels: how many are read, where several are asked for.
    """

    format: str
    shape: tuple[int, int, int]
    dtype: str
    spacing: tuple[float, float, float] | None
    source: str
    affine: Affine | None = None
    notes: tuple[str, ...] = field(default=())
    channels: int = 1


@dataclass(frozen=True)
class Scan:
    """An opened scan: its header, and a function that decodes chosen slices.

    Args:
        info: the header.
        load: takes ascending slice indices without repeats and returns (len(indices), H, W), with an axis of channels
            before them where several are read.
        names: what names each slice, in order: the SOP Instance UIDs of a DICOM series; empty where there is nothing.
    """

    info: ScanInfo
    load: Load
    names: tuple[str, ...] = ()


_NO_CODEC = re.compile(
    r"imagecodecs|plugins? (?:are|is) missing|missing dependencies|decoder .*not available|no (?:available )?decoder"
    r"|(?:compression|codec|encoding|encoder).*(?:not |un)(?:supported|implemented|available|recognized)"
    r"|(?:not |un)(?:supported|implemented).*(?:compression|codec|encoding)|not built with|was compiled without",
    re.IGNORECASE,
)
"""How libraries say that it is a decoder that they lack, and not that the file is damaged."""


@contextmanager
def decoding(source: str | Path, what: str, way_out: str = "Copy or export the file again.") -> Iterator[None]:
    """Turn whatever a decoder raises on broken bytes into a ReadError that names the file.

    Decoders share no exception class (they raise struct.error, KeyError, zlib.error, ...), and those written in Rust
    panic outside of Exception; so this catches all but an interruption. The original stays attached as the cause.
    """
    try:
        yield
    except (SlivitError, Recounted, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except MemoryError as error:
        raise ReadError(f"{source}: there is not enough memory to decode this {what}.") from error
    except BaseException as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if _NO_CODEC.search(reason):
            raise ReadError(
                f"{source}: this compression of {what} is not supported ({reason}). Convert the file to an "
                "uncompressed one, or install the package that is named."
            ) from error
        raise ReadError(
            f"{source}: cannot be read as {what}; it is damaged or cut short ({reason}). {way_out}"
        ) from error


def check_size(source: str | Path, shape: Sequence[int], itemsize: int, stored: int) -> None:
    """Raise before a scan is unpacked that would take far more memory than its file or the machine can hold.

    A small file that claims gigabytes has a damaged header, or was made to fill the memory. Where it is right, the
    environment variable `SLIVIT_MAX_SCAN_GB` raises the limit.

    Args:
        shape: the shape that the header promises.
        itemsize: bytes a value.
        stored: bytes in the file.
    """
    promised = itemsize
    for size in shape:
        promised *= int(size)
    if promised <= _SMALL and MAX_GB not in os.environ:
        return
    limit = size_limit(stored)
    if promised > limit:
        raise ReadError(
            f"{source}: the header promises {' x '.join(map(str, shape))} values ({promised / 1e9:.3g} GB) from "
            f"{stored} bytes; at most {limit / 1e9:.3g} GB are allowed. The header is damaged or hostile: copy or "
            f"export the file again. Where it is right, set the environment variable {MAX_GB} to more."
        )


def size_limit(stored: int) -> int:
    """Return the bytes of memory that a file of `stored` bytes may unpack to: what was set, or what is plausible."""
    given = _setting(MAX_GB)
    if given is not None:
        return int(given * 1e9)
    import psutil

    return min(max(_LARGE, stored * _DENSEST), int(psutil.virtual_memory().available))


def check_members(archive: Path, source: str) -> None:
    """Raise where a zip archive lists more files than a scan has, before its list is read (which takes seconds)."""
    most = int(_setting(MAX_FILES) or _FILES)
    with archive.open("rb") as stream:
        count = _members(stream)
    if count > most:
        raise ReadError(
            f"{source}: the archive holds {count:,} files, more than {most:,}. Unpack it and give the folder of a "
            f"scan, or set the environment variable {MAX_FILES} to more."
        )


def _members(stream: BinaryIO) -> int:
    """Return how many files a zip archive says that it holds, from the record at its end; 0 where there is none."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _END_OF_ZIP))
    tail = stream.read()
    at, wide = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    if at < 0:
        return 0
    # The list takes its bytes a file, whatever number of files is given.
    if 0 <= wide < at:
        count, listed = (int.from_bytes(tail[wide + i : wide + i + 8], "little") for i in (32, 40))
    else:
        count, listed = (
            int.from_bytes(tail[at + 10 : at + 12], "little"),
            int.from_bytes(tail[at + 12 : at + 16], "little"),
        )
    return max(count, min(listed, size) // _LISTED)


def _setting(name: str) -> float | None:
    """Return a positive number from the environment, or None where it is not set."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise ReadError(f"the environment variable {name} must be a positive number. Got {text!r}.")
    return number


def counted(number: int, noun: str) -> str:
    """Return "1 slice" or "3 slices"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


Key = tuple[tuple[int, Any, str], ...]
_NUMBER = re.compile(r"((?<!\d)[-+])?(\d+)(?:\.(\d+)(?!\.?\d))?")


def natural_key(name: str) -> Key:
    """Return a sorting key under which "slice10" follows "slice9"; for whole sets see `natural_order`."""
    parts = re.findall(r"\d+|\D+", name.casefold())
    return tuple((0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts)


def natural_order(names: Iterable[str]) -> Callable[[str], Key]:
    """Return the sorting key that fits a set of names: "z-10" before "z5", "1.25" before "1.5".

    What a minus and a point mean, the set tells. A minus is a sign where other names have a number without one at the
    same place ("z-5" beside "z5"), else it parts words ("img-1", "img-2"). A point is a decimal point, but where a
    longer part behind it ends in 0 beside shorter ones ("1.9", "1.10"), the names are counted on.

    Args:
        names: all names that are to be sorted.
    """
    matches = [(name, match) for name in {n.casefold() for n in names} for match in _NUMBER.finditer(name)]
    minus = {_before(name, match) for name, match in matches if match[1] == "-"}
    signed = {b for name, match in matches if minus and match[1] != "-" and (b := _before(name, match)) in minus}
    ends = {match[3] for name, match in matches if match[3] and not _is_version(name, match)}
    counts = len({len(end) for end in ends}) > 1 and any(re.fullmatch(r"[1-9]\d*0", end) for end in ends)
    return lambda name: _natural_key(name.casefold(), frozenset(signed), not counts)


def _before(name: str, match: re.Match[str]) -> str:
    """Return what stands before a number, with all other numbers made alike."""
    return re.sub(r"\d+", "0", name[: match.start()])


def _is_version(name: str, match: re.Match[str]) -> bool:
    """True for the last two of more than two numbers with points between them."""
    return match.start() > 1 and name[match.start() - 1] == "." and name[match.start() - 2].isdecimal()


def _natural_key(name: str, signed: frozenset[str], decimal: bool) -> Key:
    key: list[tuple[int, Any, str]] = []
    at = 0
    for match in _NUMBER.finditer(name):
        sign, whole, fraction = match.groups()
        is_sign = bool(sign and signed) and _before(name, match) in signed
        text = name[at : match.start()] + ("" if is_sign else sign or "")
        key += [(1, 0, text)] if text else []
        if fraction and decimal and not _is_version(name, match):
            number: Any = Decimal(f"{whole}.{fraction}")
            rest: list[tuple[int, Any, str]] = []
        else:
            number, rest = int(whole), [(1, 0, "."), (0, int(fraction), fraction)] if fraction else []
        key += [(0, -number if is_sign and sign == "-" else number, whole), *rest]
        at = match.end()
    return (*key, *([(1, 0, name[at:])] if at < len(name) else []))


COLOURS = ("red", "green", "blue")
"""What the option `channel` calls the channels of a colour image."""
_kept: ContextVar[int | None] = ContextVar("kept", default=None)


@contextmanager
def one_colour(number: int) -> Iterator[None]:
    """Have `to_grey` return one channel of `COLOURS` in place of the luminance."""
    before = _kept.set(number)
    try:
        yield
    finally:
        _kept.reset(before)


def keeps_colour() -> bool:
    """Return whether a channel is asked for, so that no decoder may make grey by itself."""
    return _kept.get() is not None


def to_grey(colour: Array) -> Array:
    """Return the luminance (ITU-R 601) of an RGB or RGBA array in its own precision, or the one channel asked for.

    Args:
        colour: (..., 3) or (..., 4) array; an alpha channel is dropped.

    Returns:
        (...) array. Equal channels give their value exactly.
    """
    import cv2

    rgb = colour[..., :3]
    if (number := _kept.get()) is not None:
        return np.ascontiguousarray(rgb[..., number].astype(grey_type(rgb.dtype), copy=False))
    if rgb.dtype not in _GREY_TYPES:
        weights = np.array([0.299, 0.587, 0.114])
        return (rgb.astype(np.float64) @ weights).astype(np.float32)
    flat = np.ascontiguousarray(rgb).reshape(-1, rgb.shape[-2], 3)
    return cv2.cvtColor(flat, cv2.COLOR_RGB2GRAY).reshape(rgb.shape[:-1])


def grey_type(colour: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of `to_grey` of an array of the type `colour`."""
    return colour if colour in _GREY_TYPES else np.dtype(np.float32)


COLOUR_NOTE = 'colour converted to grey by luminance (channel = "all" keeps it)'


def all_finite(array: Array) -> bool:
    """Return whether no value is NaN or infinite."""
    if array.dtype.kind != "f":
        return True
    flat = np.ascontiguousarray(array).reshape(-1)
    with np.errstate(all="ignore"):
        # One pass without a mask; where squares overflow, each value is looked at.
        return bool(np.isfinite(np.dot(flat, flat))) or bool(np.isfinite(flat).all())


def rescale(stored: Array, slope: float, intercept: float) -> Array:
    """Return `stored * slope + intercept`: integers where all three are whole numbers, else float32.

    CT stored as 12 bits with an intercept of -1024 thus stays in int16 as HU. Values of 32 bits and more that are
    scaled by a fraction become float64, because float32 cannot tell them apart.
    """
    if slope == 1.0 and intercept == 0.0:
        return stored
    if stored.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        return _rescale_whole(stored, int(slope), int(intercept))
    wide = stored.dtype.itemsize > (2 if stored.dtype.kind in "iu" else 4)
    scaled: Array = stored.astype(np.float64 if wide else np.float32)
    scaled *= slope
    scaled += intercept
    return scaled


def _rescale_whole(stored: Array, slope: int, intercept: int) -> Array:
    """Rescale whole numbers in the narrowest type that serves every slice of a scan alike: wider only on overflow."""
    kinds: list[np.dtype[Any]] = [np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.int64)]
    if stored.dtype.kind == "i" or (slope >= 0 and intercept >= 0):
        kinds.insert(0, stored.dtype)
    kinds = [kind for kind in kinds if kind.itemsize >= min(2, stored.dtype.itemsize)]
    ends = [int(v) * slope + intercept for v in (stored.min(initial=0), stored.max(initial=0))]
    needed = (*ends, slope, intercept)
    fits = [k for k in kinds if np.iinfo(k).min <= min(needed) and max(needed) <= np.iinfo(k).max]
    kind: np.dtype[Any] = fits[0] if fits else np.dtype(np.float64)
    # Between the two steps the integers may wrap round; as the result fits, they wrap back.
    scaled = stored.astype(kind)
    scaled *= slope
    scaled += intercept
    return scaled


class Recounted(Exception):
    """Raised while decoding where a scan turns out to have another depth: `scan` is the scan opened anew."""

    def __init__(self, scan: Scan) -> None:
        super().__init__(scan.info.source)
        self.scan = scan


def needed(module: str, extra: str, source: str) -> Any:
    """Return an optional package, or raise with the command that installs it.

    Args:
        module: the package, under its import name.
        extra: the extra of slivit that brings it.
        source: the file that needs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ReadError(
            f"{source}: reading this format needs the package {module}. Install it with: {install_command(extra)}"
        ) from error
