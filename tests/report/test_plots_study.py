"""A study in figures: what is drawn stays within what a metric can be."""

import numpy as np
import pytest

from slivit.report.draw import styled
from slivit.report.plots_study import label_plot, order_plot, study_plots


def study(models):
    def cell(model, fraction):
        return {
            "model": model,
            "start": "random",
            "fraction": fraction,
            "train_scans": int(80 * fraction),
            "metrics": {"roc_auc": {"value": 0.98, "low": 0.93, "high": 1.0}},
            "spread": {"roc_auc": {"sd": 0.3}},
        }

    names = {f"m{i}": f"Model {i}" for i in range(models)}
    return {
        "task": {"unit": ""},
        "settings": {"models": names, "starts": {"random": "random"}, "by_patient": True, "level": 0.95},
        "cells": [cell(name, fraction) for name in names for fraction in (0.25, 1.0)],
    }


@pytest.mark.parametrize("models", [2, 5])
def test_bars_and_bands_are_intervals_within_the_metrics_range(models):
    with styled():
        plot = label_plot(study(models), "roc_auc", "")
        points = [path.vertices for c in plot.figure.axes[0].collections for path in c.get_paths()]
    heights = np.concatenate(points)[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.93, 1.0))
    assert plot.caption.endswith("95% interval over test patients.")


def test_each_reference_has_figures_of_its_own():
    told = study(2)
    told["settings"] |= {"metrics": ["roc_auc"], "fractions": [1.0, 0.25]}
    quarter, same = {"model": "m0", "start": "", "fraction": 0.25}, {"model": "m0", "start": "", "fraction": 0}
    told["settings"]["references"] = [quarter, same]
    base = {"method": "paired bootstrap", "metric": "roc_auc", "model": "m1", "start": "random", "fraction": 1.0}
    of = {"model": "m0", "start": "random"}
    told["tests"] = [
        {**base, "difference": 0.1, "low": 0.0, "high": 0.2, "reference": {**of, "fraction": share}}
        for share in (0.25, 1.0)
    ]
    with styled():
        titles = {plot.name: plot.title for plot in study_plots(told)}
    assert titles["differences-roc-auc-1"].endswith("from Model 0 (25% of the labels): models with all labels")
    assert titles["differences-roc-auc-1-2"].endswith("from Model 0: models with all labels")


def test_every_copy_is_a_dot_beside_the_run_in_order():
    told = study(1)
    told["settings"] |= {"seeds": [0]}
    entry = {"model": "m0", "start": "random", "fraction": 1.0, "seed": 0, "metric": "roc_auc"}
    values = [0.7, 0.7, 0.72, 0.9]
    told["shuffles"] = [{**entry, "value": 0.85, "low": 0.8, "high": 0.88, "values": values}]
    with styled():
        (ax,) = order_plot(told, "roc_auc", "").figure.axes
    dots, line = ax.get_lines()
    assert sorted(dots.get_xdata()) == values
    assert len(set(zip(dots.get_xdata(), dots.get_ydata(), strict=True))) == 4  # none hides another
    assert set(line.get_xdata()) == {0.85}
