"""Writing a made-up volume as a DICOM series."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from slivit.phantoms.cases import Case

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class Geometry:
    """Where the slices of a volume lie.

    Args:
        spacing: distance in mm between slices, rows and columns.
        tilt: angle in degrees by which the slices lean about the patient's left-right axis.
    """

    spacing: tuple[float, float, float]
    tilt: float = 0.0

    @property
    def axes(self) -> npt.NDArray[np.float64]:
        """(3, 3): the directions along a row, along a column and from slice to slice, in patient coordinates (LPS)."""
        sin, cos = np.sin(np.radians(self.tilt)), np.cos(np.radians(self.tilt))
        return np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])

    def corner(self, index: int, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Place of the first voxel of a slice in mm; the middle of the volume is the origin."""
        voxel = np.array([0, 0, index]) - (np.array(shape[::-1]) - 1) / 2
        return (voxel * np.array(self.spacing[::-1])) @ self.axes


def write_series(volume: npt.NDArray[np.uint16], folder: Path, case: Case, geometry: Geometry) -> None:
    """Write a volume as one MR series, a file a slice. File names are shuffled against the order of the slices.

    Args:
        volume: (D, H, W) uint16, from the feet to the head.
        folder: an empty folder.
        case: names the patient, and seeds the unique identifiers.
        geometry: where the slices lie.
    """
    from pydicom import dcmwrite

    names = case.scan_rng().permutation(len(volume))
    for index, (frame, name) in enumerate(zip(volume, names, strict=True)):
        dataset = _header(case, geometry)
        _set_slice(dataset, frame, index, volume.shape, case, geometry)
        dcmwrite(folder / f"IM{name + 1:04d}.dcm", dataset, enforce_file_format=True)


def _uid(case: Case, *parts: object) -> str:
    """A valid identifier that is the same whenever the scan is made again."""
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=[case.kind, str(case.seed), *map(str, parts)])


def _header(case: Case, geometry: Geometry) -> Dataset:
    """What all slices of the series share."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = MRImageStorage
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OPP_PHASE"]
    dataset.StudyDate = dataset.SeriesDate = f"2020{1 + 6 * case.visit:02d}15"
    dataset.StudyTime = "120000"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.Modality, dataset.Manufacturer, dataset.SeriesDescription = "MR", "SLIViT phantoms", "T1 GRE opposed phase"
    dataset.PatientName, dataset.PatientID = f"PHANTOM^{case.patient_name}", case.patient_name
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.BodyPartExamined, dataset.ScanningSequence, dataset.SequenceVariant = "LIVER", "GR", "SP"
    dataset.ScanOptions, dataset.MRAcquisitionType = "", "2D"
    dataset.RepetitionTime, dataset.EchoTime, dataset.FlipAngle, dataset.EchoTrainLength = "150", "2.3", "70", "1"
    dataset.SliceThickness = dataset.SpacingBetweenSlices = _decimal(geometry.spacing[0])
    dataset.StudyInstanceUID = _uid(case, "study", case.index)
    dataset.SeriesInstanceUID = _uid(case, "series", case.index)
    dataset.FrameOfReferenceUID = _uid(case, "frame", case.index)
    dataset.StudyID, dataset.SeriesNumber, dataset.PatientPosition = str(case.visit + 1), 1, "HFS"
    dataset.PositionReferenceIndicator = ""
    return dataset


def _set_slice(
    dataset: Dataset,
    frame: npt.NDArray[np.uint16],
    index: int,
    shape: tuple[int, ...],
    case: Case,
    geometry: Geometry,
) -> None:
    """What a slice has of its own: identifier, number, place and pixels."""
    dataset.InstanceNumber = index + 1
    dataset.ImageOrientationPatient = [_decimal(v) for v in geometry.axes[:2].ravel()]
    dataset.ImagePositionPatient = [_decimal(v) for v in geometry.corner(index, shape)]
    dataset.PixelSpacing = [_decimal(v) for v in geometry.spacing[1:]]
    dataset.set_pixel_data(frame, "MONOCHROME2", 12)
    # Setting the pixels draws a random identifier, so this comes last.
    dataset.SOPInstanceUID = _uid(case, "slice", case.index, index)


def _decimal(value: float) -> str:
    """A number as a DICOM decimal string, which holds 16 characters."""
    return f"{round(float(value), 9) + 0.0:.10g}"
