"""Following a run in Weights & Biases or MLflow: parameters, epochs, results, figures, and the checkpoint."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.checkpoint import read_config
from slivit.errors import CheckpointError
from slivit.evaluate.tables import read_predictions
from slivit.files import read_mapping, write_json
from slivit.folder import HISTORY, METRICS, PREDICTIONS, TRACKING, read_metrics
from slivit.targets.decision import Decision
from slivit.targets.task import Task
from slivit.train.recipe import Logging
from slivit.train.trackers import MlflowTracker, Tracker, WandbTracker, flat

if TYPE_CHECKING:
    from fastai.callback.core import Callback

    from slivit.report.draw import Plot

log = logging.getLogger(__name__)
TRACKERS: dict[str, Callable[..., Tracker]] = {"wandb": WandbTracker, "mlflow": MlflowTracker}


@contextmanager
def tracked(settings: Logging, config: Mapping[str, Any], folder: Path) -> Iterator[list[Callback]]:
    """Follow what is done in the block: training, its checkpoint, its test.

    At the end of the block, the results, figures and checkpoint that the run's folder then holds are sent. A tracker
    that fails on the way is reported in a warning and left; the run goes on, since its own files are what counts.

    Args:
        settings: the recipe's section.
        config: the recipe as plain values, sent as parameters.
        folder: the run's folder; a run that is resumed there goes on under the same name with the tracker too.

    Yields:
        Callbacks for the fit; none where the tracker is off.

    Raises:
        RecipeError: the tracker cannot be started: it is not installed, nobody is logged in, no such store.
    """
    if settings.tracker == "off":
        yield []
        return
    from slivit.train.pace import TrackEpochs

    guard = _Guard(TRACKERS[settings.tracker](settings, config, folder, _earlier(settings, folder)))
    write_json(folder / TRACKING, guard.tracker.record)
    log.info("followed in %s: %s", settings.tracker, guard.tracker.record.get("url") or guard.tracker.record["run"])
    try:
        yield [TrackEpochs(lambda values, number: guard(lambda t: t.epoch(values, number)))]
    except BaseException:
        guard.end(failed=True)
        raise
    _send_results(guard, settings, folder)
    guard.end(failed=False)


class _Guard:
    """Calls to a tracker that fail with a warning, and are not made again after one did."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.works = tracker, True

    def __call__(self, send: Callable[[Tracker], None]) -> None:
        if not self.works:
            return
        try:
            send(self.tracker)
        except Exception as error:  # of any kind: network, disk, server, the package itself
            self.works = False
            name = type(self.tracker).__name__.removesuffix("Tracker")
            log.warning("%s failed, and the run goes on without it: %s: %s", name, type(error).__name__, error)

    def end(self, *, failed: bool) -> None:
        """End the tracker's run, even where a call before it failed."""
        self.works = True
        self(lambda tracker: tracker.end(failed=failed))


def _earlier(settings: Logging, folder: Path) -> dict[str, Any]:
    """The record of the run that is gone on with; empty for a new one, or for one followed elsewhere before."""
    record = read_mapping(folder / TRACKING)
    return record if record.get("tracker") == settings.tracker else {}


def _send_results(guard: _Guard, settings: Logging, folder: Path) -> None:
    """Send what the run's folder holds at the end."""
    config = _config(folder)
    guard(lambda t: t.results(results_of(folder, config)))

    def figures(tracker: Tracker) -> None:
        with tempfile.TemporaryDirectory() as drawn:
            tracker.figures(draw_figures(folder, Path(drawn), config))

    guard(figures)
    if config and settings.checkpoint:
        guard(lambda t: t.checkpoint(folder / "checkpoint", lineage_of(config)))


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        return read_config(folder / "checkpoint")
    except CheckpointError:
        return None


def results_of(folder: Path, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The results of a run in a flat table: "test/roc_auc", with "_low" and "_high", and what the training chose.

    Args:
        folder: of the run; `metrics.json` is read where it is there.
        config: the checkpoint's `config.json`.
    """
    training = (config or {}).get("training", {})
    kept = {k: v for k, v in training.items() if k not in ("recipe", "started_from")}
    results = {f"training.{k}": v for k, v in flat(kept).items() if isinstance(v, int | float | str)}
    for split, part in (_metrics(folder) or {"splits": {}})["splits"].items():
        for name, estimate in part["metrics"].items():
            sides = {"": estimate["value"], "_low": estimate["low"], "_high": estimate["high"]}
            results |= {f"{split}/{name}{side}": value for side, value in sides.items() if value is not None}
    return results


def _metrics(folder: Path) -> dict[str, Any] | None:
    return read_metrics(folder / METRICS) or None


def draw_figures(folder: Path, out: Path, config: Mapping[str, Any] | None) -> list[Path]:
    """Draw the figures of a run's report as PNG.

    Args:
        folder: of the run.
        out: where the pictures go.
        config: the checkpoint's `config.json`.

    Returns:
        The pictures; of a run without a test, the course of its training alone.
    """
    from slivit.report.draw import styled

    files = []
    with styled():
        for plot in _plots(folder, config):
            files.append(out / f"{plot.name}.png")
            plot.figure.savefig(files[-1], dpi=150)
    return files


def _plots(folder: Path, config: Mapping[str, Any] | None) -> list[Plot]:
    from slivit.report.page import plots_of
    from slivit.report.plots_training import history_plot

    metrics = _metrics(folder)
    if metrics is None:
        course = history_plot(folder / HISTORY, (config or {}).get("training", {}).get("best_epoch"))
        return [course] if course else []
    task = Task(**metrics["task"])
    if task.dense:  # its pictures are drawn from scans and masks, by an evaluation
        return []
    table, _ = read_predictions(folder / PREDICTIONS, task)
    if metrics["operating_point"]:
        table = Decision(**metrics["operating_point"]).apply(table, task)
    return plots_of(metrics, table, config=config, history=folder / HISTORY)


def lineage_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Where a checkpoint comes from, as plain values.

    Args:
        config: its `config.json`.

    Returns:
        Its checksum, model, stage and scans; the chain of checkpoints that it started from under "started_from"; and
        under "tracked_start" where the first of these was followed.
    """
    training = config["training"]
    kept = {key: training[key] for key in ("stage", "source", "scans", "started_from") if key in training}
    start = Path(training.get("started_from", {}).get("folder", ""))
    places = [file for file in (start / TRACKING, start.parent / TRACKING) if start.parts and file.is_file()]
    before = {"tracked_start": read_mapping(places[0])} if places else {}
    return {"model": config["model"]["name"], "sha256": config["sha256"], **kept, **before}
