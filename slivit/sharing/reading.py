"""Scans as the model beside this file was given them: NIfTI, DICOM, frames and .npy, with the values slivit reads.

Needs numpy and opencv-python-headless, and for the format at hand nibabel (NIfTI, DICOM), pydicom (DICOM) or Pillow
(frames): `slivit export` copies this file beside a model, as reading.py. What it cannot read without guessing it
refuses, and hands to slivit where that is installed: several volumes in a file or series, grids that lie askew, images
that share a place, other formats.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Spacing = tuple[float, float, float] | None
Scan = tuple[Array, Spacing]
"""A (D, H, W) array, or (C, D, H, W) of channels, and mm between slices, rows and columns where that is known."""
Options = dict[str, Any]
"""The reading options of preprocessing.json; "axis", and of frames "channel" = "all", are taken here."""

TOWARDS = {"axial": "SPL", "coronal": "PIL", "sagittal": "RIP"}
FRAMES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")
ASKEW = np.cos(np.deg2rad(30))
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
CLEARLY = 1.5  # times the second largest spacing: across these slices a scan was acquired


class Other(Exception):
    """What this file does not read."""


def read_scan(path: str, options: Options, install: str = "") -> Scan:
    """Read a scan; "t1.nii.gz | t2.nii.gz" names the files of the channels.

    Args:
        path: a .npy, .nii, .nii.gz, .dcm or image file, or a folder of one DICOM series or of frames.
        options: of reading.
        install: how slivit is installed, for what this file does not read.

    Raises:
        SystemExit: a scan that is not read here, where slivit is not installed; one line says why.
    """
    try:
        return _channels([_read(part.strip(), options) for part in path.split("|")])
    except Other as why:
        try:
            read_volume = importlib.import_module("slivit.data.readers").read_volume
        except ImportError:
            raise SystemExit(f"{path}: {why}; slivit may read it: {install}") from None
        volume = read_volume(path, **options)
        return volume.array, volume.spacing


def _channels(scans: list[Scan]) -> Scan:
    if len(scans) == 1:
        return scans[0]
    if len({array.shape for array, _ in scans}) > 1:
        raise Other("the files of the channels lie on different grids")
    return np.stack([array for array, _ in scans]), scans[0][1]


def _read(path: str, options: Options) -> Scan:
    place, name = Path(path), path.casefold()
    if name.endswith(".npy"):
        return np.load(path, allow_pickle=False), None
    coloured = options.get("channel") == "all"
    if set(options) - {"axis", "channel"} or options.get("channel", "all") != "all":
        raise Other(f"the reading options {', '.join(sorted(options))} are not known here")
    if coloured and not (place.is_dir() or name.endswith(FRAMES)):
        raise Other("the channels of this format are not read here")
    if name.endswith((".nii", ".nii.gz")):
        return _nifti(path, options.get("axis"))
    files = sorted(p for p in place.iterdir() if p.is_file()) if place.is_dir() else [place]
    if not coloured and (dicom := [file for file in files if _is_dicom(file)]):
        return _dicom(dicom, options.get("axis"))
    if frames := [file for file in files if file.suffix.casefold() in FRAMES]:
        return _frames(sorted(frames, key=_natural), coloured), None
    raise Other("is neither NIfTI, DICOM, frames nor .npy")


def _needs(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise SystemExit(f"this format needs the package {package}: pip install {package}") from None


def _nifti(path: str, axis: str | None) -> Scan:
    image = _needs("nibabel", "nibabel").load(path)
    if len([size for size in image.shape[3:] if size != 1]):
        raise Other(f"holds several volumes, {image.shape}")
    if image.get_data_dtype().names or image.get_data_dtype().kind == "c":
        raise Other("holds colours or complex numbers")
    sform, qform = (image.header[f"{form}_code"] > 0 for form in ("sform", "qform"))
    if sform and qform and not np.allclose(image.header.get_sform(), image.header.get_qform(), atol=0.05):
        raise Other("its sform and its qform disagree")
    affine = np.array(image.affine, np.float64)
    affine[:3] *= {"meter": 1000.0, "micron": 0.001}.get(image.header.get_xyzt_units()[0], 1.0)
    stored = np.asanyarray(image.dataobj.get_unscaled())
    stored = stored.astype(stored.dtype.newbyteorder("=")).reshape([*image.shape[:3], 1, 1][:3])
    return _turned(_rescaled(stored, float(image.dataobj.slope), float(image.dataobj.inter)), affine, axis)


def _turned(stored: Array, affine: Array, axis: str | None, keep: bool = False) -> Scan:
    """A stored grid as slices; across its first axis where `keep`, else along the plane that was acquired."""
    orientations = _needs("nibabel.orientations", "nibabel")
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(steps).all() and steps.all()) or np.abs(affine[:3, :3] / steps).max(0).min() < ASKEW:
        raise Other("its grid lies more than 30 degrees askew of the patient's axes, or nowhere")
    start = orientations.io_orientation(affine)
    planes = ("sagittal", "coronal", "axial")
    if axis is None and keep:
        axis = planes[int(start[0, 0])]
    elif axis is None:
        single = [i for i in range(3) if stored.shape[i] == 1]
        across = single[0] if len(single) == 1 else int(steps.argmax())
        acquired = len(single) == 1 or steps[across] >= CLEARLY * np.sort(steps)[1]
        axis = planes[int(start[across, 0])] if acquired else "axial"
    transform = orientations.ornt_transform(start, orientations.axcodes2ornt(tuple(TOWARDS[axis])))
    spacing = np.empty(3)
    spacing[transform[:, 0].astype(int)] = steps
    depth, rows, columns = spacing.tolist()
    return np.ascontiguousarray(orientations.apply_orientation(stored, transform)), (depth, rows, columns)


def _rescaled(stored: Array, slope: float, intercept: float) -> Array:
    """Whole numbers where all are whole, else float32, or float64 of wide numbers."""
    if slope == 1 and intercept == 0:
        return stored
    if stored.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        return stored.astype(np.int64) * int(slope) + int(intercept)
    wide = stored.dtype.itemsize > (2 if stored.dtype.kind in "iu" else 4)
    scaled: Array = stored.astype(np.float64 if wide else np.float32)
    return scaled * slope + intercept


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _dicom(files: list[Path], axis: str | None) -> Scan:
    """The slices of one series by their places along the normal."""
    pydicom = _needs("pydicom", "pydicom")
    slices = [pydicom.dcmread(file) for file in files]
    for one in slices:
        _check_plain(one)
    if len({(one.SeriesInstanceUID, one.Rows, one.Columns) for one in slices}) > 1:
        raise Other("the folder holds several series")
    cosines = np.array(slices[0].ImageOrientationPatient, np.float64)
    if any(np.abs(np.array(one.ImageOrientationPatient, np.float64) - cosines).max() > 1e-3 for one in slices):
        raise Other("its slices are not parallel")
    normal = np.cross(cosines[:3], cosines[3:])
    places = np.array([one.ImagePositionPatient for one in slices], np.float64)
    along = places @ (normal / np.linalg.norm(normal))
    order = np.argsort(along, kind="stable")
    step = _step(along[order], slices[0].get("SliceThickness"))
    rows, columns = map(float, slices[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([normal / np.linalg.norm(normal) * step, cosines[3:] * rows, cosines[:3] * columns], 1)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return _turned(np.stack([_grey(slices[i]) for i in order]), affine, axis, keep=True)


def _check_plain(one: Any) -> None:
    """Raise where a slice is of a kind that needs more than its own header says plainly."""
    needed = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "PixelData")
    lacking = [name for name in needed if not one.get(name)]
    if lacking or int(one.get("NumberOfFrames") or 1) > 1:
        raise Other(f"a DICOM file lacks {', '.join(lacking)}" if lacking else "a DICOM file holds several frames")
    if one.SamplesPerPixel != 1 or one.PhotometricInterpretation != "MONOCHROME2" or "ModalityLUTSequence" in one:
        raise Other("a DICOM file is in colour, inverted or looked up in a table")
    if one.file_meta.TransferSyntaxUID not in UNCOMPRESSED or one.HighBit != one.BitsStored - 1:
        raise Other("a DICOM file is compressed or shifted by bits")


def _step(along: Array, thickness: Any) -> float:
    """Mm between slices whose places were sorted."""
    if len(along) == 1:
        return float(thickness or 1.0)
    gaps = np.diff(along)
    if gaps.min() < 0.05 or np.abs(gaps - np.median(gaps)).max() > max(0.01 * np.median(gaps), 0.01):
        raise Other("its slices share a place or are unevenly spaced")
    return float(gaps.mean())


def _grey(one: Any) -> Array:
    return _rescaled(one.pixel_array, float(one.get("RescaleSlope") or 1.0), float(one.get("RescaleIntercept") or 0.0))


def _natural(file: Path) -> list[tuple[int, int | str]]:
    """So that slice10 follows slice9."""
    return [(0, int(p)) if p.isdecimal() else (1, p) for p in re.findall(r"\d+|\D+", file.name.casefold())]


def _frames(files: list[Path], coloured: bool) -> Array:
    """Images, one a slice, or the pages of one TIFF, grey by luminance (ITU-R 601) in 8 bits, or in 16 as stored.

    Where colours are asked for, (3, n, H, W).
    """
    image = _needs("PIL.Image", "Pillow")
    kinds = {file.suffix.casefold().replace("tiff", "tif").replace("jpeg", "jpg") for file in files}
    if len(kinds) > 1:
        raise Other(f"frames of several kinds lie together, {', '.join(sorted(kinds))}")
    pages = []
    for file in files:
        with image.open(file) as opened:
            count = getattr(opened, "n_frames", 1)
            if count > 1 and len(files) > 1:
                raise Other("frames have several pages each")
            for page in range(count):
                opened.seek(page)
                pages.append(_page(opened, coloured))
    if len({(page.shape, page.dtype) for page in pages}) > 1:
        raise Other("frames are of several sizes or kinds")
    return np.moveaxis(np.stack(pages), -1, 0) if coloured else np.stack(pages)


def _page(opened: Any, coloured: bool) -> Array:
    tile = getattr(opened, "tile", None)
    if opened.getexif().get(0x0112, 1) != 1 or (tile and re.match(r"(RGBA?|LA);16", str(tile[0].args))):
        raise Other("a frame is turned by its header, or has colours of 16 bits")
    if coloured and opened.mode not in ("RGB", "RGBA", "P"):
        raise Other(f"a frame is not in colour: it holds {opened.mode} pixels")
    if opened.format == "JPEG" and opened.mode == "RGB" and not coloured:
        opened.draft("L", opened.size)  # the file's own luminance
    if opened.mode in ("L", "1"):
        return np.array(opened.convert("L"))
    if opened.mode.startswith("I;16"):
        return np.array(opened).astype(np.uint16)
    if opened.mode not in ("RGB", "RGBA", "P"):
        raise Other(f"a frame holds {opened.mode} pixels")
    picture = np.array(opened.convert("RGB"))
    return picture if coloured else np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
