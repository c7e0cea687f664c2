"""How fast the statistics are: the bootstrap beside a loop of scikit-learn calls, and a full evaluation.

python benchmarks/metrics.py [--draws 1000] [--cases 2000] [--evaluation 10000]

Both sides of a ratio run in turns in one process, and the shortest time of each counts, so that other work on the
machine weighs on both alike. The values are compared before the times are.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Python puts this folder first, where this file would hide the standard library's `statistics`.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]


def simulated(n: int, seed: int = 0) -> tuple[Any, Any]:
    """Return labels, a third of them positive, and probabilities with an AUC of about 0.8 and some ties."""
    import numpy as np

    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 1 / 3).astype(float)
    return y, np.round(1 / (1 + np.exp(-(rng.normal(size=n) + 1.2 * y - 1))), 4)


def ours(y: Any, p: Any, plan: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the metrics of all draws from the matrix of counts."""
    from slivit.statistics.binary import BinarySample
    from slivit.statistics.bootstrap import resample
    from slivit.statistics.classification import BINARY

    return resample(BinarySample(y, p, {name: BINARY[name] for name in names}), plan).values


def loop(y: Any, p: Any, plan: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the metrics of all draws from one scikit-learn call each, on the same draws."""
    import numpy as np
    from sklearn.metrics import average_precision_score, roc_auc_score

    from slivit.statistics import count_chunks

    functions = {"roc_auc": roc_auc_score, "average_precision": average_precision_score}
    values: dict[str, list[float]] = {name: [] for name in names}
    for counts in count_chunks(len(y), plan):
        for row in counts.astype(int):
            drawn = np.repeat(np.arange(len(y)), row)
            for name in names:
                values[name].append(functions[name](y[drawn], p[drawn]))
    return {name: np.array(draws) for name, draws in values.items()}


def shortest(runs: int, *functions: Callable[[], Any]) -> list[float]:
    """Return the shortest time in seconds of each function, called in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(runs):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return [min(taken) for taken in times]


def compare_bootstraps(cases: int, draws: int) -> None:
    """Print the times and the largest difference of both bootstraps."""
    import numpy as np

    from slivit.statistics import Plan

    y, p = simulated(cases)
    plan = Plan(draws=draws)
    print(f"Bootstrap, {draws} draws of n = {cases}")
    print(f"{'':34}{'scikit-learn loop':>18}{'slivit':>10}{'ratio':>8}{'largest difference':>20}")
    for names in (("roc_auc",), ("average_precision",), ("roc_auc", "average_precision")):
        a, b = loop(y, p, plan, names), ours(y, p, plan, names)
        difference = max(float(np.abs(a[name] - b[name]).max()) for name in names)
        slow, fast = shortest(3, lambda n=names: loop(y, p, plan, n), lambda n=names: ours(y, p, plan, n))
        print(f"{' and '.join(names):34}{slow:>16.2f} s{fast:>8.3f} s{slow / fast:>8.1f}{difference:>20.1e}")


def full_evaluations(cases: int, draws: int) -> None:
    """Print how long everything that an evaluation computes takes, for each kind of prediction."""
    print(f"\nFull evaluation with all intervals, {draws} draws of n = {cases}")
    for kind, evaluate in (("binary", full_binary), ("multiclass", full_classes), ("multilabel", full_labels)):
        start = time.perf_counter()
        estimates = evaluate(cases, draws)
        print(f"{kind:34}{time.perf_counter() - start:>16.1f} s   {estimates} estimates")
    start = time.perf_counter()
    estimates = full_regression(cases, draws)
    print(f"{'regression':34}{time.perf_counter() - start:>16.1f} s   {estimates} estimates")


def full_binary(n: int, draws: int) -> int:
    """Compute all that the page of a two-class model shows, by patient; return the number of estimates."""
    import numpy as np

    from slivit import statistics as st

    y, p = simulated(n)
    patients = np.arange(n) // 2
    plan = st.Plan(draws=draws, groups=patients)
    estimates = st.summarise("binary", y, p, groups=patients, draws=draws)
    curves = [st.roc_curve(y, p, plan=plan), st.precision_recall_curve(y, p, plan=plan)]
    bins = st.reliability_curve(y, p, plan=plan)
    rates, referral = st.rates_by_threshold(y, p, plan=plan), st.referral_curve(y, p, plan=plan)
    table = {"site": np.arange(n) % 4, "sex": np.arange(n) % 2, "age": np.arange(n) % 60 + 30}
    groups = st.by_subgroup("binary", y, p, table, bands={"age": [50, 70]}, plan=plan)
    st.delong_interval(y, p)
    in_groups = sum(len(g.metrics) for column in groups.columns.values() for g in column.values()) + len(groups.gaps)
    return len(estimates) + sum(len(c.x) for c in curves) + len(bins) + 2 * len(rates) + 2 * len(referral) + in_groups


def full_classes(n: int, draws: int) -> int:
    """Compute all metrics of five classes; return the number of estimates."""
    import numpy as np

    from slivit import statistics as st

    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), n)
    y = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return len(st.summarise("multiclass", y, p, draws=draws))


def full_labels(n: int, draws: int) -> int:
    """Compute all metrics of five labels, a tenth of them missing; return the number of estimates."""
    import numpy as np

    from slivit import statistics as st

    rng = np.random.default_rng(0)
    p = rng.random((n, 5))
    y = np.where(rng.random((n, 5)) < 0.1, np.nan, rng.random((n, 5)) < p)
    return len(st.summarise("multilabel", y, p, draws=draws))


def full_regression(n: int, draws: int) -> int:
    """Compute all metrics of a quantity and its Bland-Altman limits; return the number of estimates."""
    import numpy as np

    from slivit import statistics as st

    rng = np.random.default_rng(0)
    y = rng.normal(60, 10, n)
    p = y + rng.normal(0, 5, n)
    st.bland_altman(y, p, plan=st.Plan(draws=draws))
    return len(st.summarise("regression", y, p, draws=draws)) + 3


def main() -> None:
    """Run both parts with the numbers of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--cases", type=int, default=2000, help="cases of the bootstrap comparison")
    parser.add_argument("--evaluation", type=int, default=10_000, help="cases of the full evaluation; 0 leaves it out")
    options = parser.parse_args()
    compare_bootstraps(options.cases, options.draws)
    if options.evaluation:
        full_evaluations(options.evaluation, options.draws)


if __name__ == "__main__":
    main()
