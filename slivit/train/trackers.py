"""Weights & Biases and MLflow behind one face: what a run sends to whichever of them the recipe names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from slivit.checkpoint import CONFIG, WEIGHTS
from slivit.errors import RecipeError, install_command
from slivit.train.recipe import Logging

MOST_PARAMS, LONGEST = 100, 6000
"""What MLflow takes in one call, and in one parameter."""
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


class Tracker(Protocol):
    """Where a run is followed beside its own files."""

    @property
    def record(self) -> dict[str, Any]:
        """What finds this run again, as plain values."""

    def epoch(self, values: Mapping[str, float], number: int) -> None:
        """Send the losses and metrics of a finished epoch, counted from 1."""

    def results(self, values: Mapping[str, Any]) -> None:
        """Send what is known at the end: numbers, or short texts."""

    def figures(self, files: Sequence[Path]) -> None:
        """Send pictures."""

    def checkpoint(self, folder: Path, lineage: Mapping[str, Any]) -> None:
        """Send a checkpoint as an artefact, with where it comes from (see `slivit.train.tracking.lineage_of`)."""

    def end(self, *, failed: bool) -> None:
        """End the run."""


class WandbTracker:
    """A run of Weights & Biases.

    Args:
        settings: the recipe's section.
        config: the recipe.
        folder: the run's folder, in which the package keeps its own.
        earlier: the record of the run to go on with; empty for a new one.

    Raises:
        RecipeError: the package is missing, or nobody is logged in.
    """

    def __init__(self, settings: Logging, config: Mapping[str, Any], folder: Path, earlier: Mapping[str, Any]) -> None:
        wandb = need_package("wandb")
        options: dict[str, Any] = {"project": settings.project, "name": folder.name, "dir": str(folder)}
        options |= {"mode": "offline"} if settings.offline else {}
        options |= {"id": earlier["run"], "resume": "allow"} if earlier else {}
        try:
            calm = wandb.Settings(silent=True, console="off", reinit="create_new")
            self.run: Any = wandb.init(config=dict(config), settings=calm, **options)
        except wandb.errors.Error as error:
            way_out = "log in with `wandb login`, or set logging.offline = true"
            raise RecipeError(f"logging.tracker: Weights & Biases does not start: {error} ({way_out})") from error
        self.run.define_metric("*", step_metric="epoch")
        self.name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.name) + "-checkpoint"

    @property
    def record(self) -> dict[str, Any]:
        online = {"artifact": f"{self.run.entity}/{self.run.project}/{self.name}", "url": self.run.url}
        place = {} if self.run.offline else online
        return {"tracker": "wandb", "run": self.run.id, "project": self.run.project, **place}

    def epoch(self, values: Mapping[str, float], number: int) -> None:
        self.run.log({**values, "epoch": number})

    def results(self, values: Mapping[str, Any]) -> None:
        self.run.summary.update(dict(values))

    def figures(self, files: Sequence[Path]) -> None:
        wandb = need_package("wandb")
        self.run.log({f"figures/{file.stem}": wandb.Image(str(file)) for file in files})

    def checkpoint(self, folder: Path, lineage: Mapping[str, Any]) -> None:
        wandb = need_package("wandb")
        artifact = wandb.Artifact(self.name, type="model", metadata=dict(lineage))
        for name in (WEIGHTS, CONFIG):
            artifact.add_file(str(folder / name))
        before = lineage.get("tracked_start", {})
        if "artifact" in before and not self.run.offline:
            self.run.use_artifact(f"{before['artifact']}:{_alias(lineage['started_from']['sha256'])}")
        self.run.log_artifact(artifact, aliases=["latest", _alias(lineage["sha256"])])

    def end(self, *, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


def _alias(sha256: str) -> str:
    return f"sha256-{sha256[:16]}"


class MlflowTracker:
    """A run of MLflow, through its client: the process's own active run is left alone.

    Args:
        settings: the recipe's section.
        config: the recipe.
        folder: the run's folder.
        earlier: the record of the run to go on with; empty for a new one.

    Raises:
        RecipeError: the package is missing, or the store cannot be used.
    """

    def __init__(self, settings: Logging, config: Mapping[str, Any], folder: Path, earlier: Mapping[str, Any]) -> None:
        mlflow = need_package("mlflow")
        store = settings.store or mlflow.get_tracking_uri()
        try:
            with _few_retries():
                self.client: Any = mlflow.MlflowClient(tracking_uri=store)
                self.run_id: str = earlier["run"] if earlier else self._begin(settings.project, config, folder, store)
                if earlier:
                    self.client.update_run(self.run_id, status="RUNNING")
        except Exception as error:  # every store has errors of its own: of MLflow, SQLAlchemy, requests, the system
            reason = str(error).strip().splitlines()[0]
            way_out = "give another logging.store, such as sqlite:///mlflow.db"
            raise RecipeError(f'logging.store: MLflow cannot use "{store}": {reason} ({way_out})') from error
        self.store, self.project = store, settings.project

    def _begin(self, project: str, config: Mapping[str, Any], folder: Path, store: str) -> str:
        experiment = self.client.get_experiment_by_name(project)
        number = experiment.experiment_id if experiment else self.client.create_experiment(project, _artifacts(store))
        run_id = self.client.create_run(number, run_name=folder.name).info.run_id
        self._parameters(run_id, flat(config))
        return run_id

    def _parameters(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, _short(value)) for key, value in values.items()]
        for start in range(0, len(params), MOST_PARAMS):
            self.client.log_batch(run_id, params=params[start : start + MOST_PARAMS])

    @property
    def record(self) -> dict[str, Any]:
        return {"tracker": "mlflow", "run": self.run_id, "project": self.project, "store": self.store}

    def epoch(self, values: Mapping[str, float], number: int) -> None:
        self._metrics(values, number)

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        import time

        from mlflow.entities import Metric

        now = round(1000 * time.time())
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        for start in range(0, len(metrics), MOST_PARAMS):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + MOST_PARAMS])

    def results(self, values: Mapping[str, Any]) -> None:
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self._metrics(numbers, 0)
        for key in values.keys() - numbers.keys():
            self.client.set_tag(self.run_id, key, _short(values[key]))

    def figures(self, files: Sequence[Path]) -> None:
        for file in files:
            self.client.log_artifact(self.run_id, str(file), "figures")

    def checkpoint(self, folder: Path, lineage: Mapping[str, Any]) -> None:
        for name in (WEIGHTS, CONFIG):
            self.client.log_artifact(self.run_id, str(folder / name), "checkpoint")
        self.client.log_dict(self.run_id, dict(lineage), "checkpoint/lineage.json")
        self.client.set_tag(self.run_id, "slivit.sha256", lineage["sha256"])
        if "started_from" in lineage:
            self.client.set_tag(self.run_id, "slivit.started_from", _short(lineage["started_from"]))
        if "run" in lineage.get("tracked_start", {}):
            self.client.set_tag(self.run_id, "slivit.started_from_run", lineage["tracked_start"]["run"])

    def end(self, *, failed: bool) -> None:
        self.client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


@contextmanager
def _few_retries() -> Iterator[None]:
    """Let a server that is not there be noticed in seconds at the start, where MLflow would try for minutes."""
    before = os.environ.get(RETRIES)
    os.environ[RETRIES] = before or "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[RETRIES]


def _artifacts(store: str) -> str | None:
    """Beside a database file, so that the two stay together; elsewhere, the server knows."""
    if not store.startswith("sqlite:///"):
        return None
    return (Path(store.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()


def _short(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:LONGEST]


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested tables as one table with dotted keys; empty tables and what is None are left out."""
    table: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            table |= flat(value, f"{before}{key}.")
        elif value is not None:
            table[f"{before}{key}"] = value
    return table


def need_package(name: str) -> Any:
    """Import a tracker's package.

    Raises:
        RecipeError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise RecipeError(f'logging.tracker = "{name}" needs an extra: {install_command(name)}') from error
