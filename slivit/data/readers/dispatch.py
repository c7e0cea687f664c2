"""A path to a `Volume`: which reader a path belongs to, and the one way in for all of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from slivit.data.notes import record
from slivit.data.readers import dicom, frames, heidelberg, itk, nifti, npz, sniff, video
from slivit.data.readers.address import options_of, parts_of, split_address, typed_options
from slivit.data.readers.base import COLOUR_NOTE, COLOURS, Array, Recounted, Scan, ScanInfo, all_finite, counted
from slivit.data.readers.channels import ALL, beside, in_colour
from slivit.data.readers.sniff import Found
from slivit.data.workers import noted
from slivit.errors import ReadError, nearest, one_of
from slivit.plugins import load_plugins
from slivit.volume import Volume

_OPTION_KINDS = {
    "axis": (str,),
    "affine": (str,),
    "channel": (int, str),
    "frame": (int,),
    "series": (str, int, dict),
    "item": (str,),
    "check_md5": (bool,),
}

_OF_PROGRAMS = (ResourceWarning, DeprecationWarning, PendingDeprecationWarning, FutureWarning)
"""Warnings that are meant for programmers, and may come from anywhere while a scan is read."""

Select = Callable[[int], Sequence[int]]


@dataclass(frozen=True)
class Reader:
    """One format: what it is, what it is known by, and how it is opened.

    Args:
        name: short, as in `ScanInfo.format`.
        what: a few words for people.
        suffixes: the file names it is known by; the content counts more.
        options: the keywords of `read_volume` that it takes.
        open: takes what the path holds, and the options.
    """

    name: str
    what: str
    suffixes: tuple[str, ...]
    options: tuple[str, ...]
    open: Callable[..., Scan]


def _readers() -> Iterator[Reader]:
    grid, planes = ("axis", "frame"), ("channel", "frame")
    grids = (*grid, "channel")
    yield Reader("dicom", "DICOM file, series folder or zip", dicom.SUFFIXES, ("series", *grid), _open_dicom)
    yield Reader("nifti", "NIfTI or Analyze file", nifti.SUFFIXES, ("affine", *grids), _open_nifti)
    yield Reader("image", "image or multi-page TIFF", frames.SUFFIXES, planes, _open_image)
    yield Reader("frames", "folder or zip of image frames", (), ("series",), _open_frames)
    yield Reader("video", "video clip", video.SUFFIXES, (), _open_video)
    yield Reader("npz", "item of a MedMNIST archive (FILE.npz#train/0)", (".npz",), ("item", "check_md5"), _open_npz)
    yield Reader("npy", "NumPy array of one scan, its slices first", (".npy",), (), _open_npy)
    yield Reader("itk", "MetaImage or NRRD file", itk.SUFFIXES, grids, _open_itk)
    yield Reader("heidelberg", "Heidelberg OCT volume", heidelberg.SUFFIXES, ("series",), _open_heidelberg)


def _open_dicom(contents: Found, **options: Any) -> Scan:
    return dicom.open_dicom(contents.entries, contents.source, **options)


def _open_nifti(contents: Found, **options: Any) -> Scan:
    return nifti.open_nifti(contents.entries[0], contents.source, **options)


def _open_image(contents: Found, **options: Any) -> Scan:
    return frames.open_image(contents.entries[0], contents.source, **options)


def _open_frames(contents: Found, **options: Any) -> Scan:
    return frames.open_frames(contents.entries, contents.source, **options)


def _open_video(contents: Found) -> Scan:
    return video.open_video(contents.path, contents.source)


def _open_npz(contents: Found, **options: Any) -> Scan:
    return npz.open_npz(contents.path, contents.source, **options)


def _open_npy(contents: Found) -> Scan:
    return npz.open_npy(contents.path, contents.source)


def _open_itk(contents: Found, **options: Any) -> Scan:
    return itk.open_itk(contents.path, contents.source, **options)


def _open_heidelberg(contents: Found, **options: Any) -> Scan:
    return heidelberg.open_heidelberg(contents.path, contents.source, **options)


READERS: dict[str, Reader] = {reader.name: reader for reader in _readers()}


def register_reader(
    name: str, what: str, suffixes: tuple[str, ...], options: tuple[str, ...] = ()
) -> Callable[[Callable[..., Scan]], Callable[..., Scan]]:
    """Register a function `(contents, **options) -> Scan` as the reader of a format.

    `contents.path` is the file, `contents.source` what messages call it. Broken bytes raise a `slivit.ReadError`; the
    context manager `slivit.data.readers.base.decoding` makes one of whatever a decoder raises.

    Args:
        name: short, as in `ScanInfo.format`.
        what: a few words for people.
        suffixes: the file names it is known by, in lower case.
        options: the keywords of `read_volume` that it takes.

    Example:
        >>> @slivit.register_reader("cube", "raw cube of 8 x 8 x 8 bytes", (".cube",))
        ... def open_cube(contents):
        ...     cube = np.fromfile(contents.path, np.uint8).reshape(8, 8, 8)
        ...     info = slivit.data.readers.ScanInfo("cube", cube.shape, "uint8", None, contents.source)
        ...     return slivit.data.readers.Scan(info, lambda indices: cube[list(indices)])
        >>> _ = np.zeros(512, np.uint8).tofile("a.cube")
        >>> slivit.read_volume("a.cube").shape
        (8, 8, 8)
    """

    def keep(open: Callable[..., Scan]) -> Callable[..., Scan]:
        if name in READERS:
            raise ValueError(f"reader {name!r} is registered twice")
        READERS[name] = Reader(name, what, suffixes, options, open)
        return open

    return keep


def readers() -> dict[str, Reader]:
    """The reader of every format, those of plugins too, by name."""
    load_plugins()
    return READERS


def suffixes() -> dict[str, tuple[str, ...]]:
    """The file names that each format is known by."""
    return {name: reader.suffixes for name, reader in readers().items()}


def supported_formats() -> dict[str, str]:
    """Return what can be read: the name of each format and a few words with its file names."""
    return {r.name: f"{r.what} ({', '.join(r.suffixes)})" if r.suffixes else r.what for r in readers().values()}


def read_volume(path: str | os.PathLike[str], *, select: Select | None = None, **options: Any) -> Volume:
    """Read a scan of any supported format, the format recognised by content and name.

    Args:
        path: a file, a folder, `FILE.npz#SPLIT/INDEX`, or another address such as `STUDY#series=4`, whose options
            count more than those beside it; `T1.nii.gz | T2.nii.gz` is a scan of two channels; see
            `slivit.data.readers.address`.
        select: gets the number of slices in the scan and returns the indices wanted, in any order and perhaps
            repeated; only these are decoded where the format allows it. None for all slices.
        **options: `axis` ("axial", "coronal" or "sagittal": the axis across slices; by default the plane of
            acquisition, which DICOM tells, and in other formats the largest spacing where it is clearly larger than the
            others, else axial; "time" for the several images of one place of a DICOM series), `frame` (which volume of
            a 4D series, from 0), `channel` (number or name of one of several channels of a TIFF, a NIfTI, MHA or NRRD
            file; "red", "green" or "blue" of a colour image or video, which is else made grey; or "all" of them),
            `align` ("resample": channels on other grids than the first's are brought to it instead of refused),
            `series` (UID, number or part of the description of one of several series, or {"modality": "MR",
            "description": "T1"}), `affine`
            ("sform" or "qform": which orientation of a NIfTI file counts where the two disagree), `item`
            ("SPLIT/INDEX" of a MedMNIST file, where the path does not say it), `check_md5` (False accepts a changed
            file under an official MedMNIST name). An option that is None counts as not given.

    Returns:
        The volume, in the view described in `slivit.data.readers.geometry`. `indices` and `depth` record the selection;
        `spacing` and `affine` are those of the whole scan.

    Raises:
        ReadError: the path is missing, of no known format, damaged, or cannot be read without guessing.

    Example:
        >>> volume = slivit.read_volume("scan0.nii")
        >>> volume.shape, volume.spacing
        ((6, 24, 24), (3.0, 1.0, 1.0))
    """
    with noted(os.fspath(path)), _quiet() as caught:
        scan = open_scan(path, **options)
        try:
            volume = _volume(scan, select, caught)
        except Recounted as again:
            volume = _volume(again.scan, select, caught)
    record(volume.source, volume.notes)
    return volume


def describe(path: str | os.PathLike[str], **options: Any) -> ScanInfo:
    """Return what the header of a scan says, without decoding its slices. Arguments as in `read_volume`."""
    with _quiet() as caught:
        info = open_scan(path, **options).info
        return replace(info, notes=(*info.notes, *_sentences(caught)))


def open_scan(path: str | os.PathLike[str], **options: Any) -> Scan:
    """Return the opened scan: its header, and a function that decodes chosen slices."""
    source = os.fspath(path)
    given = {name: value for name, value in options.items() if value is not None}
    if len(parts := parts_of(source)) > 1:
        align = given.pop("align", "")
        return beside([open_scan(part, **given) for part in parts], source, align)
    name, fragment = split_address(source)
    given |= typed_options(options_of(fragment), source)
    file = Path(name)
    try:
        contents = sniff.recognise(file, source, suffixes())
        reader = READERS[contents.format]
        scan = _coloured(reader, contents, source, given)
        if scan is None:
            _check_options(given, reader, source)
            scan = reader.open(replace(contents, source=source), **given)
        return replace(scan, info=replace(scan.info, notes=(*scan.info.notes, *contents.notes)))
    except OSError as error:
        raise ReadError(f"{source}: cannot be opened ({error.strerror or error}).") from error


def _coloured(reader: Reader, contents: Found, source: str, given: dict[str, Any]) -> Scan | None:
    """Open a colour image or video whose channels, or one of them, are asked for; None where it is none."""
    channel, rest = given.get("channel"), {name: value for name, value in given.items() if name != "channel"}
    if channel not in (ALL, *COLOURS):
        return None
    at = replace(contents, source=source)
    if channel == ALL and "channel" in reader.options:
        _check_options(given, reader, source)
        if (scan := reader.open(at, **given)).info.channels > 1:  # of a format that tells channels apart by itself
            return scan
    _check_options(rest, reader, source)
    try:
        scan = reader.open(at, **rest)
    except ReadError:  # such as a stack of several channels, of which one has to be chosen
        return None
    if COLOUR_NOTE in scan.info.notes:
        return in_colour(scan, channel)
    if channel in COLOURS:
        raise ReadError(f"{source}: channel={channel} was asked for, and it is grey; leave channel out.")
    return None


def _check_options(given: dict[str, Any], reader: Reader, source: str) -> None:
    for name, value in given.items():
        kinds = _OPTION_KINDS.get(name, (type(value),))
        if name in reader.options and type(value) in kinds:
            continue
        if name in reader.options:
            raise ReadError(f"{source}: {name} must be {' or '.join(k.__name__ for k in kinds)}. Got {value!r}.")
        if name == "align":
            raise ReadError(f"{source}: align is for scans of several channels, and this is one file or folder.")
        takers = [r.name for r in READERS.values() if name in r.options]
        if takers:
            raise ReadError(f"{source}: is read as {reader.what}, which has no option {name!r}; {one_of(takers)} have.")
        known = sorted({option for r in READERS.values() for option in r.options})
        raise ReadError(f"{source}: unknown option {name!r}; the options are {one_of(known)}.{nearest(name, known)}")


def _volume(scan: Scan, select: Select | None, caught: Sequence[warnings.WarningMessage]) -> Volume:
    info = scan.info
    depth = info.shape[0]
    wanted = None if select is None else _checked(select(depth), depth, info.source)
    unique = sorted(set(wanted)) if wanted is not None else range(depth)
    array = scan.load(unique)
    if wanted is not None and list(unique) != wanted:
        array = array.take(np.searchsorted(unique, wanted), axis=-3)
    indices = None if wanted is None else tuple(wanted)
    notes = (*info.notes, *_sentences(caught), *_without_numbers(array))
    return Volume(array, info.spacing, info.source, info.affine, indices, depth, notes)


def _without_numbers(array: Array) -> tuple[str, ...]:
    """Return a note on the voxels that are no numbers, where there are any."""
    if all_finite(array):
        return ()
    finite = np.isfinite(array)
    share = 1 - np.count_nonzero(finite) / array.size
    empty = int((~finite.any(axis=(-2, -1))).sum())
    note = f"{share:.2%} of the voxels are NaN or infinite"
    slices = array.size // (array.shape[-2] * array.shape[-1])
    return (f"{note}, and {counted(empty, 'slice')} of {slices} without a single number" if empty else note,)


def _checked(indices: Sequence[int], depth: int, source: str) -> list[int]:
    """Return the selected indices as plain integers, or raise where one is outside the scan."""
    wanted = [int(i) for i in indices]
    outside = [i for i in wanted if not 0 <= i < depth]
    if outside or not wanted:
        what = f"slice {outside[0]}" if outside else "no slice"
        raise ReadError(f"{source}: {what} was selected; the scan has slices 0 to {depth - 1}.")
    return wanted


@contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Collect what libraries warn about while they read, for the notes, instead of the screen."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def _sentences(caught: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """Return each different warning about a file once, as one line."""
    kept = [w for w in caught if not issubclass(w.category, _OF_PROGRAMS)]
    return tuple(dict.fromkeys(" ".join(str(w.message).split())[:300] for w in kept))
