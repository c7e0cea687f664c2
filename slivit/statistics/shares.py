"""Shares of cases: the form of every rate at a threshold, in a bin, or of a reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.statistics.arrays import Array
from slivit.statistics.sample import ratio


@dataclass(frozen=True, eq=False)
class Share:
    """The share of the cases `among` that are `hits` as well.

    Args:
        hits: (n,) bool.
        among: (n,) bool.
        needs: what the cases must hold for the share to be defined, as "needs a positive case".
        blocked: why no share can be given whatever the cases are; empty where it can.
    """

    hits: npt.NDArray[np.bool_]
    among: npt.NDArray[np.bool_]
    needs: str
    blocked: str = ""


class ShareSample:
    """Several shares of the same cases, as a `Sample` for the bootstrap.

    Args:
        shares: the shares, by name; at least one.

    Source: Altman and Bland, BMJ 308 (1994) 1552 (sensitivity and specificity as shares of cases).
    """

    def __init__(self, shares: dict[str, Share]) -> None:
        self.shares = shares
        self.n = len(next(iter(shares.values())).hits)
        self.above = self._columns([share.hits & share.among for share in shares.values()])
        self.below = self._columns([share.among for share in shares.values()])

    def values(self, weights: Array) -> dict[str, Array]:
        """Return every share, (B,), from counts (B, n)."""
        shares = ratio(weights @ self.above, weights @ self.below)
        shares[:, [bool(self._blocked(share)) for share in self.shares.values()]] = np.nan
        return dict(zip(self.shares, shares.T, strict=True))

    def size(self, name: str) -> int:
        """Return the number of cases that the share is of."""
        return int(self.shares[name].among.sum())

    def why(self, name: str) -> str:
        """Return why a share is not defined, or an empty string."""
        share = self.shares[name]
        return self._blocked(share) or (share.needs if not share.among.any() else "")

    def _blocked(self, share: Share) -> str:
        return share.blocked or ("there is one case only" if self.n == 1 else "")

    def _columns(self, flags: list[Any]) -> Array:
        return np.stack(flags, axis=1).astype(np.float64)
