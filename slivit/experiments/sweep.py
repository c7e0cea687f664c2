"""A sweep: many trainings of one recipe, each with other settings, scored on validation rows alone."""

from __future__ import annotations

import gc
import json
import logging
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.data.manifest import Manifest
from slivit.data.sources import load_manifest
from slivit.data.table import write_table
from slivit.errors import RecipeError, SlivitError, WriteError, message
from slivit.experiments import searching
from slivit.experiments.recipe_sweep import LOSSES, Categorical, SweepRecipe
from slivit.files import write_json, write_text, writing
from slivit.folder import HISTORY, LOG, PROGRESS, RECIPE, logged
from slivit.folder.lock import make_folder
from slivit.machines import machines_at
from slivit.recipe import apply_override, check_recipe, load_recipe, resolved_toml
from slivit.train.recipe import FinetuneRecipe
from slivit.train.trackers import flat
from slivit.train.tracking import tracked

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

log = logging.getLogger(__name__)
BASE, TRIALS, BEST = "base.toml", "trials", "best.toml"
GIVEN_UP = 3
"""Where this many trials failed and none did not, the recipe itself is wrong."""


@dataclass(frozen=True)
class Sweep:
    """What all trials of a sweep share.

    Args:
        recipe: of the sweep.
        base: the fine-tuning recipe.
        folder: of the sweep.
        manifest: training and validation rows; no others.
        worker: the name of this process's lock.
    """

    recipe: SweepRecipe
    base: FinetuneRecipe
    folder: Path
    manifest: Manifest
    worker: str


def run(recipe: SweepRecipe, *, cluster: str = "", overwrite: bool = False) -> Path:
    """Search for the settings of a recipe that do best on its validation rows.

    Called again, it goes on; several processes may work on one sweep at the same time. Test rows are taken out of the
    manifest before the first trial.

    Args:
        recipe: from `load_recipe("sweep", ...)`.
        cluster: a Ray cluster of which every GPU (or core) works on the sweep, in place of this process.
        overwrite: begin anew in a folder that holds another sweep.

    Returns:
        The folder: `best.toml` (a fine-tuning recipe), `sweep.html`, `sweep.json`, `trials.csv`, the figures, and the
        recipe and history of every trial.

    Raises:
        RecipeError: settings that the base recipe does not take, or a folder with another sweep.
        SlivitError: no trial was finished.
    """
    searching.need_optuna()
    base = base_recipe(recipe)
    folder = open_sweep(recipe, base, overwrite=overwrite)
    if cluster:
        _everywhere(recipe, cluster)
    with logged(folder), searching.worker_lock(folder) as lock:
        manifest = load_manifest(base.data, base.task).without("test")
        study = searching.open_study(recipe, folder, "minimize" if falls(base) else "maximize")
        work(study, Sweep(recipe, base, folder, manifest, Path(lock.lock_file).name))
        with searching.results_lock(folder):
            finish(study, recipe, base, folder)
    return folder


def _everywhere(recipe: SweepRecipe, cluster: str) -> None:
    """Have every place of a cluster work on the sweep; a machine that is lost leaves a trial that another goes on with.

    Raises:
        SlivitError: what every place failed with.
    """
    with machines_at(cluster, 0, Path()) as machines:
        copies = [resolved_toml(recipe)] * machines.slots
        errors = [error for _, error in machines.map(_work_there, copies, lambda _, how: how)]
    if all(errors):
        raise SlivitError(errors[0])
    for error in dict.fromkeys(filter(None, errors)):
        log.warning("one place gave up: %s", error)


def _work_there(toml: str) -> str:
    """Work on a sweep that was opened; what went wrong, or nothing."""
    try:
        run(check_recipe(SweepRecipe, tomllib.loads(toml), "the sweep"))
    except SlivitError as error:
        return message(error)
    return ""


