"""The rule for readers, on random archives: more than one image at a place, patient, series or clip is never joined.

Whatever volumes are written into a folder, reading it gives its only volume or an error that lists choices, and
following the choices gives each volume that was written, once, voxel for voxel, where it lies.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from slivit.data.readers import geometry, read_volume
from slivit.errors import ReadError

STEP, PIXEL = 2.5, (0.5, 0.75)
MARKS = {
    "echo": lambda t: {"EchoTime": 4.6 + 2.3 * t},
    "time point": lambda t: {"TemporalPositionIdentifier": t + 1},
    "b-value": lambda t: {"DiffusionBValue": 500.0 * t},
    "kind": lambda t: {"ImageType": ["ORIGINAL", "PRIMARY", "MPI"[t]]},
    "heart": lambda t: {"TriggerTime": 31.5 * t},
    "clock": lambda t: {"AcquisitionTime": f"1015{t:02d}"},
    "number": lambda t: {},
}


def _rotation(rng):
    """A random rotation, which makes every orientation oblique."""
    matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return matrix if np.linalg.det(matrix) > 0 else -matrix


class Archive:
    """A folder into which random series are written; `volumes` holds what each of them must be read as."""

    def __init__(self, folder, dicom_file, rng):
        self.folder, self.make, self.rng = folder, dicom_file, rng
        self.volumes, self.files = [], 0

    def save(self, pixels, **elements):
        self.files += 1
        place = self.folder / f"d{self.rng.integers(3)}"
        place.mkdir(parents=True, exist_ok=True)
        uid = f"1.9.{self.files}"
        path = place / f"{self.rng.integers(10**6)}_{self.files}.dcm"
        self.make(pixels, SOPInstanceUID=uid, **elements).save_as(path, enforce_file_format=True)
        return path

    def series(self, uid, patient, marks, copies=False):
        """Write a series of `len(marks)` images a place, in random order of files, numbers and times of slices."""
        rng = self.rng
        turn, origin = _rotation(rng), rng.normal(scale=50, size=3)
        depth, shape = int(rng.integers(2, 5)), tuple(rng.integers(3, 6, 2))
        images = rng.permutation(len(marks) * depth * shape[0] * shape[1]).reshape(len(marks), depth, *shape)
        images = images.astype(np.int16)
        slices, drawn = rng.permutation(depth), rng.permutation(len(marks) * depth) + 1
        for t, mark in enumerate(marks):
            for i in slices:
                # Without a mark the number tells the volumes apart, slice by slice in any order.
                number = len(marks) * int(slices[i]) + t + 1 if marks[0] == {} else int(drawn[t * depth + i])
                position = origin + i * STEP * turn[:, 2]
                path = self.save(
                    images[t, i],
                    **{"SeriesInstanceUID": uid, "SeriesNumber": int(uid[-1]), "PatientID": patient, "Modality": "MR"},
                    **{"InstanceNumber": number, "PixelSpacing": list(PIXEL), "SliceThickness": STEP},
                    **{"ImagePositionPatient": [f"{v:.10g}"[:16] for v in position]},
                    **{"ImageOrientationPatient": [f"{v:.10f}" for v in (*turn[:, 0], *turn[:, 1])]},
                    **mark,
                )
                if copies and rng.random() < 0.3:
                    path.with_suffix(".copy.dcm").write_bytes(path.read_bytes())
            affine = np.eye(4)
            affine[:3, :3] = np.stack([turn[:, 2] * STEP, turn[:, 1] * PIXEL[0], turn[:, 0] * PIXEL[1]], axis=1)
            affine[:3, 3] = origin
            view = geometry.view(images[t].shape, geometry.LPS_TO_RAS @ affine, "")
            self.volumes.append((view.turn(images[t]), view.affine))

    def clip(self, uid, patient):
        pixels = self.rng.integers(0, 255, (4, 5, 6), dtype=np.uint8)
        self.save(pixels, SeriesInstanceUID=uid, SeriesNumber=int(uid[-1]), PatientID=patient, Modality="US")
        self.volumes.append((pixels, None))


def _followed(folder, **options):
    """Yield every volume that following the choices of the messages leads to."""
    try:
        yield read_volume(folder, **options)
        return
    except ReadError as error:
        told = str(error)
    kind, choices = "frame", re.findall(r"^  - frame=(\d+): ", told, re.MULTILINE)
    if not choices:
        kind, choices = "series", re.findall(r"^  - (\S+): ", told, re.MULTILINE)
    assert len(choices) > 1, told
    assert kind not in options, told
    for choice in choices:
        yield from _followed(folder, **options, **{kind: int(choice) if kind == "frame" else choice})


@pytest.mark.parametrize("seed", range(24))
def test_every_volume_is_found_by_its_choice_and_nothing_is_joined(tmp_path, dicom_file, seed):
    rng = np.random.default_rng(seed)
    archive = Archive(tmp_path / "in", dicom_file, rng)
    patients = ["A", "B"][: rng.integers(1, 3)]
    for number in range(rng.integers(1, 4)):
        for patient in patients:
            name = rng.choice([*MARKS, "clip"])
            if name == "clip":
                archive.clip(f"1.2.{number + 1}", patient)
            else:
                marks = [MARKS[name](t) for t in range(rng.integers(1, 4))]
                archive.series(f"1.2.{number + 1}", patient, marks, copies=rng.random() < 0.3)
    found = list(_followed(archive.folder))
    assert len(found) == len(archive.volumes)
    for wanted, affine in archive.volumes:
        same = [s for s in found if s.array.shape == wanted.shape and np.array_equal(s.array, wanted)]
        assert len(same) == 1
        if affine is None:
            assert same[0].affine is None
        else:
            np.testing.assert_allclose(same[0].affine, affine, atol=1e-4)
