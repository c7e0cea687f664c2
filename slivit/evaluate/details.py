"""What an evaluation tells beside its metrics: curves, reliability, referral, confusion, subgroups, readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from slivit.errors import RecipeError, nearest, one_of
from slivit.targets.cases import Cases, Column

if TYPE_CHECKING:
    import pandas as pd

    from slivit.evaluate.recipe import Testing
    from slivit.statistics import Plan

CURVE_POINTS = 250
"""More points of a curve than these no figure shows."""

MOST_SUBGROUPS = 40


def details_of(cases: Cases, testing: Testing) -> dict[str, Any]:
    """All that a page shows of a split beside its metrics, as plain values for JSON.

    Args:
        cases: the labelled rows.
        testing: the recipe's section.
    """
    details: dict[str, Any] = {}
    if cases.task.makes_calls:
        columns = list(cases.columns())
        for name, detail in DETAILS.items():
            details[name] = {c.name: detail(c, cases) for c in columns}
        details["confusion"] = confusion_of(cases)
        if len(columns) > 1 and not cases.task.exclusive:
            details["means"] = means_of(columns, cases)
    if testing.subgroups or testing.site:
        details["subgroups"] = subgroups_of(cases, testing)
    if testing.readers:
        from slivit.evaluate.readers import readers_of

        details["readers"] = readers_of(testing.readers, cases)
    return details


def _delong(column: Column, cases: Cases) -> dict[str, Any]:
    from slivit.statistics import delong_interval

    return delong_interval(column.y, column.p, level=cases.plan.level).to_dict()


def _curves(column: Column, cases: Cases) -> dict[str, Any]:
    return curves_of(column.y, column.p, cases.plan)


def curves_of(y: Any, p: Any, plan: Plan) -> dict[str, Any]:
    """The ROC and the precision-recall curve of two classes with their bands, as a file of metrics keeps them.

    Args:
        y: (n,) 0, 1 or NaN.
        p: (n,) probability of 1.
        plan: how to draw for the bands.
    """
    from slivit.statistics import precision_recall_curve, roc_curve

    curves = {"roc": roc_curve(y, p, plan=plan), "precision_recall": precision_recall_curve(y, p, plan=plan)}
    return {name: _thinned(curve.to_dict()) for name, curve in curves.items()}


def _reliability(column: Column, cases: Cases) -> dict[str, Any]:
    from slivit.statistics import reliability_curve

    return {
        by: [b.to_dict() for b in reliability_curve(column.y, column.p, by=by, plan=cases.plan)]
        for by in ("width", "mass")
    }


def _thresholds(column: Column, cases: Cases) -> list[dict[str, Any]]:
    from slivit.statistics import rates_by_threshold

    return [rates.to_dict() for rates in rates_by_threshold(column.y, column.p, plan=cases.plan)]


def _referral(column: Column, cases: Cases) -> list[dict[str, Any]]:
    from slivit.statistics import referral_curve

    points = referral_curve(column.y, column.p, uncertainty=column.uncertainty, plan=cases.plan)
    return [point.to_dict() for point in points]


DETAILS: dict[str, Callable[[Column, Cases], Any]] = {
    "delong": _delong,
    "curves": _curves,
    "reliability": _reliability,
    "thresholds": _thresholds,
    "referral": _referral,
}
"""What is computed for every class, label or target, by its name in `metrics.json`."""


def means_of(columns: Sequence[Column], cases: Cases) -> dict[str, Any]:
    """What thresholds and referral do on average over labels, as a file of metrics keeps it."""
    from slivit.statistics import label_rates, label_referral

    names, y, p = [c.name for c in columns], np.stack([c.y for c in columns], 1), np.stack([c.p for c in columns], 1)
    unsure = [c.uncertainty for c in columns if c.uncertainty is not None]
    given = np.stack(unsure, 1) if len(unsure) == len(names) else None
    return {
        "thresholds": [row.to_dict() for row in label_rates(y, p, names, plan=cases.plan)],
        "referral": [point.to_dict() for point in label_referral(y, p, names, uncertainty=given, plan=cases.plan)],
    }


def _thinned(curve: dict[str, Any]) -> dict[str, Any]:
    """A curve with fewer points, rounded, as a file of metrics keeps it."""
    points = curve["points"]
    kept = np.unique(np.linspace(0, len(points) - 1, min(len(points), CURVE_POINTS)).astype(int)) if points else ()
    rounded = [[None if v is None else round(v, 6) for v in points[i]] for i in kept]
    grid = {k: [round(v, 6) for v in curve[k]] if curve[k] else curve[k] for k in ("x", "y", "low", "high")}
    return {**curve, "points": rounded, **grid}


def confusion_of(cases: Cases) -> dict[str, Any]:
    """Counts by true class, then called class, for the one target or for each label."""
    if cases.task.exclusive:
        return {cases.task.targets[0]: _matrix(cases.y, cases.p.argmax(axis=1), cases.p, list(cases.task.classes))}
    return {c.name: _matrix(c.y, c.p >= (c.threshold or 0.0), c.p, ["0", "1"]) for c in cases.columns()}


def _matrix(y: np.ndarray, called: np.ndarray, p: np.ndarray, names: list[str]) -> dict[str, Any]:
    from slivit.statistics import confusion_matrix

    known = ~np.isnan(y)
    if not np.isfinite(p[known]).all():
        return {"classes": names, "counts": None, "why": "some predictions are missing or not finite"}
    if not known.any():
        return {"classes": names, "counts": None, "why": "there is no case with a label"}
    return {
        "classes": names,
        "counts": confusion_matrix(y[known], called[known].astype(float), len(names)),
        "why": None,
    }


def subgroups_of(cases: Cases, testing: Testing) -> dict[str, Any]:
    """Every metric by the columns of a recipe, with the largest gaps."""
    from slivit.statistics import by_subgroup

    columns = subgroup_columns(testing)
    check_subgroups(cases.table, testing)
    groups: dict[str, Any] = {c: _blank_to_none(cases.table[c]) for c in columns}
    subgroups = by_subgroup(
        cases.task.kind,
        cases.y,
        cases.p,
        groups,
        bands={c: e for c, e in testing.bands.items() if c in columns},
        reference={c: r for c, r in testing.reference.items() if c in columns},
        plan=cases.plan,
        names=cases.names,
        threshold=cases.threshold,
    )
    return subgroups.to_dict()


def subgroup_columns(testing: Testing) -> list[str]:
    """The columns by which metrics are split up, the site's first."""
    return list(dict.fromkeys([*([testing.site] if testing.site else []), *testing.subgroups]))


def check_subgroups(table: pd.DataFrame, testing: Testing) -> None:
    """Check that the columns of subgroups are there and name groups, before anything long is run.

    Raises:
        RecipeError: a column that is not there, or that has too many different texts to be one of groups.
    """
    import pandas as pd

    for column in subgroup_columns(testing):
        if column not in table:
            known = [c for c in table.columns if not str(c).startswith(("prob_", "pred_", "raw_", "call_"))]
            raise RecipeError(
                f'testing: the table of scans has no column "{column}".{nearest(column, known)} It has {one_of(known)}'
            )
        different = table[column].nunique()
        if different > MOST_SUBGROUPS and not pd.api.types.is_numeric_dtype(table[column]):
            raise RecipeError(
                f'testing: column "{column}" has {different} different values; a column of subgroups has at most '
                f"{MOST_SUBGROUPS}. Numbers are cut into bands, texts are not."
            )


def _blank_to_none(column: pd.Series) -> np.ndarray:
    """The values of a column with None, or NaN among numbers, where it is empty."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(float, na_value=np.nan) if column.isna().any() else column.to_numpy()
    values = [None if pd.isna(value) or value == "" else str(value) for value in column]
    return np.array(values, dtype=object)
