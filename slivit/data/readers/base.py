"""What all readers share: an opened scan, the translation of decoder errors, and the step from colour to grey."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.errors import ReadError, SlivitError

Array = npt.NDArray[Any]
Load = Callable[[Sequence[int]], Array]
Affine = npt.NDArray[np.float64]

_GREY_TYPES = (np.uint8, np.uint16, np.float32)  # those that OpenCV converts
_LARGE = 1 << 30  # bytes; smaller scans are never suspected of a forged header
_DENSEST = 1100  # gzip's best ratio is 1032 to 1: a larger one is not a scan but a broken or hostile header


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
    """

    format: str
    shape: tuple[int, int, int]
    dtype: str
    spacing: tuple[float, float, float] | None
    source: str
    affine: Affine | None = None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Scan:
    """An opened scan: its header, and a function that decodes chosen slices.

    Args:
        info: the header.
        load: takes ascending slice indices without repeats and returns (len(indices), H, W).
        names: what names each slice, in order: the SOP Instance UIDs of a DICOM series; empty where there is nothing.
    """

    info: ScanInfo
    load: Load
    names: tuple[str, ...] = ()


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
        raise ReadError(
            f"{source}: cannot be read as {what}; it is damaged or cut short ({reason}). {way_out}"
        ) from error


def check_size(source: str | Path, shape: Sequence[int], itemsize: int, stored: int) -> None:
    """Raise where a header promises far more values than the file's bytes can hold.

    Args:
        shape: the promised shape.
        itemsize: bytes a value.
        stored: bytes in the file.
    """
    promised = itemsize
    for size in shape:
        promised *= int(size)
    if promised > max(_LARGE, stored * _DENSEST):
        raise ReadError(
            f"{source}: the header promises {tuple(shape)} values ({promised / 1e9:.0f} GB), but the file has only "
            f"{stored} bytes; the header is damaged. Copy or export the file again."
        )


def counted(number: int, noun: str) -> str:
    """Return "1 slice" or "3 slices"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sorting key under which "slice10" follows "slice9"."""
    parts = re.findall(r"\d+|\D+", name.casefold())
    return tuple((0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts)


def to_grey(colour: Array) -> Array:
    """Return the luminance (ITU-R 601) of an RGB or RGBA array in its own precision.

    Args:
        colour: (..., 3) or (..., 4) array; an alpha channel is dropped.

    Returns:
        (...) array. Equal channels give their value exactly.
    """
    import cv2

    rgb = colour[..., :3]
    if rgb.dtype not in _GREY_TYPES:
        weights = np.array([0.299, 0.587, 0.114])
        return (rgb.astype(np.float64) @ weights).astype(np.float32)
    flat = np.ascontiguousarray(rgb).reshape(-1, rgb.shape[-2], 3)
    return cv2.cvtColor(flat, cv2.COLOR_RGB2GRAY).reshape(rgb.shape[:-1])


def grey_type(colour: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of `to_grey` of an array of the type `colour`."""
    return colour if colour in _GREY_TYPES else np.dtype(np.float32)


COLOUR_NOTE = "colour converted to grey by luminance"


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
            f"{source}: reading this format needs the package {module}. Install it with: pip install 'slivit[{extra}]'"
        ) from error
