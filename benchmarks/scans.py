"""Made-up sets of scans for the benchmarks: of the sizes and file formats of the real ones, and quick to write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Make = Callable[[Path, int], list[Path]]


@dataclass(frozen=True)
class Kind:
    """One set: its name, how many scans it has in full, and the function that writes them."""

    name: str
    what: str
    scans: int
    make: Make


def speckled(depth: int, height: int, width: int, seed: int) -> np.ndarray:
    """(D, H, W) uint8: bands that bend smoothly from slice to slice, with speckle, which no codec packs away."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 6 * np.pi, height)[None, :, None]
    bend = np.linspace(0, np.pi, width)[None, None, :] + np.linspace(0, 2, depth)[:, None, None]
    clean = 90 + 70 * np.sin(rows + np.sin(bend))
    return np.clip(clean * rng.gamma(9, 1 / 9, (depth, height, width)), 0, 255).astype(np.uint8)


def variants(base: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yield `count` volumes that differ in every pixel's place and in brightness."""
    for number in range(count):
        moved = np.roll(base, (number, 7 * number, 13 * number), (0, 1, 2))
        yield (moved * (0.7 + 0.3 * (number % 8) / 8)).astype(base.dtype)


def make_oct(folder: Path, count: int) -> list[Path]:
    """Write folders of 49 TIFF frames of 496 x 512, uncompressed, as Heidelberg's exports are."""
    from PIL import Image

    paths = []
    for number, volume in enumerate(variants(speckled(49, 496, 512, seed=0), count)):
        path = folder / f"oct{number:03}"
        path.mkdir(parents=True)
        for index, frame in enumerate(volume):
            Image.fromarray(frame).save(path / f"frame_{index}.tif")
        paths.append(path)
    return paths


def make_mri(folder: Path, count: int) -> list[Path]:
    """Write DICOM series of 36 slices of 288 x 284, 12 bits in 16, one file a slice."""
    paths = []
    for number, volume in enumerate(variants(speckled(36, 288, 284, seed=1), count)):
        path = folder / f"mri{number:03}"
        path.mkdir(parents=True)
        for index, pixels in enumerate(volume):
            _write_dicom(path / f"IM{(index * 17) % 36:04}.dcm", pixels.astype(np.uint16) * 16, number, index)
        paths.append(path)
    return paths


def _write_dicom(path: Path, pixels: np.ndarray, series: int, index: int) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    slice_ = Dataset()
    slice_.file_meta = FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID = MRImageStorage
    slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID = f"1.2.826.0.1.{series}.{index}"
    slice_.StudyInstanceUID, slice_.SeriesInstanceUID = f"1.2.826.0.2.{series}", f"1.2.826.0.3.{series}"
    slice_.PatientID = slice_.PatientName = f"MADE{series:04}"
    slice_.Modality, slice_.SeriesNumber, slice_.SeriesDescription = "MR", 5, "made-up liver"
    slice_.Manufacturer, slice_.ManufacturerModelName, slice_.MagneticFieldStrength = "none", "none", 1.5
    slice_.RepetitionTime, slice_.EchoTime, slice_.FlipAngle, slice_.EchoNumbers = 27.0, 2.4, 20.0, 1
    slice_.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    slice_.StudyDate = slice_.SeriesDate = slice_.AcquisitionDate = "20261122"
    slice_.StudyTime = slice_.SeriesTime = slice_.AcquisitionTime = "120000"
    slice_.InstanceNumber, slice_.SliceThickness, slice_.PixelSpacing = index + 1, 6.0, [1.5, 1.5]
    slice_.ImagePositionPatient, slice_.ImageOrientationPatient = [-210, -200, 6.0 * index], [1, 0, 0, 0, 1, 0]
    slice_.Rows, slice_.Columns = pixels.shape
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation, slice_.PixelRepresentation = 1, "MONOCHROME2", 0
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 12, 11
    slice_.WindowCenter, slice_.WindowWidth = 2000, 4000
    slice_.PixelData = pixels.astype("<u2").tobytes()
    slice_.save_as(path, enforce_file_format=True)


def make_video(folder: Path, count: int) -> list[Path]:
    """Write AVIs of about 177 frames of 112 x 112, Motion JPEG in colour, as EchoNet-Dynamic's are."""
    import cv2

    folder.mkdir(parents=True)
    base = speckled(177, 112, 112, seed=2)
    paths = []
    for number, clip in enumerate(variants(base, count)):
        path = folder / f"clip{number:03}.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 50, (112, 112))
        for frame in clip[: 165 + (number * 5) % 13]:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
        for frame in clip[:12]:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
        writer.release()
        paths.append(path)
    return paths


KINDS = (
    Kind("OCT", "49 TIFF frames, 496 x 512", 64, make_oct),
    Kind("MRI", "36 DICOM slices, 288 x 284", 32, make_mri),
    Kind("video", "AVI, about 177 frames, 112 x 112", 64, make_video),
)
