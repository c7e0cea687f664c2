"""Reading every scan of a manifest: what is found, what is told, and that one broken scan does not stop it."""

from __future__ import annotations

import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from slivit.data.check_same import same_pixels
from slivit.data.checking.check import COLOUR_LOST, check_manifest
from slivit.data.checking.findings import unusual_notes
from slivit.data.checking.scan import content_hash, examine, has_colour, orientation
from slivit.data.importers import medmnist_manifest
from slivit.data.workers import in_processes
from slivit.errors import ManifestError
from slivit.targets.task import Task

BINARY = Task(kind="binary", targets=("label",))


@pytest.fixture
def scans(tmp_path, rng):
    """Write a manifest of twelve good scans, with changes to arrays and rows, and check it."""

    def check(arrays=None, rows=None, task=BINARY, **options):
        table = pd.DataFrame(
            {
                "path": [f"s{i}.tif" for i in range(12)],
                "patient": [f"P{i}" for i in range(12)],
                "split": ["train"] * 6 + ["val"] * 2 + ["test"] * 4,
                "label": [0, 1] * 6,
            }
        )
        for i in range(12):
            array = (arrays or {}).get(i, rng.integers(0, 255, (3, 16, 20), dtype=np.uint8))
            if isinstance(array, bytes):
                (tmp_path / f"s{i}.tif").write_bytes(array)
            else:
                tifffile.imwrite(tmp_path / f"s{i}.tif", array, photometric="minisblack")
        for (row, column), value in (rows or {}).items():
            table.loc[row, column] = value
        table.to_csv(tmp_path / "oct.csv", index=False)
        return check_manifest(tmp_path / "oct.csv", task, workers=0, **options)

    return check


def titles(result) -> dict[str, str]:
    return {f.title: f.level for f in result.findings}


def test_a_good_set(scans):
    done = []
    result = scans(progress=lambda n, total: done.append((n, total)))
    assert result.findings == ()
    assert result.exit_status == 0
    assert "All 12 scans can be read" in result.summary[0]
    assert done[-1] == (12, 12)
    row = result.table.loc[2]
    assert (row["depth"], row["height"], row["width"], row["dtype"]) == (3, 16, 20, "uint8")
    assert row["low"] <= row["p1"] <= row["median"] <= row["p99"] <= row["high"]
    assert result.pictures.get(2).startswith(b"\xff\xd8")
    assert result.pictures.get("unknown") == b""


def test_unreadable_scans_are_told_and_the_rest_read(scans, tmp_path):
    result = scans({3: b"II*\x00broken", 5: b""}, {(7, "path"): "gone.tif"})
    assert (result.table["problem"] != "").sum() == 3
    assert result.exit_status == 1
    finding = next(f for f in result.findings if f.title == "unreadable scans")
    assert finding.rows == (5, 7, 9)
    assert "3 scans of 12 cannot be read (rows 5, 7, 9)" in finding.text


def test_the_same_pixels_in_two_splits_and_with_two_answers(scans, rng):
    array = rng.integers(0, 255, (3, 16, 20), dtype=np.uint8)
    result = scans({0: array, 9: array.astype(np.float32)})
    assert titles(result) == {"the same scan in two splits": "wrong", "one scan, two answers": "wrong"}
    assert result.table.loc[2, "same_as"] == "11"
    assert "row 2 (train), row 11 (test)" in result.summary[0]


def test_the_same_pixels_in_one_split(scans, rng):
    array = rng.integers(0, 255, (3, 16, 20), dtype=np.uint8)
    result = scans({0: array, 2: array})
    assert titles(result) == {"the same scan twice": "look"}
    assert not result.wrong


def test_problems_of_the_manifest(scans):
    result = scans(rows={(8, "patient"): "P0", (3, "label"): 7})
    assert titles(result) == {"a patient in two splits": "wrong", "the manifest": "wrong"}
    assert 'patient "P0" is in train (row 2) and in test' in result.summary[0]
    assert any("label is '7'" in f.text for f in result.findings)


def test_an_empty_split(scans):
    result = scans(rows={(6, "split"): "train", (7, "split"): "train"})
    assert any('"val" has no row' in f.text for f in result.findings)
    assert result.wrong


def test_invalid_and_blank_values(scans):
    bad = np.ones((3, 16, 20), np.float32)
    bad[1, 2, :3] = np.nan
    bad[0] = np.linspace(0, 1, 320).reshape(16, 20)
    blank = np.zeros((3, 16, 20), np.uint8)
    result = scans({1: bad, 4: blank, 10: blank})
    assert titles(result)["values that are no numbers"] == "wrong"
    assert titles(result)["blank scans"] == "look"
    assert "the same scan in two splits" not in titles(result)
    assert result.table.loc[3, "invalid"] == 3


