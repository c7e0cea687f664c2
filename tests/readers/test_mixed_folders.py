"""Folders of anything: one scan is read as it is, more than one is an error; nothing is joined or picked in silence."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from slivit.data.readers import read_volume
from slivit.errors import ReadError

PLACES = ("", "a", "a/b", "OD")
KINDS = ("nifti", "frames", "dicom", "notes")


def _write(kind: str, folder: Path, values: np.ndarray, dicom_series) -> np.ndarray:
    """Put one scan (or what is none) into a folder; returns how it reads by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "nifti":
        nibabel.save(nibabel.Nifti1Image(values.T, np.diag([-1.0, -1, 1, 1])), folder / "scan.nii.gz")
    elif kind == "frames":
        for index, image in enumerate(values.astype(np.uint8)):
            Image.fromarray(image).save(folder / f"frame_{index}.png")
    elif kind == "dicom":
        dicom_series(folder / "series", values)
    else:
        (folder / "notes.txt").write_text("no scan")
    return values


@settings(max_examples=25, deadline=None)
@given(st.sets(st.tuples(st.sampled_from(KINDS), st.sampled_from(PLACES)), min_size=1, max_size=3))
def test_one_scan_or_an_error(dicom_series, held):
    with tempfile.TemporaryDirectory() as made:
        root, rng = Path(made), np.random.default_rng(0)
        written = {
            (kind, place): _write(kind, root / place, rng.integers(0, 200, (12, 6, 7), dtype=np.int16), dicom_series)
            for kind, place in sorted(held)
        }
        scans = [key for key in written if key[0] in ("nifti", "dicom")]
        frames = [key for key in written if key[0] == "frames"]
        chosen = scans or frames  # pictures beside a scan are previews of it
        if len(chosen) == 1:
            volume = read_volume(root)
            np.testing.assert_array_equal(volume.array, written[chosen[0]])
            return
        with pytest.raises(ReadError) as caught:
            read_volume(root)
        assert str(caught.value).startswith(str(root))
