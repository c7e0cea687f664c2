"""Colours, names and numbers: how everything on a page looks and what it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

INK, QUIET, LINE = "#1A1F24", "#55606A", "#CBD3D9"

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#1A1F24")
"""Told apart by colour-blind readers: Okabe and Ito's colours, without the yellow that paper loses, a violet added.

Source: Okabe and Ito, Color Universal Design (2008); Wong, Nat Methods 8 (2011) 441.
"""

DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (8, 2, 2, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
POSITIVE, NEGATIVE = PALETTE[1], PALETTE[0]
MINUS = "\N{MINUS SIGN}"


def colour(i: int) -> str:
    """The colour of the i-th of several things."""
    return PALETTE[i % len(PALETTE)]


def dash(i: int) -> Any:
    """The line style of the i-th of several things, so that no two lines differ in colour alone."""
    return DASHES[i % len(DASHES)]


def marker(i: int) -> str:
    """The marker of the i-th of several things."""
    return MARKERS[i % len(MARKERS)]


@dataclass(frozen=True)
class Word:
    """What a metric is called, and what it says, in words for a reader who does not do statistics.

    Args:
        name: as a heading.
        meaning: one short sentence.
        in_unit: whether it is in the unit of the target.
    """

    name: str
    meaning: str
    in_unit: bool = False


WORDS: Mapping[str, Word] = MappingProxyType(
    {
        "roc_auc": Word("ROC AUC", "How often a positive scan is ranked above a negative one; 0.5 is chance."),
        "average_precision": Word("Average precision", "Precision over all recalls; chance is the share of positives."),
        "accuracy": Word("Accuracy", "Share of scans called correctly."),
        "balanced_accuracy": Word("Balanced accuracy", "Mean of the shares called correctly in each class."),
        "sensitivity": Word("Sensitivity", "Share of the positive scans that are called positive."),
        "specificity": Word("Specificity", "Share of the negative scans that are called negative."),
        "ppv": Word("PPV", "Share of the positive calls that are right; depends on how frequent positives are."),
        "npv": Word("NPV", "Share of the negative calls that are right; depends on how frequent positives are."),
        "f1": Word("F1", "Harmonic mean of PPV and sensitivity."),
        "mcc": Word("MCC", "Correlation of calls and truth; 0 is chance."),
        "false_negative_rate": Word("False-negative rate", "Share of the positive scans that are missed."),
        "brier": Word("Brier score", "Mean squared distance of probability and truth; 0 is best."),
        "calibration_error": Word("Calibration error", "Mean gap of probability and observed share; equal-width bins."),
        "calibration_error_mass": Word("Calibration error, equal bins", "The same over bins of equally many scans."),
        "calibration_slope": Word("Calibration slope", "1 is best; below 1, probabilities are too extreme."),
        "calibration_intercept": Word("Calibration intercept", "0 is best; below 0, risks are overestimated."),
        "subset_accuracy": Word("Subset accuracy", "Share of scans with every label called correctly."),
        "roc_auc_weighted": Word("ROC AUC, weighted", "Mean over classes, by how frequent each is."),
        "average_precision_weighted": Word(
            "Average precision, weighted", "Mean over classes, by how frequent each is."
        ),
        "f1_weighted": Word("F1, weighted", "Mean over classes, by how frequent each is."),
        "r2": Word("R²", "Share of the variance that is explained; 0 is no better than the mean."),
        "mae": Word("Mean absolute error", "How far a prediction is off on average.", in_unit=True),
        "rmse": Word("RMSE", "Like the mean absolute error, but large errors weigh more.", in_unit=True),
        "pearson": Word("Pearson r", "How well a straight line relates predictions and truth."),
        "spearman": Word("Spearman ρ", "How well the order of the scans is kept."),
        "concordance": Word("Concordance", "Agreement with the line of equality; 1 is best."),
        "bias": Word("Bias", "Mean of predicted less true value.", in_unit=True),
        "limit_low": Word("Lower limit of agreement", "Bias less 1.96 standard deviations.", in_unit=True),
        "limit_high": Word("Upper limit of agreement", "Bias plus 1.96 standard deviations.", in_unit=True),
        "dice": Word("Dice", "Overlap of predicted and true masks; 1 is perfect."),
        "hd95": Word("HD95 (mm)", "How far surfaces lie apart at most, but for 5% of them."),
        "surface_dice": Word("Surface Dice", "Share of both surfaces that lie within the tolerance of each other."),
        "volume_error_ml": Word("Volume error (mL)", "Predicted less true volume, on average."),
        "absolute_volume_error_ml": Word("Absolute volume error (mL)", "How far volumes are off, on average."),
        "false_positive_ml": Word("False positive volume (mL)", "Predicted where there is nothing."),
        "false_negative_ml": Word("False negative volume (mL)", "There, and not predicted."),
    }
)
"""Every metric in words."""


def metric_name(metric: str) -> str:
    """What a metric is called, also one class's or label's, as "roc_auc/CNV"."""
    base, _, part = metric.partition("/")
    name = WORDS[base].name if base in WORDS else base
    return f"{name}, {part}" if part else name


def with_unit(metric: str, unit: str) -> str:
    """What a metric is called, with the unit of the target where it has it: "Bias (mm)"."""
    base = metric.partition("/")[0]
    return metric_name(metric) + (f" ({unit})" if unit and base in WORDS and WORDS[base].in_unit else "")


def spoken(metric: str) -> str:
    """What a metric is called within a sentence."""
    name = metric_name(metric)
    proper = name[1:2].isupper() or name[1:2] in "²1 " or name.split()[0] in ("Brier", "Dice", "Pearson", "Spearman")
    return name if proper else name[0].lower() + name[1:]


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table: `digits` decimals below 10, fewer above; a true minus sign; "not defined" for None."""
    return "not defined" if value is None else _fixed(value, _places(abs(value), digits))


