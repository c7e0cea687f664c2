"""What more labels would bring: the best model without a network, on nested parts of each fold's training scans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slivit.data.splits import k_folds
from slivit.planned.plan import Plan, kinds_of
from slivit.planned.select import loss
from slivit.train.table_models import fit_table, outputs_of

if TYPE_CHECKING:
    from slivit.planned.scans import Scans

Array = npt.NDArray[Any]
LEAST = 40  # patients, below which a quarter of them says nothing
QUARTERS = (1, 2, 4)
"""Of the training scans, by patients, each part within the next."""


def learning_curve(
    plan: Plan, work: Scans, features: Mapping[str, Array], predictions: Mapping[str, Array]
) -> tuple[str, dict[int, Array]]:
    """Fit the best baseline again on fewer scans.

    Args:
        plan: of the run.
        work: its scans.
        features: of these, by name.
        predictions: (n, out_dim) out of fold, of the baselines.

    Returns:
        The baseline, and by quarters of the training scans what it predicts out of fold; nothing where a quarter has
        too few patients for its classes.
    """
    chosen = {name: (kind, names) for name, kind, names in kinds_of(plan) if name in predictions}
    best = min(chosen, key=lambda name: loss(work.task, work.y, predictions[name]))
    kind, names = chosen[best]
    if work.frame["patient"].nunique() < LEAST:
        return best, {}
    quarter = np.asarray(k_folds(work.frame, work.task, k=4, seed=plan.seed + 1))
    curve = {4: predictions[best]}
    for quarters in QUARTERS[:-1]:
        p = np.zeros_like(predictions[best])
        for part in np.unique(work.parts):
            train, rest = (work.parts != part) & (quarter < quarters), work.parts == part
            if work.task.exclusive and len(set(work.y[train])) < 2:
                return best, {}
            x = work.table(features, names, train)
            widths = work.widths(features, names)
            model = fit_table(kind, widths, x[train], work.y[train], work.task, plan.seed)
            p[rest] = outputs_of(model, x[rest], work.task)
        curve[quarters] = p
    return best, curve


def curve_of(work: Scans, name: str, curve: Mapping[int, Array]) -> dict[str, Any]:
    """The curve as plain values: the model, and for each part the patients that train and its main metric."""
    from slivit.planned.finish import in_units
    from slivit.statistics import summarise

    if not curve:
        return {}
    task, metric = work.task, work.task.measures.main[0]
    y = work.y if task.makes_calls else in_units(task, work.y)
    groups = work.frame["patient"].astype(str).to_numpy()
    folds = len(np.unique(work.parts))
    points = []
    for quarters in sorted(curve):
        estimates = summarise(task.kind, y, in_units(task, curve[quarters]), groups=groups, metrics=[metric], draws=200)
        count = round(len(set(groups)) * (folds - 1) / folds * quarters / 4)
        points.append({"trained_on": count, **estimates[metric].to_dict()})
    return {"model": name, "points": points}
