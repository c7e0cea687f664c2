"""Windows of consecutive slices, and scans read as such."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slivit.data import stacking
from slivit.data.preprocessing import Preprocessing, crop_slices, load_slices, load_window
from slivit.data.windows import Windows
from slivit.errors import ReadError, SlivitError

lengths = st.integers(1, 40)


@given(depth=st.integers(1, 200), length=lengths, data=st.data())
def test_windows_cover_every_slice_and_nothing_else(depth, length, data):
    stride = data.draw(st.integers(0, length))
    starts = Windows(stride=stride).starts(depth, length)
    covered = {s + i for s in starts for i in range(length)}
    assert covered == set(range(max(depth, length)))
    assert starts == sorted(set(starts))
    assert all(b - a <= (stride or length) for a, b in itertools.pairwise(starts))


def test_a_stride_that_leaves_slices_out_is_told():
    with pytest.raises(SlivitError, match="8 slices between two windows would never be seen; give at most 32"):
        Windows(stride=40).starts(100, 32)


@given(depth=st.integers(4, 30), stride=st.integers(0, 4), at_once=st.integers(1, 9))
def test_a_cut_gives_every_window_in_batches(depth, stride, at_once):
    stack = torch.arange(depth)[:, None, None].expand(depth, 2, 3)
    windows = Windows(stride=stride)
    parts = list(windows.cut(stack, 4, at_once))
    assert all(1 <= len(p) <= at_once for p in parts)
    expected = [[s, s + 1, s + 2, s + 3] for s in windows.starts(depth, 4)]
    assert torch.cat(parts)[:, :, 0, 0].tolist() == expected


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12), st.integers(1, 5))
def test_scores_become_those_of_the_scan(scores, k):
    column = torch.tensor(scores)[:, None].repeat(1, 2)
    for windows, expected in [
        (Windows(), max(scores)),
        (Windows(score="mean"), np.mean(scores)),
        (Windows(score="top_k", k=k), np.mean(sorted(scores)[-k:])),
    ]:
        np.testing.assert_allclose(windows.aggregate(column), [expected] * 2, atol=1e-6)


@pytest.fixture
def scan(tmp_path, rng):
    """A NIfTI file of 11 slices in HU, of 20 x 20 pixels."""
    import nibabel

    array = rng.integers(-1000, 1000, (20, 20, 11)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii")
    return str(tmp_path / "scan.nii")


def settings(**options):
    return Preprocessing(**{"size": (4, 8, 10), "windows": {"stride": 3}} | options)


@pytest.mark.parametrize(
    "options",
    [{}, {"window": (-100, 900)}, {"window": (-100, 900), "stretch": False},
     {"window": (-100, 900), "stretch": False, "resize": (12, 12)}],
)  # fmt: skip
def test_a_window_is_the_same_read_alone_or_with_its_scan(scan, options):
    whole = load_slices(scan, settings(**options))
    assert whole.shape == (11, 8, 10)
    for start in settings().windows.starts(11, 4):
        alone = load_window(scan, settings(**options), start, 11)
        np.testing.assert_array_equal(alone, whole[start : start + 4])


def test_no_more_than_a_window_is_decoded_where_its_range_is_fixed(scan, monkeypatch):
    read = []
    original = stacking.resize_slice
    monkeypatch.setattr(stacking, "resize_slice", lambda *given: read.append(1) or original(*given))
    load_window(scan, settings(window=(-100, 900), stretch=False), 3, 11)
    assert len(read) == 4


@pytest.mark.parametrize(("short", "last"), [("repeat", True), ("pad", False)])
def test_a_scan_shorter_than_a_window_has_one(scan, short, last):
    long = settings(size=(16, 8, 10), short=short)
    with pytest.warns(UserWarning, match="11 slices, 16 are used"):
        stack = load_slices(scan, long)
    with pytest.warns(UserWarning, match="11 slices, 16 are used"):
        window = load_window(scan, long, 0, 11)
    assert stack.shape == (16, 8, 10)
    np.testing.assert_array_equal(window, stack)
    assert bool(stack[-1].any()) is last


def test_slices_are_resized_and_then_cut_from_the_middle(scan):
    whole = load_slices(scan, settings(size=(4, 16, 14)))
    cropped = load_slices(scan, settings(resize=(16, 14)))
    np.testing.assert_array_equal(cropped, whole[:, 4:12, 2:12])
    np.testing.assert_array_equal(cropped, crop_slices(whole, (8, 10)))


def test_the_middle_of_a_slice_is_the_middle():
    assert crop_slices(torch.arange(7)[None].expand(7, 7), (3, 3))[0].tolist() == [2, 3, 4]


def test_a_window_by_level_and_width():
    assert Preprocessing(window={"level": 400, "width": 1000}).window == (-100, 900)
    assert Preprocessing(window={"level": -600, "width": 1500}).window == (-1350, 150)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"window": {"level": 400}}, r"\[low, high\] or \{ level = ..., width = ... \}"),
        ({"window": {"level": 400, "width": -3}}, "low < high"),
        ({"sampling": "middle"}, 'leave out sampling = "middle"'),
        ({"resize": (0, 4)}, "each at least 1"),
    ],
)
def test_settings_that_cannot_be_are_told(options, told):
    with pytest.raises(ValueError, match=told):
        settings(**options)


def test_a_size_that_is_too_small_for_the_model_is_told(scan):
    with pytest.raises(ReadError, match=r"resize is \(6, 12\), smaller than the model's \(8, 10\)"):
        load_slices(scan, settings(resize=(6, 12)))


def test_settings_survive_their_record():
    given_ = settings(resize=(16, 16), windows={"stride": 2, "score": "top_k", "k": 5}, stretch=False)
    assert Preprocessing(**given_.model_dump(mode="json")) == given_
