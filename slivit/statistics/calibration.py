"""Whether a probability means what it says."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from slivit.statistics.arrays import Array
from slivit.statistics.binary import BinaryDraws
from slivit.statistics.logistic import fit_intercept, fit_line, logit
from slivit.statistics.sample import Metric, ratio


def brier(draws: BinaryDraws) -> Array:
    """Brier score: mean squared distance of the probability from the label; lower is better.

    Source: Brier, Mon Weather Rev 78 (1950) 1 (the half of his sum over both classes, as in use today).
    """
    return ratio(draws.weights @ (draws.data.p - draws.data.y) ** 2, draws.total)


def calibration_error(draws: BinaryDraws) -> Array:
    """Expected calibration error over bins of equal width: mean gap between probability and observed share.

    Source: Guo et al., ICML 2017, equation 3; Naeini et al., AAAI 2015.
    """
    return _gap(draws, width_edges(draws.data.bins))


def calibration_error_mass(draws: BinaryDraws) -> Array:
    """Expected calibration error over bins that hold equally many cases; bins are those of the whole sample.

    Source: Nixon et al., CVPR Workshops 2019, section 3 (adaptive binning).
    """
    return _gap(draws, mass_edges(draws.data.p, draws.data.bins))


def width_edges(bins: int) -> Array:
    """Return the edges of `bins` bins of equal width from 0 to 1."""
    return np.linspace(0, 1, bins + 1)


def mass_edges(p: Array, bins: int) -> Array:
    """Return the edges of `bins` bins with equally many of the probabilities `p`, as far as ties allow."""
    return np.quantile(p, np.linspace(0, 1, bins + 1))


def bin_members(p: Array, edges: Array) -> Array:
    """Return (n, bins), 1 where a probability lies in a bin; bins are closed above, and the first below too."""
    return np.eye(len(edges) - 1)[np.searchsorted(edges[1:-1], p)]


def _gap(draws: BinaryDraws, edges: Array) -> Array:
    surplus = bin_members(draws.data.p, edges) * (draws.data.p - draws.data.y)[:, None]
    return ratio(np.abs(draws.weights @ surplus).sum(axis=1), draws.total)


def calibration_intercept(draws: BinaryDraws) -> Array:
    """Calibration in the large: what must be added to the logits so that as many cases are expected as observed.

    0 is best; below 0, risks are overestimated.

    Source: Van Calster et al., BMC Med 17 (2019) 230 (calibration intercept, with the logit as an offset).
    """
    z, y = logit(draws.data.p), draws.data.y
    start = np.nan_to_num(fit_intercept(z, y, np.ones((1, len(y))), np.zeros(1)))
    both = (draws.positives > 0) & (draws.negatives > 0)
    return np.where(both, fit_intercept(z, y, draws.weights, start), np.nan)


def calibration_slope(draws: BinaryDraws) -> Array:
    """Calibration slope: the slope of the labels on the logits in a logistic regression.

    1 is best; below 1, probabilities are too extreme. Not defined where a threshold separates the classes.

    Source: Cox, Biometrika 45 (1958) 562; Van Calster et al., BMC Med 17 (2019) 230.
    """
    z = logit(draws.data.p)
    if not draws.overlapping.any():
        return np.full(len(draws.weights), np.nan)
    scale = z.std()
    z, y = (z - z.mean()) / scale, draws.data.y
    start = np.nan_to_num(fit_line(z, y, np.ones((1, len(y))), np.zeros((1, 2))))
    slope = fit_line(z, y, draws.weights, start)[:, 1] / scale
    return np.where(draws.overlapping, slope, np.nan)


_OVERLAP = "needs both classes, with probabilities that overlap"

CALIBRATION = MappingProxyType(
    {
        "brier": Metric(brier, "needs a case", higher=False),
        "calibration_error": Metric(calibration_error, "needs a case", higher=False),
        "calibration_error_mass": Metric(calibration_error_mass, "needs a case", higher=False),
        "calibration_intercept": Metric(calibration_intercept, "needs both classes", higher=None),
        "calibration_slope": Metric(calibration_slope, _OVERLAP, higher=None),
    }
)
"""Metrics of calibration, by name."""
