"""The section of a recipe that names the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Which network: its registered name, its own arguments beside it, and weights to start from.

    Args:
        name: one of `slivit list models`.
        weights: a backbone to start from: a run or checkpoint folder, a weight file, or a published network's name
            (`slivit list weights`), which also says the network and its input; random where empty.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "slivit"
    weights: str = ""

    @property
    def args(self) -> dict[str, Any]:
        """The model's own arguments."""
        return dict(self.model_extra or {})

    @property
    def start(self) -> str:
        """What its weights start from, as it is named here; "" where that is chance."""
        named = self.weights or self.args.get("pretrained", "")
        return str(self.args.get("backbone", self.name)) if named is True else str(named or "")

    def args_for(self, planes: Sequence[str] | None) -> dict[str, Any]:
        """The model's own arguments; where its slices lie in several planes, a model that tells them apart knows it."""
        from slivit.models.registry import takes_argument

        return ({"planes": len(planes)} if planes and takes_argument(self.name, "planes") else {}) | self.args