def test_outliers(scans, rng):
    bright = 60000 + rng.integers(0, 9, (3, 16, 20), dtype=np.uint16)
    result = scans({2: rng.integers(0, 255, (3, 40, 20), dtype=np.uint8), 5: bright})
    odd = result.table["outlier"]
    assert odd[odd != ""].index.tolist() == [4, 7]
    assert odd[4] == "3 × 40 × 20, the others have 3 × 16 × 20"
    assert "median of intensity 6e+04" in odd[7]


def test_the_answer_in_the_size(scans, rng):
    arrays = {i: rng.integers(0, 255, (3, 16, 20 + 4 * (i % 2)), dtype=np.uint8) for i in range(12)}
    assert "the answer shows in the size" in titles(scans(arrays))


def test_without_a_task_or_splits(tmp_path, rng):
    tifffile.imwrite(tmp_path / "a.tif", rng.integers(0, 255, (9, 9), dtype=np.uint8))
    (tmp_path / "t.csv").write_text("path,patient,low\na.tif,1,high\n")
    result = check_manifest(tmp_path / "t.csv", workers=0)
    assert not result.wrong
    assert result.table["low_original"].tolist() == ["high"]
    (tmp_path / "t.csv").write_text("patient\n1\n")
    with pytest.raises(ManifestError, match='column "path" is missing'):
        check_manifest(tmp_path / "t.csv", workers=0)


@pytest.mark.real_data
def test_dicom_and_nifti_of_one_scan_are_the_same(real_data, tmp_path):
    folder = real_data / "ibsi_sts_008"
    paths = [str(p) for p in [*sorted((folder / "dicom").iterdir()), *sorted(folder.glob("nifti/*_image.nii.gz"))]]
    pd.DataFrame({"path": paths, "patient": "S8"}).to_csv(tmp_path / "t.csv", index=False)
    table = check_manifest(tmp_path / "t.csv", workers=0).table
    assert (table["problem"] == "").all()
    assert table["group"].tolist()[:3] == table["group"].tolist()[3:]
    assert table["group"].nunique() == 3
    assert (table["orientation"] == "axial").all()


@pytest.mark.real_data
@pytest.mark.slow
def test_pneumoniamnist_shares_images_between_train_and_val(real_data, tmp_path):
    medmnist_manifest(real_data / "pneumoniamnist" / "pneumoniamnist_rebuilt.npz", tmp_path / "pn.csv")
    result = check_manifest(tmp_path / "pn.csv", BINARY, workers=2)
    assert titles(result)["the same scan in two splits"] == "wrong"
    groups = result.table[result.table["same_as"] != ""].groupby("group")["split"].nunique()
    assert (groups > 1).sum() == 8


@settings(max_examples=30, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["u1", "i2", "i4", "f4", "f8"]))
def test_content_does_not_depend_on_the_type(data, kind):
    values = np.array(data.draw(st.lists(st.integers(0, 120), min_size=24, max_size=24))).reshape(2, 3, 4)
    assert content_hash(values.astype(kind)) == content_hash(values.astype("u1"))
    assert content_hash(values.astype(kind).reshape(2, 4, 3)) != content_hash(values.astype("u1"))
    other = values.copy()
    other[1, 2, 3] += 1
    assert content_hash(other.astype(kind)) != content_hash(values.astype("u1"))


@pytest.mark.parametrize(("value", "kinds"), [(40_000, ("u2", "i4", "f4")), (3_000_000_000, ("u4", "i8", "f8"))])
def test_content_of_large_values(value, kinds):
    array = np.arange(24).reshape(2, 3, 4) * 256 + value
    assert len({content_hash(array.astype(kind)) for kind in kinds}) == 1


def test_same_pixels_but_for_rounding(rng):
    first, second = rng.normal(size=(2, 64))
    near = [first, second, first + 1e-7, first + 1e-2, np.zeros(64), np.zeros(64)]
    groups = same_pixels(list("abcdef"), near, [(4, 8, 8)] * 6)
    assert groups == [0, 1, 0, 3, 4, 5]
    assert same_pixels(list("abc"), near[:3], [(4, 8, 8), (4, 8, 8), (8, 4, 8)]) == [0, 1, 2]
    assert same_pixels(["a", "", "a"], near[:3], [1, 1, 1]) == [0, -1, 0]


def test_orientation():
    assert orientation(None) == ""
    assert orientation(np.diag([2.0, 1, 1, 1])) == "sagittal"
    assert orientation(np.array([[0, 0, 1.0, 0], [0, 1, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]])) == "axial"
    tilted = np.eye(4)
    tilted[:3, 0] = (0, 0.8, 0.6)
    assert orientation(tilted) == "coronal, oblique"


def test_a_path_of_an_empty_cell():
    assert examine("").problem == "the manifest names no path"


def test_a_crash_costs_one_item_only():
    good = [f"{i} + 0" for i in range(30)]
    items = [*good[:17], "__import__('os')._exit(3)", *good[17:]]
    results = dict(in_processes(eval, items, 2, lambda item: -1))
    assert sorted(results) == list(range(31))
    assert results[17] == -1
    assert [results[i] for i in range(31) if i != 17] == list(range(30))


def test_errors_of_the_function_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        list(in_processes(eval, ["1 / 0"], 1, lambda item: -1))


