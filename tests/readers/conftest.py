"""Makers of small scans in real file formats, whose every voxel is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def _dicom_file(pixels: np.ndarray, **elements):
    """A single-frame, little-endian DICOM dataset of 16-bit pixels."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPInstanceUID = elements.pop("SOPInstanceUID", "1.2.3")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.Modality = "1.2.3.4", "1.2.3", "CT"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    for name, value in elements.items():
        if value is not None:
            setattr(dataset, name, value)
    return dataset


@pytest.fixture(scope="session")
def dicom_file() -> Callable:
    """Makes a DICOM dataset from pixels (rows, columns) or (frames, rows, columns) and elements by keyword."""
    return _dicom_file


@pytest.fixture(scope="session")
def dicom_series(dicom_file) -> Callable:
    """Writes (D, H, W) as a DICOM series whose slices lie along the normal of `orientation`, 2.5 mm apart."""

    def write(
        folder: Path,
        array: np.ndarray,
        *,
        orientation=(1, 0, 0, 0, 1, 0),
        origin=(-10.0, -20.0, 30.0),
        step=2.5,
        name: Callable[[int], str] = "{:03d}.dcm".format,
        uid="1.2.3.4",
        positions=None,
        **elements,
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        normal = np.cross(orientation[:3], orientation[3:])
        places = np.arange(len(array)) * step if positions is None else positions
        for index, (pixels, place) in enumerate(zip(array, places, strict=True)):
            own = {
                "SOPInstanceUID": f"{uid}.{index + 1}",
                "SeriesInstanceUID": uid,
                "InstanceNumber": index + 1,
                "ImagePositionPatient": [float(v) for v in np.add(origin, place * normal)],
                "ImageOrientationPatient": [float(v) for v in orientation],
                "PixelSpacing": [0.5, 0.75],
                "SliceThickness": 2.0,
            }
            own |= {key: value(index) if callable(value) else value for key, value in elements.items()}
            dicom_file(pixels, **own).save_as(folder / name(index), enforce_file_format=True)
        return folder

    return write


@pytest.fixture
def voxels(rng) -> np.ndarray:
    """(5, 6, 7) int16, every voxel different."""
    return rng.permutation(5 * 6 * 7).reshape(5, 6, 7).astype(np.int16)
