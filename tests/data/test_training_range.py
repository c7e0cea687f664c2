"""What training scans were like, and which new scans are not."""

import numpy as np
import pandas as pd
import pytest

from slivit.data.preprocessing import Preprocessing
from slivit.data.training_range import (
    MOST,
    Look,
    _summary,
    depths_sentence,
    look_at,
    range_of,
    training_range,
    warnings_for,
)
from slivit.data.windows import Windows
from slivit.volume import Volume

SETTINGS = Preprocessing(size=(4, 8, 8))


@pytest.fixture(scope="module")
def known(blob_scans):
    paths = [str(blob_scans.parent / p) for p in pd.read_csv(blob_scans)["path"]]
    return training_range(paths, SETTINGS)


def test_it_holds_what_the_scans_are(known):
    assert (known.scans, known.of, known.with_spacing) == (40, 40, 40)
    assert known.shape == ((6, 6), (24, 24), (24, 24))
    assert known.spacing[0] == (3, 3)
    assert known.low[0] < 60 < 90 < known.middle[0] <= known.middle[1] < 130 < known.high[1]
    assert range_of({"scans_range": known.model_dump(mode="json")}) == known
    assert range_of({}) is None


def test_no_more_than_a_sample_is_read_and_what_cannot_be_read_is_left_out(tmp_path, blob_scans):
    good = str(blob_scans.parent / "scan0.nii")
    found = training_range([good] * (3 * MOST), SETTINGS)
    assert (found.scans, found.of) == (MOST, 3 * MOST)
    assert training_range([str(tmp_path / "missing.nii")], SETTINGS) is None
    assert training_range([good, str(tmp_path / "missing.nii")], SETTINGS).scans == 1


def told(known, **changes):
    usual = {"shape": (6, 24, 24), "spacing": (3.0, 1.0, 1.0), "low": 55.0, "middle": 100.0, "high": 200.0}
    return " | ".join(warnings_for(Look(**{**usual, **changes}), SETTINGS, known))


def test_odd_scans_are_told(known):
    assert told(known) == ""
    assert told(known, shape=(3, 24, 24)).startswith("too few slices: 3, and the model takes 4")
    assert "20 slices, training scans have 6" in told(known, shape=(20, 24, 24))
    assert "1st percentile -1000" in told(known, low=-1000.0)
    assert "99th percentile 3000" in told(known, high=3000.0)
    assert "other spacing between slices: 5 mm, in training 3 mm" in told(known, spacing=(5.0, 1.0, 1.0))
    assert "spacing unknown" in told(known, spacing=None)


def test_without_a_record_only_the_slices_are_looked_at():
    assert told(None, low=-1000.0, spacing=None) == ""
    assert "too few" in told(None, shape=(3, 24, 24))


def test_a_look_counts_finite_values_and_the_whole_depth():
    array = np.arange(200, dtype=np.float32).reshape(2, 10, 10)
    array[0, 0, 0] = np.nan
    look = look_at(Volume(array, None, "x", indices=(0, 5), depth=9))
    assert look.shape == (9, 10, 10)
    np.testing.assert_allclose([look.low, look.high], np.nanpercentile(array, (1, 99)))


def depths(settings, *shapes):
    looks = [Look((n, 24, 24), None, 0.0, 1.0, 2.0) for n in shapes]
    return depths_sentence(_summary(looks, 90, settings), settings)


def test_one_sentence_tells_how_many_scans_have_other_slices_than_the_model_takes():
    told = depths(SETTINGS, 2, 3, 4, 9)
    assert told.startswith("4 of 90 training scans: 2 to 9 slices; the model takes 4: 2 have fewer")
    assert told.endswith("(their slices are repeated evenly), 1 have more (evenly spread ones are used)")
    assert "blank" in depths(SETTINGS.model_copy(update={"short": "pad"}), 2)
    assert "windows" in depths(SETTINGS.model_copy(update={"windows": Windows()}), 9)
    assert depths(SETTINGS, 4, 4) == depths(SETTINGS.model_copy(update={"sampling": "all"}), 9) == ""
