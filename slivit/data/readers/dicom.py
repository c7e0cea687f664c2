"""DICOM files and series, through pydicom and its plug-ins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from slivit.data.readers import geometry
from slivit.data.readers.base import Array, Scan, ScanInfo, counted, decoding
from slivit.data.readers.dicom_choice import Wanted, choose_series, main_images, without_copies
from slivit.data.readers.dicom_headers import Frame, read_frames, require_frames
from slivit.data.readers.dicom_pixels import check_compression, decode, value_notes, value_type
from slivit.data.readers.dicom_series import CLIP, Stack, stack_frames
from slivit.data.readers.entries import Entry
from slivit.errors import ReadError

SUFFIXES = (".dcm", ".dicom", ".ima", ".dic")


def open_dicom(
    entries: Sequence[Entry],
    source: str,
    *,
    series: Wanted | None = None,
    axis: str | None = None,
    frame: int | None = None,
) -> Scan:
    """Open a DICOM series: headers first, then the pixels of the chosen slices alone.

    Slices are ordered by position along the normal, or else by the best that the headers say, and turned to the view
    described in `geometry`. Values are rescaled slice by slice. MONOCHROME1 images are inverted, so that bright is
    bright. More than one series, patient, clip or kind of image, and more than one image at a place, are an error that
    lists the choices; copies of a file count once.

    Args:
        entries: the files; those that are no DICOM images are passed over.
        source: the folder or file for messages.
        series: UID, number or (part of) the description, or {"modality": "MR", "description": "T1"}.
        axis: "axial", "coronal" or "sagittal"; None for the plane in which the series was acquired; "time" for several
            images of one place, one after the other.
        frame: where each place holds several images (time points, echoes), which of them, from 0.
    """
    frames, notes = collect(entries, source)
    chosen = choose_series(frames, series, source)
    check_compression(chosen, source)
    stack = stack_frames(chosen, source, frame, clip=axis == CLIP)
    notes = (*notes, *stack.notes, *value_notes(stack.frames))
    if stack.affine is None:
        return _unoriented(stack, source, None if axis == CLIP else axis, notes)
    seen = geometry.view((len(stack.frames), *stack.frames[0].shape), stack.affine, source, axis)
    dtype = str(value_type(stack.frames))
    spacing, affine = (seen.spacing, seen.affine) if stack.in_mm else (None, None)
    info = ScanInfo("dicom", seen.shape, dtype, spacing, source, affine, notes)

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


def collect(entries: Sequence[Entry], source: str) -> tuple[list[Frame], tuple[str, ...]]:
    """Return the frames of all image files, each once, and notes on the files passed over.

    Raises:
        ReadError: no file is a DICOM image, or one that should be cannot be read.
    """
    if len(entries) == 1:
        return require_frames(read_frames(entries[0], source), source), ()
    frames: list[Frame] = []
    others, kinds = 0, set()
    for entry in entries:
        content = read_frames(entry, f"{source}/{entry.name}")
        if isinstance(content, list):
            frames += content
        elif isinstance(content, str):
            kinds.add(content)
        elif entry.name.casefold().endswith(SUFFIXES):
            require_frames(None, f"{source}/{entry.name}")
        else:
            others += 1
    if not frames:
        raise ReadError(f"{source}: no DICOM image was found ({', '.join(sorted(kinds)) or 'no DICOM file'}).")
    notes = [f"{counted(others, 'file')} beside the DICOM files ignored"] if others else []
    notes += [f"DICOM files of other kinds than scans ignored ({', '.join(sorted(kinds))})"] if kinds else []
    frames, beside = main_images(frames)
    frames, copies = without_copies(frames)
    return frames, (*notes, *beside, *copies)


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