def base_recipe(recipe: SweepRecipe) -> FinetuneRecipe:
    """The fine-tuning recipe of a sweep, checked at the ends of every searched setting.

    Raises:
        RecipeError: keys or values that the recipe does not take, or a score that the search itself would change.
    """
    changes = [f"{key}={json.dumps(value)}" for key, value in flat(recipe.set).items()]
    base = load_recipe("finetune", recipe.recipe, changes)
    if isinstance(base.fit.lr, tuple):
        raise RecipeError("fit.lr is a list; a sweep tries rates itself: give set.fit.lr a number, and space.fit.lr")
    base.check()
    for key, dimension in recipe.space.items():
        ends = dimension.choices if isinstance(dimension, Categorical) else (dimension.low, dimension.high)
        for value in ends:
            changed(base, {key: value}, f"space.{key} = {value}")
    moved = [key for key in LOSSES if key in recipe.space]
    if base.fit.monitor == "valid_loss" and moved:
        raise RecipeError(
            f"{moved[0]} changes what the loss is, so the validation losses of two trials cannot be compared; set "
            "set.fit.monitor to a metric, such as roc_auc or mae"
        )
    return base


def changed(base: FinetuneRecipe, values: dict[str, Any], where: str) -> FinetuneRecipe:
    """The base recipe with other values.

    Raises:
        RecipeError: keys or values that the recipe does not take.
    """
    table = base.model_dump(mode="json", exclude_none=True)
    for key, value in values.items():
        apply_override(table, f"{key}={json.dumps(value)}")
    return check_recipe(FinetuneRecipe, table, where)


def falls(base: FinetuneRecipe) -> bool:
    """Whether a smaller value of the monitored metric is better."""
    import numpy as np

    from slivit.train.callbacks import better

    return better(base.fit.monitor) is np.less


def open_sweep(recipe: SweepRecipe, base: FinetuneRecipe, *, overwrite: bool = False) -> Path:
    """Make the folder of a sweep, or go on in one that holds the same search.

    Raises:
        RecipeError: the folder holds something else; another sweep alone can be overwritten.
    """
    folder = Path(recipe.out)
    same = recipe.model_copy(update={"trials": 1, "hours": 0.0})  # these may change from call to call
    texts = {RECIPE: resolved_toml(same), BASE: resolved_toml(base)}
    there = make_folder(folder).iterdir()
    if any(p.name not in texts or p.read_text("utf-8") != texts[p.name] for p in there):  # not just begun by this one
        if not all((folder / name).is_file() for name in texts):
            raise RecipeError(f"{folder}: is not empty, and holds no sweep; choose another folder with out=FOLDER")
        if overwrite:
            _clear(folder)
        elif any((folder / name).read_text("utf-8") != text for name, text in texts.items()):
            raise RecipeError(
                f"{folder}: holds another sweep; begin anew with --overwrite, or choose another folder with out=FOLDER"
            )
    for name, text in texts.items():
        write_text(folder / name, text)
    return folder


def _clear(folder: Path) -> None:
    """Remove what an earlier sweep left, and nothing else: its best recipe may have been trained in this folder."""
    import shutil

    for name in (TRIALS, searching.WORKERS):
        shutil.rmtree(folder / name, ignore_errors=True)
    for pattern in (RECIPE, BASE, BEST, LOG, "sweep.*", "trials.csv"):
        for file in folder.glob(pattern):
            file.unlink()


def work(study: Study, sweep: Sweep) -> None:
    """Run trials until there are enough, or the time is over.

    Raises:
        SlivitError: the first trials all failed.
    """
    recipe, end = sweep.recipe, time.monotonic() + 3600 * sweep.recipe.hours
    if not study.get_trials(deepcopy=False):
        point = searching.point_of(flat(sweep.base.model_dump(mode="json")), recipe)
        if point:
            study.enqueue_trial(point)
    if dead := searching.revive(study, sweep.folder):
        log.info("going on with trials that were killed: %s", ", ".join(map(str, dead)))
    while searching.begun(study) < recipe.trials and (not recipe.hours or time.monotonic() < end):
        try_one(study, sweep)
        log.info("%s", trial_line(study, sweep))
        give_up(study, sweep)


