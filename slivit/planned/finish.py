"""What a run leaves: the checkpoint, predictions and metrics as every run does, the leaderboard, and the page."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from slivit.checkpoint import package_versions, save_checkpoint
from slivit.data.table import as_shown
from slivit.data.training_range import training_range
from slivit.evaluate.measure import measure, write_results
from slivit.evaluate.recipe import Testing
from slivit.files import whole_file, write_json
from slivit.folder import MEMBERS, SPLIT, VERSIONS
from slivit.planned.plan import COVARIATES, Plan, kinds_of
from slivit.planned.scans import records
from slivit.report.auto_page import write_auto
from slivit.targets.task import Task

if TYPE_CHECKING:
    from slivit.models.ensemble import Ensemble
    from slivit.planned.scans import Scans

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]
LEADERBOARD, FACTS, CHECKPOINT = "leaderboard.csv", "auto.json", "checkpoint"
MEAN, ENSEMBLE, REPORT = "mean", "ensemble", "report"
SIMPLE = ("size", "histogram", COVARIATES)
"""How the baselines begin that are always made, and that a network has to beat."""
LEVEL, DRAWS = 0.95, 1000


def finish(
    plan: Plan,
    work: Scans,
    folder: Path,
    model: Ensemble,
    predictions: Mapping[str, Array],
    weights: Mapping[str, float],
    about: Mapping[str, Any],
) -> None:
    """Save the ensemble, predict the test rows once, measure everything, and draw the page.

    Args:
        plan: of the run.
        work: its scans.
        folder: of the run.
        model: the ensemble.
        predictions: (n, out_dim) out of fold, by model; that of the ensemble from a nested selection.
        weights: of the ensemble's members.
        about: "failed", candidates that are left out, and why; "curve" of learning, as `curve_of` has it; "findings" of
            the check.
    """
    parts = {"train": work.rest, "val": work.frame, "test": work.test}
    split = pd.concat([rows.assign(split=name) for name, rows in parts.items()], ignore_index=True)
    with whole_file(folder / SPLIT) as partial:
        as_shown(split).to_csv(partial, index=False)
    write_json(folder / VERSIONS, package_versions())
    save_checkpoint(folder / CHECKPOINT, model, work.task, plan.preprocessing, _record(plan, work))
    table = pd.concat([_table(work, predictions[ENSEMBLE]), *_test_rows(plan, work, model)], ignore_index=True)
    with whole_file(folder / MEMBERS) as partial:
        as_shown(_members(work, {name: predictions[name] for name in weights})).to_csv(partial, index=False)
    testing = Testing(level=LEVEL, draws=DRAWS, by_patient=True)
    metrics = measure(table, work.task, testing, data={"source": plan.source, "external": False})
    write_results(folder, table, work.task, metrics)
    facts = _facts(plan, work, predictions, weights, metrics, about)
    write_json(folder / FACTS, facts)
    with whole_file(folder / LEADERBOARD) as partial:
        as_shown(pd.DataFrame(_rows(facts))).to_csv(partial, index=False)
    page = write_auto(folder / REPORT, facts)
    for sentence in facts["sentences"]:
        log.info("%s", sentence)
    log.info("page: %s", page)


def _record(plan: Plan, work: Scans) -> dict[str, Any]:
    paths = pd.concat([work.rest, work.frame])["path"].astype(str).tolist()
    seen = training_range(paths, plan.preprocessing, workers=0)
    record = {"stage": "auto", "source": plan.source, "scans": {"train": len(paths), "test": len(work.test)}}
    return record | ({"scans_range": seen.model_dump(mode="json")} if seen else {})


def _table(work: Scans, p: Array) -> pd.DataFrame:
    """Out-of-fold predictions as a table of predictions, under the split "val": they were chosen by."""
    task, frame = work.task, work.frame
    known = {f"target_{t}": frame[t] for t in task.targets}
    own = frame.drop(columns=list(task.targets)).assign(split="val", notes="", **known)
    return own.assign(**dict(zip(task.prediction_columns, in_units(task, p).T, strict=True)))


def _members(work: Scans, predictions: Mapping[str, Array]) -> pd.DataFrame:
    """Out-of-fold predictions of the ensemble's members, one row a member and scan."""
    task = work.task
    own = work.frame[[name for name in ("path", "series") if name in work.frame]]
    parts = [
        own.assign(member=name, **dict(zip(task.prediction_columns, in_units(task, p).T, strict=True)))
        for name, p in predictions.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _test_rows(plan: Plan, work: Scans, model: Ensemble) -> list[pd.DataFrame]:
    from slivit.predict.engine import predict_table

    if work.test.empty:
        return []
    rows = records(work.test.assign(split="test"))
    return [predict_table(model, rows, work.task, plan.preprocessing, batch_size=4)]


def in_units(task: Task, p: Array) -> Array:
    """Probabilities as they are; standardised values in the target's unit."""
    return p * np.array(task.spread) + np.array(task.center) if not task.makes_calls else p


def _facts(
    plan: Plan,
    work: Scans,
    predictions: Mapping[str, Array],
    weights: Mapping[str, float],
    metrics: Mapping[str, Any],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that the page says, as plain values."""
    from slivit.statistics import summarise

    task, names = work.task, work.task.measures.main
    y = work.y if task.makes_calls else in_units(task, work.y)
    groups = work.frame["patient"].astype(str).to_numpy()
    options: dict[str, Any] = {"metrics": names, "level": LEVEL, "draws": DRAWS}
    board = {}
    for name, p in predictions.items():
        rows = ~np.isnan(p).any(1)
        estimates = summarise(task.kind, y[rows], in_units(task, p[rows]), groups=groups[rows], **options)
        board[name] = {n: estimates[n].to_dict() for n in names}
    partly = {name: int(rows.sum()) for name, p in predictions.items() if not (rows := ~np.isnan(p).any(1)).all()}
    networks = [c.name for c in plan.candidates if c.name in predictions]
    best = {kind: _best(board, among, names[0]) for kind, among in _groups(board, networks, partly, plan).items()}
    facts: dict[str, Any] = {
        "schema": "slivit.auto",
        "version": 1,
        "task": task.model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
        "metrics": list(names),
        "leaderboard": board,
        "weights": dict(weights),
        "partly": partly,
        **about,
        "scans": len(work.frame),
        "scans_that_train_alone": len(work.rest),
        "patients": len(set(groups)),
        "comparisons": _comparisons(task, y, predictions, best, groups, names[0]),
        "test": metrics["splits"].get("test", {}).get("metrics", {}),
        "test_scans": len(work.test),
    }
    return facts | {"sentences": list(_sentences(facts, best))}


def _groups(
    board: Mapping[str, Any], networks: list[str], partly: Mapping[str, int], plan: Plan
) -> dict[str, list[str]]:
    """The models among which the best one is asked for; one that predicted a part of the scans is no member."""
    simple = [n for n in board if n.startswith(SIMPLE)]
    baselines = [n for n in board if n not in (MEAN, ENSEMBLE, *networks)]
    named = {f.feature for f in plan.frozen}
    frozen = [n for n, _, features in kinds_of(plan) if n in board and named & set(features)]
    return {
        "network": networks,
        "simple": simple,
        "baseline": [n for n in baselines if n not in frozen],
        "frozen": frozen,
        "member": [name for name in baselines + networks if name not in partly],
    }


def _best(board: Mapping[str, Any], among: list[str], metric: str) -> str:
    known = [name for name in among if board[name][metric]["value"] is not None]
    return max(known, key=lambda name: board[name][metric]["value"], default="")


def _comparisons(
    task: Task, y: Array, predictions: Mapping[str, Array], best: Mapping[str, str], groups: Array, metric: str
) -> list[dict[str, Any]]:
    """Differences on the same scans: networks against size and histogram, the ensemble against its best member."""
    from slivit.statistics import Plan as Draws
    from slivit.statistics import compare_models

    tests = []
    pairs = {(best["network"], best["simple"]), (best["network"], best["baseline"]), (ENSEMBLE, best["member"])}
    pairs |= {(best["frozen"], best["network"]), (best["frozen"], best["baseline"])}
    for first, second in sorted(pairs):
        if not first or not second:
            continue
        both = {name: in_units(task, predictions[name]) for name in (first, second)}
        rows = ~np.isnan(np.concatenate(list(both.values()), 1)).any(1)
        both = {name: p[rows] for name, p in both.items()}
        plan = Draws(groups=groups[rows], level=LEVEL, draws=DRAWS)
        test = compare_models(task.kind, y[rows], both, metrics=[metric], plan=plan)[0]
        tests.append(test.to_dict())
    return tests


def _sentences(facts: Mapping[str, Any], best: Mapping[str, str]) -> list[str]:
    """The answers that a reader wants first."""
    from slivit.report.auto_page import sentences

    return list(sentences(facts, best))


def _rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, estimates in facts["leaderboard"].items():
        row: dict[str, Any] = {"model": name, "weight": facts["weights"].get(name, "")}
        for metric, estimate in estimates.items():
            row |= {metric: estimate["value"], f"{metric}_low": estimate["low"], f"{metric}_high": estimate["high"]}
        rows.append(row)
    return sorted(rows, key=lambda row: -(row[facts["metrics"][0]] or -np.inf))
