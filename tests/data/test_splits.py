"""Splits and folds: no shared patient, every row assigned, classes alike, order and seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slivit.data.manifest import read_manifest
from slivit.data.manifest_checks import patients_in_names
from slivit.data.splits import k_folds, nested_subsets, split_patients
from slivit.errors import ManifestError
from slivit.targets.task import Task

BINARY = Task(kind="binary", targets=("label",))
REGRESSION = Task(kind="regression", targets=("ef",))
MULTILABEL = Task(kind="multilabel", targets=("x", "y"))


@st.composite
def frames(draw) -> pd.DataFrame:
    """Patients with one to four scans each; at least four of either class."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=12, max_size=80))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    patient = np.repeat([f"P{i}" for i in range(len(sizes))], sizes)
    label = np.repeat([i % 3 == 0 for i in range(len(sizes))], sizes).astype(int)
    frame = pd.DataFrame({"patient": patient, "label": label, "ef": rng.normal(55, 10, len(patient))})
    return frame.assign(x=rng.integers(0, 2, len(frame)), y=rng.integers(0, 10, len(frame)) == 0)


@settings(max_examples=40, deadline=None)
@given(frame=frames(), seed=st.integers(0, 5), task=st.sampled_from([BINARY, REGRESSION, MULTILABEL]))
def test_patient_disjoint_complete_and_independent_of_order(frame, seed, task):
    split = split_patients(frame, task, seed=seed)
    assert set(split) == {"train", "val", "test"}
    assert split.groupby(frame["patient"]).nunique().max() == 1
    shuffled = frame.sample(frac=1, random_state=seed)
    pd.testing.assert_series_equal(split_patients(shuffled, task, seed=seed).sort_index(), split)


@settings(max_examples=40, deadline=None)
@given(frame=frames(), seed=st.integers(0, 5))
def test_sizes_and_classes_are_alike(frame, seed):
    split = split_patients(frame, BINARY, fractions=(0.6, 0.2, 0.2), seed=seed)
    size = frame.groupby("patient").size().max()
    for name, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        assert abs((split == name).sum() - share * len(frame)) <= 3 * size
        for label in (0, 1):
            of_class = frame["label"] == label
            got = (of_class & (split == name)).sum()
            assert got > 0
            assert abs(got - share * of_class.sum()) <= 3 * size


@settings(max_examples=30, deadline=None)
@given(frame=frames(), seed=st.integers(0, 5), k=st.integers(2, 5))
def test_folds(frame, seed, k):
    folds = k_folds(frame, REGRESSION, k=k, seed=seed)
    assert sorted(set(folds)) == list(range(k))
    assert folds.groupby(frame["patient"]).nunique().max() == 1
    pd.testing.assert_series_equal(k_folds(frame[::-1], REGRESSION, k=k, seed=seed)[::-1], folds)


@settings(max_examples=30, deadline=None)
@given(frame=frames(), seed=st.integers(0, 5))
def test_subsets_are_nested_and_keep_both_classes(frame, seed):
    subsets = nested_subsets(frame, BINARY, (0.1, 0.25, 0.5, 1.0), seed=seed)
    previous: set[int] = set()
    for fraction in (0.1, 0.25, 0.5, 1.0):
        rows = set(subsets[fraction])
        assert previous <= rows
        patients = frame.loc[list(rows), "patient"]
        whole = frame.index[frame["patient"].isin(patients)]
        assert rows == set(whole)
        assert patients.nunique() == max(1, int(fraction * frame["patient"].nunique() + 0.5))
        if patients.nunique() >= 2:
            assert set(frame.loc[list(rows), "label"]) == {0, 1}
        previous = rows
    assert previous == set(frame.index)


