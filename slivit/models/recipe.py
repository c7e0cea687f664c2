"""The section of a recipe that names the network."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Which network: its registered name, its own arguments beside it, and weights to start from.

    Args:
        name: one of `slivit list models`.
        weights: a backbone to start from: a run or checkpoint folder, or a weight file; random where empty.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "slivit"
    weights: str = ""

    @property
    def args(self) -> dict[str, Any]:
        """The model's own arguments."""
        return dict(self.model_extra or {})
