"""Several models on the same test scans: a table of differences with intervals and tests, and a page."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.errors import SlivitError, nearest, one_of
from slivit.evaluate import comparing
from slivit.evaluate.comparing import Matched
from slivit.evaluate.details import curves_of
from slivit.evaluate.methods import Method, find_methods
from slivit.files import write_json
from slivit.folder import check_results
from slivit.folder.lock import make_folder

if TYPE_CHECKING:
    from slivit.statistics import Comparison

log = logging.getLogger(__name__)
SCHEMA = {"schema": "slivit.comparison", "version": 1}
COMPARISON = "comparison.json"


def run(
    given: Sequence[str],
    out: str | Path = "compare",
    *,
    metrics: Sequence[str] = (),
    level: float = 0.95,
    draws: int = 1000,
    by_patient: bool = False,
    stratified: bool = False,
    t_test: bool = False,
    overwrite: bool = False,
) -> Path:
    """Compare models on the same test scans.

    Args:
        given: runs, evaluations or tables of predictions, each alone or as NAME=PATH (see `find_methods`).
        out: the folder of `comparison.json` and `index.html`.
        metrics: whose differences are tested; ROC AUC and average precision, or R2 and MAE, by default.
        level: of the intervals.
        draws: of the bootstrap.
        by_patient: draw patients instead of scans.
        stratified: keep the number of scans of each class in every draw.
        t_test: add the SLIViT paper's t-test on bootstrap differences, whose p-values are too small.
        overwrite: replace a comparison in the same folder.

    Returns:
        The folder.

    Raises:
        SlivitError: runs that cannot be compared.
    """
    out = Path(out)
    check_results(out, overwrite=overwrite)
    options = {"level": level, "draws": draws, "by_patient": by_patient, "stratified": stratified}
    comparison = compare(find_methods(given), metrics, options, t_test)
    _write(make_folder(out), comparison)
    return out


def _write(out: Path, comparison: dict[str, Any]) -> None:
    from slivit.report.compare_page import write_comparison

    write_json(out / COMPARISON, comparison)
    page = write_comparison(out, comparison)
    for line in headlines(comparison):
        log.info("%s", line)
    log.info("page: %s", page)


def compare(
    methods: Sequence[Method], metrics: Sequence[str], options: dict[str, Any], t_test: bool = False
) -> dict[str, Any]:
    """Everything that a comparison says, as plain values for `comparison.json`."""
    matched = Matched.of(methods, **options)
    first = matched.first
    wanted = list(metrics or first.task.measures.main)
    check_metrics(wanted, matched)
    runs = [comparing.per_run(matched, i) for i in range(len(methods))]
    return {
        **SCHEMA,
        "task": first.task.model_dump(mode="json"),
        "settings": {**options, "metrics": wanted},
        "scans": len(first.table),
        "patients": int(first.table["patient"].nunique()),
        "methods": {m.name: _described(matched, i, runs[i]) for i, m in enumerate(methods)},
        "comparisons": list(_tested(matched, runs, wanted, t_test)),
        "curves": _curves(matched),
    }


def check_metrics(wanted: Sequence[str], matched: Matched) -> None:
    """Raise a SlivitError unless the methods have all metrics."""
    known = matched.metrics(matched.methods[0].name)
    for metric in wanted:
        if metric not in known:
            raise SlivitError(f'there is no metric "{metric}".{nearest(metric, known)} There are {one_of(known)}')


def _tested(matched: Matched, runs: Any, wanted: Sequence[str], t_test: bool) -> Iterator[dict[str, Any]]:
    """Every test, its p-values corrected over all pairs and metrics of the same test."""
    tests: list[Comparison] = [
        *comparing.differences(matched, wanted),
        *comparing.delong_tests(matched),
        *comparing.mcnemar_tests(matched),
        *comparing.case_tests(matched, wanted),
        *comparing.run_tests(matched, runs, wanted),
        *(comparing.paper_t_tests(matched, wanted) if t_test else ()),
    ]
    for name in dict.fromkeys(test.method for test in tests):
        yield from comparing.adjusted([test for test in tests if test.method == name])


def _described(matched: Matched, i: int, runs: Sequence[dict[str, float | None]]) -> dict[str, Any]:
    """A method: its runs, its metrics, and their spread over seeds or folds."""
    from slivit.statistics import over_runs

    method = matched.methods[i]
    described: dict[str, Any] = {
        "kind": method.kind,
        "runs": [{"folder": str(r.folder), "seed": r.seed, "scans": len(r.table)} for r in method.runs],
        "metrics": {name: estimate.to_dict() for name, estimate in matched.metrics(method.name).items()},
        "per_run": runs,
    }
    if len(runs) > 1:
        described["spread"] = {name: s.to_dict() for name, s in over_runs(runs).items()}
    return described


def _curves(matched: Matched) -> dict[str, Any]:
    """The curves of each method for two classes; of the run in the middle, where there are several."""
    if not matched.first.task.two_classes:
        return {}
    curves = {}
    for method, cases in zip(matched.methods, matched.cases, strict=True):
        middle = sorted(cases, key=_auc)[len(cases) // 2]
        curves[method.name] = curves_of(middle.y, middle.p, middle.plan)
    return curves


def _auc(cases: Any) -> float:
    from slivit.statistics import point_metrics

    return point_metrics("binary", cases.y, cases.p, metrics=["roc_auc"])["roc_auc"] or 0.0


def headlines(comparison: dict[str, Any]) -> Iterator[str]:
    """The main metric of every method, and the differences, one line each."""
    metric = comparison["settings"]["metrics"][0]
    for name, method in comparison["methods"].items():
        estimate = method["metrics"][metric]
        yield f"{name}: {metric} {_number(estimate['value'])} {_span(estimate)}"
    for test in comparison["comparisons"]:
        if test["metric"] == metric and test["method"] == "paired bootstrap":
            pair = " - ".join(test["names"])
            size = f"{_number(test['difference'])} {_span(test)}"
            yield f"{pair}: {size}, p {_number(test['p_value'])}, after Holm {_number(test['holm'])}"


def _span(estimate: Mapping[str, Any]) -> str:
    return f"({_number(estimate['low'])} to {_number(estimate['high'])})"


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
