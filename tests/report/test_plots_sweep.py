"""A sweep and a curve in figures: axes that can be read, and intervals that say what they are."""

import pytest

from slivit.report.draw import styled
from slivit.report.plots_study import curve_plot
from slivit.report.plots_sweep import settings_plot


@pytest.mark.parametrize(("high", "labels"), [(4e-3, ["0.001", "0.004"]), (1.0, None)])
def test_a_logarithmic_setting_has_its_whole_range_and_labels_that_do_not_meet(high, labels):
    trials = [{"number": i, "state": "finished", "value": 0.5, "values": {"fit.lr": 1e-3 * (i + 1)}} for i in range(4)]
    space = {"fit.lr": {"type": "log", "low": 1e-3, "high": high}}
    found = {"space": space, "trials": trials, "best": 0, "falls": True, "monitor": "valid_loss"}
    with styled():
        ax = settings_plot(found).figure.axes[0]
        ax.figure.draw_without_rendering()
    assert ax.get_xlim()[0] < 1e-3 < high < ax.get_xlim()[1]
    assert not any(label.get_text() for label in ax.get_xticklabels(minor=True))
    assert labels in (None, [label.get_text() for label in ax.get_xticklabels()])


@pytest.mark.parametrize("by_patient", [True, False])
def test_a_curve_says_what_its_band_is(by_patient):
    estimate = {"value": 0.8, "low": 0.7, "high": 0.9}
    runs = [{"metrics": {"roc_auc": 0.8}}]
    cells = [{"train_scans": n, "metrics": {"roc_auc": estimate}, "runs": runs} for n in (40, 10)]
    settings = {"level": 0.9, "by_patient": by_patient, "seeds": [0]}
    with styled():
        plot = curve_plot({"settings": settings, "cells": cells}, "roc_auc", "")
    told = [text.get_text() for text in plot.figure.axes[0].get_legend().get_texts()]
    assert f"90% interval over test {'patients' if by_patient else 'scans'}" in told
