"""Subgroups: each is what `summarise` gives of its cases; bands, missing values, the largest gap."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from slivit.statistics import Plan, StatisticsError, by_subgroup, count_chunks, point_metrics


@pytest.fixture
def cases(rng):
    n = 240
    site = np.array(["London", "Paris", "Rome"])[np.arange(n) % 3]
    y = rng.integers(0, 2, n).astype(float)
    noise = np.where(site == "Rome", 4.0, 1.0)  # the model is poor in Rome
    p = 1 / (1 + np.exp(-(2 * y - 1 + noise * rng.normal(size=n))))
    table = {
        "site": site,
        "sex": np.where(rng.random(n) < 0.1, None, np.where(rng.random(n) < 0.5, "F", "M")),
        "age": np.where(rng.random(n) < 0.05, np.nan, rng.integers(30, 90, n)),
    }
    return y, p, table


def test_a_subgroup_is_the_summary_of_its_cases(cases):
    y, p, table = cases
    got = by_subgroup("binary", y, p, table, bands={"age": [40, 65]}, plan=Plan(draws=50))
    london = got.columns["site"]["London"]
    chosen = table["site"] == "London"
    assert london.n == chosen.sum()
    assert {m: e.value for m, e in london.metrics.items()} == pytest.approx(
        point_metrics("binary", y[chosen], p[chosen])
    )
    assert london.metrics["roc_auc"].low < london.metrics["roc_auc"].value < london.metrics["roc_auc"].high
    assert list(got.columns["age"]) == ["below 40", "40 to below 65", "65 and above", "(missing)"]
    assert got.columns["age"]["65 and above"].n == np.sum(table["age"] >= 65)
    assert got.columns["sex"]["(missing)"].n == sum(s is None for s in table["sex"])
    for groups in got.columns.values():
        assert sum(group.n for group in groups.values()) == len(y)
    json.dumps(got.to_dict(), allow_nan=False)


def test_the_largest_gap_is_named_with_its_interval(cases):
    y, p, table = cases
    plan = Plan(draws=60, seed=5)
    got = by_subgroup("binary", y, p, {"site": table["site"]}, plan=plan, metrics=["accuracy"])
    gap = got.largest["accuracy"]
    values = {site: g.metrics["accuracy"].value for site, g in got.columns["site"].items()}
    assert (gap.column, gap.lowest) == ("site", "Rome")
    assert gap.highest == max(values, key=values.get)
    assert gap.difference.value == pytest.approx(max(values.values()) - values["Rome"])
    right = (p >= 0.5) == (y == 1)
    loop = []
    for w in np.concatenate(list(count_chunks(len(y), plan))):
        high, low = (
            np.average(right[c], weights=w[c]) for c in (table["site"] == gap.highest, table["site"] == "Rome")
        )
        loop.append(high - low)
    interval = tuple(np.quantile(loop, [0.05, 0.95]))
    assert (gap.difference.low, gap.difference.high) == pytest.approx(interval, abs=1e-12)


def test_sites_beside_a_reference(cases):
    y, p, table = cases
    got = by_subgroup("binary", y, p, table, reference={"site": "London"}, metrics=["roc_auc"], plan=Plan(draws=100))
    sites = got.columns["site"]
    assert sites["London"].differences is None
    assert sites["Rome"].differences["roc_auc"].value == pytest.approx(
        sites["Rome"].metrics["roc_auc"].value - sites["London"].metrics["roc_auc"].value
    )
    assert sites["Rome"].differences["roc_auc"].high < 0
    assert got.columns["sex"]["F"].differences is None


def test_columns_of_a_data_frame_and_quarters_of_numbers(cases):
    y, p, table = cases
    got = by_subgroup("binary", y, p, pd.DataFrame(table), metrics=["accuracy"], plan=Plan(draws=0))
    ages = [v for v in got.columns["age"] if v != "(missing)"]
    assert len(ages) == 4
    assert ages[0].startswith("below ")
    scores = by_subgroup("binary", y, p, {"grade": np.arange(240) % 4}, metrics=["accuracy"], plan=Plan(draws=0))
    assert list(scores.columns["grade"]) == ["0", "1", "2", "3"]


def test_patients_and_missing_labels_are_counted(cases):
    y, p, table = cases
    y = np.where(np.arange(240) < 30, np.nan, y)
    plan = Plan(draws=20, groups=np.arange(240) // 2)
    got = by_subgroup("binary", y, p, table, plan=plan, metrics=["roc_auc"]).columns["site"]
    assert sum(g.n for g in got.values()) == 210
    rows = np.flatnonzero((table["site"] == "Rome") & ~np.isnan(y))
    assert got["Rome"].patients == len(set(rows // 2))
    assert got["Rome"].metrics["roc_auc"].n == len(rows)


def test_degenerate_subgroups_are_stated_and_have_no_gap():
    y, p = [0, 1, 0, 1, 1], [0.1, 0.9, 0.2, 0.8, 0.7]
    got = by_subgroup("binary", y, p, {"site": ["A", "A", "A", "A", "B"]}, plan=Plan(draws=20), metrics=["roc_auc"])
    assert got.columns["site"]["B"].metrics["roc_auc"].value is None
    assert "one case" in got.columns["site"]["B"].metrics["roc_auc"].why
    assert got.gaps == ()
    assert by_subgroup("binary", [], [], {"site": []}).columns == {"site": {}}
    assert by_subgroup("binary", y, p, {}).columns == {}


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
def test_every_kind_has_subgroups(rng, kind):
    p = rng.dirichlet(np.ones(3), 60)
    y = rng.integers(0, 3, 60) if kind == "multiclass" else (rng.random((60, 3)) < p).astype(float)
    metric = "r2" if kind == "regression" else "roc_auc"
    got = by_subgroup(kind, y, p, {"site": ["A", "B"] * 30}, plan=Plan(draws=20), names=list("xyz"))
    assert f"{metric}/y" in got.largest
    half = point_metrics(kind, y[::2], p[::2])
    assert got.columns["site"]["A"].metrics[metric].value == pytest.approx(half[metric])


def test_mistakes_are_told(cases):
    y, p, table = cases
    with pytest.raises(StatisticsError, match='column "site"'):
        by_subgroup("binary", y, p, {"site": ["A"]})
    with pytest.raises(StatisticsError, match='Did you mean "Rome"'):
        by_subgroup("binary", y, p, table, reference={"site": "Roma"})
    with pytest.raises(StatisticsError, match="rising"):
        by_subgroup("binary", y, p, table, bands={"age": [60, 40]})