def try_one(study: Study, sweep: Sweep) -> None:
    """Make one trial, and keep how it ended.

    Raises:
        WriteError: no room is left. The trial goes on when the sweep is called again, like one that was killed.
    """
    import torch
    from optuna import TrialPruned
    from optuna.trial import TrialState

    with writing(sweep.folder / searching.JOURNAL):
        trial = study.ask()
        try:
            study.tell(trial, run_trial(trial, sweep))
        except TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        except (SlivitError, torch.OutOfMemoryError) as error:
            if isinstance(error, WriteError):
                raise
            log.warning("trial %d failed: %s", trial.number, error)
            study.tell(trial, state=TrialState.FAIL)
        except KeyboardInterrupt:
            study.tell(trial, state=TrialState.FAIL)
            raise


def run_trial(trial: Trial, sweep: Sweep) -> float:
    """Train once, and return the best validation value of the monitored metric."""
    from optuna import TrialPruned

    trial.set_user_attr(searching.WORKER, sweep.worker)
    place = searching.places(trial.study.get_trials(deepcopy=False))[trial.number]
    name = trial.user_attrs.get(searching.FOLDER, searching.folder_name(place))
    trial.set_user_attr(searching.FOLDER, name)
    values = {**searching.suggest(trial, sweep.recipe), "out": str(sweep.folder / TRIALS / name)}
    recipe = changed(sweep.base, values, f"trial {place}")
    try:
        score = train_trial(trial, recipe, sweep.manifest)
    except KeyboardInterrupt:
        searching.queue_again(trial.study, trial)
        raise
    except WriteError:
        raise
    except Exception as error:
        if not isinstance(error, TrialPruned):
            reason = message(error) if isinstance(error, SlivitError) else str(error)
            trial.set_user_attr(searching.WHY, f"{type(error).__name__}: {reason}"[:500])
        (Path(recipe.out) / PROGRESS).unlink(missing_ok=True)
        raise
    (Path(recipe.out) / PROGRESS).unlink()
    return score


def train_trial(trial: Trial, recipe: FinetuneRecipe, manifest: Manifest) -> float:
    """Train by a recipe as `slivit finetune` does, without a checkpoint and without a test.

    Raises:
        TrialPruned: the trial is worse than most at this epoch.
        SlivitError: no epoch gave a value of the monitored metric.
    """
    from optuna import TrialPruned

    from slivit.train.pace import TrackEpochs
    from slivit.train.run import Trial, fitted_preprocessing
    from slivit.train.scans import LabelledScans, Part

    folder, monitor, pruned = Path(recipe.out), recipe.fit.monitor, None
    write_text(folder / RECIPE, resolved_toml(recipe))
    with tracked(recipe.logging, recipe.model_dump(mode="json"), folder) as cbs:
        manifest = manifest.with_task(recipe.task.fitted(manifest.rows("train")))
        scans = LabelledScans((Part("", recipe.data, manifest, slice(0, manifest.task.out_dim)),))
        settings = fitted_preprocessing(recipe)
        watch = TrackEpochs(lambda values, epoch: _report(trial, values[monitor], epoch))
        train = Trial(scans, settings, scans.windows(settings), [*cbs, watch])
        try:
            _report_again(trial, folder, monitor)
            _, best = train(recipe, folder, resume=(folder / PROGRESS).is_file())
        except TrialPruned as stopped:
            pruned = stopped
    gc.collect()  # a Learner and its callbacks hold each other, and with them the device's memory
    if pruned:
        raise pruned
    if not best["best_epoch"]:
        raise SlivitError(f"{monitor} was not a number in any epoch")
    return float(best[monitor])


def _report_again(trial: Trial, folder: Path, monitor: str) -> None:
    """Tell the search of the epochs that a trial had finished when it was killed, as of those that follow.

    Raises:
        TrialPruned: as in the last of those epochs.
    """
    import pandas as pd

    from slivit.train.callbacks import progress_of

    progress = progress_of(folder, resume=(folder / PROGRESS).is_file())
    if progress and (folder / HISTORY).is_file():
        history = pd.read_csv(folder / HISTORY, float_precision="round_trip")
        for epoch, value in enumerate(history[monitor][: progress["epoch"]], start=1):
            _report(trial, float(value), epoch)