def _places(size: float, digits: int) -> int:
    return digits if size < 9.9995 else max(digits - 1, 1) if size < 99.995 else max(digits - 2, 0)


def _fixed(value: float, places: int) -> str:
    text = f"{value:,.{places}f}"
    return f"{0:.{places}f}" if float(text.replace(",", "")) == 0 else text.replace("-", MINUS)


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """An interval for a table, both ends with the same decimals; empty where there is none."""
    if low is None or high is None:
        return ""
    places = _places(max(abs(low), abs(high)), digits)
    return f"{_fixed(low, places)} to {_fixed(high, places)}"


def amount(text: str, unit: str) -> str:
    """A number with its unit: "4.4%", "12 mm"."""
    return f"{text}{'' if unit in ('', '%', '°') else ' '}{unit}"


def in_words(estimate: Mapping[str, Any], unit: str = "", digits: int = 3) -> str:
    """An estimate in words: "0.871 (90% interval 0.802 to 0.930)"."""
    if estimate["value"] is None:
        return f"not defined ({estimate['why']})"
    value = amount(number(estimate["value"], digits), unit)
    span = interval(estimate["low"], estimate["high"], digits)
    return f"{value} ({estimate['level']:.0%} interval {span})" if span else value


def inside(estimate: Mapping[str, Any]) -> str:
    """An estimate in words that stand in brackets already: "0.871, 90% interval 0.802 to 0.930"."""
    return in_words(estimate).replace(" (", ", ").removesuffix(")")


def p_text(p: float | None) -> str:
    """A p-value as journals print it."""
    if p is None:
        return "not defined"
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def count(n: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 scan", "1,204 scans"."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def short(text: str, most: int = 22) -> str:
    """A text cut for a figure, with an ellipsis."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def cases_drawn(settings: Mapping[str, Any]) -> str:
    """What the draws of a bootstrap are of: scans or patients."""
    return "patients" if settings["by_patient"] else "scans"
