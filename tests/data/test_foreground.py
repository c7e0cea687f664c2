"""Scans are cropped to what is not air, by a stated rule, with their place in the patient."""

import nibabel
import numpy as np
import pytest
from pydantic import ValidationError

import slivit
from slivit.data.cache import SliceCache
from slivit.data.foreground import Foreground, foreground_box, otsu, to_foreground
from slivit.data.preprocessing import Preprocessing, load_slices, preprocess
from slivit.errors import ReadError
from slivit.explanation.scan import see_scan
from slivit.volume import Volume

BODY = (slice(3, 9), slice(10, 30), slice(14, 34))


@pytest.fixture
def body():
    """A bright block in dark noise, with a few bright specks outside of it."""
    rng = np.random.default_rng(0)
    array = rng.normal(0, 5, (12, 40, 44))
    array[BODY] += 100
    array[0, 0, 0] = array[11, 39, 43] = 500
    affine = np.array([[0, 0, 2.0, 5], [0, 1, 0, 6], [3.0, 0, 0, 7], [0, 0, 0, 1]])
    return Volume(array.astype(np.float32), (3.0, 1.0, 2.0), "made up", affine)


def test_the_box_is_round_the_body_and_not_round_specks(body):
    assert foreground_box(body.array, body.spacing, Foreground(margin=0)) == BODY
    wider = foreground_box(body.array, body.spacing, Foreground(margin=4))  # mm, of 3, 1 and 2
    assert wider == (slice(1, 11), slice(6, 34), slice(12, 36))
    assert foreground_box(body.array, None, Foreground(margin=2))[0] == slice(1, 11)
    assert foreground_box(body.array, None, Foreground(margin=99)) == (slice(0, 12), slice(0, 40), slice(0, 44))


@pytest.mark.parametrize("rule", [{"threshold": 50}, {"threshold": 88, "unit": "percent"}])
def test_a_threshold_can_be_given(body, rule):
    assert foreground_box(body.array, body.spacing, Foreground(margin=0, least=0.05, **rule)) == BODY


def test_a_scan_without_foreground_stays_whole(body):
    assert foreground_box(body.array, None, Foreground(threshold=1e6)) == tuple(slice(0, n) for n in body.shape)
    empty = np.full((2, 3, 4), np.nan)
    assert foreground_box(empty, None, Foreground()) == (slice(0, 2), slice(0, 3), slice(0, 4))


def test_the_box_of_channels_is_round_the_foreground_of_any(body):
    shifted = np.roll(body.array, 2, axis=0)
    box = foreground_box(np.stack([body.array, shifted]), None, Foreground(margin=0))
    assert box == (slice(3, 11), *BODY[1:])


def test_otsu_is_opencvs():
    import cv2

    values = np.concatenate([np.random.default_rng(s).normal(m, 12, 5000) for s, m in ((0, 60), (1, 180))])
    values = values.clip(0, 255).round()
    known, _ = cv2.threshold(values.astype(np.uint8), 0, 255, cv2.THRESH_OTSU)
    assert otsu(values) == pytest.approx(known, abs=2)


def test_voxels_keep_their_place_in_the_patient(body):
    cropped = to_foreground(body, Foreground(margin=0))
    assert (cropped.shape, cropped.depth, cropped.spacing) == ((6, 20, 20), 6, body.spacing)
    np.testing.assert_allclose(cropped.affine @ [0, 0, 0, 1], body.affine @ [3, 10, 14, 1])
    assert to_foreground(body, None) is body
    part = slivit.Volume(body.array[:2], body.spacing, "made up", indices=(0, 1), depth=12)
    with pytest.raises(ReadError, match="only some slices were read"):
        to_foreground(part, Foreground())


def test_preprocessing_crops_before_all_else(body):
    plain = Preprocessing(size=(6, 20, 20), stretch=None)
    own = preprocess(body, plain.model_copy(update={"foreground": Foreground(margin=0)}))
    np.testing.assert_array_equal(own, preprocess(to_foreground(body, Foreground(margin=0)), plain))
    assert not np.array_equal(own, preprocess(body, plain))


def test_a_cache_and_an_explanation_know_it(body, tmp_path):
    nibabel.save(nibabel.Nifti1Image(body.array.transpose(2, 1, 0), np.diag([2.0, 1, 3, 1])), tmp_path / "a.nii")
    plain = Preprocessing(size=(4, 16, 16))
    cropped = plain.model_copy(update={"foreground": Foreground(margin=0)})
    cache = SliceCache(tmp_path / "cache")
    loaded = {name: cache.load(str(tmp_path / "a.nii"), p) for name, p in {"plain": plain, "cropped": cropped}.items()}
    assert not np.array_equal(loaded["plain"], loaded["cropped"])
    np.testing.assert_array_equal(loaded["cropped"], load_slices(str(tmp_path / "a.nii"), cropped))
    seen = see_scan(tmp_path / "a.nii", cropped)
    np.testing.assert_array_equal(seen.stack, loaded["cropped"])
    assert seen.shape == (6, 20, 20)
    assert seen.columns["geometry_slices"] == 12  # the geometry is that of the scan


def test_windows_are_refused():
    with pytest.raises(ValidationError, match="leave out foreground"):
        Preprocessing(size=(4, 8, 8), windows={"stride": 2}, foreground={})
    assert Preprocessing(foreground=False).foreground is None
