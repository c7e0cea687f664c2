"""Whatever small or broken samples go in: no NaN, no warning and no exception comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from slivit import statistics as st

pytestmark = pytest.mark.filterwarnings("error")


def broken(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions with ties and few cases, and often one thing wrong with them."""
    y, p = (rng.random(n) < rng.random()).astype(float), np.round(rng.random(n), rng.integers(0, 3))
    fault = rng.integers(0, 6)
    if fault == 1:
        p[:] = 0.3
    elif fault == 2 and n:
        p[rng.integers(0, n)] = rng.choice([np.nan, np.inf])
    elif fault == 3:
        y[rng.random(n) < 0.4] = np.nan
    elif fault == 4:
        p = rng.choice([y, 1 - y])
    return y, p


def two_classes(y: Any, p: Any, other: Any, plan: st.Plan) -> Iterator[Any]:
    """Everything that is computed of two classes."""
    yield from st.summarise("binary", y, p, groups=plan.groups, draws=plan.draws, stratified=True).values()
    for method in ("bootstrap", "slivit_t_test"):
        yield from st.compare_models("binary", y, {"a": p, "b": other}, plan=plan, method=method)
    yield st.delong_test(y, p, other)
    yield st.delong_interval(y, p)
    yield st.roc_curve(y, p, grid=5, plan=plan)
    yield st.precision_recall_curve(y, p, grid=5, plan=plan)
    yield from st.reliability_curve(y, p, bins=3, plan=plan)
    yield from st.reliability_curve(y, p, bins=3, by="mass", plan=plan)
    yield from st.referral_curve(y, p, plan=plan)
    yield from st.rates_by_threshold(y, p, [0.3, 0.7], plan=plan)
    yield from (st.choose_threshold(y, p, rule) for rule in ("youden", "sensitivity=0.8", "specificity=0.9", "0.5"))
    yield st.fit_temperature("binary", y, p)
    yield st.reader_points(y, {"A": other > 0.5, "B": np.where(other > 0.7, np.nan, 1.0)}, plan=plan)
    yield st.mcnemar_test(y, other > 0.5, other > 0.3)
    yield st.over_folds("binary", y, p, np.arange(len(y)) % 2, draws=plan.draws)


def several_labels(y: Any, p: Any, other: Any, plan: st.Plan) -> Iterator[Any]:
    """What is computed over labels together."""
    both, said = np.stack([y, 1 - y], 1), np.stack([p, other], 1)
    yield from st.label_rates(both, said, ["a", "b"], [0.3, 0.7], plan=plan)
    yield from st.label_referral(both, said, ["a", "b"], plan=plan)


def any_kind(kind: str, y: Any, p: Any, plan: st.Plan) -> Iterator[Any]:
    """What is computed of every kind of prediction."""
    yield from st.summarise(kind, y, p, groups=plan.groups, draws=plan.draws).values()
    yield st.by_subgroup(kind, y, p, {"site": np.arange(len(y)) % 2}, plan=plan)
    yield from st.compare_models(kind, y, {"a": p, "b": p[::-1]}, plan=plan)


@pytest.mark.parametrize("trial", range(20))
def test_two_classes(trial):
    rng = np.random.default_rng(trial)
    n = int(rng.integers(0, 9))
    y, p = broken(rng, n)
    plan = st.Plan(draws=10, groups=None if trial % 2 else rng.integers(0, 3, n))
    other = np.round(rng.random(n), 1)
    for found in (*two_classes(y, p, other, plan), *several_labels(y, p, other, plan)):
        json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("trial", range(10))
@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
def test_other_kinds(kind, trial):
    rng = np.random.default_rng(trial)
    n = int(rng.integers(0, 9))
    columns = [broken(rng, n) for _ in range(3)]
    if kind == "multiclass":
        y, p = np.where(np.isnan(columns[0][0]), np.nan, rng.integers(0, 3, n)), rng.dirichlet(np.ones(3), n)
        p[~np.isfinite(columns[0][1])] = np.nan
    else:
        y, p = (np.stack(arrays, axis=1) for arrays in zip(*columns, strict=True))
    for found in any_kind(kind, y, p, st.Plan(draws=10)):
        json.dumps(found.to_dict(), allow_nan=False)
