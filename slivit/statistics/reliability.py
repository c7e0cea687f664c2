"""The reliability curve, and temperature scaling to straighten it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from slivit.statistics.arrays import Array, one_from
from slivit.statistics.bootstrap import Plan, bootstrap
from slivit.statistics.calibration import bin_members, mass_edges, width_edges
from slivit.statistics.estimate import Estimate, StatisticsError
from slivit.statistics.kinds import KINDS, CaseKind
from slivit.statistics.sample import Share, ShareSample
from slivit.statistics.summary import prepare

COLDEST, HOTTEST = 1e-2, 1e2
"""Between these a temperature is searched; beyond, probabilities are 0 and 1 or all the same."""


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability curve.

    Args:
        low: lower edge of the bin, a probability.
        high: upper edge of the bin, which belongs to it.
        n: number of cases in it.
        predicted: mean probability of these cases; None in an empty bin.
        observed: share of them that is positive.
    """

    low: float
    high: float
    n: int
    predicted: float | None
    observed: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return asdict(self)


def reliability_curve(
    y: Any, p: Any, *, bins: int = 10, by: str = "width", plan: Plan | None = None
) -> list[ReliabilityBin]:
    """Compare the probabilities with the observed share of positives, bin by bin.

    Args:
        y: (n,) 0, 1 or NaN (missing).
        p: (n,) probability of 1.
        bins: number of bins.
        by: "width" for bins of equal width, "mass" for bins of equally many cases; fewer where ties are large.
        plan: how to draw for the intervals of the observed shares.

    Returns:
        The bins from low to high; empty where no prediction can be used (no cases, or some that are not finite).

    Source: Niculescu-Mizil and Caruana, ICML 2005, section 4; DeGroot and Fienberg, Statistician 32 (1983) 12.
    """
    one_from(by, ("width", "mass"), "by")
    if bins < 1:
        raise StatisticsError(f"bins must be 1 or more; got {bins}.")
    y, p, plan = prepare("binary", y, p, plan)
    if not len(p) or np.isnan(p).any():
        return []
    edges = width_edges(bins) if by == "width" else np.unique(mass_edges(p, bins))
    edges = edges if len(edges) > 1 else np.repeat(edges, 2)
    members = bin_members(p, edges) == 1
    shares = {str(i): Share(y == 1, inside, "the bin is empty") for i, inside in enumerate(members.T)}
    observed = bootstrap(ShareSample(shares), plan)
    return [
        ReliabilityBin(
            float(edges[i]),
            float(edges[i + 1]),
            int(inside.sum()),
            float(p[inside].mean()) if inside.any() else None,
            observed[str(i)],
        )
        for i, inside in enumerate(members.T)
    ]


@dataclass(frozen=True)
class Temperature:
    """A temperature that was fitted on validation data.

    Args:
        value: the temperature by which logits are divided: above 1, the model was too sure; None where not defined.
        before: mean negative log-likelihood, in nats, before scaling.
        after: the same after scaling.
        n: number of labels that it was fitted on.
        why: why it is not defined.
    """

    value: float | None
    before: float | None = None
    after: float | None = None
    n: int = 0
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values that JSON can hold."""
        return asdict(self)


def fit_temperature(kind: str, y: Any, p: Any) -> Temperature:
    """Fit the temperature that makes the probabilities of validation data most likely.

    The order of the cases does not change (for two classes), so that rank statistics stay as they are.

    Args:
        kind: "binary", "multiclass" or "multilabel" (one temperature for all labels).
        y: validation labels, in the shape that `summarise` takes.
        p: validation probabilities, in the shape that `summarise` takes.

    Returns:
        The temperature; not defined where the best one is 0 or infinite, as with one class only.

    Source: Guo et al., ICML 2017, section 4.2.
    """
    scaled = _tempered(kind)
    y, p, _ = prepare(kind, y, p)
    known = ~np.isnan(y)
    n = int(known.sum())
    if n < 2 or not scaled.predicted(p)[known].all():
        return Temperature(None, n=n, why="needs two labels, and predictions that are finite numbers")
    return _coolest(scaled.likelihood(y, p), n)


def apply_temperature(kind: str, p: Any, temperature: float) -> Array:
    """Return probabilities whose logits are divided by `temperature`.

    Args:
        kind: "binary", "multiclass" or "multilabel".
        p: probabilities, in the shape that `summarise` takes.
        temperature: above 0, from `fit_temperature`.

    Source: Guo et al., ICML 2017, section 4.2.
    """
    scaled = _tempered(kind)
    if not temperature > 0:
        raise StatisticsError(f"temperature must be above 0; got {temperature}.")
    values = np.asarray(p, dtype=np.float64)
    return scaled.tempered_by(scaled.check(scaled.unknown(values), values)[1], temperature)


def _tempered(kind: str) -> CaseKind:
    return KINDS[one_from(kind, [name for name in KINDS if KINDS[name].tempered], "kind")]


def _coolest(loss: Callable[[float], float], n: int) -> Temperature:
    from scipy.optimize import minimize_scalar

    edges = np.log([COLDEST, HOTTEST])
    best = float(minimize_scalar(lambda t: loss(np.exp(t)), bounds=edges, method="bounded", options={"xatol": 1e-9}).x)
    before, after = loss(1.0), loss(float(np.exp(best)))
    if min(best - edges[0], edges[1] - best) < 1e-3 or loss(HOTTEST) - after < 1e-12:
        why = "the likelihood has no maximum between very low and very high temperatures"
        return Temperature(None, n=n, why=f"{why}: one class only, classes that are separated, or a useless ranking")
    return Temperature(float(np.exp(best)), before, after, n)
