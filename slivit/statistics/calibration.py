"""Whether a probability means what it says."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from slivit.statistics.arrays import Array
from slivit.statistics.binary import BinaryDraws
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
    return _gap(draws, np.linspace(0, 1, draws.data.bins + 1))


def calibration_error_mass(draws: BinaryDraws) -> Array:
    """Expected calibration error over bins that hold equally many cases; bins are those of the whole sample.

    Source: Nixon et al., CVPR Workshops 2019, section 3 (adaptive binning).
    """
    return _gap(draws, mass_edges(draws.data.p, draws.data.bins))


def mass_edges(p: Array, bins: int) -> Array:
    """Return the edges of `bins` bins with equally many of the probabilities `p` (fewer where ties are large)."""
    return np.quantile(p, np.linspace(0, 1, bins + 1))


def bin_members(p: Array, edges: Array) -> npt.NDArray[np.float64]:
    """Return (n, bins), 1 where a probability lies in a bin; bins are closed above, and the first below too."""
    return np.eye(len(edges) - 1)[np.searchsorted(edges[1:-1], p)]


def _gap(draws: BinaryDraws, edges: Array) -> Array:
    members = bin_members(draws.data.p, edges)
    surplus = draws.weights @ (members * (draws.data.p - draws.data.y)[:, None])
    return ratio(np.abs(surplus).sum(axis=1), draws.total)


CALIBRATION = MappingProxyType(
    {
        "brier": Metric(brier, "needs a case", higher=False),
        "calibration_error": Metric(calibration_error, "needs a case", higher=False),
        "calibration_error_mass": Metric(calibration_error_mass, "needs a case", higher=False),
    }
)
"""Metrics of calibration, by name."""
