"""A study in figures: what is drawn stays within what a metric can be."""

import numpy as np
import pytest

from slivit.report.draw import styled
from slivit.report.plots_study import label_plot


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