def _report(trial: Trial, value: float, epoch: int) -> None:
    from optuna import TrialPruned

    trial.report(value, epoch)
    if trial.should_prune():
        raise TrialPruned(f"after epoch {epoch}")


def trial_line(study: Study, sweep: Sweep) -> str:
    """The trial of this process that ended last, and the best of all, in one line."""
    mine = [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get(searching.WORKER) == sweep.worker]
    last = mine[-1]
    result = searching.results_of(study, sweep.recipe, sweep.base.fit.monitor, importances=False)
    place = searching.places(study.get_trials(deepcopy=False))[last.number]
    row = next(t for t in result["trials"] if t["number"] == place)
    values = ", ".join(f"{key} {searching.value_text(value)}" for key, value in row["values"].items())
    score = f" {row['value']:.4f}" if row["value"] is not None else f" ({row['why']})" if row["why"] else ""
    best = next((t for t in result["trials"] if t["number"] == result["best"]), None)
    ahead = f"; best {best['value']:.4f} (trial {best['number']})" if best else ""
    return f"trial {place} of {sweep.recipe.trials} {row['state']}{score}: {values}{ahead}"


def give_up(study: Study, sweep: Sweep) -> None:
    """Stop a sweep whose first trials all failed: that is no matter of settings.

    Raises:
        SlivitError: with the reasons.
    """
    trials = searching.results_of(study, sweep.recipe, "", importances=False)["trials"]
    ended = [t for t in trials if t["state"] != "running"]
    if len(ended) >= min(GIVEN_UP, sweep.recipe.trials) and all(t["state"] == "failed" for t in ended):
        reasons = "\n".join(dict.fromkeys(f"  - {t['why']}" for t in ended))
        raise SlivitError(f"{sweep.folder}: all {len(ended)} trials failed\n{reasons}")


def finish(study: Study, recipe: SweepRecipe, base: FinetuneRecipe, folder: Path) -> None:
    """Write the table, the page and the best recipe.

    Raises:
        SlivitError: no trial was finished.
    """
    from slivit.report.sweep_page import write_sweep

    result = searching.results_of(study, recipe, base.fit.monitor)
    write_json(folder / "sweep.json", result)
    _write_csv(folder / "trials.csv", result)
    if result["best"] is None:
        raise SlivitError(f"{folder}: no trial was finished; go on with more trials")
    best = next(t for t in result["trials"] if t["number"] == result["best"])
    chosen = changed(base, {**best["values"], "out": str(folder / "best")}, "the best recipe")
    head = (
        f"# The best of {len(result['trials'])} trials: {base.fit.monitor} {best['value']:.4f} on the validation rows\n"
    )
    write_text(folder / BEST, head + resolved_toml(chosen))
    log.info("page: %s", write_sweep(folder, result))
    for line in lines(result):
        log.info("%s", line)
    log.info("train and test the best: slivit finetune %s", folder / BEST)


def _write_csv(path: Path, result: dict[str, Any]) -> None:
    import pandas as pd

    kept = ("number", "state", "value", "epochs", "seconds", "why")
    rows = [{**{k: t[k] for k in kept}, **t["values"]} for t in result["trials"]]
    write_table(path, pd.DataFrame(rows))


def lines(result: dict[str, Any], most: int = 5) -> Iterator[str]:
    """The best trials, one line each."""
    finished = [t for t in result["trials"] if t["state"] == "finished"]
    finished.sort(key=lambda t: (t["value"] if result["falls"] else -t["value"], t["number"]))
    for trial in finished[:most]:
        values = ", ".join(f"{key} {searching.value_text(value)}" for key, value in trial["values"].items())
        yield f"{result['monitor']} {trial['value']:.4f}  trial {trial['number']}: {values}"
