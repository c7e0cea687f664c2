"""Statistics of predictions: arrays in, numbers with intervals out. Knows nothing of torch or fastai."""

from slivit.statistics.bootstrap import Plan, bootstrap
from slivit.statistics.estimate import Estimate, StatisticsError
from slivit.statistics.summary import METRICS, point_metrics, summarise

__all__ = ["METRICS", "Estimate", "Plan", "StatisticsError", "bootstrap", "point_metrics", "summarise"]