def test_seeds_differ_and_repeat():
    frame = pd.DataFrame({"patient": [f"P{i}" for i in range(200)], "label": [i % 2 for i in range(200)]})
    one, again, other = (split_patients(frame, BINARY, seed=s) for s in (0, 0, 1))
    assert one.equals(again)
    assert (one != other).mean() > 0.2
    assert one.value_counts().to_dict() == {"train": 140, "val": 30, "test": 30}


def test_split_is_the_same_for_ever():
    frame = pd.DataFrame({"patient": list("abcdefghij"), "label": [0, 1] * 5})
    assert "".join(s[1] for s in split_patients(frame, BINARY, fractions=(0.6, 0.2, 0.2))) == "arrerrerra"


def test_regression_is_stratified():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"patient": [f"P{i}" for i in range(300)], "ef": rng.normal(55, 12, 300)})
    medians = frame.groupby(split_patients(frame, REGRESSION))["ef"].median()
    assert medians.max() - medians.min() < 2.5


def test_rare_label_reaches_every_split():
    x = [1] * 3 + [0] * 97
    frame = pd.DataFrame({"patient": [f"P{i}" for i in range(100)], "x": x, "y": [i % 2 for i in range(100)]})
    split = split_patients(frame, MULTILABEL)
    assert sorted(split[:3]) == ["test", "train", "val"]


def test_no_part_of_zero_size():
    frame = pd.DataFrame({"patient": [f"P{i}" for i in range(20)], "label": [0, 1] * 10})
    assert split_patients(frame, BINARY, fractions=(0.8, 0.2, 0)).value_counts().to_dict() == {"train": 16, "val": 4}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda f: split_patients(f, BINARY), "2 patients cannot be shared out to 3 splits"),
        (lambda f: k_folds(f, BINARY, k=3), "2 patients cannot be shared out to 3 folds"),
        (lambda f: k_folds(f, BINARY, k=1), "at least 2 folds"),
        (lambda f: split_patients(f, BINARY, fractions=(0.5, 0.4, 0.4)), "add up to 1"),
        (lambda f: split_patients(f, BINARY, fractions=(0, 0.5, 0.5)), "some of it for train"),
        (lambda f: nested_subsets(f, BINARY, (0.0, 1.0)), "outside"),
    ],
)
def test_clear_errors(call, told):
    frame = pd.DataFrame({"patient": ["a", "a", "b"], "label": [0, 1, 1]})
    with pytest.raises(ManifestError, match=told):
        call(frame)


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        ([f"CNV-{100 + i // 4}-{i % 4}.jpeg" for i in range(80)], 20),
        ([f"person{i // 2}_virus_{i}.png" for i in range(40)], 20),
        ([f"T1_{i // 3:04d}_{i % 3}.nii.gz" for i in range(60)], 20),  # the first number is the same everywhere
        ([f"site/P{i // 2}/visit {i % 2}.nii" for i in range(40)], 20),
        ([f"scan_{i:03d}_T1.nii.gz" for i in range(40)], None),  # every name is of its own
        ([f"2024-{i}.png" for i in range(40)], None),  # one group
        ([f"{'abcdefghijkl'[i % 12]}/{i}.png" for i in range(60)], None),  # twelve classes' folders
        ([f"P{i // 2}_{i % 2}.png" for i in range(12)], None),  # too few to tell
        ([], None),
    ],
)
def test_patients_in_names(names, patients):
    found = patients_in_names(pd.Series(names, dtype=object), classes=12 if patients is None else 2)
    assert (None if found is None else found.nunique()) == patients


def test_names_that_look_like_patients_are_told_of(tmp_path):
    text = "path,label\n" + "".join(f"P{i // 3:02d}_{i % 3}.png,{i % 2}\n" for i in range(30))
    (tmp_path / "scans.csv").write_text(text)
    for name in text.split()[1:]:
        (tmp_path / name.partition(",")[0]).write_bytes(b"x")
    manifest = read_manifest(tmp_path / "scans.csv", BINARY, patient_from_path=True)
    assert any("their names look like 10 patients (such as P" in warning for warning in manifest.warnings)