def test_an_item_that_hangs_costs_itself_only():
    """`time.sleep` for a year; a process that hangs is ended, and the others' results are there."""
    items = ["1 + 1", "__import__('time').sleep(3e7)", "2 + 2"]
    assert dict(in_processes(eval, items, 1, lambda item: -1, chunk=1, limit=1.0)) == {0: 2, 1: -1, 2: 4}


def test_a_scan_over_the_time_limit_is_told():
    from slivit.data.checking.check import _died

    assert "longer than 90 seconds" in _died(90.0, "scan").problem
    assert "longer" not in _died(0.0, "scan").problem


def test_a_slice_without_numbers_is_a_problem(scans):
    bad = np.ones((3, 16, 20), np.float32)
    bad[0] = np.linspace(0, 1, 320).reshape(16, 20)
    bad[1] = np.nan
    result = scans({1: bad})
    assert titles(result)["slices without numbers"] == "wrong"
    assert result.table.loc[3, "empty"] == 1
    assert any("The first has 1 of 3" in f.text for f in result.findings)


def test_scales_that_differ_are_named(scans, rng):
    unit = rng.random((3, 16, 20)).astype(np.float32)
    result = scans({3: unit, 4: unit[::-1].copy()})
    assert "intensity scales differ" in titles(result)
    assert "intensity scales differ" not in titles(scans())


def test_spacing_and_aspect_are_named(tmp_path, rng):
    rows = []
    for index in range(8):
        image = nibabel.Nifti1Image(
            rng.integers(0, 99, (16, 40, 9)).astype(np.int16), np.diag([1, 1, 2.0 + 3 * (index > 4), 1])
        )
        nibabel.save(image, tmp_path / f"{index}.nii")
        rows.append(f"{index}.nii,P{index}")
    (tmp_path / "m.csv").write_text("path,patient\n" + "\n".join(rows))
    result = check_manifest(tmp_path / "m.csv", workers=0)
    texts = {f.title: f.text for f in result.findings}
    assert "between slices from 2 to 5 mm" in texts["spacing differs"]
    assert "8 scans of 8 are up to 2.5 times" in texts["slices that will be squashed"]


def test_what_is_usual_for_a_set_is_not_flagged(scans, rng, tmp_path):
    colour = {i: rng.integers(0, 255, (3, 16, 20, 1), dtype=np.uint8).repeat(3, -1) for i in range(12)}
    for index, array in colour.items():
        tifffile.imwrite(tmp_path / f"c{index}.tif", array, photometric="rgb")
    table = "path,patient\n" + "".join(f"c{i}.tif,P{i}\n" for i in range(12))
    (tmp_path / "colour.csv").write_text(table)
    result = check_manifest(tmp_path / "colour.csv", workers=0)
    assert not result.findings
    assert (unusual_notes(result.table) == "").all()  # no picture is framed for it either
    tifffile.imwrite(tmp_path / "c0.tif", colour[0][..., 0], photometric="minisblack")
    assert "noticed while reading" in titles(check_manifest(tmp_path / "colour.csv", workers=0))


def test_much_air_is_named_with_the_crop(tmp_path, rng):
    for i in range(4):
        array = rng.normal(0, 5, (40, 40, 12))
        array[4:16, 4:16] += 100 + i
        nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), np.eye(4)), tmp_path / f"{i}.nii")
    pd.DataFrame({"path": [f"{i}.nii" for i in range(4)], "patient": list("abcd")}).to_csv(
        tmp_path / "t.csv", index=False
    )
    result = check_manifest(tmp_path / "t.csv", workers=0)
    texts = {finding.title: finding.text for finding in result.findings}
    assert "preprocessing.foreground" in texts["much air around"]
    assert result.table["foreground"].between(0.09, 0.35).all()


@pytest.mark.parametrize("coloured", [True, False])
def test_colour_is_seen_where_there_is_some(coloured, tmp_path, rng):
    values = rng.integers(90, 130, (6, 20, 20, 3 if coloured else 1)).repeat(1 if coloured else 3, -1)
    values[:, 5:12, 5:12, 0] += 60
    if not coloured:
        values[..., 1:] = values[..., :1]
    paths = [str(tmp_path / f"{i}.png") for i in range(6)]
    for path, picture in zip(paths, values.astype(np.uint8), strict=True):
        Image.fromarray(picture).save(path)
    assert has_colour(paths, [True] * 6) is coloured
    assert not has_colour(paths, [*[True] * 5, False])
    assert not has_colour([*paths[:2], *["gone.png"] * 4], [True] * 6)
    (tmp_path / "scans.csv").write_text("path,patient\n" + "".join(f"{path},{i}\n" for i, path in enumerate(paths)))
    result = check_manifest(tmp_path / "scans.csv", workers=0)
    assert (COLOUR_LOST in result.findings) is coloured
    read = check_manifest(tmp_path / "scans.csv", workers=0, reader={"channel": "all"})
    assert COLOUR_LOST not in read.findings
