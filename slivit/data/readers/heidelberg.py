"""Heidelberg Spectralis OCT exports, .vol and .e2e, through eyepy (an optional extra).

Intensities are those that the HEYEX software shows (a logarithm of the stored reflectance), as 8 bits: what exported
images hold, and what models for OCT are trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slivit.data.readers.base import Array, Scan, ScanInfo, decoding, needed
from slivit.errors import ReadError

SUFFIXES = (".vol", ".e2e")
_MM_PER_DEGREE = 0.2896  # on the retina of an eye of medium length, as HEYEX assumes
_PATTERNS = {2: "a circle", 5: "a star"}
_VERSION_BYTES, _HEADER_BYTES, _FOLDER_BYTES, _CONTAINER_BYTES = 36, 52, 44, 60

Spacing = tuple[float, float, float] | None


def open_heidelberg(path: Path, source: str, *, series: str | int | None = None) -> Scan:
    """Open a Heidelberg OCT volume: each B-scan is a slice.

    Args:
        path: a .vol or .e2e file.
        source: its name for messages.
        series: which series of an .e2e file that holds several (both eyes, say), by its number.
    """
    needed("eyepy", "formats", source)
    with path.open("rb") as stream:
        is_e2e = stream.read(4) == b"CMDb"
    if is_e2e:
        return _open_e2e(path, source, series)
    if series is not None:
        raise ReadError(f"{source}: a .vol file holds one volume; leave the option series out.")
    return _open_vol(path, source)


def _open_vol(path: Path, source: str) -> Scan:
    from eyepy.core.utils import from_vol_intensity
    from eyepy.io.he import HeVolReader

    with decoding(source, "Heidelberg .vol"):
        parsed = HeVolReader(path).parsed_file
        shape = (len(parsed.bscans), int(parsed.size_y), int(parsed.size_x))
        spacing, notes = _vol_spacing(parsed)
        scans = [b.data for b in parsed.bscans]
    return _scan(shape, spacing, source, notes, from_vol_intensity, lambda index: scans[index])


def _vol_spacing(parsed: Any) -> tuple[Spacing, tuple[str, ...]]:
    pattern = _PATTERNS.get(int(parsed.scan_pattern))
    if pattern is not None:
        return None, (f"the B-scans lie on {pattern}, not side by side",)
    steps = float(parsed.distance), float(parsed.scale_y), float(parsed.scale_x)
    usable = all(np.isfinite(s) and s > 0 for s in steps)
    return (steps, ()) if usable else (None, ("the header has no usable spacing",))


def _open_e2e(path: Path, source: str, series: str | int | None) -> Scan:
    from eyepy.core.utils import from_e2e_intensity
    from eyepy.io.he import HeE2eReader

    with decoding(source, "Heidelberg .e2e"):
        _check_chunks(path, source)
        reader = HeE2eReader(path)
        with reader:
            volumes = {str(s.id): scans for s in reader.series if (scans := _bscans(s))}
        chosen = _choose(volumes, series, source)
        metas = [meta for meta, _ in volumes[chosen]]
        shape = (len(metas), int(metas[0]["size_y"]), int(metas[0]["size_x"]))
        spacing, notes = _e2e_spacing(metas)

    def stored(index: int) -> Array:
        with reader:
            return volumes[chosen][index][1].get_bscan()

    return _scan(shape, spacing, source, notes, from_e2e_intensity, stored)


def _bscans(series: Any) -> list[tuple[Any, Any]]:
    """Return metadata and slice structure of the B-scans of a series, in their order."""
    from eyepy.io.he.e2e_format import TypesEnum

    both = (TypesEnum.bscanmeta, TypesEnum.image)
    pairs = [(s.get_meta(), s) for s in series.slices.values() if all(kind in s.folders for kind in both)]
    return sorted(pairs, key=lambda pair: int(pair[0]["aktImage"]))


def _choose(volumes: dict[str, list[tuple[Any, Any]]], series: str | int | None, source: str) -> str:
    listing = ", ".join(f"{name} ({len(scans)} B-scans)" for name, scans in volumes.items())
    if not volumes:
        raise ReadError(f"{source}: holds no OCT series.")
    if series is None and len(volumes) == 1:
        return next(iter(volumes))
    if series is None:
        raise ReadError(f"{source}: holds {len(volumes)} OCT series: {listing}. Choose one with series=NUMBER.")
    if str(series) not in volumes:
        raise ReadError(f"{source}: has no series {series}; it holds {listing}.")
    return str(series)


def _e2e_spacing(metas: Sequence[Any]) -> tuple[Spacing, tuple[str, ...]]:
    """Return the spacing in mm; the file gives the place on the retina in degrees."""
    first, last = metas[0], metas[-1]
    pattern = _PATTERNS.get(int(first["scan_pattern"]))
    if pattern is not None:
        return None, (f"the B-scans lie on {pattern}, not side by side",)
    width = float(np.hypot(*np.subtract(first["end_pos"], first["start_pos"])))
    across = float(np.hypot(*np.subtract(last["start_pos"], first["start_pos"]))) / max(1, len(metas) - 1)
    along = width / max(1, int(first["imgSizeWidth"])) * _MM_PER_DEGREE
    steps = (across * _MM_PER_DEGREE or along, float(first["scale_y"]), along)
    if not all(np.isfinite(s) and s > 0 for s in steps):
        return None, ("the header has no usable spacing",)
    return steps, ("distances along the retina are for an eye of medium length",)


def _scan(
    shape: tuple[int, int, int],
    spacing: Spacing,
    source: str,
    notes: tuple[str, ...],
    shown: Callable[[Array], Array],
    stored: Callable[[int], Array],
) -> Scan:
    """Return the scan whose B-scans are `shown(stored(index))`."""

    def load(indices: Sequence[int]) -> Array:
        with decoding(source, "Heidelberg OCT"), np.errstate(all="ignore"):
            return np.stack([_alike(shown(np.array(stored(i))), shape, i) for i in indices])

    return Scan(ScanInfo("heidelberg", shape, "uint8", spacing, source, notes=notes), load)


def _alike(scan: Array, shape: tuple[int, int, int], index: int) -> Array:
    if scan.shape != shape[1:]:
        raise ValueError(f"B-scan {index} is {scan.shape}, but the header says {shape[1:]}")
    return scan


def _check_chunks(path: Path, source: str) -> None:
    """Follow the chain of chunks of an .e2e file: a broken link can lead out of the file, or round for ever."""
    size, seen = path.stat().st_size, set()
    at = _VERSION_BYTES + _HEADER_BYTES
    with path.open("rb") as stream:
        while at not in seen and at + _HEADER_BYTES <= size:
            seen.add(at)
            stream.seek(at)
            header = stream.read(_HEADER_BYTES)
            if not header.startswith(b"MDbDir"):
                break
            entries = int.from_bytes(header[36:40], "little")
            stream.seek(at + _HEADER_BYTES + _FOLDER_BYTES * max(0, entries - 1))
            last = stream.read(_FOLDER_BYTES)
            if len(last) < _FOLDER_BYTES:
                raise ReadError(f"{source}: the .e2e file is cut short. Copy or export it again.")
            at = int.from_bytes(last[4:8], "little") + int.from_bytes(last[8:12], "little") + _CONTAINER_BYTES
    if at in seen:
        raise ReadError(f"{source}: the directory of the .e2e file is damaged. Copy or export it again.")
