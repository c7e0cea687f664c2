"""DICOM segmentation objects as masks: on the scan's voxels, whatever slices they store."""

import numpy as np
import pytest

import slivit
from slivit.data.case import read_mask
from slivit.data.dicom_seg import is_dicom_seg, placed
from slivit.data.preprocessing import Preprocessing
from slivit.errors import ManifestError
from slivit.volume import Volume

TASK = slivit.Task(kind="segmentation", labels={"liver": 1, "lesion": 2})


def series(folder, tilt=0.0):
    slivit.make_phantoms("liver", folder, n=1, slices=6, size=64, tilt=tilt)
    return folder / "scans" / "scan_0001"


def seg_of(folder, numbers, file):
    """A DICOM SEG of a mask on the slices of a series, made by highdicom, which leaves empty slices out."""
    highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed (the extra seg)")
    import pydicom
    from pydicom.sr.codedict import codes

    slices = [pydicom.dcmread(f) for f in sorted(folder.iterdir())]
    slices.sort(key=lambda s: s.ImagePositionPatient[2])  # as the reader has them, from the feet to the head
    described = [
        highdicom.seg.SegmentDescription(
            number, name, codes.SCT.Organ, codes.SCT.Liver, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, name in ((1, "liver"), (2, "lesion"))
    ]
    uid, names = highdicom.UID, ("made", "here", "1", "1")
    made = highdicom.seg.Segmentation(
        slices, numbers, highdicom.seg.SegmentationTypeValues.BINARY, described, uid(), 9, uid(), 1, *names
    )
    made.save_as(file)
    return str(file)


@pytest.mark.parametrize("tilt", [0.0, 15.0])
def test_a_mask_comes_back_on_the_voxels_of_its_scan(tmp_path, tilt):
    folder = series(tmp_path / "scans", tilt)
    scan = slivit.read_volume(str(folder))
    numbers = np.zeros(scan.shape, np.uint8)
    numbers[2:5, 10:30, 20:40], numbers[3, 12:16, 22:29] = 1, 2  # nothing in the first and the last slices
    mask = seg_of(folder, numbers, tmp_path / "mask.dcm")
    assert is_dicom_seg(mask)
    assert not is_dicom_seg(next(iter(folder.iterdir())))
    row = {"path": str(folder), "mask": mask}
    assert (read_mask(row, scan, TASK, Preprocessing(), "error") == numbers).all()
    with pytest.raises(ManifestError, match="does not declare"):
        read_mask(row, scan, slivit.Task(kind="segmentation", labels={"liver": 1}), Preprocessing(), "error")


def test_slices_that_are_not_stored_are_empty_and_other_voxels_are_refused():
    stored = Volume(np.arange(24).reshape(2, 3, 4), (2.0, 1.0, 1.0), "seg", np.diag([2.0, 1, 1, 1]))
    scan = np.diag([2.0, 1, 1, 1])
    scan[0, 3] = -2  # the scan begins a slice before the object
    found = placed(stored, scan, (4, 3, 4))
    assert (found[1:3] == stored.array).all()
    assert not found[[0, 3]].any()
    for wrong in (np.diag([2.0, 1.1, 1, 1]), scan + np.array([[0, 0, 0, 0.3]] + [[0] * 4] * 3)):
        with pytest.raises(ManifestError, match="of a voxel off"):
            placed(stored, wrong, (4, 3, 4))
    with pytest.raises(ManifestError, match="does not say where"):
        placed(stored, None, (4, 3, 4))
