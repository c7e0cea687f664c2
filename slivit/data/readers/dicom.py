"""DICOM files and series, through pydicom and its pylibjpeg plug-ins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from slivit.data.readers import geometry
from slivit.data.readers.base import Array, Scan, ScanInfo, counted, decoding
from slivit.data.readers.dicom_headers import Frame, read_frames, require_frames
from slivit.data.readers.dicom_pixels import decode, value_notes, value_type
from slivit.data.readers.dicom_series import Stack, choose_series, stack_frames
from slivit.data.readers.entries import Entry
from slivit.errors import ReadError

SUFFIXES = (".dcm", ".dicom", ".ima", ".dic")


def open_dicom(
    entries: Sequence[Entry],
    source: str,
    *,
    series: str | int | None = None,
    axis: str | None = None,
    frame: int | None = None,
) -> Scan:
    """Open a DICOM series: headers first, then the pixels of the chosen slices alone.

    Slices are ordered by position along the normal, then InstanceNumber, then name, and turned to the view described
    in `geometry`. Values are rescaled slice by slice. MONOCHROME1 images are inverted, so that bright is bright.

    Args:
        entries: the files; those that are no DICOM images are passed over.
        source: the folder or file for messages.
        series: UID, number or description, where there are several.
        axis: "axial", "coronal" or "sagittal"; None for the plane in which the series was acquired.
        frame: where each place holds several slices (time points, echoes), which of them, from 0.
    """
    frames, notes = _collect(entries, source)
    stack = stack_frames(choose_series(frames, series, source), source, frame)
    notes = (*notes, *stack.notes, *value_notes(stack.frames))
    if stack.affine is None:
        return _unoriented(stack, source, axis, notes)
    seen = geometry.view((len(stack.frames), *stack.frames[0].shape), stack.affine, source, axis)
    dtype = str(value_type(stack.frames))
    info = ScanInfo("dicom", seen.shape, dtype, seen.spacing, source, seen.affine, notes)

    def load(indices: Sequence[int]) -> Array:
        if not seen.keeps_slices:
            whole = seen.turn(_decode_all(stack.frames, stack.frames, source))
            return np.ascontiguousarray(whole[list(indices)])
        chosen = [stack.frames[seen.stored_index(i)] for i in indices]
        return np.ascontiguousarray(seen.turn_slices(_decode_all(chosen, stack.frames, source)))

    in_order = [stack.frames[seen.stored_index(i)] for i in range(len(stack.frames))] if seen.keeps_slices else []
    return Scan(info, load, tuple(frame.uid for frame in in_order))


def _unoriented(stack: Stack, source: str, axis: str | None, notes: tuple[str, ...]) -> Scan:
    """Return the scan of slices that do not say where they lie."""
    if axis is not None:
        raise ReadError(f"{source}: axis={axis!r} needs slices with positions, and these have none. Leave it out.")
    rows, columns = stack.frames[0].shape
    dtype = str(value_type(stack.frames))
    info = ScanInfo("dicom", (len(stack.frames), rows, columns), dtype, stack.spacing, source, None, notes)
    names = tuple(frame.uid for frame in stack.frames)
    return Scan(info, lambda indices: _decode_all([stack.frames[i] for i in indices], stack.frames, source), names)


def _collect(entries: Sequence[Entry], source: str) -> tuple[list[Frame], tuple[str, ...]]:
    """Return the frames of all image files, and notes on the files passed over."""
    if len(entries) == 1:
        return require_frames(read_frames(entries[0], source), source), ()
    frames: list[Frame] = []
    others, kinds = 0, set()
    for entry in entries:
        found = read_frames(entry, f"{source}/{entry.name}")
        if isinstance(found, list):
            frames += found
        elif isinstance(found, str):
            kinds.add(found)
        elif entry.name.casefold().endswith(SUFFIXES):
            require_frames(None, f"{source}/{entry.name}")
        else:
            others += 1
    if not frames:
        raise ReadError(f"{source}: no DICOM image was found ({', '.join(sorted(kinds)) or 'no DICOM file'}).")
    notes = [f"{counted(others, 'file')} beside the DICOM files ignored"] if others else []
    notes += [f"DICOM files without images were ignored ({', '.join(sorted(kinds))})"] if kinds else []
    return frames, tuple(notes)


def _decode_all(chosen: Sequence[Frame], whole: Sequence[Frame], source: str) -> Array:
    """Decode frames file by file into one (N, rows, columns) array, of the type that suits the whole series."""
    stack = np.empty((len(chosen), *whole[0].shape), value_type(whole))
    place = 0
    for _, same_file in groupby(chosen, key=lambda f: id(f.entry)):
        group = list(same_file)
        entry = group[0].entry.name
        name = source if source.endswith(entry) else f"{source}/{entry}"
        with decoding(name, "DICOM"):
            for pixels in decode(group, name):
                if not np.can_cast(pixels.dtype, stack.dtype):
                    stack = stack.astype(np.result_type(pixels, stack))  # rescaled values that need more bits
                stack[place] = pixels
                place += 1
    return stack
