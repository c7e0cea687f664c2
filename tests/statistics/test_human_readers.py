"""Human readers: their rates against scikit-learn, their average, cases they did not read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from slivit.statistics import Plan, StatisticsError, reader_points


@pytest.fixture
def reading(rng):
    y = (rng.random(200) < 0.3).astype(float)
    calls = {f"reader {i}": np.where(rng.random(200) < 0.1 + 0.05 * i, 1 - y, y) for i in range(3)}
    calls["reader 2"] = np.where(rng.random(200) < 0.2, np.nan, calls["reader 2"])
    return y, calls


def test_points_are_the_readers_rates(reading):
    y, calls = reading
    got = reader_points(y, calls, plan=Plan(draws=100))
    for point in got.points:
        read = ~np.isnan(calls[point.name])
        true, called = y[read], calls[point.name][read]
        assert point.n == read.sum()
        assert point.sensitivity.value == pytest.approx(sk.recall_score(true, called))
        assert point.specificity.value == pytest.approx(sk.recall_score(1 - true, 1 - called))
        assert point.ppv.value == pytest.approx(sk.precision_score(true, called))
        assert point.sensitivity.low < point.sensitivity.value < point.sensitivity.high


def test_the_average_is_the_mean_and_has_a_narrower_interval(reading):
    y, calls = reading
    got = reader_points(y, calls, plan=Plan(draws=300))
    assert got.average.specificity.value == pytest.approx(np.mean([p.specificity.value for p in got.points]))
    widths = [p.specificity.high - p.specificity.low for p in got.points]
    assert got.average.specificity.high - got.average.specificity.low < max(widths)
    json.dumps(got.to_dict(), allow_nan=False)


def test_rates_that_are_not_defined_are_stated_and_left_out():
    y = [0, 1, 0, 1]
    got = reader_points(y, {"A": [0, 1, 0, 0], "B": [0, 0, 0, 0], "C": [np.nan, np.nan, np.nan, 1]}, plan=Plan(draws=9))
    a, b, c = got.points
    assert a.ppv.value == 1
    assert "called positive" in b.ppv.why
    assert "fewer than two" in c.ppv.why
    assert got.average.ppv.value == 1
    assert 'mean over 1 of 3 readers, not defined for "B", "C"' in got.average.ppv.why
    nobody = reader_points([0, 1], {"A": [np.nan, np.nan]}, plan=Plan(draws=5))
    assert nobody.average.sensitivity.value is None


def test_mistakes_are_told():
    with pytest.raises(StatisticsError, match="one reader"):
        reader_points([0, 1], {})
    with pytest.raises(StatisticsError, match='"A"'):
        reader_points([0, 1], {"A": [0, 3]})
    with pytest.raises(StatisticsError, match='"A"'):
        reader_points([0, 1], {"A": [0]})
