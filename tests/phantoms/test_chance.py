"""The answer cannot be read from the intensities of a whole scan."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, spearmanr


def auc(labels, scores) -> float:
    labels, scores = np.asarray(labels, bool), np.asarray(scores)
    return mannwhitneyu(scores[labels], scores[~labels]).statistic / (labels.sum() * (~labels).sum())


@pytest.mark.parametrize("statistic", [np.mean, np.std], ids=["mean", "std"])
@pytest.mark.parametrize(("kind", "target", "n"), [("oct", "drusen", 200), ("ct", "nodule", 48)])
def test_binary_answers(kind, target, n, statistic, drawn):
    scans = drawn(kind, n)
    assert 0.35 < auc([t[target] for _, _, t in scans], [statistic(scan) for _, scan, _ in scans]) < 0.65


@pytest.mark.parametrize("statistic", [np.mean, np.std], ids=["mean", "std"])
@pytest.mark.parametrize("label", ["NORMAL", "DRUSEN", "CNV", "DME"])
def test_classes(label, statistic, drawn):
    scans = drawn("oct2d", 200)
    assert 0.35 < auc([t["label"] == label for _, _, t in scans], [statistic(scan) for _, scan, _ in scans]) < 0.65


@pytest.mark.parametrize("statistic", [np.mean, np.std], ids=["mean", "std"])
@pytest.mark.parametrize(("kind", "target", "n"), [("echo", "ef", 32), ("liver", "pdff", 100)])
def test_numbers(kind, target, n, statistic, drawn):
    scans = drawn(kind, n)
    r = spearmanr([t[target] for _, _, t in scans], [statistic(scan) for _, scan, _ in scans]).statistic
    assert abs(r) < 0.3
