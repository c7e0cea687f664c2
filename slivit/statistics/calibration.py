"""Whether a probability means what it says."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from slivit.statistics.arrays import Array
from slivit.statistics.binary import BinaryDraws
from slivit.statistics.sample import Metric, ratio

NEAR_CERTAIN = 1e-7
"""Probabilities are kept this far from 0 and 1, where the logit is infinite (the resolution of float32 below 1)."""
STEPS = 30
SETTLED = 1e-6
"""Newton's method doubles the digits with each step, so a last step of this size leaves an error of about 1e-12."""


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


def logit(p: Array, away: float = NEAR_CERTAIN) -> Array:
    """Return log(p / (1 - p)), with p kept `away` from 0 and 1."""
    p = np.clip(p, away, 1 - away)
    return np.log(p) - np.log1p(-p)


def fit_intercept(z: Array, y: Array, weights: Array, start: Array) -> Array:
    """Fit a in logit P(y = 1) = a + z by Newton's method.

    Args:
        z: (n,) logits.
        y: (n,) 0 or 1.
        weights: (B, n) how often each case counts.
        start: (1,) first guess, the same for all draws.

    Returns:
        (B,), NaN where there is no finite maximum.
    """
    a, positives = start, weights @ y
    for _ in range(STEPS):
        mean, variance = _sigmoid(a[:, None] + z)
        step = (positives - _sums(weights, mean)) / _sums(weights, variance)
        a = a + step
        if not (np.abs(step) > SETTLED).any():
            break
    return np.where(np.abs(step) <= SETTLED, a, np.nan)


def fit_line(z: Array, y: Array, weights: Array, start: Array) -> Array:
    """Fit a and b in logit P(y = 1) = a + b z by Newton's method.

    Args:
        z: (n,) logits, best scaled to a mean of 0 and a standard deviation of 1.
        y: (n,) 0 or 1.
        weights: (B, n) how often each case counts.
        start: (1, 2) first guess, the same for all draws.

    Returns:
        (B, 2) a and b, NaN where there is no finite maximum.
    """
    line = start
    terms = np.stack([np.ones_like(z), z, z * z], axis=1)
    target = weights @ (y[:, None] * terms[:, :2])
    for _ in range(STEPS):
        mean, variance = _sigmoid(line[:, :1] + line[:, 1:] * z)
        g0, g1 = (target - (weights * mean) @ terms[:, :2]).T
        h0, h1, h2 = ((weights * variance) @ terms).T
        step = np.stack([h2 * g0 - h1 * g1, h0 * g1 - h1 * g0], axis=1) / (h0 * h2 - h1 * h1)[:, None]
        line = line + step
        if not (np.abs(step) > SETTLED).any():
            break
    return np.where((np.abs(step) <= SETTLED).all(axis=1, keepdims=True), line, np.nan)


def _sigmoid(z: Array) -> tuple[Array, Array]:
    """Return the sigmoid of `z`, whose memory is used for it, and its derivative."""
    with np.errstate(over="ignore"):
        np.exp(np.negative(z, out=z), out=z)
    z += 1
    mean = np.divide(1, z, out=z)
    return mean, mean * (1 - mean)


def _sums(weights: Array, values: Array) -> Array:
    """Return (B,) sums of weights times values, which are (B, n), or (1, n) where they are the same in all draws."""
    return weights @ values[0] if len(values) == 1 else np.einsum("bi,bi->b", weights, values)
