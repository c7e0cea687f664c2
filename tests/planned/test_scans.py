"""The scans of a planned run: duplicates in one fold, leaks stop it, covariates standardised by training rows."""

import numpy as np
import pandas as pd
import pytest

from slivit.data.check_same import connected
from slivit.errors import ManifestError
from slivit.planned.scans import Scans, looked_at, scans_of
from slivit.planned.table import scan_table
from slivit.targets.task import Task


@pytest.fixture
def frame(tmp_path):
    """Ten scans of ten patients; the last two have the pixels of the first two."""
    rng = np.random.default_rng(0)
    stacks = [rng.integers(0, 200, (3, 8, 8)).astype(np.uint8) for _ in range(8)]
    paths = []
    for number, stack in enumerate([*stacks, *stacks[:2]]):
        paths.append(str(tmp_path / f"{number}.npy"))
        np.save(paths[-1], stack)
    values = np.array([3.0, 4, 5, 3, 4, 5, 4, 3, 4, 5])
    return pd.DataFrame({"path": paths, "patient": [f"P{i}" for i in range(10)], "label": [0, 1] * 5, "ml": values})


def test_patients_who_share_a_scan_are_one(frame, caplog):
    looked = looked_at(scan_table(frame, target="label"))
    assert looked.frame["patient"].tolist() == [f"P{i}" for i in range(8)] + ["P0", "P1"]
    assert "2 patients have a scan with the same pixels" in caplog.text
    assert any("count double" in text for text in looked.findings)


def test_a_scan_that_tests_and_trains_stops_it(frame):
    split = ["train"] * 8 + ["test"] * 2
    with pytest.raises(ManifestError, match="the test would be too good"):
        looked_at(scan_table(frame.assign(split=split), target="label"))
    twice = frame[:8].assign(split=["train"] * 7 + ["test"], patient=["P"] * 8)
    with pytest.raises(ManifestError, match="splits must not share patients"):
        looked_at(scan_table(twice, target="label"))


def test_one_scan_with_two_answers_stops_it(frame):
    frame.loc[8, "label"] = 1
    with pytest.raises(ManifestError, match="at most one of the answers is right"):
        looked_at(scan_table(frame, target="label"))


def test_a_slip_in_a_quantity_and_broken_scans_are_told(frame, tmp_path, caplog):
    (tmp_path / "3.npy").write_bytes(b"junk")
    frame["ml"] += np.arange(10) / 10
    frame.loc[5, "ml"] = 1e6
    np.save(frame["path"][8], np.full((3, 8, 8), 7, np.uint8))
    np.save(frame["path"][9], np.arange(192, dtype=np.uint8).reshape(3, 8, 8))
    looked = looked_at(scan_table(frame, target="ml", covariates=("geometry",)))
    assert any("ml of 1 scan is far from all others (row 5): 1,000,000" in text for text in looked.findings)
    assert len(looked.frame) == len(looked.facts) == 9
    assert "left out" in caplog.text
    assert looked.frame["geometry_slices"].tolist() == [3] * 9


def test_covariates_are_standardised_by_training_rows_alone():
    frame = pd.DataFrame({"path": list("abcd"), "a": [0, 1, 0, 1], "age": [40.0, 60.0, 100.0, 200.0], "fold": 0})
    work: Scans = scans_of(frame, frame[:0], Task(kind="binary", targets=("a",), covariates=("age",)), np.zeros(4))
    train = np.array([True, True, False, False])
    assert work.table({}, ("covariates",), train)[:, 0].tolist() == [-1, 1, 5, 15]
    assert work.table({}, ("covariates",))[:, 0].mean() == pytest.approx(0)


def test_what_is_connected_is_one():
    assert connected([(1, "a"), (1, "b"), (2, "c"), (2, "b"), (3, "d")]) == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_what_could_not_be_tested_is_refused(frame):
    alone = frame[:8].assign(label=[1] + [0] * 7)
    with pytest.raises(ManifestError, match=r'"label".* two classes need two patients each.*; 1 has them'):
        looked_at(scan_table(alone, target="label"))
    words = frame[:8].assign(label=["a", "b", "c", "d", "e", "e", "f", "g"])
    with pytest.raises(ManifestError, match="1 has them"):
        looked_at(scan_table(words, target="label", kind="multiclass"))
    looked = looked_at(scan_table(frame[:8].assign(label=list("aabbcddd")), target="label"))
    assert len(looked.frame) == len(looked.facts) == 7
    assert looked.findings[0] == "left out: 1 scans of classes with one patient, of whom nothing could be tested: c"
