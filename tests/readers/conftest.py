"""Makers of small scans in real file formats, whose every voxel is known."""

from __future__ import annotations

import struct
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


def _vol_file(scans: np.ndarray, pattern: int = 3) -> bytes:
    depth, height, width = scans.shape
    header_size = 256 + 4 * width
    head = struct.pack("<12s3I3d", b"HSF-OCT-103", width, depth, height, 0.0113, 0.12, 0.0039)
    head += struct.pack("<2I2dId4sQiI", 5, 4, 0.01, 0.01, 30, 0.5, b"OD", 131_000_000_000_000_000, pattern, header_size)
    head = head.ljust(2048, b"\0")
    body = bytes(5 * 4)  # the infrared picture
    for index, scan in enumerate(scans):
        start = struct.pack("<12sI4d2If", b"HSF-BS-103", header_size, 0, 0.12 * index, 0.09, 0.12 * index, 1, 256, 30.0)
        body += start.ljust(256, b"\0") + np.zeros(width, "<f4").tobytes() + scan.astype("<f4").tobytes()
    return head + body


def _e2e_float(values: np.ndarray) -> np.ndarray:
    """Powers of two as .e2e stores them: 6 bits of exponent, then 10 of mantissa (none), no sign."""
    return ((np.log2(values).astype(int) + 63) << 10).astype("<u2")


def _e2e(series: dict[int, np.ndarray]) -> bytes:
    """One patient and study; each series a stack of B-scans, stored last slice first."""
    items = []
    for number, scans in series.items():
        items.append((number, -1, 11, bytes(14) + b"R" + bytes(12)))
        depth, height, width = scans.shape
        for index in reversed(range(depth)):
            meta = struct.pack(
                "<3I4fI3fI2fI", 0, height, width, 0, 1.0 * index, 20, 1.0 * index, 0, 0, 0.0039, 0, 0, 0, 0, 0
            )
            meta += struct.pack("<4I2fIQI2f", width, depth, index, 3, 0, 0, 0, 10**17, 1, 1, 1)
            items.append((number, 2 * index, 10004, meta.ljust(428, b"\0")))
            pixels = _e2e_float(scans[index]).tobytes()
            image = struct.pack("<5I", len(pixels), 35652097, height * width, height, width) + pixels
            items.append((number, 2 * index, 1073741824, image))
    return _chunked(items)


def _chunked(items) -> bytes:
    version = struct.pack("<12sI20s", b"CMDb", 100, bytes(20))
    at = 36 + 52
    start = at + 52 + 44 * len(items)
    folders, containers = b"", b""
    for order, (number, slice_id, kind, content) in enumerate(items):
        ids = struct.pack("<4i2HI", 1, 2, number, slice_id, 1, 0, kind)
        place = start + len(containers)
        folders += struct.pack("<4I", at + 52 + 44 * order, place, len(content), 0) + ids + bytes(4)
        containers += struct.pack("<12s5I", b"MDbData", 0, 0, place, len(content), 0) + ids + bytes(4) + content
    directory = struct.pack("<12sI20s4I", b"MDbMDir", 100, bytes(20), len(items), at, 0, 0)
    chunk = struct.pack("<12sI20s4I", b"MDbDir", 100, bytes(20), len(items), at, 0, 0)
    return version + directory + chunk + folders + containers


@pytest.fixture(scope="session")
def vol_file() -> Callable:
    """Makes the bytes of a Heidelberg .vol file from (D, H, W) reflectance."""
    return _vol_file


@pytest.fixture(scope="session")
def e2e_file() -> Callable:
    """Makes the bytes of a Heidelberg .e2e file from series number to (D, H, W) powers of two."""
    return _e2e
