"""Statistics of predictions: arrays in, numbers with intervals out. Knows nothing of torch or fastai.

`summarise` computes all metrics of a set of predictions. Whatever is not defined on the cases at hand has no value and
says why; nothing here returns NaN.
"""

from slivit.statistics.bootstrap import Plan, bootstrap, count_chunks, percentile, resample
from slivit.statistics.compare import bootstrap_t_test, bootstrap_test, compare_models, mcnemar_test
from slivit.statistics.comparison import Comparison, adjust_comparisons, adjust_p_values
from slivit.statistics.curves import Curve, precision_recall_curve, roc_curve
from slivit.statistics.delong import delong_covariance, delong_interval, delong_test
from slivit.statistics.estimate import Estimate, StatisticsError
from slivit.statistics.human_readers import ReaderPoint, Readers, reader_points
from slivit.statistics.label_means import LabelRates, label_rates, label_referral
from slivit.statistics.referral import ReferralPoint, referral_curve
from slivit.statistics.regression import Agreement, bland_altman
from slivit.statistics.reliability import (
    ReliabilityBin,
    Temperature,
    apply_temperature,
    fit_temperature,
    reliability_curve,
)
from slivit.statistics.repeats import (
    Folds,
    Spread,
    mean_over_runs,
    over_folds,
    over_runs,
    paired_t_test,
    spread,
    welch_test,
    wilcoxon_test,
)
from slivit.statistics.segmentation import MaskScores, score_mask, summarise_masks
from slivit.statistics.subgroups import Gap, Subgroup, Subgroups, by_subgroup
from slivit.statistics.summary import METRICS, higher_is_better, point_metrics, summarise
from slivit.statistics.thresholds import (
    OperatingPoint,
    Rule,
    ThresholdRates,
    choose_threshold,
    confusion_matrix,
    parse_rule,
    rates_by_threshold,
)

__all__ = [
    "METRICS",
    "Agreement",
    "Comparison",
    "Curve",
    "Estimate",
    "Folds",
    "Gap",
    "LabelRates",
    "MaskScores",
    "OperatingPoint",
    "Plan",
    "ReaderPoint",
    "Readers",
    "ReferralPoint",
    "ReliabilityBin",
    "Rule",
    "Spread",
    "StatisticsError",
    "Subgroup",
    "Subgroups",
    "Temperature",
    "ThresholdRates",
    "adjust_comparisons",
    "adjust_p_values",
    "apply_temperature",
    "bland_altman",
    "bootstrap",
    "bootstrap_t_test",
    "bootstrap_test",
    "by_subgroup",
    "choose_threshold",
    "compare_models",
    "confusion_matrix",
    "count_chunks",
    "delong_covariance",
    "delong_interval",
    "delong_test",
    "fit_temperature",
    "higher_is_better",
    "label_rates",
    "label_referral",
    "mcnemar_test",
    "mean_over_runs",
    "over_folds",
    "over_runs",
    "paired_t_test",
    "parse_rule",
    "percentile",
    "point_metrics",
    "precision_recall_curve",
    "rates_by_threshold",
    "reader_points",
    "referral_curve",
    "reliability_curve",
    "resample",
    "roc_curve",
    "score_mask",
    "spread",
    "summarise",
    "summarise_masks",
    "welch_test",
    "wilcoxon_test",
]
