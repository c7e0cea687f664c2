"""Regression: Bland-Altman's own data, and what concordance, ranks and limits do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from slivit.statistics import Plan, bland_altman, point_metrics, summarise

# Peak expiratory flow in l/min, large and mini meter, first readings: Bland and Altman, Lancet 327 (1986) 307, table.
LARGE = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def test_published_limits_of_agreement():
    # The paper gives large less mini: mean -2.1 and standard deviation 38.8 l/min.
    got = bland_altman(MINI, LARGE, plan=Plan(draws=500))
    assert got.bias.value == pytest.approx(-2.1, abs=0.05)
    sd = (got.limit_high.value - got.limit_low.value) / (2 * 1.959964)
    assert sd == pytest.approx(38.8, abs=0.05)
    assert got.limit_low.low < got.limit_low.value < got.limit_low.high < got.bias.value
    assert got.mean[0] == (494 + 512) / 2
    assert got.difference[0] == 494 - 512
    json.dumps(got.to_dict(), allow_nan=False)


def test_bland_altman_of_unusable_predictions():
    got = bland_altman([1.0, 2.0, np.nan, 3.0], [1.5, np.nan, 2.0, 3.5])
    assert got.mean == (1.25, 3.25)
    assert got.bias.value is None
    assert "1 of 3" in got.bias.why
    assert bland_altman([], []).mean == ()


def test_a_shift_costs_concordance_but_no_correlation(rng):
    y = rng.normal(60, 10, 100)
    got = point_metrics("regression", y, 1.5 * y + 20)
    assert got["pearson"] == pytest.approx(1)
    assert got["spearman"] == pytest.approx(1)
    assert got["concordance"] < 0.5
    assert got["r2"] < 0


def test_perfect_predictions(rng):
    y = rng.normal(size=50)
    got = point_metrics("regression", y, y)
    assert [got[m] for m in ("r2", "concordance", "mae", "rmse", "bias", "limit_low")] == pytest.approx(
        [1, 1, 0, 0, 0, 0]
    )


def test_ranks_do_not_change_under_rising_functions(rng):
    y, p = rng.normal(size=60), rng.normal(size=60)
    first = summarise("regression", y, p, draws=50, metrics=["spearman"])["spearman"]
    again = summarise("regression", np.exp(y), p**3, draws=50, metrics=["spearman"])["spearman"]
    assert (first.value, first.low, first.high) == pytest.approx((again.value, again.low, again.high))


def test_a_large_offset_costs_no_digits(rng):
    y = rng.normal(size=100)
    p = y + rng.normal(size=100)
    near, far = (summarise("regression", y + c, p + c, draws=50) for c in (0, 1e6))
    for metric in ("r2", "pearson", "concordance"):
        assert far[metric].value == pytest.approx(near[metric].value, abs=1e-8)
        assert far[metric].low == pytest.approx(near[metric].low, abs=1e-8)


def test_rounding_is_not_taken_for_spread():
    y = np.full(30, 0.1)
    got = summarise("regression", y, np.linspace(0, 1, 30), draws=20)
    assert got["r2"].value is None
    assert got["pearson"].value is None
    assert got["mae"].value is not None


def test_several_quantities_and_their_mean(rng):
    y = rng.normal(size=(40, 2))
    p = y + rng.normal(size=(40, 2))
    y[:5, 1] = np.nan
    got = summarise("regression", y, p, names=["volume", "mass"], draws=30)
    assert got["mae"].value == pytest.approx((got["mae/volume"].value + got["mae/mass"].value) / 2)
    assert got["mae/mass"].value == pytest.approx(np.abs(p - y)[5:, 1].mean())
    assert (got["mae/volume"].n, got["mae/mass"].n) == (40, 35)
