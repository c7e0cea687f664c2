"""What an explanation holds: the slices, their scores by method, and maps over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from slivit.explanation.scan import SeenScan
from slivit.targets.task import Task

METHODS = ("occlusion", "rollout", "gradcam")
"""The ways to explain, in the order of columns and pictures."""

TITLES = {"occlusion": "Occlusion", "rollout": "Attention rollout", "gradcam": "Grad-CAM"}
Maps = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Attribution:
    """What one method says of a scan.

    Args:
        method: one of `METHODS`.
        scores: (n,) of the scan's slices that the model saw, in ascending order. Occlusion: how much less speaks for
            the target without the slice, in log-odds or in the target's unit; it may be negative. Attention rollout:
            the part of what the head reads that came from the slice. Grad-CAM: the mean of its map over the slice.
        maps: (S, h, w) float32 over the model's slices, not negative: where in them; None where a method judges
            slices as wholes.
        more: further columns of the table of slices, (n,) each.
    """

    method: str
    scores: npt.NDArray[np.float64]
    maps: Maps | None
    more: Mapping[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a model predicts what it predicts for a scan.

    Args:
        scan: what the model saw.
        task: what it predicts.
        target: the output that is explained: a target, or a class of a multiclass task.
        predictions: by column, as `slivit predict` writes them: probabilities or values, and calls.
        attributions: by method.
        skipped: methods that are not defined for this model, and why.
        fill: by what slices were replaced for occlusion.
    """

    scan: SeenScan
    task: Task
    target: str
    predictions: Mapping[str, Any]
    attributions: Mapping[str, Attribution]
    skipped: Mapping[str, str]
    fill: str

    @property
    def column(self) -> str:
        """The column of the prediction that is explained."""
        return self.task.prefix + self.target

    @property
    def prediction(self) -> float:
        """The probability, or the value in the target's unit."""
        return float(self.predictions[self.column])

    def table(self) -> pd.DataFrame:
        """One row for each slice of the scan that the model saw: its number, from 0, and its scores by method.

        Where occlusion was computed, `without` is the prediction without the slice, and `change` how much higher the
        prediction is with it: exactly the difference of two predictions.
        """
        columns: dict[str, Any] = {"slice": self.scan.sampled}
        for method, attribution in self.attributions.items():
            columns[method] = attribution.scores
            columns |= attribution.more
        return pd.DataFrame(columns)

    def ranking(self, method: str) -> npt.NDArray[np.intp]:
        """The numbers of the slices, the most important first; for regression by the size of the score alone."""
        scores = self.attributions[method].scores
        weight = scores if self.task.makes_calls else np.abs(scores)
        return self.scan.sampled[np.argsort(-weight, kind="stable")]

    def save(self, out: str | Path, *, overwrite: bool = False) -> Path:
        """Write the table, the contact sheet, an overlay for each method, and all facts; see `save_explanation`."""
        from slivit.explanation.outputs import save_explanation

        return save_explanation(self, out, overwrite=overwrite)

    def figure(self) -> Any:
        """The contact sheet as a matplotlib figure."""
        from slivit.explanation.sheet import sheet_figure

        return sheet_figure(self)

    def __repr__(self) -> str:
        best = {m: int(self.ranking(m)[0]) for m in self.attributions}
        tops = ", ".join(f"{m}: slice {n}" for m, n in best.items())
        return f"Explanation({self.column} = {self.prediction:.4g} of {self.scan.source}; {tops})"

    def _repr_png_(self) -> bytes:
        """The contact sheet, for notebooks."""
        from slivit.explanation.sheet import png_bytes

        return png_bytes(self.figure())
