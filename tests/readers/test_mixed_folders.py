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


def _turned(angles: tuple[float, float, float]) -> tuple[float, ...]:
    """The row and column directions of slices turned round the three axes, in radians."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        step = np.eye(3)
        step[[i, j, i, j], [i, j, j, i]] = np.cos(angle), np.cos(angle), -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return (*turn[:, 0], *turn[:, 1])


@settings(max_examples=12, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-1.4, 1.4)] * 3),
    echoes=st.integers(1, 3),
    patients=st.integers(1, 2),
    shuffle=st.randoms(use_true_random=False),
)
def test_oblique_series_with_echoes_and_patients(dicom_series, angles, echoes, patients, shuffle):
    with tempfile.TemporaryDirectory() as made:
        root, rng = Path(made), np.random.default_rng(1)
        names = [f"{i:03d}.dcm" for i in range(4 * echoes * patients)]
        shuffle.shuffle(names)
        kept, plain = iter(names), []
        for patient in range(patients):
            for echo in range(echoes):
                values = rng.integers(0, 900, (4, 5, 6), dtype=np.int16)
                own = {"orientation": _turned(angles), "PatientID": f"P{patient}", "EchoTime": 10.0 * (echo + 1)}
                written = [next(kept) for _ in values]
                number = lambda i, e=echo, p=patient: 1 + i + 4 * e + 100 * p  # noqa: E731
                sop = lambda i, e=echo, p=patient: f"1.2.9.{p + 1}.{e + 1}.{i + 1}"  # noqa: E731
                one = {"SOPInstanceUID": sop, "InstanceNumber": number, **own}
                dicom_series(root / "all", values, name=written.__getitem__, **one)
                plain.append(read_volume(dicom_series(root / f"{patient}_{echo}", values, **one)))
        if patients > 1:
            with pytest.raises(ReadError, match="patient"):
                read_volume(root / "all")
            return
        if echoes > 1:
            with pytest.raises(ReadError, match="frame"):
                read_volume(root / "all")
        for echo, alone in enumerate(plain):
            volume = read_volume(root / "all", **({"frame": echo} if echoes > 1 else {}))
            np.testing.assert_array_equal(volume.array, alone.array)
            np.testing.assert_allclose(volume.affine, alone.affine)


def _frames(folder, *names):
    folder.mkdir()
    for value, name in enumerate(names):
        Image.fromarray(np.full((4, 5), value, np.uint8)).save(folder / f"{name}.png")
    return folder


def test_frames_of_several_scans_in_one_folder_are_never_joined(tmp_path):
    eyes = _frames(tmp_path / "eyes", "OD_1", "OS_1", "OD_2", "OS_2", "OD_10", "OS_10")
    with pytest.raises(ReadError, match=r'names of the frames are of 2 kinds: "OD_#" \(3\), "OS_#" \(3\). Choose one'):
        read_volume(eyes)
    assert read_volume(eyes, series="OS_#").array[:, 0, 0].tolist() == [1, 3, 5]
    assert read_volume(f"{eyes}#series=os").array[:, 0, 0].tolist() == [1, 3, 5]
    with pytest.raises(ReadError, match=r'no frame is called like "?\'?OU'):
        read_volume(eyes, series="OU")
    masks = _frames(tmp_path / "masks", "1", "1_mask", "2", "2_mask", "3", "3_mask")
    with pytest.raises(ReadError, match='"#" \\(3\\), "#_mask" \\(3\\)'):
        read_volume(masks)
    assert read_volume(masks, series="#").array[:, 0, 0].tolist() == [0, 2, 4]
    for name, odd in (("montage", "montage"), ("copy", "3 (copy)"), ("again", "3(1)")):
        with pytest.raises(ReadError, match="of 2 kinds"):
            read_volume(_frames(tmp_path / name, "1", "2", "3", odd))
    people = _frames(tmp_path / "people", "P1_1", "P1_2", "P2_1", "P2_2")
    with pytest.raises(ReadError, match="two numbers that vary"):
        read_volume(people)
    assert read_volume(people, series="P2_").array[:, 0, 0].tolist() == [2, 3]


@pytest.mark.parametrize(
    "names",
    [
        ("slice-1", "slice-2", "slice-10"),
        ("z-10", "z-1.25", "z+2"),
        ("a", "b", "c"),
        ("9f3a", "c04b", "77de", "e1f0"),
        ("P7_1_of_3", "P7_2_of_3", "P7_3_of_3"),
        ("1_t20", "2_t40", "3_t40"),
        ("only",),
    ],
)
def test_frames_whose_names_tell_of_one_scan_are_read(tmp_path, names):
    assert read_volume(_frames(tmp_path / "frames", *names)).shape == (len(names), 4, 5)
