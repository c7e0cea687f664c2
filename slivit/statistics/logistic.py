"""Logistic recalibration in many draws at once: intercept and slope of the labels on the logit of the probability."""

from __future__ import annotations

import numpy as np

from slivit.statistics.arrays import Array

NEAR_CERTAIN = 1e-7
"""Probabilities are kept this far from 0 and 1, where the logit is infinite (the resolution of float32 below 1)."""

STEPS = 30
SETTLED = 1e-6
"""Newton's method doubles the digits with each step, so a last step of this size leaves an error of about 1e-12."""


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
        mean, spread = _sigmoid(a[:, None] + z)
        step = (positives - _sums(weights, mean)) / _sums(weights, spread)
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
        mean, spread = _sigmoid(line[:, :1] + line[:, 1:] * z)
        g0, g1 = (target - (weights * mean) @ terms[:, :2]).T
        h0, h1, h2 = ((weights * spread) @ terms).T
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
