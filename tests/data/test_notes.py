"""Notes of readers: counted by kind, gathered from processes, kept in a table."""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor

import nibabel
import numpy as np
import pandas as pd
import pytest

from slivit.data.cache import SliceCache
from slivit.data.notes import counted_notes, gathered_notes, joined_notes
from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.readers import read_volume
from slivit.data.training_range import training_range
from slivit.errors import ReadError

SETTINGS = Preprocessing(size=(3, 8, 8))


@pytest.fixture
def scans(tmp_path, rng):
    """Five scans, of which all but the first have something to be noticed."""
    paths = []
    for index in range(5):
        values = rng.random((9, 8, 7)).astype(np.float32)
        values[:index, 0, 3] = np.nan  # in a slice that is sampled
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"s{index}.nii")
        paths.append(str(tmp_path / f"s{index}.nii"))
    return paths


def test_a_note_of_two_clauses_stays_one_in_a_table():
    assert joined_notes(["the slope is 0; it was taken for 1", "b"]).split("; ") == [
        "the slope is 0, it was taken for 1",
        "b",
    ]


def test_notes_are_counted_by_kind():
    notes = [("a", "3 of 9 slices missing"), ("b", "the order was guessed"), ("c", "4 of 20 slices missing")]
    notes += [(name, "1.5% are NaN") for name in "abcde"]
    assert [str(kind) for kind in counted_notes(notes)] == [
        "5 scans: 1.5% are NaN (a, b, c and 2 more)",
        "2 scans: 3 of 9 slices missing (a, c)",
        "1 scan: the order was guessed (b)",
    ]


@pytest.mark.parametrize("cached", [False, True])
def test_what_all_processes_notice_is_gathered(tmp_path, scans, caplog, cached):
    cache = SliceCache(tmp_path / "cache") if cached else None
    load = cache.load if cache else load_slices
    for _ in range(2):  # the second time from the cache
        (tmp_path / "run").mkdir(exist_ok=True)
        with caplog.at_level(logging.WARNING), gathered_notes(tmp_path / "run") as tell:
            load(scans[1], SETTINGS)
            tell()
            with ProcessPoolExecutor(1) as pool:
                list(pool.map(load, scans * 2, [SETTINGS] * 10))
        table = pd.read_csv(tmp_path / "run" / "notes.csv")
        assert table["path"].tolist() == scans[1:]
        assert table["note"][0] == "0.46% of the voxels are NaN or infinite"
        assert any(
            "4 scans: " in record.message and f"{scans[3]} and 1 more" in record.message for record in caplog.records
        )
        assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.csv"]
        (tmp_path / "run" / "notes.csv").unlink()
        caplog.clear()


def test_nothing_noticed_leaves_nothing(tmp_path, scans):
    with gathered_notes(tmp_path / "run"):
        read_volume(scans[0])
    assert not (tmp_path / "run").exists()


def test_slices_without_numbers_are_said(tmp_path):
    values = np.ones((6, 5, 4), np.float32)
    values[..., 1] = np.nan
    values[0, 0, 0] = np.inf
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    told = "25.83% of the voxels are NaN or infinite, and 1 slice of 4 without a single number"
    assert read_volume(tmp_path / "a.nii").notes == (told,)
    huge = np.full((6, 5, 4), 3e38, np.float32)  # whose sum overflows
    nibabel.save(nibabel.Nifti1Image(huge, np.eye(4)), tmp_path / "b.nii")
    assert read_volume(tmp_path / "b.nii").notes == ()


def test_training_scans_of_one_value_each_are_refused(tmp_path, scans):
    paths = []
    for index in range(3):
        path = tmp_path / f"blank{index}.nii"
        nibabel.save(nibabel.Nifti1Image(np.full((6, 5, 4), index, np.int16), np.eye(4)), path)
        paths.append(str(path))
    with pytest.raises(ReadError, match="hold one value each: there is nothing to learn"):
        training_range(paths, SETTINGS)
    assert training_range([*paths, scans[0]], SETTINGS).scans == 4
