"""`slivit auto`: a table, a plan, baselines, networks by folds, their ensemble, a report; it goes on after a stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from slivit.data.cache import SliceCache
from slivit.data.splits import k_folds
from slivit.data.table import as_shown
from slivit.errors import ManifestError, RecipeError
from slivit.files import remove_folder, whole_file, write_json, write_text
from slivit.folder import LOG, logged
from slivit.folder.lock import GUARD, OWNER, locked
from slivit.planned import jobs
from slivit.planned.build import build_ensemble
from slivit.planned.clock import Clock
from slivit.planned.curve import curve_of, learning_curve
from slivit.planned.finish import ENSEMBLE, MEAN, REPORT, SIMPLE, finish
from slivit.planned.frozen import frozen_features
from slivit.planned.mirrors import ENOUGH, without_harm
from slivit.planned.networks import Candidate
from slivit.planned.plan import COVARIATES, PLAN, Plan, kinds_of, make_plan, minutes_of
from slivit.planned.scans import (
    Looked,
    Scans,
    looked_at,
    parts_of,
    records,
    refuse_seen,
    scans_of,
    with_classes,
    with_folds,
)
from slivit.planned.select import calibrated, loss, temperature, weights_of
from slivit.planned.table import NO_COVARIATES, NO_OPTIONS, ScanTable, scan_table
from slivit.recipe import check_recipe, read_values, resolved_toml
from slivit.report.check_page import write_check_page
from slivit.train.table_models import Kind, answers_of, features_of, fit_table, mean_of, outputs_of

if TYPE_CHECKING:
    from slivit.run import Run

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]
TABLE, STATE, CHECK = "scans.csv", "halving.json", "check.html"
MORE = range(2, 6)
"""Further copies of the best network, where time is left."""
PARTS = 10
"""Of the patients, each of which is predicted by an ensemble that was chosen on the others."""


def auto(
    scans: str | Path | pd.DataFrame = "",
    *,
    target: str | Sequence[str] = (),
    kind: str = "",
    labels: str | Path = "",
    importer: str = "",
    importer_options: Mapping[str, Any] = NO_OPTIONS,
    covariates: Sequence[str] = (),
    channels: Sequence[str] = (),
    time: str = "45m",
    out: str | Path = "auto",
    seed: int = 0,
    weights: Sequence[str | Path] = (),
    plan: str | Path = "",
    cluster: str = "",
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """From labelled scans to a tested model: baselines and networks, compared out of fold, and their ensemble.

    Args:
        scans: a CSV or spreadsheet, a folder of class folders, a folder of scans with `labels`, a MedMNIST file or
            "medmnist:NAME", a data set's folder with `importer`, or a table; not needed with `resume`.
        target: the column, or columns, to predict; guessed where there is one.
        kind: of the task; guessed from the values.
        labels: a table that names the scans of a folder.
        importer: one of `slivit list importers`; of class folders and BIDS that need not be said.
        importer_options: of the importer, such as {"suffix": "T1w"} of BIDS.
        covariates: columns that every model reads beside the scans, and "geometry"; age, sex and BMI where there are
            such and nothing is named; ("none",) for none.
        channels: columns of paths, whose scans are the channels of one.
        time: that it may take, such as "45m" or "2h".
        out: the run's folder.
        seed: of folds, networks and forests.
        weights: folders of runs of your own, published networks by name, or NAME=FILE: their frozen features are read
            by linear models and forests. Networks are started from runs of your own too.
        plan: a `plan.toml` to follow, in place of a new one.
        cluster: a Ray cluster that trains the networks, in place of this machine.
        resume: go on with a run that was stopped.
        overwrite: replace what lies in the folder.

    Returns:
        The run, as `slivit finetune` leaves one: `metrics.json`, `predictions.csv`, `split.csv`, `checkpoint/`; and
        `plan.toml`, `leaderboard.csv` and `report/auto.html`.

    Raises:
        SlivitError: nothing to work on, or a folder that holds something else.

    Example:
        >>> run = slivit.auto("scans.csv", target="bright", time="2m", out="runs/auto")  # doctest: +SKIP
    """
    from slivit.run import Run

    folder, began, minutes = Path(out), monotonic(), minutes_of(time)
    asked = (target, kind, labels, importer, importer_options, covariates, channels)
    with locked(folder):
        _open(folder, resume, overwrite, [scans, labels, plan, *weights])
        with logged(folder):
            table = scan_table(folder / TABLE if resume else scans, **_asked(folder, resume, *asked))
            for sentence in table.sentences:
                log.info("%s", sentence)
            looked = looked_at(table)
            for finding in looked.findings:
                log.warning("check: %s", finding)
            planned, work = _planned(folder, table, looked, minutes, seed, [str(w) for w in weights], str(plan))
            if not (folder / REPORT / CHECK).is_file():  # a run that goes on has it of the table that it was given
                write_check_page(replace(looked.check, source=planned.source), folder / REPORT / CHECK)
            for reason in planned.reasons:
                if reason not in table.sentences:
                    log.info("plan: %s", reason)
            clock = Clock(folder, planned.minutes, planned.workers, began)
            _run(planned, work, folder, clock, cluster, looked.findings)
    return Run(folder)


def _open(folder: Path, resume: bool, overwrite: bool, inputs: Sequence[Any]) -> None:
    """Let an earlier run in a folder that this process holds give way, or go on.

    Raises:
        RecipeError: there is none to go on with, or something that may not be replaced.
    """
    if resume and not (folder / TABLE).is_file():
        raise RecipeError(f"{folder}: holds no {TABLE}, so there is no run of slivit auto to go on with")
    held = [p for p in folder.iterdir() if p.name not in (OWNER, GUARD)]
    if not resume and any(p.name != LOG for p in held):  # a log alone: it ended before it began
        if not overwrite:
            raise RecipeError(f"{folder}: is not empty; go on with --resume, or replace it with --overwrite")
        if not (folder / PLAN).is_file() and not (folder / TABLE).is_file():
            raise RecipeError(f"{folder}: holds something else than a run of slivit auto; choose another --out")
        given = [str(value) for value in inputs if isinstance(value, str | Path)]
        for name in filter(None, {*given, *(text.rpartition("=")[2] for text in given)}):
            if Path(name).exists() and Path(name).resolve().is_relative_to(folder.resolve()):
                raise RecipeError(f"{folder}: {name} lies in it, and would be replaced; choose another --out")
        for path in sorted(held, key=lambda path: path.name in (PLAN, TABLE)):  # by which a part is known for one, last
            path.unlink() if path.is_symlink() or not path.is_dir() else remove_folder(path)


def _asked(folder: Path, resume: bool, *asked: Any) -> dict[str, Any]:
    """What was asked for; a run that goes on has it in its plan."""
    names = ("target", "kind", "labels", "importer", "importer_options", "covariates", "channels")
    if resume and (folder / PLAN).is_file():
        values = read_values(folder / PLAN)
        task, channels = values["task"], check_recipe(Plan, values, str(folder / PLAN)).columns
        beside = task.get("covariates") or (NO_COVARIATES,)
        return {"target": task["targets"], "kind": task["kind"], "covariates": beside, "channels": channels}
    return dict(zip(names, asked, strict=True))


def _planned(
    folder: Path, table: ScanTable, looked: Looked, minutes: float, seed: int, weights: Sequence[str], given: str
) -> tuple[Plan, Scans]:
    """The plan, new or the one that there is, and the scans that it is for."""
    frame, tests = looked.frame, looked.tests
    choosing = frame[~tests].reset_index(drop=True)
    if choosing.empty:
        raise ManifestError(f"{table.source}: all {len(frame)} scans are of the test split; none is left to learn from")
    task = with_classes(table.task, choosing)
    if not (folder / PLAN).is_file():
        plan = _followed(Path(given), folder) if given else None
        about = [f for f, test in zip(looked.facts, tests, strict=True) if not test]
        if grey := sum(not f.colour for f in looked.facts):  # also of those that test, which are read last
            if grey < len(looked.facts):
                log.warning("%d of %d scans are grey and the others in colour: all are read as grey", grey, len(frame))
            about = [replace(f, colour=False) for f in about]
        refuse_seen(weights, frame)
        options: dict[str, Any] = {"minutes": minutes, "seed": seed, "weights": weights, "channels": table.channels}
        plan = plan or _mirrored(make_plan(folder, table.source, choosing, task, about, **options), choosing, folder)
        plan = plan.model_copy(update={"reasons": tuple(dict.fromkeys((*table.sentences, *plan.reasons)))})
        write_text(folder / PLAN, resolved_toml(plan))
    plan = check_recipe(Plan, read_values(folder / PLAN), str(folder / PLAN))
    if not (folder / TABLE).is_file():
        with whole_file(folder / TABLE) as partial:
            as_shown(frame).to_csv(partial, index=False)
    choosing = with_folds(choosing, task, plan)
    parts = parts_of(choosing, task, plan)
    return plan, scans_of(choosing, frame[tests].reset_index(drop=True), plan.task, parts)


def _mirrored(plan: Plan, frame: pd.DataFrame, folder: Path) -> Plan:
    """A new plan without the mirrors that would do harm, as a part of the scans show."""
    rows = frame.sample(min(len(frame), ENOUGH), random_state=plan.seed).reset_index(drop=True)
    task = plan.task.fitted(records(rows))
    stacks, y = _stacks(plan, rows, folder), answers_of(task, records(rows))
    augmentation, why = without_harm(plan.augmentation, stacks, rows, y, task, plan.seed)
    return plan.model_copy(update={"augmentation": augmentation, "reasons": (*plan.reasons, *why)})


def _followed(given: Path, folder: Path) -> Plan:
    """A plan from elsewhere, for this folder."""
    plan: Plan = check_recipe(Plan, read_values(given), str(given))
    return plan.model_copy(update={"out": str(folder)})


def _run(plan: Plan, work: Scans, folder: Path, clock: Clock, cluster: str = "", findings: Sequence[str] = ()) -> None:
    """Everything behind the plan."""
    stacks = _stacks(plan, work.frame, folder)
    names = sorted({name for b in plan.baselines for name in b.features} - {COVARIATES})
    features = features_of(stacks, [n for n in names if n not in {f.feature for f in plan.frozen}])
    features |= frozen_features(plan.frozen, stacks, folder)
    predictions = dict(_baselines(plan, work, features, clock))
    curve = learning_curve(plan, work, features, predictions)
    jobs.write_folds(work.frame, plan)
    plan, failed, networks = _networks(plan, work, folder, clock, cluster)
    predictions |= networks
    known = {name: ~np.isnan(p).any(1) for name, p in predictions.items()}
    temperatures = {n: temperature(work.task, work.y[known[n]], p[known[n]]) for n, p in predictions.items()}
    ready = {name: calibrated(work.task, p, temperatures[name]) for name, p in predictions.items()}
    members = {name: p for name, p in ready.items() if name != MEAN}
    weights = weights_of(work.task, work.y, members, plan.seed)
    members = {name: p for name, p in members.items() if name in weights or known[name].all()}
    seen = np.logical_and.reduce([known[name] for name in members])
    ready = {name: p[seen] for name, p in ready.items()} | {ENSEMBLE: _nested(plan, work, members, seen)[seen]}
    log.info("ensemble: %s", ", ".join(f"{share:.2f} {name}" for name, share in weights.items()))
    model = build_ensemble(plan, work, features, weights, temperatures)
    about = {"findings": list(findings), "curve": curve_of(work, *curve), "failed": failed}
    finish(plan, work.only(seen), folder, model, ready, weights, about)


def _stacks(plan: Plan, frame: pd.DataFrame, folder: Path) -> list[Array]:
    """The preprocessed slices of every scan, kept on disk for the networks."""
    import warnings

    from tqdm import tqdm

    cache = SliceCache(folder / "cache")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return [cache.load(path, plan.preprocessing) for path in tqdm(frame["path"], "prepare scans", disable=None)]


def _baselines(plan: Plan, work: Scans, features: Mapping[str, Array], clock: Clock) -> Iterator[tuple[str, Array]]:
    """(name, (n, out_dim) out-of-fold predictions) of the mean and of every baseline that the time allows."""
    parts = work.parts

    def each_part(predict: Callable[[Array, Array], Array]) -> Array:
        p = np.zeros((len(parts), work.task.out_dim))
        for part in np.unique(parts):
            p[parts == part] = predict(parts != part, parts == part)
        return p

    timed = not plan.candidates or any(c.seconds for c in plan.candidates)  # without costs a plan is followed whole
    yield MEAN, each_part(lambda train, _: mean_of(work.task, work.y[train]))
    for name, kind, chosen in kinds_of(plan):
        if timed and kind != "linear" and not name.startswith(SIMPLE) and not clock.has_baseline(name):
            log.info("baseline %s is left out: %s", name, clock.left_out[name])
            continue

        def predict(train: Array, rest: Array, kind: Kind = kind, chosen: Any = chosen) -> Array:
            x = work.table(features, chosen, train)
            widths = work.widths(features, chosen)
            model = fit_table(kind, widths, x[train], work.y[train], work.task, plan.seed)
            return outputs_of(model, x[rest], work.task)

        p = each_part(predict)
        log.info("baseline %s: %s out of fold", name, loss_text(work, p))
        yield name, p


def loss_text(work: Scans, p: Array) -> str:
    """The loss that selection makes small, in words."""
    what = "squared error (1 is the mean's)" if not work.task.makes_calls else "log loss"
    known = ~np.isnan(p).any(1)
    return f"{what} {loss(work.task, work.y[known], p[known]):.3f}"


def _networks(
    plan: Plan, work: Scans, folder: Path, clock: Clock, cluster: str = ""
) -> tuple[Plan, dict[str, str], dict[str, Array]]:
    """Successive halving: all networks on the first fold, the better ones on all, and on more where time is left.

    Returns:
        The plan with the folds that were trained, what is left out and why, and the predictions of what is whole.
    """
    failed: dict[str, str] = {}
    kept = list(plan.candidates)
    halved = plan.keep < len(kept)
    first, all_folds = plan.fold_numbers[:1], plan.fold_numbers
    rounds = (first, all_folds[1:]) if halved else (all_folds,)  # no worker waits for nothing
    for number, folds in enumerate(rounds):
        failed |= jobs.train_jobs(plan, kept, folds, clock, log.info, cluster)
        kept = [c for c in kept if c.name not in failed and c.name not in clock.left_out]
        if number == 0:
            kept = sorted(kept, key=lambda c: _first_fold(plan, work, c))[: plan.keep]
            write_json(folder / STATE, {"kept": [c.name for c in kept], "failed": failed})
    in_time = clock.in_time(kept, len(plan.fold_numbers))
    plan = _more_folds(plan.model_copy(update={"trained": in_time % plan.folds}), kept, clock, cluster)
    plan, copies = _more_copies(plan, work, kept, clock, cluster)
    kept += copies
    predictions = {c.name: jobs.out_of_fold(plan, work.frame, c, work.task) for c in kept}
    for name, p in predictions.items():
        log.info("network %s: %s out of fold", name, loss_text(work, p))
    named = {c.name for c in plan.candidates}
    late = {name: why for name, why in clock.left_out.items() if name in named}
    return plan, {name: f"it failed: {why}" for name, why in failed.items()} | late, predictions


def _more_folds(plan: Plan, networks: Sequence[Candidate], clock: Clock, cluster: str) -> Plan:
    """Train on further folds as long as there is time, where the plan had none for all of them."""
    while networks and (trained := len(plan.fold_numbers)) < plan.folds and clock.one_more_fold(trained, networks):
        if jobs.train_jobs(plan, networks, [trained], clock, log.info, cluster):
            break  # what was trained before is whole without it
        plan = plan.model_copy(update={"trained": (trained + 1) % plan.folds})
    return plan


def _more_copies(
    plan: Plan, work: Scans, networks: Sequence[Candidate], clock: Clock, cluster: str
) -> tuple[Plan, list[Candidate]]:
    """Train the best network with other seeds in the time that is left; not one that is no better than the mean."""
    networks = [c for c in networks if c.seconds and not c.seed]  # without costs a plan is followed as it is
    if not networks:
        return plan, []
    best = min(networks, key=lambda c: _known_loss(work, jobs.out_of_fold(plan, work.frame, c, work.task)))
    p, copies = jobs.out_of_fold(plan, work.frame, best, work.task), list[Candidate]()
    known = ~np.isnan(p).any(1)
    mean = np.broadcast_to(mean_of(work.task, work.y), p.shape)
    if _known_loss(work, p) >= loss(work.task, work.y[known], mean[known]):
        return plan, []
    for number in MORE:
        why = f"{best.name} with another seed, as time was left"
        copy = best.model_copy(update={"name": f"{best.name}_{number}", "seed": 100 * number, "why": why})
        if copy.name in {c.name for c in plan.candidates}:
            continue
        if not clock.one_more_copy(copy, best, plan.fold_numbers):
            break
        if jobs.train_jobs(plan, [copy], plan.fold_numbers, clock, log.info, cluster):
            break
        copies.append(copy)
    return plan.model_copy(update={"candidates": (*plan.candidates, *copies)}), copies


def _known_loss(work: Scans, p: Array) -> float:
    """The loss of a network on the scans that it predicts, its probabilities calibrated there."""
    here = ~np.isnan(p).any(1)
    by = temperature(work.task, work.y[here], p[here])
    return loss(work.task, work.y[here], calibrated(work.task, p[here], by))


def _first_fold(plan: Plan, work: Scans, candidate: Candidate) -> float:
    return _known_loss(work, jobs.out_of_fold(plan, work.frame, candidate, work.task))


def _nested(plan: Plan, work: Scans, members: Mapping[str, Array], seen: Array) -> Array:
    """(n, out_dim): each tenth of the patients predicted by an ensemble that was chosen on the others.

    Tenths in place of the members' own folds: with three of them a third of few scans is missing in the choice, which
    then looks much worse than that on all of them is.

    Args:
        plan: of the run.
        work: its scans.
        members: (n, out_dim) by name, NaN for scans that networks did not predict.
        seen: (n,) those that all predicted.
    """
    rows, parts = work.frame[seen].reset_index(drop=True), np.full(len(seen), -1)
    count = max(2, min(PARTS, rows["patient"].nunique() // 4))
    parts[seen] = k_folds(rows, work.task, k=count, seed=plan.seed)
    out = np.full((len(parts), work.task.out_dim), np.nan)
    for part in range(count):
        others, here = parts != part, parts == part
        weights = weights_of(work.task, work.y[others], {n: p[others] for n, p in members.items()}, plan.seed)
        out[here] = sum(share * members[name][here] for name, share in weights.items())
    return out
