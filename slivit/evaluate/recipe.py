"""How predictions are measured, and the recipe of an evaluation."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from slivit.data.recipe import Data
from slivit.errors import SlivitError
from slivit.folder import METRICS, PREDICTIONS
from slivit.plugins import Plugged
from slivit.recipe import Stage
from slivit.settings import Precision, Section


def _rule_text(rule: Any) -> Any:
    """Check the rule of an operating point; TOML may give a threshold as a number."""
    from slivit.statistics.thresholds import parse_rule

    if isinstance(rule, bool) or not isinstance(rule, str | int | float) or rule == "":
        return rule
    try:
        return str(parse_rule(rule)).removeprefix("fixed=")
    except SlivitError as error:
        raise ValueError(str(error)) from None


class Testing(Section):
    """How predictions are made and measured.

    Args:
        level: of the intervals.
        draws: of the bootstrap.
        by_patient: draw patients instead of scans.
        stratified: keep the number of scans (or patients) of each class in every draw; binary and multiclass.
        batch_size: scans a batch.
        precision: in which the network computes, as in `fit`.
        operating_point: the rule by which the threshold of a call is chosen on the validation rows: a threshold,
            "youden", "sensitivity=0.9" or "specificity=0.9". Empty: what the checkpoint holds, else 0.5.
        temperature: divide the logits by the temperature that fits the validation rows best.
        subgroups: columns of the manifest by which every metric is given too.
        bands: the edges that cut a column of numbers into bands, such as {age = [40, 60, 80]}; quarters if absent.
        reference: for a column, the subgroup that the others are compared with.
        site: the column that names where a scan comes from, for a view of the sites side by side.
        readers: a CSV of human readers' calls: the first column names the scan, every other column is a reader.
        tolerance_mm: segmentation only: of the surface Dice.
        penalty_mm: segmentation only: what the infinite HD95 of a missed structure counts as; left out of the mean, and
            counted, where absent.
        targets: measure these targets of a task with several alone, such as those that an external data set has.
        baselines: compare with what size and a histogram of grey levels predict of the same scans; a training fits that
            to its training rows, and reads the scans once more for it.
        pictures: how many of the most confident errors the page shows with pictures of their slices.
    """

    level: float = Field(default=0.9, gt=0, lt=1)
    draws: int = Field(default=1000, ge=1)
    by_patient: bool = False
    stratified: bool = False
    batch_size: int = Field(default=8, ge=1)
    precision: Precision = "auto"
    operating_point: Annotated[str, BeforeValidator(_rule_text)] = ""
    temperature: bool = False
    subgroups: tuple[str, ...] = ()
    bands: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    reference: dict[str, str] = Field(default_factory=dict)
    site: str = ""
    readers: str = ""
    tolerance_mm: float = Field(default=1.0, ge=0)
    penalty_mm: float | None = Field(default=None, ge=0)
    targets: tuple[str, ...] = ()
    baselines: bool = True
    pictures: int = Field(default=10, ge=0)


class EvaluateRecipe(Plugged):
    """Evaluation of a checkpoint on a manifest.

    Args:
        checkpoint: a run or checkpoint folder.
        out: the folder of results.
        data: the labelled scans.
        split: the rows that are measured, where the table has a split.
        device: "auto", "cpu", "cuda", "mps".
        testing: how predictions are made and measured.
        shuffle_slices: a seed: the slices of every scan are brought into another order (see `Preprocessing`).
        page: draw the page of results, `report/index.html`.
    """

    stage: ClassVar[Stage] = "evaluate"
    runner: ClassVar[str] = "slivit.evaluate.command:run"
    results: ClassVar[tuple[str, ...]] = (PREDICTIONS, METRICS)

    checkpoint: str = Field(min_length=1)
    out: str = Field(min_length=1)
    data: Data
    split: Literal["train", "val", "test", "all"] = "test"
    device: str = "auto"
    testing: Testing = Testing()
    shuffle_slices: int | None = None
    page: bool = True
